"""Buffers have the values that their authors gave them, whoever built the model and wherever."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import deferred, materialize  # noqa: E402


class Rotary(nn.Module):
    def __init__(self, device=None):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer(
            "inv_freq", 1.0 / 10000 ** (torch.arange(0, 8, 2, device=device).float() / 8), persistent=False
        )
        self.register_buffer("ids", torch.arange(6))
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("noise", torch.randn(50))
        self.register_buffer("shared", self.linear.weight.detach().clone() * 2)


def same(model, other):
    for name, buffer in other.named_buffers():
        if name not in ("noise", "shared"):
            assert torch.equal(model.get_buffer(name), buffer) and model.get_buffer(name).dtype == buffer.dtype, name
    assert torch.allclose(model.shared, model.linear.weight * 2)


def test_random_buffers_are_drawn_by_their_names():
    with deferred():
        model = Rotary()
    materialize(model, seed=3)
    same(model, Rotary())
    key = fastinit.Key(3).fold_in("noise")
    assert (model.noise.numpy() == fastinit.fill(torch.empty(50).numpy(), fastinit.Normal(), key)).all()


def test_a_model_that_was_emptied_gets_its_buffers_back():
    with deferred():
        model, other = Rotary(), Rotary()
    for one in (model, other):
        one.to_empty(device="meta")
        one.to_empty(device="cpu")
        for tensor in (*one.parameters(), *one.buffers()):
            tensor.data.fill_(77)
    fastinit.adapters.torch.initialize_(model, seed=3)
    same(model, Rotary())
    with deferred():
        fresh = Rotary()
    materialize(fresh, seed=3)
    assert torch.equal(model.noise, fresh.noise) and torch.equal(model.linear.weight, fresh.linear.weight)


def test_a_model_on_the_meta_device_gets_its_buffers_back():
    with deferred():
        model = Rotary()
    model.to("meta")
    assert model.inv_freq.is_meta
    materialize(model)
    same(model, Rotary())


def test_buffers_in_another_dtype_stay():
    with deferred():
        model = Rotary()
    model.half()
    model.mask[0, 0] = 1.0  # what a user changes in memory that is the model's own is not asked of
    materialize(model)
    assert model.inv_freq.dtype == torch.float16 and torch.equal(model.inv_freq, Rotary().half().inv_freq)


class Titan(nn.Module):
    """In the style of torchtitan."""

    def __init__(self):
        super().__init__()
        self.register_buffer("freqs", self.table(), persistent=False)
        self.linear = nn.Linear(4, 4)

    def table(self):
        return torch.arange(6.0) / 7

    def init_weights(self, buffer_device=None):
        with torch.device(buffer_device or self.freqs.device):
            self.freqs = self.table()
        nn.init.trunc_normal_(self.linear.weight, std=0.02)


def test_torchtitans_way():
    with torch.device("meta"):
        model = Titan()
    materialize(model, "auto")
    assert torch.equal(model.freqs, torch.arange(6.0) / 7) and not model.linear.weight.is_meta


def test_the_callers_way():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(3.0))
            self.linear = nn.Linear(4, 4)

    with torch.device("meta"):
        model = Own()
    with pytest.raises(ValueError, match="or give buffers=, a function of the model that sets them"):
        materialize(model, "auto")

    def give(one):
        assert one.linear.weight.is_meta
        one.table = torch.arange(3.0)

    materialize(model, "auto", buffers=give)
    assert torch.equal(model.table, torch.arange(3.0))


def test_tensors_within_lists_are_seen():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
        model.anchors = [torch.ones(4), {"a": (torch.ones(2),)}]
    with pytest.raises(ValueError, match=r"cannot be known: anchors\[0\], anchors\[1\]\['a'\]\[0\]"):
        materialize(model, "auto")
