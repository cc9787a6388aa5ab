"""Fans: the table of true fans, brute force over the wiring of real layers, torch and JAX where they agree, errors."""

import doctest
import itertools
import math
import pickle
import sys
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from fastinit.layouts import Axes, Fans, fans


def pair(*args, **kwargs):
    result = fans(*args, **kwargs)
    return result.fan_in, result.fan_out


# The table of true fans: (torch shape, torch layout, Keras shape, Keras layout, options, fan_in, fan_out).
TABLE = {
    "dense": ((7, 5), "OI", (5, 7), "IO", {}, 5, 7),
    "dense by the convolution's layout": ((7, 5), "OI...", (5, 7), "...IO", {}, 5, 7),
    "conv1d": ((8, 6, 3), "OI...", (3, 6, 8), "...IO", {}, 18, 24),
    "conv2d": ((8, 6, 3, 5), "OI...", (3, 5, 6, 8), "...IO", {}, 90, 120),
    "conv3d": ((8, 6, 3, 5, 2), "OIDHW", (3, 5, 2, 6, 8), "DHWIO", {}, 180, 240),
    "conv2d, 2 groups": ((8, 3, 3, 3), "OI...", (3, 3, 3, 8), "...IO", {"groups": 2}, 27, 36),
    "depthwise, as groups": ((8, 1, 3, 3), "OI...", (3, 3, 1, 8), "...IO", {"groups": 8}, 9, 9),
    "depthwise, multiplier 2, as groups": ((16, 1, 3, 3), "OI...", (3, 3, 1, 16), "...IO", {"groups": 8}, 9, 18),
    "transposed": ((6, 8, 3, 3), "IO...", (3, 3, 8, 6), "...OI", {"transposed": True}, 54, 72),
    "transposed, stride 2": (
        (6, 8, 4, 4), "IO...", (4, 4, 8, 6), "...OI", {"transposed": True, "stride": 2}, 24, 128,
    ),
    "transposed, strides that do not divide": (
        (6, 8, 3, 5), "IO...", (3, 5, 8, 6), "...OI", {"transposed": True, "stride": (2, 4)}, Fraction(45, 4), 120,
    ),
    "transposed, 2 groups, stride 3": (
        (6, 4, 3, 3), "IO...", (3, 3, 4, 6), "...OI", {"transposed": True, "stride": 3, "groups": 2}, 3, 36,
    ),
    "packed QKV": ((192, 64), "OI", (64, 192), "IO", {"blocks": 3}, 64, 64),
    "packed LSTM": ((128, 5), "OI", (5, 128), "IO", {"blocks": 4}, 5, 32),
    "packed SwiGLU experts": ((9, 64, 16), "EOI", (9, 16, 64), "EIO", {"blocks": 2}, 16, 32),
    "embedding": ((1000, 16), "VD", (1000, 16), "VD", {}, 1, 16),
    "experts": ((9, 7, 5), "EOI", (9, 5, 7), "EIO", {}, 5, 7),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_table(row):
    torch_shape, torch_layout, keras_shape, keras_layout, options, fan_in, fan_out = row
    assert pair(torch_shape, torch_layout, **options) == (fan_in, fan_out)
    assert pair(keras_shape, keras_layout, **options) == (fan_in, fan_out)


def test_depthwise_of_keras_is_depthwise_of_torch():
    assert pair((3, 3, 8, 1), "...IM") == (9, 9)
    assert pair((3, 3, 8, 2), "...IM") == pair((16, 1, 3, 3), "OI...", groups=8) == (9, 18)
    assert pair((5, 8, 3), "TIM") == (5, 15)
    assert pair((4, 4, 8, 2), "...IM", transposed=True, stride=2) == (4, 32)


def test_the_default_layout_is_that_of_keras_and_jax():
    assert fans((5, 7)) == fans((5, 7), "IO")
    assert fans((3, 3, 5, 7)) == fans((3, 3, 5, 7), "HWIO") == Fans(45, 63, 9)


def test_a_depth_axis_is_no_embedding_width():
    for letters in itertools.permutations("DHWIO"):
        shape = [dict(zip("DHWIO", (2, 3, 5, 7, 11), strict=True))[letter] for letter in letters]
        assert fans(shape, "".join(letters)) == Fans(210, 330, 30)


def test_letters_that_repeat_multiply():
    assert pair((64, 8, 16), "IOO") == (64, 128)
    assert pair((8, 16, 64), "IIO") == (128, 64)
    assert pair((4, 9, 5, 7), "EEIO") == (5, 7)
    assert pair((3, 3, 5, 7), "KKIO") == (45, 63)
    assert pair((4, 1000, 16), "EVD") == (1, 16)


def test_dots_stand_for_any_number_of_spatial_axes_anywhere():
    for n in range(4):
        kernel = (3,) * n
        for shape, layout in [
            ((*kernel, 5, 7), "...IO"),
            ((5, *kernel, 7), "I...O"),
            ((7, 5, *kernel), "OI..."),
            ((4, 5, *kernel, 7), "EI...O"),
        ]:
            assert fans(shape, layout) == Fans(5 * 3**n, 7 * 3**n, 3**n)


def test_axes_by_number():
    assert fans((3, 3, 5, 7), Axes()) == fans((3, 3, 5, 7))
    assert fans((7, 5, 3, 3), Axes(1, 0)) == fans((7, 5, 3, 3), "OI...")
    assert fans((64, 8, 16), Axes(0, (1, 2))) == fans((64, 8, 16), "IOO")
    assert fans((9, 5, 7), Axes(1, 2, batch_axis=0)) == fans((9, 5, 7), "EIO")
    assert fans((6, 4, 3, 3), Axes(0, 1), transposed=True, groups=2, stride=(2, 1)) == Fans(Fraction(27, 2), 36, 9)
    assert fans((5, 7), Axes((), 1, 0)) == Fans(1, 7, 1)
    assert fans((5,), Axes((), 0)) == Fans(1, 5, 1)
    assert Axes([0, 1], np.int64(2)) == Axes((0, 1), (2,), ()) == pickle.loads(pickle.dumps(Axes((0, 1), 2)))


def test_axes_by_number_are_the_fans_of_jax():
    """JAX divides: rf = size / in / out / batch. An axis both in and out (Flax's embedding) falls out of both fans."""
    shape = (2, 3, 5, 7)
    choices = [*itertools.combinations(range(4), 1), *itertools.combinations(range(4), 2)]
    for ins, outs, batch in itertools.product(choices, choices, [(), *itertools.combinations(range(4), 1)]):
        if set(batch) & {*ins, *outs}:
            continue
        in_size, out_size, batch_size = (math.prod(shape[axis] for axis in axes) for axes in (ins, outs, batch))
        field = Fraction(math.prod(shape), in_size * out_size * batch_size)
        assert pair(shape, Axes(ins, outs, batch)) == (in_size * field, out_size * field)
    assert pair((1000, 16), Axes(-2, 0)) == (16, 16)


# The truth by enumeration: every wire of a layer on a torus, where no border thins the fans, counted one by one.


def mean_fans(wires):
    """Mean wires per output element and per input element of (input element, output element) pairs."""
    wires = list(wires)
    per_input, per_output = Counter(a for a, _ in wires), Counter(b for _, b in wires)
    return Fraction(len(wires), len(per_output)), Fraction(len(wires), len(per_input))


def wires_of(ins, outs, kernel, groups, stride, *, transposed, size=12):
    """Of a convolution over ``size`` positions per axis (strided positions, if transposed)."""
    steps = (stride,) * len(kernel) if transposed else (1,) * len(kernel)
    for i, o in itertools.product(range(ins), range(outs)):
        if i // (ins // groups) != o // (outs // groups):
            continue
        for place in itertools.product(range(size), repeat=len(kernel)):
            for tap in itertools.product(*map(range, kernel)):
                other = tuple((p * s + t) % (size * s) for p, s, t in zip(place, steps, tap, strict=True))
                yield ((i, place), (o, other)) if transposed else ((i, other), (o, place))


LAYERS = [
    (3, 2, (3,), 1),
    (2, 3, (5,), 1),
    (4, 6, (3,), 2),
    (4, 4, (3,), 4),
    (3, 6, (4,), 3),  # depthwise, multiplier 2
    (2, 3, (3, 2), 1),
    (2, 4, (2, 3), 2),
]


@pytest.mark.parametrize(("ins", "outs", "kernel", "groups"), LAYERS)
def test_convolution_by_counting_wires(ins, outs, kernel, groups):
    truth = mean_fans(wires_of(ins, outs, kernel, groups, 1, transposed=False))
    assert pair((outs, ins // groups, *kernel), "OI...", groups=groups) == truth
    assert pair((*kernel, ins // groups, outs), "...IO", groups=groups) == truth
    if groups == ins:
        assert pair((*kernel, ins, outs // ins), "...IM") == truth


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("ins", "outs", "kernel", "groups"), LAYERS)
def test_transposed_convolution_by_counting_wires(ins, outs, kernel, groups, stride):
    """Outputs that no wire reaches (a kernel shorter than its stride) count too: the mean is over all outputs."""
    wires = list(wires_of(ins, outs, kernel, groups, stride, transposed=True, size=6))
    outputs = outs * (6 * stride) ** len(kernel)
    truth = Fraction(len(wires), outputs), mean_fans(wires)[1]
    options = {"groups": groups, "transposed": True, "stride": stride}
    assert pair((ins, outs // groups, *kernel), "IO...", **options) == truth
    assert pair((*kernel, outs // groups, ins), "...OI", **options) == truth


def test_dense_embedding_and_experts_by_counting_wires():
    dense = [(i, o) for i in range(5) for o in range(7)]
    assert pair((5, 7), "IO") == mean_fans(dense)
    assert pair((5, 14), "IO", blocks=2) == mean_fans(dense)
    assert pair((3, 5, 7), "EIO") == mean_fans([((e, i), (e, o)) for e in range(3) for i, o in dense])
    tokens = [(f"token {t}", f"token {t}, output {d}") for t in range(11) for d in range(4)]  # one-hot: one live input
    assert pair((100, 4), "VD") == mean_fans(tokens)


# torch: equal fans where it is right, and its own layers, run on ones, where it is not.


@pytest.mark.parametrize("shape", [(7, 5), (8, 6, 3), (8, 6, 3, 5), (8, 6, 2, 3, 5), (0, 3), (4, 0, 3)])
def test_torch_function_where_it_is_right(shape):
    torch = pytest.importorskip("torch")
    assert pair(shape, "OI...") == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


TORCH_LAYERS = [
    ("Conv1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2}),
    ("Conv2d", {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2)}),
    ("Conv2d", {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "groups": 3}),
    ("ConvTranspose1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 5, "groups": 2, "stride": 2}),
    ("ConvTranspose2d", {"in_channels": 6, "out_channels": 8, "kernel_size": 3, "groups": 2, "stride": 2}),
    ("ConvTranspose2d", {"in_channels": 3, "out_channels": 2, "kernel_size": (2, 5), "stride": (3, 2)}),
]


@pytest.mark.parametrize(("name", "options"), TORCH_LAYERS)
def test_torch_layers_run_on_ones(name, options):
    """With weights and inputs of one, an output is its own fan_in and the gradient of an input is its fan_out."""
    torch = pytest.importorskip("torch")
    transposed = "Transpose" in name
    layer = getattr(torch.nn, name)(**options, bias=False, dtype=torch.float64)
    torch.nn.init.ones_(layer.weight)
    x = torch.ones(1, options["in_channels"], *(24,) * (layer.weight.ndim - 2), dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()

    def interior(z):
        """The mean over whole periods of the strides 1, 2 and 3, far from the borders."""
        return Fraction(z[(..., *(slice(6, 18),) * (z.ndim - 2))].mean().item()).limit_denominator(36)

    stride = layer.stride if transposed else 1
    result = fans(
        layer.weight.shape,
        "IO..." if transposed else "OI...",
        groups=layer.groups,
        transposed=transposed,
        stride=stride,
    )
    assert (result.fan_in, result.fan_out) == (interior(y.detach()), interior(x.grad))


# Exactness, the edges, and every error.


def test_fans_are_exact_ints_wherever_they_are_integers():
    big = 10**30
    assert fans((big, big + 1, 3), "OI...") == Fans(3 * big + 3, 3 * big, 3)
    assert fans((big, 1, 1), "IO...", transposed=True, stride=7).fan_in == Fraction(big, 7)
    for result in fans((3, 4), "IO"), fans((6, 4, 4, 4), "IO...", transposed=True, stride=2), fans((9, 2, 2), "EOI"):
        assert {type(result.fan_in), type(result.fan_out), type(result.receptive_field_size)} == {int}


def test_zero_sized_axes_give_zero_fans():
    assert fans((0, 5)) == Fans(0, 5, 1)
    assert fans((5, 0)) == Fans(5, 0, 1)
    assert fans((0, 3, 5, 7)) == Fans(0, 0, 0)
    assert pair((0, 5, 7), "EIO") == (5, 7)
    assert pair((0, 16), "VD") == (1, 16)
    assert pair((0, 5), groups=3, blocks=1, layout="OI") == (5, 0)
    assert pair((4, 0, 3), "IO...", transposed=True, stride=2) == (6, 0)


def test_numbers_of_any_kind_of_integer_are_equal():
    assert fans(np.array([5, 7])) == fans([np.int32(5), 7]) == fans(iter((5, 7))) == fans((5, 7))
    assert type(fans(np.array([5, 7])).fan_in) is int
    options = {"transposed": True, "groups": np.int8(2), "blocks": np.int8(1)}
    assert pair((6, 4, 3, 3), "IO...", stride=np.array([2, 2]), **options) == (Fraction(27, 4), 36)


def test_fans_are_values():
    result = fans((5, 7))
    assert result == pickle.loads(pickle.dumps(result)) and hash(result) == hash(fans([5, 7]))
    with pytest.raises(AttributeError):
        result.fan_in = 3


@pytest.mark.parametrize("bad", [True, np.True_, 2.0, np.float64(2), "2", None, 1j, (1,)])
def test_what_is_no_integer_is_a_type_error(bad):
    fans((1, 2, 2), transposed=True, stride=1)  # equal to True and 2.0, and in the cache
    for call in (
        lambda: fans((bad, 2)),
        lambda: fans((2, 2), groups=bad),
        lambda: fans((2, 2), blocks=bad),
        lambda: fans((1, 2, 2), transposed=True, stride=(bad,)),
        lambda: Axes(in_axis=(0, bad)),
    ):
        with pytest.raises(TypeError, match=r"(shape|groups|blocks|stride|in_axis): expected an integer, got "):
            call()


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((5,), {}, r"shape must be an iterable of integers, got 5"),
        (("57",), {}, r"shape must be a sequence of integers, got '57'"),
        (((5, 7), None), {}, r"layout must be a str or Axes, got None"),
        (((5, 7), ("I", "O")), {}, r"layout must be a str or Axes, got \('I', 'O'\)"),
        (((5, 7),), {"transposed": 1}, r"transposed must be a bool, got 1"),
        (((5, 7),), {"stride": 1.0}, r"stride: expected an integer, got 1\.0"),
        (((5, 7),), {"stride": True}, r"stride: expected an integer, got True"),
    ],
)
def test_type_errors(args, options, message):
    with pytest.raises(TypeError, match=message):
        fans(*args, **options)


@pytest.mark.parametrize(
    ("shape", "layout", "options", "message"),
    [
        ((), "...IO", {}, r"input and an output axis, got \(\): 0-d"),
        ((5,), "...IO", {}, r"input and an output axis, got \(5,\): 1-d"),
        ((5,), Axes(), {}, r"in_axis -2 is out of range for shape \(5,\): 1-d"),
        ((5, -7), "IO", {}, r"must be >= 0, got \(5, -7\)"),
        ((3, 5, 7), "IO", {}, r"layout 'IO' needs 2 axes, got shape \(3, 5, 7\): 3-d"),
        ((5, 7), "HWIO", {}, r"layout 'HWIO' needs 4 axes, got shape \(5, 7\): 2-d"),
        ((5, 7), "E...IO", {}, r"layout 'E\.\.\.IO' needs at least 3 axes"),
        ((5, 7), "io", {}, r"capital letters with at most one '\.\.\.', got 'io'"),
        ((5, 7), "..IO", {}, r"capital letters"),
        ((5, 7), "...I...O", {}, r"capital letters"),
        ((5, 7), "I O", {}, r"capital letters"),
        ((5, 7), "IO\n", {}, r"capital letters"),
        ((5, 7), "", {}, r"by I and O, by I and M, or by V and D, got ''"),
        ((5, 7), "...", {}, r"by I and O"),
        ((5, 7), "IE", {}, r"by I and O"),
        ((5, 7), "MO", {}, r"by I and O"),
        ((5, 7, 3), "IMO", {}, r"by I and O"),
        ((5, 7), "VO", {}, r"by I and O"),
        ((5, 7), "VH", {}, r"by I and O"),
        ((5, 7), "ID", {}, r"by I and O"),
        ((5, 7, 3), "VDI", {}, r"by I and O"),
        ((5, 7), Axes(-3, 1), {}, r"in_axis -3 is out of range for shape \(5, 7\): 2-d"),
        ((5, 7), Axes(0, 2), {}, r"out_axis 2 is out of range"),
        ((5, 7), Axes(0, 1, 2), {}, r"batch_axis 2 is out of range"),
        ((5, 7), Axes((0, -2), 1), {}, r"in_axis names axis -2 again"),
        ((5, 7), Axes(0, (1, 1)), {}, r"out_axis names axis 1 again"),
        ((5, 7), Axes(0, (0, 0)), {}, r"out_axis names axis 0 again"),
        ((5, 7), Axes(0, 1, 0), {}, r"batch_axis names axis 0 again"),
        ((5, 7), Axes(0, 0, 0), {}, r"batch_axis names axis 0 again"),
        ((5, 6, 7), Axes(1, 2, (0, 0)), {}, r"batch_axis names axis 0 again"),
        ((5, 7), "OI", {"groups": 0}, r"groups must be >= 1, got 0"),
        ((5, 7), "OI", {"blocks": -1}, r"blocks must be >= 1, got -1"),
        ((5, 7, 3), "IO...", {"stride": 0, "transposed": True}, r"stride must be >= 1, got 0"),
        ((5, 7, 3, 3), "IO...", {"stride": (2, -2), "transposed": True}, r"stride must be >= 1, got -2"),
        ((5, 7), "OI", {"groups": 2}, r"must divide the output features, got groups \* blocks 2 and 5"),
        ((8, 7), "OI", {"blocks": 3}, r"must divide the output features, got groups \* blocks 3 and 8"),
        ((6, 7), "OI", {"groups": 2, "blocks": 2}, r"groups \* blocks 4 and 6"),
        ((5, 8, 3), "IO...", {"groups": 2, "transposed": True}, r"divide the input features, got groups 2 and 5"),
        ((4, 8, 3), "IO...", {"blocks": 3, "transposed": True}, r"divide the output features, got blocks 3 and 8"),
        ((3, 3, 8, 2), "...IM", {"groups": 8}, r"groups must be 1, since '\.\.\.IM' has no input axis to split"),
        ((8, 4), "VD", {"groups": 2}, r"groups must be 1, since 'VD'"),
        ((3, 3, 8, 2), "...IO", {"stride": 2}, r"a stride needs transposed=True and spatial axes, got stride 2"),
        ((8, 2), "IO...", {"stride": 2, "transposed": True}, r"a stride needs transposed=True and spatial axes"),
        ((8, 2, 3), "IO...", {"stride": (2, 2), "transposed": True}, r"one integer or 1, one per spatial axis"),
        ((8, 2), "IO", {"stride": (1,)}, r"one integer or 0, one per spatial axis, got \(1,\)"),
    ],
)
def test_value_errors(shape, layout, options, message):
    with pytest.raises(ValueError, match=message):
        fans(shape, layout, **options)


def test_docstring_examples():
    results = doctest.testmod(sys.modules[Fans.__module__])
    assert results.attempted >= 8 and results.failed == 0
