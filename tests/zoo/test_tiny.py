"""``fastinit checkpoint --tiny`` of architectures of transformers: it loads whole, runs, and is the same twice.

The sample is seeded. Ten of its architectures, quick ones, are for `make test`, the hundred for `make test-long`, which
prints how many are right.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")
import zoos  # noqa: E402
from safetensors import safe_open  # noqa: E402

from fastinit import cli  # noqa: E402
from fastinit.adapters.torch import deferred, materialize  # noqa: E402
from fastinit.adapters.torch.inputs import example_inputs  # noqa: E402

COUNT = 100
USUAL = (0, 2, 3, 15, 22, 24, 25, 26, 30, 44)
SEED = 20


class Kind(NamedTuple):
    """A type of model, with the name of its class."""

    kind: str
    name: str

    @property
    def made(self):
        return zoos._class(self.kind, self.name)


@functools.cache
def order():
    """Types of models in a seeded order, each with its class that has a head, if there is one."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    classes = zoos._transformers_classes()
    kinds = dict.fromkeys(one.name.split("/")[1] for one in zoos.shuffled(zoos.transformers_zoo(), SEED))
    return [Kind(kind, classes[kind][min(1, len(classes[kind]) - 1)]) for kind in kinds]


def constructs(one):
    try:
        return zoos.size_on_meta(lambda: one.made(zoos._configuration(one.kind))) > 0
    except Exception:
        return False


def constructing(number):
    """Of one of every COUNT-th, those that their authors' own code constructs from their configurations alone."""
    return filter(constructs, order()[number::COUNT])


def write(source, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fastinit", "checkpoint", str(source), str(out), "--tiny"])
        assert cli.main() in (0, None)


def saved(folder):
    """Name, shape and dtype of every tensor of a checkpoint."""
    found = {}
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                part = file.get_slice(name)
                found[name] = tuple(part.get_shape()), part.get_dtype()
    return found


def tensors(value):
    """All floating-point tensors of an output."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for part in value for one in tensors(part)]
    return []


def run(model):
    """Whether the first inputs that the model accepts give finite outputs; None if it accepts none, and why."""
    reasons = []
    for inputs in example_inputs(model):
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                found = tensors(model.eval()(**inputs))
        except Exception as problem:
            reasons.append(" ".join(f"{type(problem).__name__}: {problem}".split())[:200])
            continue
        assert found, "no output"
        return all(bool(torch.isfinite(one).all()) for one in found), reasons
    return None, reasons or ["no inputs are known"]


class Judged(NamedTuple):
    """What was found of one architecture."""

    problems: list
    as_saved: bool
    """Whether names, shapes and dtypes are those of transformers' own ``save_pretrained``."""


def judged(one, folder):
    source, out, again, reference = (folder / name for name in ("source", "out", "again", "reference"))
    config = zoos._configuration(one.kind)
    config.architectures = [one.name]
    config.save_pretrained(source)
    write(source, out)
    write(source, again)
    problems = []
    files = sorted(path.name for path in out.iterdir())
    if files != sorted(path.name for path in again.iterdir()):
        problems.append("the second run wrote other files")
    problems += [f"{name} differs" for name in files if (out / name).read_bytes() != (again / name).read_bytes()]
    model, loading = one.made.from_pretrained(out, output_loading_info=True)
    problems += [f"{what}: {sorted(map(str, keys))[:3]} ({len(keys)})" for what, keys in loading.items() if keys]
    with deferred():
        own = one.made._from_config(type(config).from_pretrained(out))
    materialize(own, seed=0)
    expected = own.state_dict()
    different = [name for name, value in model.state_dict().items() if not same(value, expected[name])]
    if different:
        problems.append(f"other values than materialize(): {different[:3]} ({len(different)})")
    finite, reasons = run(model)
    if not finite:
        problems.append("not finite" if finite is not None else f"does not run: {reasons}")
    one.made._from_config(type(config).from_pretrained(out)).save_pretrained(reference)
    return Judged(problems, saved(out) == saved(reference))


def same(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and (torch.equal(one, other) or both_nan(one, other))


def both_nan(one, other):
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(
        torch.isnan(one), torch.isnan(other)
    )


# A default configuration with which its author's own model runs nowhere


FEW = {name: 2 for name in zoos.COUNTS if "layer" in name or name == "depth"}


def is_its_authors(one):
    """Whether the author's own model refuses all inputs, too: at its full width, with few layers to be quick."""
    default = zoos._configuration(one.kind)
    config = zoos._configuration(one.kind, **zoos._reduced(default, FEW))
    return None not in refusals(one.made._from_config(config))


def refusals(model):
    """What a model says of each of the inputs; None of what it accepts."""
    found = []
    for inputs in example_inputs(model.eval()):
        try:
            with torch.no_grad():
                model(**inputs)
        except Exception as problem:
            found.append(f"{type(problem).__name__}: {problem}")
        else:
            found.append(None)
    return found


def first_judged(number, folder):
    """The first of one of every COUNT-th that its author can run; with it, those before it that he cannot, and why."""
    passed = {}
    for one in constructing(number):
        try:
            found = judged(one, folder / one.kind)
            if "does not run" not in str(found.problems) or not is_its_authors(one):
                return one, found, passed
        except Exception as problem:
            return one, Judged([f"{type(problem).__name__}: {problem}"], False), passed
        passed["/".join(one)] = found.problems
    raise AssertionError("none constructs and runs")


JOINED = {"ernie4_5_vl_moe"}
"""Types whose save_pretrained joins tensors into one, which a plan of slices cannot: names are those in memory."""


def check(one, found):
    assert not found.problems, ("/".join(one), found.problems)
    assert found.as_saved or one.kind in JOINED, ("/".join(one), "other names, shapes or dtypes than save_pretrained")


@pytest.mark.parametrize("number", USUAL)
def test_a_tiny_checkpoint(number, tmp_path, record_property):
    one, found, _ = first_judged(number, tmp_path)
    record_property("architecture", "/".join(one))
    check(one, found)


@pytest.fixture(scope="module")
def results(request):
    """What was found of each number; printed at the end, with all that is not right or was passed over."""
    found = {}
    yield found
    right = [one for one, (judgement, _) in found.items() if not judgement.problems]
    lines = [f"{len(right)} of {len(found)} tiny checkpoints load whole, run, and are the same twice"]
    for one, (judgement, passed) in found.items():
        lines += [f"  {'/'.join(one)}: {problem}" for problem in judgement.problems]
        lines += [] if judgement.as_saved else [f"  {'/'.join(one)}: not as save_pretrained"]
        lines += [f"  passed over {other}: {reasons}" for other, reasons in passed.items()]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *lines, sep="\n")


@pytest.mark.long
@pytest.mark.parametrize("number", range(COUNT))
def test_one_of_a_hundred_tiny_checkpoints(number, tmp_path, results):
    one, found, passed = first_judged(number, tmp_path)
    results[one] = found, passed
    check(one, found)
