"""Tensors as memory: fill_() writes what fastinit.fill writes into an array, into every kind of tensor."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import fastinit  # noqa: E402
from fastinit import Key  # noqa: E402
from fastinit.adapters.torch import fill_  # noqa: E402
from fastinit.adapters.torch.internals import is_watched  # noqa: E402
from fastinit.adapters.torch.tensors import (  # noqa: E402
    DTYPES,
    Kind,
    draw,
    drawn_key,
    kind_of,
    shortcut_of_this_thread,
)
from fastinit.dtypes import DTYPES as FORMATS  # noqa: E402

KEY = Key(0).fold_in("tensors")
NORMAL = fastinit.Normal(0.25, 0.5)
ORTHOGONAL = fastinit.Orthogonal(column_axis=0)


def bits(tensor):
    """The logical elements as unsigned integers."""
    return tensor.detach().cpu().contiguous().view(getattr(torch, f"uint{8 * tensor.itemsize}")).numpy()


def wanted(shape, initializer, dtype, **place):
    """The same by fastinit.fill."""
    out = np.empty(shape, f"u{FORMATS[DTYPES[dtype]].itemsize}")
    return fastinit.fill(out, initializer, KEY, dtype=DTYPES[dtype], **place)


def test_every_format_has_its_dtype():
    assert list(DTYPES.values()) == [name for name in FORMATS if hasattr(torch, name)]
    assert {"float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"} <= set(DTYPES.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("initializer", [NORMAL, fastinit.he_normal(layout="OI..."), ORTHOGONAL], ids=repr)
@pytest.mark.parametrize("shape", [(7, 13), (3, 5, 2, 4), (0, 5), (600, 700)], ids=str)
def test_a_tensor_gets_what_an_array_gets(dtype, initializer, shape):
    tensor = torch.zeros(shape, dtype=dtype)
    assert fill_(tensor, initializer, KEY) is tensor
    assert (bits(tensor) == wanted(shape, initializer, dtype)).all()


def test_scalars_and_vectors():
    for shape in [(), (1,), (5,)]:
        assert (bits(fill_(torch.zeros(shape), NORMAL, KEY)) == wanted(shape, NORMAL, torch.float32)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("initializer", [NORMAL, ORTHOGONAL], ids=repr)
def test_layouts_get_the_same_logical_values(dtype, initializer):
    shape, expected = (6, 4, 3, 5), wanted((6, 4, 3, 5), initializer, dtype)
    channels_last = torch.zeros(shape, dtype=dtype).to(memory_format=torch.channels_last)
    transposed = torch.zeros((5, 3, 4, 6), dtype=dtype).permute(3, 2, 1, 0)
    memory = torch.zeros((6, 8, 3, 10), dtype=dtype)
    strided = memory[:, ::2, :, 1::2]
    offset = torch.zeros(6 * 4 * 3 * 5 + 3, dtype=dtype)[3:].view(shape)
    for tensor in (channels_last, transposed, strided, offset):
        assert (bits(fill_(tensor, initializer, KEY)) == expected).all()
    assert not bits(memory)[:, 1::2].any()  # nothing beside it was touched
    assert not bits(memory)[..., ::2].any()


def test_parameters_and_the_version_counter():
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    before = parameter._version
    assert fill_(parameter, NORMAL, KEY) is parameter
    assert parameter._version == before + 1
    assert parameter.requires_grad and parameter.is_leaf and parameter.grad_fn is None
    loss = (parameter * parameter).sum()
    fill_(parameter, NORMAL, KEY)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_strided_tensor_bumps_its_version_once_too():
    whole = torch.zeros(8, 8)
    view = whole[:, ::2]
    fill_(view, NORMAL, KEY)
    assert whole._version == view._version == 1


def test_parts_of_a_tensor():
    shape, whole = (12, 10), wanted((12, 10), fastinit.he_normal(), torch.float32)
    options = {"global_shape": shape}
    slice_ = fill_(torch.zeros(5, 4), fastinit.he_normal(), KEY, **options, offsets=(3, 6))
    assert (bits(slice_) == whole[3:8, 6:]).all()
    flat = fill_(torch.zeros(31), fastinit.he_normal(), KEY, **options, start=17)
    assert (bits(flat) == whole.reshape(-1)[17:48]).all()
    pieces = fill_(torch.zeros(4, 3), fastinit.he_normal(), KEY, **options, ranges=[[range(1, 9, 2)], [range(7, 10)]])
    assert (bits(pieces) == whole[1:9:2, 7:]).all()


def test_threads_do_not_matter():
    expected = wanted((1500, 1500), NORMAL, torch.float32)
    for threads in (1, 2, 5):
        assert (bits(fill_(torch.zeros(1500, 1500), NORMAL, KEY, num_threads=threads)) == expected).all()


def test_tensors_without_memory_stay_as_they_are():
    from torch._subclasses.fake_tensor import FakeTensorMode

    meta = torch.empty(3, 3, device="meta")
    assert fill_(meta, NORMAL, KEY) is meta
    with FakeTensorMode():
        fake = torch.empty(3, 3)
        assert fill_(fake, NORMAL, KEY) is fake
    assert fill_(fake, NORMAL, KEY) is fake


def test_inference_tensors():
    with torch.inference_mode():
        tensor = torch.zeros(3, 4)
        fill_(tensor, NORMAL, KEY)
    assert (bits(tensor) == wanted((3, 4), NORMAL, torch.float32)).all()
    with pytest.raises(TypeError):
        fill_(tensor, NORMAL, KEY)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, 3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64).conj().imag,
    ],
    ids=["integers", "complex", "sparse", "negative bit"],
)
def test_tensors_of_other_kinds_are_refused(tensor):
    with pytest.raises(TypeError, match="fastinit fills strided tensors of"):
        fill_(tensor, NORMAL, KEY)


def test_a_subclass_is_refused():
    class Own(torch.Tensor):
        pass

    with pytest.raises(TypeError, match="got a Own"):
        fill_(torch.zeros(3).as_subclass(Own), NORMAL, KEY)


def test_errors_come_before_anything_is_written():
    tensor = torch.full((4, 4), 7.0)
    for error, options in [
        (ValueError, {"offsets": (0, 0)}),
        (ValueError, {"global_shape": (2, 2)}),
        (ValueError, {"num_threads": 0}),
    ]:
        with pytest.raises(error):
            fill_(tensor, NORMAL, KEY, **options)
    with pytest.raises(TypeError, match="Key"):
        fill_(tensor, NORMAL, 5)
    with pytest.raises(TypeError, match="initializer"):
        fill_(tensor, "normal", KEY)
    for wrong in ("x", None, np.zeros(3)):
        with pytest.raises(TypeError, match=r"expected a torch\.Tensor, got"):
            fill_(wrong, NORMAL, KEY)
    with pytest.raises(BufferError, match="overlap"):
        fill_(torch.zeros(3).expand(4, 3), NORMAL, KEY)
    assert (tensor == 7.0).all()
    assert tensor._version == 0


def test_a_storage_that_was_freed():
    tensor = torch.zeros(4, 4)
    tensor.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="freed"):
        fill_(tensor, NORMAL, KEY)


def test_kinds():
    tensor = torch.zeros(3)
    for plain in (tensor, torch.nn.Parameter(tensor), tensor[::2], tensor.expand(4, 3)):
        assert kind_of(plain) is Kind.PLAIN
    with torch.device("meta"):
        assert kind_of(tensor) is Kind.PLAIN and kind_of(torch.zeros(3)) is Kind.UNREAL
    with torch._subclasses.FakeTensorMode():
        assert kind_of(torch.zeros(3)) is Kind.UNREAL
    with torch.inference_mode():
        inference = torch.zeros(3)
        assert kind_of(inference) is Kind.PLAIN
    complex_numbers = torch.zeros(3, dtype=torch.complex64)
    subclass = tensor.as_subclass(type("Own", (torch.Tensor,), {}))
    for foreign in (
        inference,
        complex_numbers,
        complex_numbers.conj().imag,
        tensor.to_sparse(),
        tensor.long(),
        subclass,
    ):
        assert kind_of(foreign) is Kind.FOREIGN
    seen = []
    torch.vmap(lambda row: seen.append(kind_of(row)) or row)(torch.zeros(2, 3))
    assert seen == [Kind.FOREIGN]
    assert kind_of("no tensor") is Kind.FOREIGN


def test_modes_watch():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    tensor = torch.zeros(3)
    assert not is_watched()
    with torch.device("meta"):
        assert not is_watched()
    with TorchDispatchMode():
        assert is_watched()
        fill_(tensor, NORMAL, KEY)  # asked for by name
    assert (bits(tensor) == wanted((3,), NORMAL, torch.float32)).all()
    with Watching(), torch.device("cpu"):
        assert is_watched()


def test_a_drawn_key_is_64_bits_of_the_generator():
    tensor = torch.zeros(2)
    torch.manual_seed(7)
    drawn = [drawn_key(tensor) for _ in range(2)]
    torch.manual_seed(7)
    expected = torch.empty(2, dtype=torch.int64).random_(-(2**63), None)
    for key, value in zip(drawn, expected.tolist(), strict=True):
        assert key == Key.from_words(value % 2**32, value % 2**64 >> 32)
    generator = torch.Generator().manual_seed(7)
    before = torch.get_rng_state()
    assert drawn_key(tensor, generator) == drawn[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_draw_different_keys():
    torch.manual_seed(0)
    keys, barrier = [], threading.Barrier(4)

    def draw():
        barrier.wait()
        for _ in range(200):
            keys.append(drawn_key(torch.zeros(1)))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 800


def test_tensors_without_memory_are_no_excuse():
    with pytest.raises(TypeError, match="initializer must be an Initializer"):
        fill_(torch.empty(3, device="meta"), 5, Key(0))


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (16, 16), (3, 1, 5, 2), (2, 1, 1, 1, 1, 1, 1, 1, 3)], ids=str)
def test_small_fills_are_the_same_again(dtype, shape):
    """The first fill of a shape goes the long way, the second the short one: the same bytes, the same generator."""
    initializer = fastinit.Normal(0.125, 0.5 + len(shape))
    for make in (torch.zeros, lambda *given, **named: torch.nn.Parameter(torch.zeros(*given, **named))):
        found, left = [], []
        for _ in range(3):
            torch.manual_seed(5)
            tensor = make(shape, dtype=dtype)
            before = tensor._version
            assert draw(tensor, None, None, initializer, torch.nn.init.normal_) is tensor
            assert tensor._version == before + 1
            found.append(tensor.detach().clone())
            left.append(torch.get_rng_state())
        expected = fill_(torch.zeros(shape, dtype=dtype), initializer, _next_key(5))
        for one, state in zip(found, left, strict=True):
            assert torch.equal(_bits(one), _bits(expected))
            assert torch.equal(state, left[0])


def _bits(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def _next_key(seed):
    torch.manual_seed(seed)
    return drawn_key(torch.empty(1))


def _odd_tensors():
    with torch.inference_mode():
        inferred = torch.empty(4, 4)
    freed = torch.empty(4, 4)
    freed.untyped_storage().resize_(0)
    return {
        "negative": torch._neg_view(torch.empty(4, 4)),
        "transposed": torch.empty(4, 4).T,
        "strided": torch.empty(4, 8)[:, ::2],
        "expanded": torch.empty(4, 1).expand(4, 4),
        "computed": torch.empty(4, 4, requires_grad=True) * 1,
        "of inference mode": inferred,
        "freed": freed,
        "meta": torch.empty(4, 4, device="meta"),
        "sparse": torch.eye(4).to_sparse(),
        "empty": torch.empty(0, 4),
        "of integers": torch.empty(4, 4, dtype=torch.int32),
        "a subclass": torch.empty(4, 4).as_subclass(type("Own", (torch.Tensor,), {})),
        "no tensor": np.zeros((4, 4), np.float32),
    }


short_way = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no DLPack exchange: no short way"
)


@short_way
@pytest.mark.parametrize("kind", _odd_tensors())
def test_the_short_way_leaves_what_is_odd_alone(kind):
    initializer, tensor = fastinit.Normal(0.0, 0.375), _odd_tensors()[kind]
    short = shortcut_of_this_thread()
    draw(torch.empty(4, 4), None, None, initializer, torch.nn.init.normal_)
    assert short.fill(torch.empty(4, 4), initializer)
    state = torch.get_rng_state()
    assert not short.fill(tensor, initializer)
    assert torch.equal(torch.get_rng_state(), state)


@short_way
@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_the_short_way_is_closed_while_somebody_watches():
    initializer, tensor = fastinit.Normal(0.0, 0.375), torch.empty(4, 4)
    short = shortcut_of_this_thread()
    draw(tensor, None, None, initializer, torch.nn.init.normal_)
    for mode in (torch.overrides.BaseTorchFunctionMode(), torch._subclasses.FakeTensorMode(), torch.device("cpu")):
        with mode:
            assert not short.fill(tensor, initializer)
    seen = []
    for transform in (torch.func.vmap, torch.func.functionalize):
        transform(lambda one: (seen.append(short.fill(one, initializer)), one)[1])(torch.empty(2, 4, 4))
    torch.func.grad(lambda one: (seen.append(short.fill(one, initializer)), one.sum())[1])(torch.empty(4, 4))
    traced = lambda one: (seen.append(short.fill(tensor, initializer)), one * 2)[1]  # noqa: E731
    torch.jit.trace(traced, torch.ones(2), check_trace=False)
    assert seen and not any(seen)
    assert short.fill(tensor, initializer)


def test_each_thread_has_a_short_way():
    found = []
    initializer = fastinit.Normal(0.0, 0.375)

    def run():
        for _ in range(2):
            found.append(draw(torch.empty(4, 4), None, None, initializer, torch.nn.init.normal_))

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert all(not torch.equal(one, other) for one in found for other in found if one is not other)
