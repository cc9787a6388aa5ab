"""fastinit.adapters.numpy: every function is fill() of its initializer, into a new array or one that is given."""

import ast
import inspect
import math
import re

import numpy as np
import pytest

import fastinit
from fastinit import Axes, Key, fill
from fastinit.adapters import numpy as init

# name: (own arguments, the initializer that they mean, a shape that it fits)
WEIGHT = {"layout": "OI...", "groups": 2}
CASES = {
    "zeros": ({}, fastinit.Zeros(), (6, 8)),
    "ones": ({}, fastinit.Ones(), (6, 8)),
    "constant": ({"value": 0.3}, fastinit.Constant(0.3), (6, 8)),
    "uniform": ({"low": -0.5, "high": 0.25}, fastinit.Uniform(-0.5, 0.25), (6, 8)),
    "normal": ({"mean": 1.0, "std": 0.2}, fastinit.Normal(1.0, 0.2), (6, 8)),
    "truncated_normal": (
        {"mean": 0.1, "std": 0.2, "low": -1.0, "high": 3.0},
        fastinit.TruncatedNormal(0.1, 0.2, -1.0, 3.0),
        (6, 8),
    ),
    "variance_scaling": (
        {"scale": 0.5, "mode": "fan_avg", "distribution": "uniform", **WEIGHT},
        fastinit.VarianceScaling(0.5, "fan_avg", "uniform", **WEIGHT),
        (6, 8, 3),
    ),
    "naive_uniform": ({}, fastinit.naive_uniform(), (6, 8)),
    "naive_normal": ({}, fastinit.naive_normal(), (6, 8)),
    "identity": ({"gain": 2.0}, fastinit.Identity(2.0), (6, 8)),
    "eye": ({}, fastinit.Identity(), (6, 8)),
    "dirac": ({"groups": 2, "layout": "OI..."}, fastinit.Dirac(2, layout="OI..."), (6, 8, 3)),
    "orthogonal": ({"gain": 0.5, "column_axis": 0}, fastinit.Orthogonal(0.5, 0), (6, 8)),
    "delta_orthogonal": ({"gain": 0.5}, fastinit.DeltaOrthogonal(0.5), (3, 6, 8)),
    "sparse": ({"sparsity": 0.5, "std": 0.1, "axis": 1}, fastinit.Sparse(0.5, 0.1, 1), (6, 8)),
    "icnr": ({"initializer": fastinit.he_normal(), "factor": 2}, fastinit.ICNR(fastinit.he_normal(), 2), (3, 6, 8)),
    "zero_init": ({"layout": "OI"}, fastinit.ZerO("OI"), (6, 8)),
    "zero": ({"layout": "OI"}, fastinit.ZerO("OI"), (6, 8)),  # its older name
}
for _name in [*fastinit.PRESETS, *fastinit.presets.ALIASES]:
    _row = fastinit.PRESETS[fastinit.presets.ALIASES.get(_name, _name)]
    _own = WEIGHT | ({"negative_slope": 0.2} if _row.takes_slope else {})
    CASES[_name] = (_own, _row(**_own), (6, 8, 3))

every = pytest.mark.parametrize("name", CASES)


def case(name):
    own, initializer, shape = CASES[name]
    return getattr(init, name), own, initializer, shape


def test_every_initializer_is_here_and_every_function_is_tested():
    assert set(init.__all__) == set(CASES)
    assert {*fastinit.PRESETS, *fastinit.presets.ALIASES} <= set(init.__all__)
    bases = (fastinit.Initializer, fastinit.ElementwiseInitializer, fastinit.StructuredInitializer)
    public = [getattr(fastinit, name) for name in fastinit.__all__]
    # of initializers, for fill() and recipes
    composed = (
        fastinit.Composite,
        fastinit.Blocks,
        fastinit.ZeroRow,
        fastinit.Painted,
        fastinit.Replayed,
        fastinit.Keep,
        fastinit.NewRows,
    )
    classes = {item for item in public if isinstance(item, type) and issubclass(item, bases)} - {*bases, *composed}
    assert classes == {type(initializer) for _, initializer, _ in CASES.values()}


