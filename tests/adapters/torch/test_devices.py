"""CUDA tensors: filled by their device, or by the host and copied, which is said once; the same bytes either way."""

import contextlib

import pytest

import fastinit

torch = pytest.importorskip("torch", reason="needs torch")
from fastinit.adapters.torch import drawing, init, tensors  # noqa: E402
from fastinit.adapters.torch.devices import fills_on_device  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_said_yet():
    drawing.notices.said.clear()


def test_tensors_of_the_host_are_the_hosts():
    assert not fills_on_device(torch.zeros(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_another_device():
    said_once = pytest.warns(UserWarning, match="tensors on cuda are filled on the host and copied")
    with contextlib.nullcontext() if fills_on_device(torch.zeros(1, device="cuda")) else said_once as said:
        for name in ("normal_", "kaiming_uniform_", "orthogonal_", "lecun_normal_"):
            there = getattr(init, name)(torch.zeros(8, 6, device="cuda"), key=3)
            assert torch.equal(there.cpu(), getattr(init, name)(torch.zeros(8, 6), key=3))
            generators = [torch.Generator("cuda").manual_seed(1) for _ in range(2)]
            first, second = (getattr(init, name)(torch.zeros(8, 6, device="cuda"), generator=g) for g in generators)
            assert torch.equal(first, second)
    assert said is None or len(said) == 1
    for dtype in tensors.DTYPES:
        there = tensors.fill_(torch.empty(8, 6, device="cuda", dtype=dtype).T, fastinit.he_normal(), fastinit.Key(3))
        here = tensors.fill_(torch.empty(8, 6, dtype=dtype).T, fastinit.he_normal(), fastinit.Key(3))
        assert torch.equal(there.cpu().double(), here.double())
    with pytest.raises(RuntimeError, match="generator"):
        init.normal_(torch.zeros(3, device="cuda"), generator=torch.Generator())
