"""What keeps values exact: the stream's floating-point environment, equality by bits, memories that join nothing."""

import ast
import inspect
import math
import pickle
import signal
import struct
import threading
import time
from dataclasses import dataclass, fields, is_dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import fastinit
from fastinit import Axes, Key, exact, initializers, structured, truncation
from fastinit.dtypes import DTYPES
from fastinit.exact import equal_by_bits, in_stream_environment, remembered, same
from fastinit.programs import runs_graphs

KEY = Key("exact")


# The environment

# What is made in the caller's environment: every class, with parameters that need rounding, each with a shape.
THIRDS = '{"framework": "thirds", "shape": [9, 5], "operators": ["rand", "div"], "draws": 2}'


@runs_graphs("thirds")
def thirds(graph, keys, num_threads, target):
    """Two draws in turn, a third of each."""
    shape = graph["shape"]
    drawn = [fastinit.fill(np.empty(shape, np.float32), fastinit.Uniform(), key) for key in keys]
    return sum(drawn) / np.float32(3.0)


MAKERS = {
    "constant": (lambda: fastinit.Constant(0.1), (5, 7)),
    "fraction": (lambda: fastinit.Constant(Fraction(1, 3)), (5, 7)),
    "decimal": (lambda: fastinit.Constant(Decimal("0.1000000000000000055511151231257828")), (5, 7)),
    "long double": (lambda: fastinit.Constant(np.longdouble(1) / 3), (5, 7)),
    "subnormal": (lambda: fastinit.Constant(5e-324), (5, 7)),
    "uniform": (lambda: fastinit.Uniform(-0.1, 0.7), (9, 40)),
    "uniform, tiny": (lambda: fastinit.Uniform(-1e-310, 3e-310), (9, 40)),
    "normal": (lambda: fastinit.Normal(0.1, 0.3), (9, 40)),
    "normal, tiny": (lambda: fastinit.Normal(0.0, 1e-310), (9, 40)),
    "truncated": (lambda: fastinit.TruncatedNormal(0.1, 0.3, correct_variance=True), (9, 40)),
    "truncated by values": (lambda: fastinit.TruncatedNormal(0.1, 0.15, 0.05, 0.7, "absolute", True), (9, 40)),
    "truncated tail": (lambda: fastinit.TruncatedNormal(0.1, 0.3, 5.1, 7.3), (9, 40)),
    "scaled uniform": (fastinit.glorot_uniform, (7, 30)),
    "scaled normal": (lambda: fastinit.he_normal(negative_slope=0.3), (7, 30)),
    "geometric": (lambda: fastinit.VarianceScaling(0.7, "fan_geo_avg"), (7, 30)),
    "strided": (lambda: fastinit.lecun_truncated_normal(transposed=True, stride=3, layout="IO..."), (7, 4, 5, 5)),
    "torch's": (fastinit.torch_default_uniform, (7, 30)),
    "naive": (fastinit.naive_uniform, (7, 30)),
    "gain": (lambda: fastinit.VarianceScaling(fastinit.gain("gelu")), (7, 30)),
    "gain of a function": (lambda: fastinit.Constant(fastinit.gain(lambda z: np.maximum(z, 0.1 * z))), (3,)),
    "gain backward": (lambda: fastinit.Constant(fastinit.backward_gain("tanh")), (3,)),
    "recommended": (lambda: fastinit.recommend("silu", "residual", depth=3).initializer, (7, 30)),
    "identity": (lambda: fastinit.Identity(0.1), (7, 9)),
    "dirac": (lambda: fastinit.Dirac(2, 0.1), (3, 3, 2, 4)),
    "orthogonal": (lambda: fastinit.Orthogonal(0.1), (20, 30)),
    "orthogonal, across": (lambda: fastinit.Orthogonal(0.1, 1), (6, 5, 7)),
    "delta orthogonal": (lambda: fastinit.DeltaOrthogonal(0.1), (3, 3, 4, 6)),
    "sparse": (lambda: fastinit.Sparse(0.1, 0.3), (40, 9)),
    "sparse by a fraction": (lambda: fastinit.Sparse(Fraction(2, 7), 0.3), (40, 9)),
    "ICNR": (lambda: fastinit.ICNR(fastinit.Normal(0.0, 0.3)), (3, 3, 4, 8)),
    "ICNR, subpixel": (lambda: fastinit.ICNR(fastinit.he_normal(), 2, order="subpixel"), (3, 3, 4, 8)),
    "ZerO": (fastinit.ZerO, (9, 15)),
    "blocks": (lambda: fastinit.Blocks((fastinit.Orthogonal(0.1), fastinit.Normal(0.1, 0.3)), axis=1), (5, 14)),
    "painted": (
        lambda: fastinit.Painted(
            fastinit.Normal(0.1, 0.3), (fastinit.Box((1, 3), (2, 9), fastinit.he_normal(), 1),), key=fastinit.Key(3)
        ),
        (9, 40),
    ),
    "replayed": (lambda: fastinit.Replayed(THIRDS, (None, fastinit.Key(4))), (9, 5)),
    "zero row": (lambda: fastinit.ZeroRow(fastinit.ICNR(fastinit.Normal(0.1, 0.3)), 1), (4, 4, 3, 8)),
    "new rows": (lambda: fastinit.NewRows(7, fastinit.Normal(0.1, 0.3)), (9, 5)),
    "new rows, drawn by the old": (lambda: fastinit.NewRows(70, "mean_covariance", 0.1), (90, 5)),
    "new rows, near the mean": (lambda: fastinit.NewRows(70, "mean_covariance", 1e-18), (90, 5)),
}
# The old rows of new ones: usual numbers, and some that are subnormal in most formats.
OLD = fastinit.Blocks((fastinit.Normal(0.1, 0.3), fastinit.Normal(0.0, 1e-39)), axis=1)