@every
def test_the_form_and_the_docstring(name):
    function, own, _, _ = case(name)
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:6] == ["shape", "key", "seed", "dtype", "out", "num_threads"]
    assert parameters["shape"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in list(parameters.values())[1:])
    assert parameters["key"].default is parameters["seed"].default is None
    assert (parameters["dtype"].default, parameters["out"].default) == ("float32", None)
    assert set(own) <= set(parameters)
    assert function.__module__ == "fastinit.adapters.numpy"
    assert function.__name__ == name
    sections = [part in function.__doc__ for part in ("Parameters", "Returns", "Raises", "Examples", f"init.{name}(")]
    assert all(sections), sections
    for parameter in parameters:
        assert re.search(rf"^([a-z_]+, )*{parameter}(, [a-z_]+)*( :|$)", function.__doc__, re.MULTILINE), parameter


def test_the_own_parameters_are_those_of_the_initializer():
    def own(function):
        return {name: p.default for name, p in list(inspect.signature(function).parameters.items())[6:]}

    empty = inspect.Parameter.empty
    assert own(init.zeros) == own(init.naive_normal) == {}
    assert own(init.constant) == {"value": empty}
    assert own(init.uniform) == {"low": 0.0, "high": 1.0}
    assert own(init.normal) == {"mean": 0.0, "std": 1.0}
    truncated = {"mean": 0.0, "std": 1.0, "low": -2.0, "high": 2.0, "bounds": "sigma", "correct_variance": False}
    assert own(init.truncated_normal) == truncated
    weight = {"layout": "...IO", "groups": 1, "transposed": False, "stride": 1, "blocks": 1}
    assert own(init.glorot_uniform) == weight
    assert own(init.he_normal) == {"negative_slope": 0.0, **weight}
    assert own(init.variance_scaling) == {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal", **weight}


def test_the_types_that_checkers_see_have_the_same_parameters():
    # they stand below TYPE_CHECKING, so they are read from the text
    tree = ast.parse(inspect.getsource(init))
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def fields(name):
        if name == "TypedDict":
            return set()
        own = {node.target.id for node in classes[name].body if isinstance(node, ast.AnnAssign)}
        return own | fields(classes[name].bases[0].id)

    declared = {node.target.id: node.annotation.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert set(declared) == set(init.__all__)
    for name, form in declared.items():
        (options,) = re.findall(r"Unpack\[(\w+)\]", ast.unparse(classes[form]))
        assert fields(options) | {"shape"} == set(inspect.signature(getattr(init, name)).parameters), name


@every
def test_a_new_array(name):
    function, own, initializer, shape = case(name)
    expected = fill(np.empty(shape, np.float32), initializer, Key(3))
    array = function(shape, key=Key(3), **own)
    assert array.dtype == np.float32 and array.shape == shape and array.flags.c_contiguous
    assert array.tobytes() == expected.tobytes()
    assert np.array_equal(function(list(shape), key=3, num_threads=1, **own), expected)
    assert np.array_equal(function(tuple(map(np.int64, shape)), key=np.uint8(3), **own), expected)


@every
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes(name, dtype):
    function, own, initializer, shape = case(name)
    if dtype not in ("float64", "float16"):
        number = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype))
    else:
        number = np.dtype(dtype)
    expected = fill(np.empty(shape, number), initializer, Key(3))
    for spelling in (dtype, number, number.type):
        array = function(shape, key=3, dtype=spelling, **own)
        assert array.dtype == number and array.tobytes() == expected.tobytes()
    out = np.empty(shape, number)
    assert function(key=3, out=out, **own) is out and out.tobytes() == expected.tobytes()
    raw = function(key=3, out=np.empty(shape, f"u{number.itemsize}"), dtype=dtype, **own)
    assert raw.tobytes() == expected.tobytes()


