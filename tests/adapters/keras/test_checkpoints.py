"""Keras's weight files from a plan: what Keras reads is what `initialize` gives, and no model has been in memory."""

import os
import sys

import keras
import pytest
from keras import layers

import fastinit
from fastinit.adapters.keras import initialize, initializers, plan, save
from fastinit.adapters.keras.plans import built_plan
from fastinit.checkpoints import (
    Filled,
    Origin,
    Plan,
    Tensor,
    Values,
    Virtual,
    diff,
    export,
    plan_of,
    statistics,
    verify,
    write,
)

BACKEND = keras.config.backend()


@keras.saving.register_keras_serializable("tests")
class Noise(layers.Layer):
    """A layer that saves its variables in a way of its own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.RandomNormal(seed=1), name="s")
        self.steps = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="steps")
        super().build(shape)

    def call(self, x):
        return x * self.scale

    def save_own_variables(self, store):
        store["scale"], store["steps"] = self.scale, self.steps

    def load_own_variables(self, store):
        self.scale.assign(store["scale"])
        self.steps.assign(store["steps"])


def functional():
    x = keras.Input((6, 8))
    y = layers.LSTM(7, return_sequences=True)(x)
    y = layers.Bidirectional(layers.GRU(5, return_sequences=True))(y)
    y = layers.MultiHeadAttention(2, 4)(y, y)
    y = layers.Conv1D(9, 3, padding="same", kernel_initializer="orthogonal")(y)
    y = layers.BatchNormalization()(y)
    y = layers.Dropout(0.5)(Noise()(y))
    y = layers.Dense(6, kernel_initializer=initializers.HeNormal())(y)
    y = layers.Dense(4, dtype="bfloat16")(y)
    return keras.Model(x, layers.Dense(3, dtype="float16")(y))


def sequential():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.Dense(4)], name="inner")
    frozen = layers.Dense(3, kernel_initializer="ones", trainable=False)
    return keras.Sequential([layers.Embedding(11, 5), layers.GlobalAveragePooling1D(), inner, frozen])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(4, name=f"block{number}") for number in range(3)]
        self.norm = layers.LayerNormalization()

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def subclassed():
    model = Subclassed()
    model(keras.KerasTensor((2, 4)))
    return model


def nested():
    model = sequential()
    model.build((None, 6))
    return model


BUILT = [functional, nested, subclassed]


def values(model):
    return [(v.path, keras.ops.convert_to_numpy(v)) for v in model.weights]


def same(found, expected):
    """Whether the weights of two models have the same dtypes and bits."""
    pairs = zip(values(found), values(expected), strict=True)
    return all(one.dtype == other.dtype and one.tobytes() == other.tobytes() for (_, one), (_, other) in pairs)


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("recipe", [None, "auto"])
def test_keras_reads_what_initialize_gives(build, recipe, tmp_path):
    expected, found = build(), build()
    initialize(expected, recipe, seed=3)
    initialize(found, seed=99)
    assert not same(found, expected)
    done = []
    planned = built_plan(build, Origin("", recipe=recipe, seed=3))
    save(planned, tmp_path / "out.weights.h5", largest=100, advance=done.append)
    assert sum(done) == planned.nbytes
    found.load_weights(tmp_path / "out.weights.h5")
    assert same(found, expected)
    assert plan(found, recipe, seed=3) == planned  # of a model that has values: frozen ones are the same


@pytest.mark.parametrize("build", BUILT)
def test_the_file_has_the_datasets_of_kerass_own(build, tmp_path):
    import h5py

    model = build()
    initialize(model, seed=3)
    model.save_weights(tmp_path / "keras.weights.h5")
    save(plan(model, seed=3), tmp_path / "ours.weights.h5")

    def datasets(path):
        found = {}

        def visit(name, node):
            if isinstance(node, h5py.Dataset):
                found[name] = node.shape, node.dtype, dict(node.attrs), node[()].tobytes()

        with h5py.File(path) as file:
            file.visititems(visit)
        return found

    ours = datasets(tmp_path / "ours.weights.h5")
    del ours["fastinit.json"]
    assert ours == datasets(tmp_path / "keras.weights.h5")


@pytest.mark.parametrize("build", BUILT)
def test_verified_without_further_arguments(build, tmp_path):
    model = build()
    planned = plan(model, seed=3)
    save(planned, tmp_path / "ours.weights.h5", largest=100)
    assert {row.verdict for row in verify(tmp_path / "ours.weights.h5")} == {"equal"}
    assert len(verify(tmp_path / "ours.weights.h5")) == len(planned)
    initialize(model, seed=3)
    model.save_weights(tmp_path / "keras.weights.h5")
    assert {row.verdict for row in diff(tmp_path / "ours.weights.h5", tmp_path / "keras.weights.h5")} == {"equal"}
    with pytest.raises(ValueError, match="carries no plan of fastinit"):
        verify(tmp_path / "keras.weights.h5")
    assert verify(tmp_path / "keras.weights.h5", planned).is_sound
    names = {tensor.name for tensor in planned}
    assert {one.stored.name for one in statistics(tmp_path / "keras.weights.h5")} == names
    rules = [("*", fastinit.Zeros())]
    assert {one.name for one in plan_of(Origin(str(tmp_path / "keras.weights.h5"), rules=rules))} == names


def test_a_plan_larger_than_an_attribute(tmp_path):
    def build():
        return keras.Sequential([keras.Input((3,)), *(layers.Dense(3, name=f"d{n:0>200}") for n in range(150))])

    planned = plan(build(), seed=3)
    assert len(planned.to_json()) > 2**16
    save(planned, tmp_path / "out.weights.h5")
    assert verify(tmp_path / "out.weights.h5").is_sound
    found, expected = build(), build()
    initialize(expected, seed=3)
    found.load_weights(tmp_path / "out.weights.h5")
    assert same(found, expected)


def test_a_plan_of_a_model_is_a_plan(tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    planned = built_plan(nested, Origin("", seed=3))
    assert Plan.from_json(planned.to_json()) == planned
    write(planned, tmp_path / "out.safetensors")
    assert verify(tmp_path / "out.safetensors").is_sound
    kernel = files.load_file(tmp_path / "out.safetensors")["layers/sequential/layers/dense/vars/0"]
    assert (kernel == Virtual(planned).get_tensor("layers/sequential/layers/dense/vars/0")).all()
    entry = planned.record["inner/dense/kernel"]
    assert kernel[2, 3] == fastinit.sample(entry.key, 11, entry.initializer, shape=entry.shape)


def test_a_built_model_leaves_no_trace():
    keras.utils.clear_session(free_memory=False)
    built_plan(functional, Origin(""))
    assert keras.layers.Dense(3).name == "dense"


def test_other_things_are_no_models_of_keras():
    assert built_plan(lambda: 17, Origin("")) is None


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "out.weights.h5"
    entry = fastinit.Entry("w", (4,), "given", fastinit.Normal(), fastinit.Key(0), dtype="float32")
    with pytest.raises(ValueError, match=r"'mlp\.weight' is not a path in a Keras weight file"):
        save(Plan((Tensor("mlp.weight", Filled(entry)),)), path)
    with pytest.raises(TypeError, match="'vars/0' has the dtype float6_e2m3fn, which a weight file of Keras lacks"):
        save(Plan((Tensor("vars/0", Values("float6_e2m3fn", (4,), bytes(3))),)), path)
    entry = fastinit.Entry("w", (4,), "given", fastinit.Normal(), fastinit.Key(0), dtype="float8_e4m3fn")
    with pytest.raises(TypeError, match="'vars/0' has the dtype float8_e4m3fn, which"):
        save(Plan((Tensor("vars/0", Filled(entry)),)), path)
    with pytest.raises(ValueError, match="each layer has its own dtype_policy"):
        built_plan(nested, Origin("", dtype="bfloat16"))
    with pytest.raises(ValueError, match="'nothing'"):
        plan(nested(), "nothing")
    with pytest.raises(ValueError, match="has no variables"):
        plan(Subclassed())
    assert not os.listdir(tmp_path)


def test_exported_complete_or_not_at_all(tmp_path):
    import h5py

    planned, out = built_plan(nested, Origin("", seed=3)), tmp_path / "out.weights.h5"
    assert export(planned, out, "keras").files == ("out.weights.h5",)
    before = out.read_bytes()
    other = built_plan(subclassed, Origin("", seed=3))
    with pytest.raises(FileExistsError, match="overwrite replaces it"):
        export(other, out, "keras")
    with pytest.raises(ValueError, match="not a path in a Keras weight file"):
        export(Plan((Tensor("step", Values("int64", (), bytes(8))),)), out, "keras", overwrite=True)
    assert out.read_bytes() == before
    export(other, out, "keras", overwrite=True)
    with h5py.File(out) as file:
        assert "blocks/dense/vars/0" in file
    with pytest.raises(IsADirectoryError, match="name of a file"):
        export(other, tmp_path, "keras", overwrite=True)
    assert os.listdir(tmp_path) == ["out.weights.h5"]


MODULE = """
{first}
def model():
    {inside}
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
"""


@pytest.fixture
def built(tmp_path, monkeypatch):
    """built(text): the name of a module of this text that can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return f"{name}:model"

    return write