def forget():
    """Empties what the heart remembers, or a value made in the usual environment could serve in another."""
    for function in (
        *(initializers.plan, truncation.window, truncation.tail_ratio, truncation.farthest),
        *(truncation.mean_and_variance, truncation.standard_deviation),
        *(fastinit.advice.gains._named, fastinit.advice.gains._grid),
    ):
        function.cache_clear()


def outcome(make, shape):
    """Everything that an initializer gives: bytes in each dtype, whole and of a piece, and its numbers."""
    initializer = make()
    text = in_stream_environment(repr)  # of a caller who flushes subnormals they are 0.0
    found = {"repr": text(initializer), "std": text(fastinit.expected_std(initializer, shape))}
    found["json"] = text(fastinit.initializer_config(initializer))
    offsets, local = [n // 3 for n in shape], [n - n // 3 for n in shape]
    for name, dtype in DTYPES.items():
        if isinstance(initializer, fastinit.NewRows):
            whole = fastinit.fill(np.empty((shape[0], 10), dtype.raw), OLD, KEY.fold_in("old"), dtype=name)
            fastinit.fill_rows(whole, initializer, KEY, dtype=name)
            found[name] = (whole.tobytes(), struct.pack("<d", initializer.reach(whole.shape, name)))
            continue
        whole = fastinit.fill(np.empty(shape, dtype.raw), initializer, KEY, dtype=name)
        part = np.empty(local, dtype.raw)
        fastinit.fill(part, initializer, KEY, dtype=name, global_shape=shape, offsets=offsets)
        found[name] = whole.tobytes(), part.tobytes(), struct.pack("<d", initializer.reach(shape, name))
        if isinstance(initializer, fastinit.ElementwiseInitializer):
            found[name] += (struct.pack("<d", fastinit.sample(KEY, 1, initializer, shape=shape, dtype=name)),)
    return found


@pytest.fixture(scope="module")
def usual():
    forget()
    return {name: outcome(*case) for name, case in MAKERS.items()}


def test_values_do_not_depend_on_the_environment(foreign, usual):
    environment, bits = foreign
    forget()
    environment.change(bits)
    try:
        found = {name: outcome(*case) for name, case in MAKERS.items()}
        after = environment.control()
    finally:
        environment.restore()
        forget()
    assert after == bits, "the caller's environment was not restored"
    different = [(name, what) for name in MAKERS for what in found[name] if found[name][what] != usual[name][what]]
    assert different == []


def test_every_class_is_among_them():
    made = {type(make()) for make, _ in MAKERS.values()}
    made |= {type(make().initializer) for make, _ in MAKERS.values() if hasattr(make(), "initializer")}
    classes = {fastinit.models.configs.CLASSES[name] for name in fastinit.models.configs.CLASSES}
    assert {kind for kind in classes if issubclass(kind, fastinit.Initializer)} <= made | {fastinit.Keep}


def test_the_environment_does_matter_elsewhere(foreign):
    """The tests above see a difference where there is one."""
    environment, bits = foreign
    one, tiny = float("1"), float("1e-310")
    before = [one / 3, -one / 3, tiny * 0.5]
    environment.change(bits)
    here, inside = ([one / 3, -one / 3, tiny * 0.5], in_stream_environment(lambda: [one / 3, -one / 3, tiny * 0.5])())
    environment.restore()
    assert inside == before != here


def test_propagation_does_not_depend_on_the_environment(foreign):
    environment, bits = foreign

    def report():
        return fastinit.propagate([16] * 4, "gelu", fastinit.he_normal(), key=KEY, batch=8)

    before = report()
    environment.change(bits)
    try:
        found = report()
    finally:
        environment.restore()
    assert found == before


def test_whole_models_do_not_depend_on_the_environment(foreign):
    environment, bits = foreign

    def record():
        parameters = [
            fastinit.Parameter("a.weight", (7, 30), layer="Linear", activation="leaky_relu", negative_slope=0.3),
            fastinit.Parameter("b.weight", (7, 30), layer="Embedding", layout=None, tied=True),
            fastinit.Parameter("c.weight", (7, 11), layer="Linear", activation="gelu"),
            fastinit.Parameter("d.token", (3,), program=fastinit.Program(fastinit.Normal())),
        ]
        made = [
            entry
            for recipe, some in (("auto", parameters), ("torch", parameters[:3]))
            for entry in fastinit.assigned(some, recipe, 3)
        ]
        made = [replace(entry, name=f"{number}", dtype="bfloat16") for number, entry in enumerate(made)]
        text = fastinit.Record(tuple(made), 3, "auto", "0").to_json()
        assert fastinit.Record.from_json(text).entries == tuple(made)
        return text

    usual = record()
    forget()
    environment.change(bits)
    try:
        found = record()
    finally:
        environment.restore()
        forget()
    assert found == usual


def test_constants_do_not_depend_on_the_environment_of_the_import(run_python, tmp_path):
    """Of a package that is compiled, as an installed one is: literals are read by Python's compiler."""
    program = """
import ctypes, ctypes.util, sys
libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.fesetround(int(sys.argv[1]))
import fastinit
libm.fesetround(0)
from fastinit.models.layers import KERAS, SUITED, TORCH_LAYERS
rows = [row.making for row in (*SUITED, *TORCH_LAYERS, *KERAS) if isinstance(row.making, fastinit.Initializer)]
print(rows, fastinit.PRESETS)
"""
    cache = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    found = {run_python(program, mode, **cache).stdout for mode in ("0", "1024", "3072")}
    assert len(found) == 1 and "Constant" in found.pop()


def test_the_environment_is_restored_when_a_call_raises(foreign):
    environment, bits = foreign

    @in_stream_environment
    def wrong():
        raise KeyError(environment.control())

    environment.change(bits)
    try:
        with pytest.raises(KeyError) as raised:
            wrong()
        after = environment.control()
    finally:
        environment.restore()
    assert raised.value.args == (0,) and after == bits


def test_a_signal_at_any_moment_leaves_the_environment_whole(foreign):
    environment, bits = foreign
    caught = 0

    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    calls = in_stream_environment(lambda: None)
    before = signal.signal(signal.SIGALRM, ring)
    environment.change(bits)
    try:
        for number in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + number * 1e-7)
                for _ in range(100_000):
                    calls()
                time.sleep(2)  # a busy machine rings late
            except Alarm:
                caught += 1
            assert environment.control() == bits
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        environment.restore()
        signal.signal(signal.SIGALRM, before)
    assert caught > 50


