"""lsuv_(): every linear layer's output has unit variance on the batch, and what cannot be scaled is refused."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

from fastinit.adapters.torch import initialize_  # noqa: E402
from fastinit.adapters.torch.auditing import audit, lsuv_  # noqa: E402


def inputs(*shape, number=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))


def deep(depth=20, scale=0.05):
    model = nn.Sequential()
    for _ in range(depth):
        model.extend([nn.Linear(64, 64), nn.ReLU()])
    model.append(nn.Linear(64, 64))
    initialize_(model)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= scale
    return model


@pytest.mark.parametrize(("scale", "verdict"), [(0.05, "vanishing"), (7.0, "exploding")])
def test_a_badly_scaled_network_becomes_healthy(scale, verdict):
    model, batch = deep(scale=scale), inputs(128, 64)
    assert audit(model, batch).verdict == verdict
    before, versions = copy.deepcopy(model), [layer.weight._version for layer in model[::2]]
    factors = lsuv_(model, batch)
    assert audit(model, batch).verdict == "healthy"
    assert list(factors) == [f"{number}.weight" for number in range(0, 41, 2)]
    assert all(layer.weight._version > version for layer, version in zip(model[::2], versions, strict=True))
    signal = batch
    for old, layer in zip(before, model, strict=True):
        signal = layer(signal)
        if isinstance(layer, nn.Linear):
            assert abs(signal.var(correction=0) - 1) <= 0.021
            name = f"{[*model].index(layer)}.weight"
            assert torch.allclose(layer.weight, old.weight * factors[name], rtol=1e-5)
            assert torch.equal(layer.bias, old.bias)
    again = copy.deepcopy(before)
    assert lsuv_(again, batch) == factors
    assert all(map(torch.equal, again.parameters(), model.parameters()))


class Mixed(nn.Module):
    """Convolutions that give tuples, biases, dropout, running statistics, a recurrent layer, a layer not reached."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.depthwise = nn.Conv2d(16, 32, 3, groups=16)
        self.norm, self.drop = nn.BatchNorm2d(32), nn.Dropout(0.3)
        self.up = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.recurrent = nn.GRU(8, 24)
        self.head, self.unused = nn.Linear(24, 5), nn.Linear(3, 3)

    def forward(self, image):
        image = self.drop(self.norm(self.depthwise(self.stem(image).relu_())).relu())
        image = self.up(image).flatten(2).permute(2, 0, 1)
        return {"out": self.head(self.recurrent(image)[0])}


def test_convolutions_with_biases_and_state():
    torch.manual_seed(0)
    model, batch = Mixed(), inputs(6, 3, 10, 10)
    kept = [*model.norm.parameters(), *model.norm.buffers(), *model.recurrent.parameters(), *model.unused.parameters()]
    before, generator = [tensor.clone() for tensor in kept], torch.get_rng_state()
    factors = lsuv_(model, [batch], tolerance=1e-3)
    assert list(factors) == ["stem.weight", "depthwise.weight", "up.weight", "head.weight"]
    assert all(map(torch.equal, before, kept))
    assert torch.equal(torch.get_rng_state(), generator)
    assert abs(model.stem(batch).var(correction=0) - 1) < 2e-3
    assert not any(module._forward_hooks for module in model.modules())
    variance = {layer.name: layer.variance for layer in audit(model, batch).layers}
    assert all(abs(variance[name] - 1) < 2e-3 for name in ("stem", "depthwise", "up", "head"))


def test_a_layer_that_is_called_twice_is_scaled_once_and_an_embeddings_weight_is_not():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body, self.head = nn.Embedding(50, 32), nn.Linear(32, 32), nn.Linear(32, 50)
            self.head.weight = self.embedding.weight

        def forward(self, words):
            return self.head(self.body(torch.tanh(self.body(self.embedding(words)))))

    model = Shared()
    table = model.embedding.weight.clone()
    assert list(lsuv_(model, torch.arange(48).reshape(6, 8))) == ["body.weight"]
    assert torch.equal(model.embedding.weight, table)
    assert abs(model.body(model.embedding(torch.arange(48))).var(correction=0) - 1) < 0.021


def test_what_cannot_be_scaled_is_named_and_nothing_is_written():
    model = deep(3, scale=1.0)
    model[4].bias.data = 5 * inputs(64)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'4\.weight' cannot be scaled: its output has the variance"):
        lsuv_(model, inputs(64, 64))
    nn.init.zeros_(model[2].weight)
    with pytest.raises(ValueError, match=r"'2\.weight' cannot be scaled: its output has the variance 0"):
        lsuv_(model, inputs(64, 64))
    model[2].weight.data.copy_(before["2.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match=r"'weight' is parametrized"):
        lsuv_(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), inputs(8, 4))
    with pytest.raises(ValueError, match="on the meta device"):
        lsuv_(nn.Linear(4, 4, device="meta"), inputs(8, 4))
    with pytest.raises(ValueError, match="does not fit"):
        lsuv_(model, inputs(8, 3))
    for wrong in ({"tolerance": 0.0}, {"tolerance": math.nan}, {"rounds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            lsuv_(model, inputs(8, 64), **wrong)
