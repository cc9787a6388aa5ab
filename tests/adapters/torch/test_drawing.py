"""fastinit.adapters.torch.init on every kind of tensor: fastinit's numbers, or torch's, which is said once."""

import inspect
import warnings

import pytest

from fastinit import Key

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from fastinit.adapters.torch import drawing, init  # noqa: E402

# What torch's own functions do in some releases, where they fill.
CLAMPS = "clamp_" in inspect.getsource(torch.nn.init._no_grad_trunc_normal_)
KNOWS_META = "is_meta" in inspect.getsource(torch.nn.init.dirac_)

NARROW = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.fixture(autouse=True)
def nothing_said_yet():
    drawing.notices.said.clear()


# fastinit's numbers

LAYOUTS = {
    "transposed": lambda: torch.zeros(3, 3, 8, 6).permute(3, 2, 1, 0),
    "channels last": lambda: torch.zeros(6, 8, 3, 3).to(memory_format=torch.channels_last),
    "strided": lambda: torch.zeros(12, 16, 3, 6)[::2, ::2, :, ::2],
    "offset": lambda: torch.zeros(8, 8, 3, 3)[2:],
    "parameter": lambda: nn.Parameter(torch.zeros(6, 8, 3, 3)),
    "detached": lambda: nn.Parameter(torch.zeros(6, 8, 3, 3)).data,
    "inside autograd": lambda: torch.zeros(6, 8, 3, 3, requires_grad=True) * 1,
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["uniform_", "trunc_normal_", "kaiming_normal_", "orthogonal_", "icnr_", "dirac_"])
def test_the_layout_changes_nothing(name, make):
    given = {} if name == "dirac_" else {"key": 3}
    tensor = make()
    if name == "icnr_":  # four sub-pixels
        tensor = tensor.transpose(0, 1)
    expected = getattr(init, name)(torch.zeros(tensor.shape), **given)
    version = tensor._version
    assert getattr(init, name)(tensor, **given) is tensor
    assert torch.equal(tensor, expected)
    assert tensor._version > version


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("name", ["normal_", "xavier_normal_", "trunc_normal_", "orthogonal_"])
def test_narrow_dtypes_are_float32_rounded_once(name, dtype):
    function = getattr(init, name)
    wide, narrow = (function(torch.empty(12, 8, dtype=kind), key=3) for kind in (torch.float32, dtype))
    rounded = wide.to(dtype).float()
    if name == "trunc_normal_":
        rounded = rounded.clamp(-2, 2)
    assert torch.equal(narrow.float(), rounded)