def test_it_is_the_environment_of_the_calling_thread_alone(foreign):
    environment, bits = foreign
    seen = []

    @in_stream_environment
    def inside():
        thread = threading.Thread(target=lambda: seen.append(environment.control()))
        thread.start()
        thread.join()
        nested = in_stream_environment(environment.control)()
        return nested, environment.control()

    environment.change(bits)
    try:
        found = inside(), environment.control()
    finally:
        environment.restore()
    assert found == ((0, 0), bits) and len(seen) == 1


def test_a_function_keeps_its_name_and_runs_inside_once():
    def named(a, b=2):
        """Words."""
        return a, b

    inside = in_stream_environment(named)
    assert (inside.__name__, inside.__doc__, inspect.signature(inside)) == ("named", "Words.", inspect.signature(named))
    assert inside(1, b=3) == (1, 3) and in_stream_environment(inside) is inside


def test_subclasses_of_others_compute_inside(foreign):
    environment, bits = foreign

    @dataclass(frozen=True)
    class Third(fastinit.ElementwiseInitializer):
        size: float

        def __post_init__(self):
            object.__setattr__(self, "size", self.size / 3)

        def sampling(self, shape=None):
            return fastinit.Sampling("normal", std=self.size / 3)

    @dataclass(frozen=True)
    class Eye(fastinit.StructuredInitializer):
        size: float

        def check_shape(self, shape):
            pass

        def reach(self, shape, dtype="float32"):
            return self.size

        def write(self, out, key, num_threads, target):
            out[...] = self.size / 3

    def values():
        forget()
        return [
            fastinit.fill(np.empty((3, 3), "float16"), kind(float(size)), KEY).tobytes()
            for kind in (Third, Eye)
            for size in (1.0, 1e-5)
        ]

    usual = values()
    environment.change(bits)
    try:
        found = values()
    finally:
        environment.restore()
    assert found == usual


