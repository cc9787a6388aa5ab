"""audit() with a batch: outputs of every kind, the gradients of autograd, the model as it was before, bad input."""

import copy
import math
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

from fastinit.adapters.torch import initialize_  # noqa: E402
from fastinit.adapters.torch.auditing import audit, lsuv_  # noqa: E402


def inputs(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def perceptron(depth=3):
    model = nn.Sequential()
    for _ in range(depth - 1):
        model.extend([nn.Linear(64, 64), nn.ReLU()])
    model.append(nn.Linear(64, 64))
    initialize_(model)
    return model


class Outputs(nn.Module):
    """Layers that give a tuple, a dict, a dataclass, a list, nothing, and a tensor that the next one changes."""

    @dataclass
    class Both:
        count: int
        value: torch.Tensor

    class Given(nn.Module):
        def __init__(self, give):
            super().__init__()
            self.weight, self.give = nn.Parameter(torch.full((1,), 0.5)), give

        def forward(self, given):
            return self.give(given * self.weight)

    def __init__(self):
        super().__init__()
        self.pair = self.Given(lambda given: (3, given, None))
        self.named = self.Given(lambda given: {"count": torch.arange(3), "value": given})
        self.both = self.Given(lambda given: self.Both(2, given))
        self.listed = self.Given(lambda given: [[given]])
        self.nothing = self.Given(lambda given: None)
        self.linear, self.relu = nn.Linear(64, 64), nn.ReLU(inplace=True)

    def forward(self, given, *, scale):
        given = self.both(self.named(self.pair(given)[1])["value"]).value
        self.nothing(given)
        return {"deep": (self.relu(self.linear(self.listed(given * scale)[0][0])), None), "count": 3}


def test_outputs_may_be_tuples_mappings_and_dataclasses():
    found = audit(Outputs(), {"given": inputs(16, 64), "scale": 2.0})
    assert [layer.name for layer in found.layers] == ["pair", "named", "both", "listed", "linear", "relu"]
    assert math.isclose(found.layers[1].variance, inputs(16, 64).double().var(correction=0) / 16, rel_tol=1e-5)
    assert all(layer.gradient_variance > 0 for layer in found.layers)


def test_gradients_are_those_of_autograd():
    model, batch = perceptron(3), inputs(32, 64)
    hidden = model[1](model[0](batch)).detach().requires_grad_()
    loss = model[4](model[3](model[2](hidden))).square().mean()
    (gradient,) = torch.autograd.grad(loss, hidden)
    hidden = hidden.detach()
    found = audit(model, (batch,), loss=lambda output: output.square().mean())
    assert math.isclose(found.layers[1].gradient_variance, gradient.double().var(correction=0), rel_tol=1e-4)
    assert math.isclose(found.layers[1].response, (gradient * hidden).double().square().sum(), rel_tol=1e-4)


class Residual(nn.Module):
    """A branch beside a sum, three maps of one input, a loop over time in plain operators, and a change in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.relu = nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(inplace=True)
        self.query, self.value, self.out, self.head = (nn.Linear(64, 64) for _ in range(4))

    def forward(self, given):
        stream = self.stem(given)
        normed = self.norm(stream)
        query, value = self.query(normed), self.relu(self.value(normed))
        for _ in range(2000):
            query = query * 0.9999
        stream = stream + 0.1 * self.out(query * value)
        return self.head(stream)


def test_a_call_knows_those_that_it_reads():
    layers = audit(Residual(), inputs(8, 64)).layers
    assert {layer.name: layer.reads for layer in layers} == {
        "stem": (), "norm": (0,), "query": (1,), "value": (1,), "relu": (3,), "out": (2, 4), "head": (0, 5),
    }  # fmt: skip


class Stateful(nn.Module):
    """Dropout, running statistics, a spectral norm that learns when it runs, a frozen layer; and it can fail."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))
        self.head = nn.Linear(64, 4).requires_grad_(False)

    def forward(self, given, fail=False):
        if fail:
            raise KeyError("fail")
        return self.head(self.normed(self.body(given)))


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_and_the_generator_are_left_as_they_were(fail):
    torch.manual_seed(4)
    model = Stateful()
    model.body[1].eval()
    model.body[0].weight.grad = torch.ones(64, 64)
    state = copy.deepcopy(model.state_dict())
    tensors = [*model.parameters(), *model.buffers()]
    versions = [parameter._version for parameter in model.parameters()]
    generator = torch.get_rng_state()
    if fail:
        for function in (audit, lsuv_):
            with pytest.raises(ValueError, match=r"does not fit|is parametrized"):
                function(model, {"given": inputs(8, 64), "fail": True})
    else:
        found = [audit(model, inputs(8, 64)) for _ in range(2)]
        assert found[0].as_dict() == found[1].as_dict()
        assert all(layer.response is not None for layer in found[0].layers)  # with a frozen layer too
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(one is two for one, two in zip(tensors, [*model.parameters(), *model.buffers()], strict=True))
    assert [parameter._version for parameter in model.parameters()] == versions
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training and not model.body[1].training
    assert [parameter.requires_grad for parameter in model.head.parameters()] == [False, False]
    assert torch.equal(model.body[0].weight.grad, torch.ones(64, 64)) and model.body[0].bias.grad is None
    assert audit(model).ok  # a parametrized weight too


def test_bad_input():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        audit(nn.ReLU())
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        audit([torch.zeros(3)])
    model = perceptron()
    with pytest.raises(ValueError, match="the batch does not fit Sequential, which raised RuntimeError: mat1"):
        audit(model, inputs(4, 3))
    with pytest.raises(ValueError, match="does not fit Sequential, which raised TypeError"):
        audit(model, {"words": inputs(4, 64)})
    with pytest.raises(ValueError, match="expected a finite batch, got NaN or infinity"):
        audit(model, torch.full((4, 64), math.nan))
    with pytest.raises(ValueError, match="on the meta device, without values: weight, bias"):
        audit(nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match="lazy"):
        audit(nn.LazyLinear(3))