def test_the_source_is_a_function_of_a_module(built):
    source = built("fastinit_tests_one", MODULE.format(first="import keras", inside="pass"))
    assert [tensor.name for tensor in plan_of(Origin(source))] == ["layers/dense/vars/0", "layers/dense/vars/1"]


ALONE = """
import sys
{missing}
from fastinit.cli import main
sys.exit(main(["checkpoint", sys.argv[1], "out.weights.h5"]))
"""


WITHOUT_TORCH = """
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Missing())
"""


def run(run_python, source, missing=""):
    environment = {"KERAS_BACKEND": BACKEND, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return run_python(ALONE.format(missing=missing), source, timeout=240, **environment)


@pytest.mark.skipif(BACKEND == "torch", reason="needs another backend")
def test_without_torch(built, run_python, tmp_path):
    source = built("fastinit_tests_two", MODULE.format(first="import keras", inside="pass"))
    done = run(run_python, source, WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
    assert "2 tensors" in done.stdout
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.load_weights(tmp_path / "out.weights.h5")
    expected = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    initialize(expected, seed=0)
    assert same(model, expected)


@pytest.mark.skipif(BACKEND != "torch", reason="only there is a model of Keras one of torch")
def test_keras_has_to_be_imported_outside_the_function(built, run_python):
    source = built("fastinit_tests_three", MODULE.format(first="", inside="import keras"))
    done = run(run_python, source)
    assert done.returncode == 2
    assert "must import keras outside the function" in done.stderr


MEMORY = """
import sys
import keras
from fastinit.adapters.keras.plans import built_plan
from fastinit.adapters.keras import save
from fastinit.checkpoints import Origin

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def model(width):
    return lambda: keras.Sequential([keras.Input((8192,)), keras.layers.Dense(width), keras.layers.Dense(8)])

save(built_plan(model(64), Origin("")), sys.argv[1] + "/a.weights.h5")
before = peak()
plan = built_plan(model(16384), Origin(""))
save(plan, sys.argv[1] + "/b.weights.h5")
print(plan.nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(run_python, tmp_path):
    done = run_python(MEMORY, str(tmp_path), timeout=240, KERAS_BACKEND=BACKEND, TF_CPP_MIN_LOG_LEVEL="3")
    assert done.returncode == 0, done.stderr
    size, taken = map(int, done.stdout.split())
    assert size > 500e6
    assert taken < 60e6