@every
def test_into_arrays_of_every_layout(name, tmp_path):
    function, own, _, shape = case(name)
    expected = function(shape, key=3, **own)
    memory = np.memmap(tmp_path / "weights", np.float32, "w+", shape=shape)
    wide = np.full((*shape[:-1], 2 * shape[-1]), 7, np.float32)
    outs = {
        "contiguous": np.empty(shape, np.float32),
        "Fortran": np.empty(shape, np.float32, order="F"),
        "transposed": np.empty(shape[::-1], np.float32).T,
        "reversed": np.empty(shape, np.float32)[::-1],
        "strided": wide[..., ::2],
        "memory-mapped": memory,
    }
    for layout, out in outs.items():
        assert function(out=out, key=3, **own) is out
        assert np.array_equal(out, expected), layout
        assert function(shape, out=out, key=3, **own) is out
    assert (wide[..., 1::2] == 7).all()
    memory.flush()
    assert np.array_equal(np.fromfile(tmp_path / "weights", np.float32).reshape(shape), expected)


def test_raw_memory_of_the_default_dtype():
    raw = init.normal(key=3, out=np.empty(9, np.uint32))
    assert np.array_equal(raw.view(np.float32), init.normal(9, key=3))


def test_shapes():
    assert init.normal(5, key=0).shape == (5,)
    assert init.normal(np.int64(5), key=0).shape == (5,)
    assert init.normal((), key=0).shape == ()
    assert init.normal((3, 0), key=0).shape == (3, 0)
    assert init.normal(np.array([2, 3]), key=0).shape == (2, 3)
    assert np.array_equal(init.normal(5, key=0, out=np.empty(5, np.float32)), init.normal([5], key=0))


# Keys


def test_an_int_is_a_seed():
    for seed in (0, -5, 2**100):
        assert np.array_equal(init.normal(9, key=seed), init.normal(9, key=Key(seed)))
    assert not np.array_equal(init.normal(9, key=0), init.normal(9, key=1))