# Libraries of mathematics

SOURCES = Path(fastinit.__file__).parent
MAKING_VALUES = [
    *(path for path in SOURCES.glob("*.py") if not path.name.startswith("reference")),
    *(SOURCES / "models").glob("*.py"),
    SOURCES / "advice" / "recommending.py",
]
# Their last bits differ between machines. That of sqrt does not; hypot begins a search whose end does not depend on it.
ROUNDED_AS_THE_LIBRARY_LIKES = (
    *("exp", "expm1", "log", "log1p", "log2", "log10", "pow", "power", "erf", "erfc"),
    *("sin", "cos", "tan", "tanh", "sinh", "cosh", "dot", "matmul", "einsum", "std", "var"),
)


def inexact(source):
    """The lines of a program that leave the last bit of a number to a library."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="math" | "np"), attr=name):
                found = name in ROUNDED_AS_THE_LIBRARY_LIKES
            case ast.BinOp(op=ast.MatMult()):
                found = True
            case ast.BinOp(op=ast.Pow(), right=power):  # of integers, or a power of two or of a Decimal
                exact = isinstance(node.left, ast.Constant) or "Decimal" in ast.unparse(node.left)
                whole = ast.unparse(power) in ("len(shape) - 2", "out.ndim - 2")
                found = not (exact or whole)
            case _:
                found = False
        if found:
            yield ast.unparse(node)


def test_no_value_depends_on_a_library_of_mathematics():
    found = {path.name: [*inexact(path.read_text())] for path in MAKING_VALUES}
    # of integers, whose sums are exact in any order
    assert {name: lines for name, lines in found.items() if lines} == {"rows.py": ["draws @ distances"]}
    assert [*inexact("std = fan ** -0.5; x = math.exp(y); z = a @ b")] == ["fan ** (-0.5)", "a @ b", "math.exp"]


# Equality by bits


@pytest.mark.parametrize(
    "a, b, expected",
    [
        (0.0, 0.0, True),
        (0.0, -0.0, False),
        (math.nan, float("nan"), True),
        (1, 1.0, False),
        (1, True, False),
        (1.0, np.float64(1.0), False),
        (np.float32(0.0), np.float32(-0.0), False),
        (np.float32(0.5), np.float32(0.5), True),
        (0j, -0j, False),
        (Decimal("0"), Decimal("-0"), False),
        (Decimal("0.10"), Decimal("0.10"), True),
        (Fraction(1, 3), Fraction(1, 3), True),
        ((1, (0.0,)), (1, (0.0,)), True),
        ((1, (0.0,)), (1, (-0.0,)), False),
        ((1,), (1, 2), False),
        ("a", "a", True),
        (None, 0, False),
    ],
)
def test_same(a, b, expected):
    assert same(a, b) is expected and same(b, a) is expected


SIGNED = {
    "Normal": lambda zero: fastinit.Normal(zero, 0.0),
    "TruncatedNormal": lambda zero: fastinit.TruncatedNormal(zero, 0.0),
    "TruncatedNormal, absolute": lambda zero: fastinit.TruncatedNormal(zero, 0.0, -1.0, 1.0, "absolute"),
    "Constant": fastinit.Constant,
    "Identity": fastinit.Identity,
    "Dirac": lambda zero: fastinit.Dirac(gain=zero),
    "Orthogonal": fastinit.Orthogonal,
    "DeltaOrthogonal": fastinit.DeltaOrthogonal,
    "ICNR": lambda zero: fastinit.ICNR(fastinit.Normal(zero, 0.0)),
    "Blocks": lambda zero: fastinit.Blocks((fastinit.Constant(zero), fastinit.Normal(zero, 0.0)), axis=1),
    "ZeroRow": lambda zero: fastinit.ZeroRow(fastinit.Normal(zero, 0.0), 0),
}


@pytest.mark.parametrize("order", [(0.0, -0.0), (-0.0, 0.0)], ids=str)
@pytest.mark.parametrize("name", SIGNED)
def test_the_sign_of_zero_is_kept_whoever_comes_first(name, order):
    make = SIGNED[name]
    shape = (4, 4) if name in ("Identity", "Orthogonal") else (3, 4, 4)
    initializers.plan.cache_clear()
    # the values of an orthogonal matrix have signs of their own
    negative = []
    for zero in order:
        out = fastinit.fill(np.full(shape, 7.0, np.float32), make(zero), KEY)
        assert not out.any()
        negative.append(np.signbit(out))
    assert (negative[0] != negative[1]).any()
    assert make(0.0) != make(-0.0) and make(0.0) == make(0.0) and hash(make(0.0)) == hash(make(0.0))
    assert pickle.loads(pickle.dumps(make(-0.0))) == make(-0.0)


def test_every_initializer_compares_by_bits():
    for kind in fastinit.models.configs.CLASSES.values():
        if issubclass(kind, fastinit.Initializer):
            assert is_dataclass(kind)
            assert kind.__eq__ is equal_by_bits or kind is structured.Sparse, kind
    for make, _ in MAKERS.values():
        assert make() == make() and hash(make()) == hash(make()) and make() != object()


def test_a_dataclass_of_others_compares_by_bits():
    @dataclass(frozen=True)
    class Mine(fastinit.ElementwiseInitializer):
        value: float

        def sampling(self, shape=None):
            return fastinit.Sampling("constant", mean=self.value)

    class Plain(fastinit.ElementwiseInitializer):
        pass

    assert Mine(0.0) != Mine(-0.0) and Mine(0.0) == Mine(0.0) != Mine(1) != Mine(1.0)
    assert hash(Mine(0.0)) == hash(Mine(0.0))
    for zero in (0.0, -0.0):
        out = fastinit.fill(np.ones(3, np.float32), Mine(zero), KEY)
        assert np.signbit(out).all() == (math.copysign(1.0, zero) < 0)
    plain = same_plain = Plain()
    assert plain == same_plain != Plain() and hash(plain) == hash(plain)


def test_the_shares_of_sparse_are_one_number():
    assert fastinit.Sparse(0.1) == fastinit.Sparse(Fraction(1, 10)) != fastinit.Sparse(Fraction(0.1))
    assert hash(fastinit.Sparse(0.1)) == hash(fastinit.Sparse(Fraction(1, 10)))


def test_equality_of_subnormals_in_any_environment(foreign):
    environment, bits = foreign
    a, b, zero = fastinit.Normal(0.0, 1e-310), fastinit.Normal(0.0, 2e-310), fastinit.Normal(0.0, 0.0)
    environment.change(bits)
    try:
        found = a == b, a == zero, a == fastinit.Normal(0.0, 1e-310)
    finally:
        environment.restore()
    assert found == (False, False, True)


# Memories


def test_a_memory_joins_no_two_calls_that_differ():
    made = []

    @remembered
    def make(*values, **named):
        made.append((values, named))
        return repr((values, named))

    calls = [
        ((0.0,), {}),
        ((-0.0,), {}),
        ((0,), {}),
        ((False,), {}),
        ((1,), {}),
        ((1.0,), {}),
        ((True,), {}),
        ((np.float64(0.0),), {}),
        ((np.float64(-0.0),), {}),
        ((np.float32(0.0),), {}),
        (((0.0, 1),), {}),
        (((-0.0, True),), {}),
        ((Decimal("0"),), {}),
        ((Decimal("-0"),), {}),
        ((Fraction(1, 2),), {}),
        ((0.5,), {}),
        ((), {"a": 0.0}),
        ((), {"a": -0.0}),
        ((None, "a"), {"b": 2}),
        ((fastinit.Normal(0.0, 0.0),), {}),
        ((fastinit.Normal(-0.0, 0.0),), {}),
        ((Axes(0, 1),), {}),
    ]
    for order in (calls, calls[::-1], calls):
        for values, named in order:
            assert make(*values, **named) == repr((values, named))
    # what has one spelling is made once
    assert (
        sum(values == (0.0,) and type(values[0]) is float and math.copysign(1, values[0]) > 0 for values, _ in made)
        == 1
    )
    with pytest.raises(TypeError, match="unhashable"):
        make([])


def test_a_memory_is_filled_in_the_environment_of_the_stream(foreign):
    environment, bits = foreign
    third = remembered(lambda x: x / 3)
    environment.change(bits)
    try:
        found = third(float("1")), third(-float("1"))
    finally:
        environment.restore()
    assert found == (1 / 3, -1 / 3)


def test_fields_are_those_of_the_dataclass():
    one = fastinit.he_normal()
    assert exact._fields_of(type(one))(one) == tuple(getattr(one, field.name) for field in fields(one))
