"""A sample of Keras's zoo, in a process of its own: `make test-zoo` looks at all of it."""

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
if find_spec("keras") is None:
    pytest.skip("needs keras", allow_module_level=True)
from zoos import ASIDE

# The smallest, and backbones that between them have every way of making a variable.
APPLICATIONS = ["MobileNet", "MobileNetV2", "MobileNetV3Small"]
NORMED = [
    "EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny", "ResNet50", "ResNet50V2", "DenseNet121", "InceptionV3",
    "Xception",
]  # fmt: skip
BACKBONES = [
    "BertBackbone", "BloomBackbone", "CLIPTextEncoder", "CLIPVisionEncoder", "DeiTBackbone", "ESMBackbone",
    "FalconBackbone", "GPTNeoXBackbone", "QwenMoeBackbone", "ViTBackbone", "MobileNetV5Backbone", "ViTDetBackbone",
]  # fmt: skip


# Runs with tests/zoo in its path. What is done to a model after it was filled has to be found.
PROGRAM = """
import json, sys, warnings
import comparing_keras as comparing
import survey_keras

keras = comparing.keras
warnings.simplefilter("ignore")


def build():
    norm = keras.layers.BatchNormalization(name="norm")
    layers = [keras.layers.Dense(64, name="dense"), norm, keras.layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((40,)), *layers], name="net")


def changed(name, change):
    def made(model, seed):
        values = comparing.own(model, seed)
        change(values[name])
        return values

    return sorted({(one.kind, one.name) for one in comparing.compared(build, made)})


found = {
    "nothing": changed("net/dense/kernel", lambda tensor: None),
    "scaled": changed("net/dense/kernel", lambda tensor: tensor.mul_(1.15)),
    "zero": changed("net/dense/kernel", lambda tensor: tensor.zero_()),
    "bias": changed("net/dense/bias", lambda tensor: tensor.add_(0.1)),
    "statistics": changed("net/norm/moving_mean", lambda tensor: tensor.add_(1)),
}
print(json.dumps({"name": "planted", "found": found}), flush=True)
survey_keras.work(sys.argv[1:], 40e6)
"""


AUDIT = """
import json, sys
import numpy as np
import zoos_keras
from fastinit.adapters.keras import audit

for name in sys.argv[1:]:
    zoos_keras.keras.utils.set_random_seed(0)
    model = zoos_keras.application(name, zoos_keras.SIDES)
    images = np.random.default_rng(0).uniform(0, 255, (4, *model.input_shape[1:])).astype("float32")
    found = audit(model, images)
    print(json.dumps({"name": name, "verdict": found.verdict, "said": str(found)}), flush=True)
"""


def ran(program, names, tmp_path, backend="torch"):
    """What a program says of models, by their names."""
    environment = {"KERAS_BACKEND": backend, "KERAS_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, here))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows if "begun" not in row}


@pytest.mark.parametrize("count", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_sample_of_models_is_their_authors(count, tmp_path):
    chosen = random.Random(20261130)
    names = [f"keras.applications/{name}" for name in chosen.sample(APPLICATIONS, 1)]
    if find_spec("keras_hub") is not None or (ASIDE / "keras_hub").is_dir():
        names = [f"keras_hub/{name}" for name in ("DINOV2Backbone", *chosen.sample(BACKBONES, 1))] + names
    names = names[:count]
    rows = ran(PROGRAM, names, tmp_path)
    planted = rows.pop("planted")["found"]
    assert list(rows) == names
    for name, row in rows.items():
        assert row["compared"] == "own size" and row["differences"] == [], name
        assert row["variables"] > 20 and not row["kinds"].get("none"), name
    assert planted["nothing"] == []
    assert planted["scaled"] == [["distribution", "net/dense/kernel"]]
    assert planted["zero"] == [["drawn", "net/dense/kernel"]]
    assert planted["bias"] == [["constant", "net/dense/bias"]]
    assert planted["statistics"] == [["state", "net/norm/moving_mean"]]


@pytest.mark.long
@pytest.mark.parametrize("name", [*APPLICATIONS, *NORMED])
def test_new_models_with_norms_are_healthy(name, tmp_path):
    found = ran(AUDIT, [name], tmp_path)[name]
    assert found["verdict"] == "healthy" and found["said"].startswith("nothing found"), found["said"]