def test_autograd_sees_that_saved_values_changed():
    weight = nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    init.normal_(weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    (weight * 2).sum().backward()
    assert weight.is_leaf and weight.grad.tolist() == [2, 2, 2]


def test_tensors_of_inference_mode():
    with torch.inference_mode():
        tensor = torch.zeros(4, 6)
        assert torch.equal(init.normal_(tensor, key=1), init.normal_(torch.zeros(4, 6), key=1))
    assert torch.equal(tensor.clone(), init.normal_(torch.zeros(4, 6), key=1))


DISTRIBUTED = """
import torch, torch.distributed as dist
from torch.distributed.tensor import Partial, Replicate, Shard, DTensor, init_device_mesh, distribute_tensor
from fastinit.adapters.torch import init
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
for placement in Shard(0), Shard(1), Replicate():
    for name in init.__all__:
        function = getattr(init, name)
        if name[-1] != "_" or name in ("zeros_", "ones_", "constant_"):
            continue
        whole = torch.zeros((8, 6) if name in ("eye_", "sparse_") else (8, 6, 3))
        parts = distribute_tensor(whole.clone(), mesh, [placement])
        own = (0.3,) if name == "sparse_" else ()
        for given in {}, {"groups": 2}, {"key": 3}:
            if set(given) <= set(function.__kwdefaults__ or {}):
                torch.manual_seed(1)
                function(whole, *own, **given)
                torch.manual_seed(1)
                version = parts._version
                assert function(parts, *own, **given) is parts, name
                assert torch.equal(parts.full_tensor(), whole) and parts._version > version, name
pending = DTensor.from_local(torch.zeros(8, 6), mesh, [Partial()])
for function in init.normal_, init.kaiming_normal_, init.orthogonal_, init.icnr_:
    try:
        function(pending[..., None] if function is init.icnr_ else pending)
    except ValueError:
        continue
    raise AssertionError(function)
with torch.device("meta"):
    before = torch.get_rng_state()
    parts = DTensor.from_local(torch.zeros(8, 6), mesh, [Shard(0)])
assert init.trunc_normal_(parts) is parts and torch.equal(before, torch.get_rng_state())
dist.destroy_process_group()
"""


def test_distributed_tensors(run_python):
    if not torch.distributed.is_available():
        pytest.skip("torch.distributed is not built")
    done = run_python(DISTRIBUTED)
    assert done.returncode == 0, done.stderr


def test_default_devices_are_no_hindrance():
    expected = init.kaiming_normal_(torch.zeros(4, 6), key=1)
    tensor = torch.zeros(4, 6)
    for device in ("meta", "cpu"):
        with torch.device(device):
            assert torch.equal(init.kaiming_normal_(tensor.zero_(), key=1), expected)
            init.kaiming_normal_(tensor)  # and draws
            assert init.xavier_uniform_(torch.empty(3, 5)).device.type == device


def test_meta_and_fake_tensors_draw_nothing():
    before = torch.get_rng_state()
    with FakeTensorMode():
        pretended = torch.zeros(4, 8, 3)
    for tensor in (pretended, torch.zeros(4, 8, 3, device="meta")):
        for name in init.__all__:
            if name in ("dirac_", "sparse_") and not KNOWS_META:
                continue  # torch's own, which raise for fake tensors, and draw an order of rows
            if name.endswith("_") and name != "constant_":
                arguments = {"sparse_": (0.3,)}.get(name, ())
                shaped = tensor[:, :, 0] if name in ("sparse_", "eye_") else tensor
                if name == "delta_orthogonal_":
                    shaped = tensor.transpose(0, 1)
                assert getattr(init, name)(shaped, *arguments) is shaped
                if "key" in (getattr(init, name).__kwdefaults__ or {}):
                    assert getattr(init, name)(shaped, *arguments, key=1) is shaped
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_under_fake_tensor_mode():
    with FakeTensorMode():
        layer = nn.Linear(4096, 4096)
        init.trunc_normal_(layer.weight, std=0.02)
    assert layer.weight.shape == (4096, 4096)


# torch's numbers


class Subclass(torch.Tensor):
    pass


class Renamed(torch.Tensor):
    """Takes over torch.nn.init.normal_, as sharded tensors do."""

    calls = ()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.calls = (*cls.calls, func)
        return super().__torch_function__(func, types, args, kwargs or {})


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        DispatchMode.calls += "normal" in str(func)
        return func(*args, **(kwargs or {}))


ODD = {
    "tensors of torch.complex64": lambda: torch.zeros(4, 6, dtype=torch.complex64),
    "tensors of class Subclass": lambda: torch.zeros(4, 6).as_subclass(Subclass),
    "tensors of class Renamed": lambda: torch.zeros(4, 6).as_subclass(Renamed),
    "tensors under a mode": lambda: torch.zeros(4, 6, dtype=torch.complex64).conj().imag,
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_get_torchs_numbers_which_is_said_once(kind):
    with pytest.warns(UserWarning, match=f"torch's own numbers fill {kind}") as said:
        for name in ("uniform_", "normal_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "lecun_uniform_"):
            torch.manual_seed(1)
            ours = getattr(init, name)(ODD[kind]())
            if hasattr(nn.init, name):
                torch.manual_seed(1)
                assert torch.equal(ours, getattr(nn.init, name)(ODD[kind]()))
    assert len(said) == 1


@pytest.mark.filterwarnings("ignore:fastinit. torch's own numbers")
@pytest.mark.parametrize("kind", ODD)
def test_a_key_governs_torchs_numbers_too(kind):
    state = torch.get_rng_state()
    for name in ("normal_", "xavier_uniform_", "lecun_normal_", "sparse_", "kaiming_normal_", "delta_orthogonal_"):
        arguments = (0.3,) if name == "sparse_" else ()

        def filled(key, name=name, arguments=arguments):
            tensor = ODD[kind]()
            return getattr(init, name)(tensor.t()[..., None] if "delta" in name else tensor, *arguments, key=key)

        assert torch.equal(filled(3), filled(3)), name
        assert not torch.equal(filled(3), filled(4)), name
        assert not torch.equal(filled(3), filled(Key(3).fold_in(0))), name
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:fastinit. torch's own numbers")
def test_true_fans_of_odd_tensors():
    weight = torch.zeros(64, 1, 5, 5, dtype=torch.complex128)
    init.kaiming_normal_(weight, key=1, mode="fan_out", groups=64)
    assert weight.abs().square().mean().sqrt().item() == pytest.approx((2 / 25) ** 0.5, rel=0.1)
    init.kaiming_normal_(weight, key=1, mode="fan_out")
    assert weight.abs().square().mean().sqrt().item() == pytest.approx((2 / 25 / 64) ** 0.5, rel=0.1)


@pytest.mark.filterwarnings("ignore:fastinit. torch's own numbers")
def test_subclasses_and_modes_see_torchs_functions():
    init.normal_(torch.zeros(3).as_subclass(Renamed))
    assert nn.init.normal_ in Renamed.calls
    with DispatchMode():
        init.normal_(torch.zeros(3))
    assert DispatchMode.calls == 1
    with FunctionMode(), torch.device("cpu"):
        torch.manual_seed(1)
        tensor = init.normal_(torch.zeros(3))
    torch.manual_seed(1)
    assert torch.equal(tensor, nn.init.normal_(torch.zeros(3)))


@pytest.mark.filterwarnings("ignore:fastinit. torch's own numbers")
def test_vmap():
    stacked = torch.zeros(5, 4, 6)
    for name in ("uniform_", "kaiming_normal_", "orthogonal_"):
        function = getattr(init, name)
        different = torch.vmap(function, randomness="different")(stacked.clone())
        same = torch.vmap(function, randomness="same")(stacked.clone())
        assert different.shape == (5, 4, 6)
        assert not torch.equal(different[0], different[1]) and torch.equal(same[0], same[1])
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(function)(stacked)


@pytest.mark.parametrize(
    "fill",
    [
        lambda t, k: init.normal_(t, std=1e5, key=k),
        lambda t, k: init.normal_(t, mean=1e30, key=k),
        lambda t, k: init.xavier_normal_(t, gain=1e6, key=k),
        pytest.param(
            lambda t, k: init.trunc_normal_(t, std=1e5, a=-1e30, b=1e30, key=k),
            marks=pytest.mark.skipif(CLAMPS, reason="this torch refuses bounds that the dtype cannot hold"),
        ),
        lambda t, k: init.sparse_(t, 0.5, 1e5, key=k),
    ],
)
def test_what_the_dtype_cannot_hold_is_torchs_and_said_once_per_function(fill):
    def half():
        return torch.zeros(8, 8, dtype=torch.float16)

    with pytest.warns(UserWarning, match="these are torch's own numbers, since fastinit has none: .*65504") as said:
        first, second = fill(half(), 1), fill(half(), 1)
    assert len(said) == 1
    assert first.isinf().any() and torch.equal(first, second)


def test_nothing_is_said_where_nothing_is_drawn():
    for call in (
        lambda t: init.xavier_uniform_(t, gain=0),
        lambda t: init.uniform_(t, 0.5, 0.5),
        lambda t: init.trunc_normal_(t, a=1.0, b=1.0),
        lambda t: init.dirac_(t[..., None], -1),
        lambda t: init.normal_(t[:0].to(torch.complex64)),
        lambda t: init.eye_(t.to(torch.complex64)),
        lambda t: init.dirac_(t.to(torch.int64)[..., None]),
        lambda t: init.zeros_(t.to(torch.complex64)),
    ):
        call(torch.zeros(4, 6))  # warnings are errors here
    assert not drawing.notices.said


def test_parameters_may_be_tensors_and_are_not_remembered():
    std = torch.tensor(0.5)
    first = init.normal_(torch.zeros(9), std=std, key=1)
    std.mul_(2)
    assert torch.equal(init.normal_(torch.zeros(9), std=std, key=1), 2 * first)


# Functions that torch lacks

LACKING = ["variance_scaling_", "lecun_normal_", "delta_orthogonal_", "icnr_", "zero_init_", "xavier_truncated_normal_"]


@pytest.mark.parametrize("name", LACKING)
def test_what_the_new_functions_refuse(name):
    function = getattr(init, name)
    for tensor in (torch.zeros(5), torch.zeros(()), torch.zeros(5, device="meta")):
        with pytest.raises(ValueError):
            function(tensor)
    convolution = torch.zeros(8, 4, 3)
    for wrong in (convolution.to(torch.int64), convolution.bool()):
        with pytest.raises((TypeError, RuntimeError)):  # of an older torch; a newer one says that it is not implemented
            function(wrong)
    for wrong in (convolution.to_sparse(), convolution[:, :, :1].expand(8, 4, 3)):
        with pytest.raises((RuntimeError, NotImplementedError, BufferError)):
            function(wrong)
    assert function(torch.zeros(0, 4, 3) if "delta" not in name else torch.zeros(0, 0, 3)).numel() == 0


def test_wrong_parameters_of_the_new_functions():
    weight = torch.zeros(8, 4, 3)
    for error, call in (
        (ValueError, lambda: init.variance_scaling_(weight, 0.0)),
        (ValueError, lambda: init.variance_scaling_(weight, mode="fan")),
        (ValueError, lambda: init.variance_scaling_(weight, distribution="cauchy")),
        (TypeError, lambda: init.variance_scaling_(weight, "1")),
        (TypeError, lambda: init.variance_scaling_(weight, [1])),
        (ValueError, lambda: init.kaiming_truncated_normal_(weight, mode="fan_avg")),
        (ValueError, lambda: init.kaiming_truncated_normal_(weight, nonlinearity="gelu")),
        (RuntimeError, lambda: init.xavier_truncated_normal_(weight, -1.0)),
        (ValueError, lambda: init.delta_orthogonal_(weight.transpose(0, 1))),
        (ValueError, lambda: init.delta_orthogonal_(weight, float("nan"))),
        (ValueError, lambda: init.icnr_(weight, 3)),
        (ValueError, lambda: init.icnr_(weight, 0)),
        (TypeError, lambda: init.icnr_(weight, 2, "normal")),
        (TypeError, lambda: init.zero_init_(weight, key=1)),
    ):
        with pytest.raises(error):
            call()
    assert not weight.any()


def test_the_new_functions_on_odd_tensors():
    for name in ("delta_orthogonal_", "icnr_", "zero_init_"):
        given = {} if name == "zero_init_" else {"key": 1}
        expected = getattr(init, name)(torch.zeros(8, 4, 3, dtype=torch.float64), **given)
        assert torch.equal(getattr(init, name)(torch.zeros(8, 4, 3, dtype=torch.complex128), **given).real, expected)
        odd = torch.zeros(8, 4, 3).as_subclass(Subclass)
        assert torch.equal(getattr(init, name)(odd, **given), getattr(init, name)(torch.zeros(8, 4, 3), **given))
    assert torch.equal(init.xavier_truncated_normal_(torch.ones(4, 6), gain=0), torch.zeros(4, 6))


def test_icnr_and_delta_orthogonal_do_what_they_promise():
    subpixel = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.PixelShuffle(2))
    init.icnr_(subpixel[0].weight)
    image = subpixel(torch.randn(1, 3, 5, 5))
    assert torch.equal(image[..., ::2, ::2], image[..., 1::2, 1::2])
    keeps = nn.Conv1d(4, 8, 3, padding=1, bias=False)
    init.delta_orthogonal_(keeps.weight)
    signal = torch.randn(2, 4, 30)
    assert keeps(signal).norm().item() == pytest.approx(signal.norm().item(), rel=1e-5)


# Compilers


def test_a_compiled_caller_gets_the_same_numbers():
    def caller(weight):
        doubled = weight * 2
        init.trunc_normal_(weight, std=0.5)
        init.xavier_uniform_(doubled, groups=2)
        return weight + doubled + init.sparse_(init.lecun_normal_(doubled, key=3), 0.3)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own
        compiled = torch.compile(caller, backend="eager")
        torch.manual_seed(1)
        result = compiled(torch.zeros(4, 6))
    torch.manual_seed(1)
    assert torch.equal(result, caller(torch.zeros(4, 6)))


@pytest.mark.parametrize("name", ["xavier_truncated_normal_", "kaiming_truncated_normal_", "lecun_truncated_normal_"])
@pytest.mark.parametrize("weight", [{}, {"groups": 2}], ids=["usual", "grouped"])
def test_torchs_numbers_are_cut_where_ours_are(name, weight):
    class Own(torch.Tensor):
        pass

    tensor = torch.empty(200, 300).as_subclass(Own)
    with pytest.warns(UserWarning, match="torch's own numbers fill tensors of class"):
        getattr(init, name)(tensor, **weight)
    values = tensor.as_subclass(torch.Tensor)
    assert 2.2 < values.abs().max() / values.std() < 2.3  # two deviations before the cut


@pytest.mark.parametrize("make", [lambda: torch.empty(4, 8), lambda: torch.empty(8, 4).T], ids=["plain", "transposed"])
@pytest.mark.parametrize(
    "call",
    [
        lambda tensor, generator: init.lecun_normal_(tensor, generator, groups=0),
        lambda tensor, generator: init.xavier_uniform_(tensor, generator=generator, groups=3),
        lambda tensor, generator: init.icnr_(tensor, generator=generator),
    ],
    ids=["groups of none", "groups that do not divide", "a matrix for a convolution"],
)
def test_what_is_refused_draws_nothing(make, call):
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    with pytest.raises(ValueError):
        call(make(), generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", LACKING)
def test_what_is_no_tensor_is_named(name):
    for wrong in ([1.0], None):
        with pytest.raises(TypeError, match=rf"expected a torch\.Tensor, got {type(wrong).__name__}"):
            getattr(init, name)(wrong)


def test_strides_are_integers():
    weight = torch.zeros(8, 4, 3)
    for wrong, said in ((b"1", "b'1'"), ("2", "'2'"), ([[2]], r"\[2\]"), (None, "None"), (1.5, "1.5")):
        with pytest.raises(TypeError, match=f"stride: expected an integer, got {said}"):
            init.xavier_uniform_(weight, transposed=True, stride=wrong)
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        init.lecun_normal_(weight, transposed=True, stride=[0])
    assert not weight.any()
    same = [init.xavier_uniform_(weight.clone(), transposed=True, stride=two, key=1) for two in (2, [2], (2,))]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


def test_arguments_without_a_hash():
    for wrong in ({"mode": []}, {"distribution": {}}):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be one of"):
            init.variance_scaling_(torch.zeros(4, 4), **wrong)