@pytest.mark.parametrize("bit_generator", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_a_generator_gives_64_bits_and_advances(bit_generator):
    ours, theirs = (np.random.Generator(bit_generator(7)) for _ in range(2))
    first, second = init.normal(9, key=ours), init.normal(9, key=ours)
    drawn = [int(theirs.integers(0, 2**64, dtype=np.uint64)) for _ in range(2)]
    assert np.array_equal(first, init.normal(9, key=drawn[0])) and np.array_equal(second, init.normal(9, key=drawn[1]))
    assert not np.array_equal(first, second)
    assert ours.random() == theirs.random()  # no more was taken


def test_all_64_bits_are_drawn(monkeypatch):
    seeds = []
    monkeypatch.setattr(init, "Key", type("Key", (Key,), {"__init__": lambda self, seed: seeds.append(seed)}))
    generator = np.random.default_rng(0)
    for _ in range(64):
        init._key(generator)
    assert np.bitwise_or.reduce(np.array(seeds, np.uint64)) == 2**64 - 1
    assert np.bitwise_and.reduce(np.array(seeds, np.uint64)) == 0


DRAW_NOTHING = ("zeros", "ones", "constant", "identity", "eye", "dirac", "zero_init", "zero")


@every
def test_what_draws_nothing_needs_no_key(name):
    function, own, _, shape = case(name)
    if name not in DRAW_NOTHING:
        with pytest.raises(TypeError, match=rf"^{name} draws numbers: give key= .* or seed="):
            function(shape, **own)
        return
    without = function(shape, **own)
    assert without.tobytes() == function(shape, key=3, **own).tobytes() == function(shape, seed=4, **own).tobytes()
    out = np.full(shape, 7, np.float32)
    assert function(out=out, **own) is out and np.array_equal(out, without)


@every
def test_a_seed_is_the_key_of_it(name):
    function, own, _, shape = case(name)
    for seed in (0, -5, 2**100, np.int64(7)):
        assert np.array_equal(function(shape, seed=seed, **own), function(shape, key=Key(seed), **own))
    assert np.array_equal(init.normal(9, seed="model"), init.normal(9, key=Key("model")))


# Calls that look alike


def test_parameters_that_are_equal_and_not_the_same(run_python):
    # in a new process, in either order: the first must not decide for both
    program = """
import sys
import numpy as np
import fastinit
from fastinit.adapters import numpy as init

key = fastinit.Key(0)
for mean in map(float, sys.argv[1:]):
    kept = fastinit.Normal(mean, 0.0)
    drawn = init.normal((2, 2, 4), key=key, mean=mean, std=0.0)
    assert drawn.tobytes() == fastinit.fill(np.empty((2, 2, 4), "f"), kept, key).tobytes(), mean
    drawn = init.icnr((2, 2, 4), key=key, initializer=kept)
    assert drawn.tobytes() == fastinit.fill(np.empty((2, 2, 4), "f"), fastinit.ICNR(kept), key).tobytes(), mean
"""
    for order in (("0.0", "-0.0"), ("-0.0", "0.0")):
        done = run_python(program, *order)
        assert done.returncode == 0, done.stderr


def test_constants_that_are_equal_and_not_the_same():
    assert not np.signbit(init.constant(3, key=0, value=0.0)).any()
    assert np.signbit(init.constant(3, key=0, value=-0.0)).all()
    assert np.isnan(init.constant(3, key=0, value=math.nan)).all()


def test_arguments_that_are_equal_and_not_of_one_type():
    init.he_normal((4, 4), key=0, groups=1)
    with pytest.raises(TypeError, match="groups: expected an integer, got True"):
        init.he_normal((4, 4), key=0, groups=True)
    with pytest.raises(TypeError, match=r"groups: expected an integer, got 1\.0"):
        init.he_normal((4, 4), key=0, groups=1.0)


def test_arguments_that_cannot_be_hashed():
    options = {"layout": "IO...", "transposed": True}
    lists = init.he_normal((4, 4, 3, 3), key=0, stride=[2, 2], **options)
    assert np.array_equal(lists, init.he_normal((4, 4, 3, 3), key=0, stride=(2, 2), **options))
    axes = init.he_normal((4, 4), key=0, layout=Axes([0], [1]))
    assert np.array_equal(axes, init.he_normal((4, 4), key=0))


# Errors

OUT = np.empty((3, 2), np.float32)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: init.normal(key=0), TypeError, "shape is required if out is None"),
        (lambda: init.normal(3), TypeError, "key"),
        (lambda: init.normal(3, key=None), TypeError, r"normal draws numbers: give key= \(.*\) or seed= \(an int\)"),
        (
            lambda: init.normal(3, key=0, seed=0),
            TypeError,
            "normal takes key= or seed=, not both; got key=0 and seed=0",
        ),
        (lambda: init.zeros(3, key=0, seed=0), TypeError, "zeros takes key= or seed=, not both"),
        (lambda: init.zeros(3, key="seed"), TypeError, r"not str \('seed'\)"),
        (lambda: init.normal(3, seed=0.5), TypeError, r"a seed must be an int, .*, not float \(0.5\)"),
        (lambda: init.normal(3, seed=True), TypeError, "not bool"),
        (lambda: init.normal(3, key=1.0), TypeError, r"not float \(1.0\)"),
        (lambda: init.normal(3, key="seed"), TypeError, r"not str \('seed'\)"),
        (lambda: init.normal(3, key=True), TypeError, "not bool"),
        (lambda: init.normal(3, key=np.random.RandomState(0)), TypeError, "numpy.random.Generator, not RandomState"),
        (lambda: init.normal(3, 0.5, key=0), TypeError, "positional"),
        (lambda: init.normal((-2, 3), key=0), ValueError, r"shape must not be negative, got \(-2, 3\)"),
        (lambda: init.normal(2.0, key=0), TypeError, "shape: expected an integer, got 2.0"),
        (lambda: init.normal((2, 2.5), key=0), TypeError, "shape: expected an integer, got 2.5"),
        (lambda: init.normal(True, key=0), TypeError, "shape: expected an integer, got True"),
        (lambda: init.normal("23", key=0), TypeError, "shape must be a sequence of integers, got '23'"),
        (lambda: init.normal(3, key=0, dtype="int32"), TypeError, "dtype must be one of float32, .*; got 'int32'"),
        (lambda: init.normal(3, key=0, dtype=None), TypeError, "dtype must be one of float32, .*; got None"),
        (lambda: init.normal(3, key=0, scale=2.0), TypeError, "scale"),
        (lambda: init.normal(3, key=0, std=-1.0), ValueError, "std must be at least 0, got -1.0"),
        (lambda: init.naive_normal(3, key=0, layout="IO"), TypeError, "layout"),
        (lambda: init.constant(3, key=0), TypeError, "value"),
        (lambda: init.glorot_normal((3, 3), key=0, negative_slope=0.1), TypeError, "glorot_normal.*'negative_slope'"),
        (lambda: init.he_normal((3, 3), key=0, gain=2.0), TypeError, r"he_normal\(\) got .* 'gain'"),
        (lambda: init.he_normal(3, key=0), ValueError, "fans need a shape with an input and an output axis"),
        (lambda: init.normal(3, key=0, num_threads=0), ValueError, "num_threads must be at least 1, got 0"),
        (lambda: init.normal(3, key=0, dtype="float16", std=1e5), ValueError, "beyond the largest finite float16"),
        (lambda: init.normal(key=0, out=[1.0]), TypeError, "out must be a NumPy array, not list"),
        (lambda: init.normal(key=0, out=bytearray(8)), TypeError, "out must be a NumPy array, not bytearray"),
        (lambda: init.normal((2, 3), key=0, out=OUT), ValueError, r"the shape of out, \(3, 2\); got \(2, 3\)"),
        (lambda: init.normal(key=0, out=OUT, dtype="float64"), TypeError, "dtype=float64 needs an out of that dtype"),
        (lambda: init.normal(key=0, out=np.empty(3, "i4")), TypeError, "got an out of dtype int32"),
        (lambda: init.normal(key=0, out=np.broadcast_to(np.float32(1), 3)), BufferError, "read-only"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_error_has_no_other_behind_it():
    # parameters are looked up in a cache first, which must not show
    with pytest.raises(TypeError) as caught:
        init.normal(3, key=0, std="x")
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_without_ml_dtypes(run_python):
    program = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import numpy as np\nfrom fastinit.adapters import numpy as init\n"
        "print(init.normal(key=0, out=np.empty(4, np.uint16), dtype='bfloat16').dtype)\n"
        "try: init.normal(4, key=0, dtype='bfloat16')\n"
        "except ImportError as error: print(error)"
    )
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "uint16" and "a NumPy array of bfloat16 needs the package ml_dtypes" in lines[1]


class Unhashable:
    """Raises what it likes, whatever it is asked."""

    def __hash__(self):
        raise ZeroDivisionError

    __float__ = __index__ = __repr__ = __hash__


@pytest.mark.parametrize(
    "call",
    [
        lambda value: init.normal((2, 3), seed=0, std=value),
        lambda value: init.orthogonal((2, 3), seed=0, gain=value),
        lambda value: init.he_normal((2, 3), seed=0, layout=value),
        lambda value: init.he_normal(value, seed=0),
        lambda value: init.he_normal((2, 3), seed=0, dtype=value),
        lambda value: init.he_normal((2, 3), seed=0, out=value),
        lambda value: init.he_normal((2, 3), seed=0, num_threads=value),
    ],
)
def test_values_that_raise_errors_of_their_own(call):
    for value in (Unhashable(), 10**5000, ["a"]):
        with pytest.raises((TypeError, ValueError)) as caught:
            call(value)
        assert "4300" not in str(caught.value)
