"""The judge of whole models: it has to find every kind of difference, and none between an author and himself."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from comparing import compared, seeded  # noqa: E402
from torch import nn  # noqa: E402


class Small(nn.Module):
    """Some of everything that a model can hold."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 32, padding_idx=0)
        self.linear = nn.Linear(32, 96)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        self.packed = nn.Parameter(torch.cat([torch.randn(64, 32), 0.1 * torch.randn(64, 32)]))
        self.scale = nn.Parameter(torch.full((32,), 1e-6))
        self.ramp = nn.Parameter(torch.linspace(0, 1, 32), requires_grad=False)
        self.one = nn.Linear(32, 32)
        self.two = copy.deepcopy(self.one)
        self.tied = nn.Linear(32, 40, bias=False)
        self.tied.weight = self.table.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.norm = nn.BatchNorm1d(32)
        self.narrow = nn.Parameter(torch.randn(64, 64).bfloat16())
        self.register_buffer("frequencies", torch.arange(8.0) ** 0.5, persistent=False)
        self.anchors = [torch.ones(4), {"grid": torch.arange(6)}]
        self.held = [self.scale]
        self.heads = 4


def author(seed):
    return seeded(Small, seed + 50)


def test_the_author_and_himself():
    assert compared(Small, lambda build, seed: author(seed)) == []


def changed(change):
    def made(build, seed):
        model = author(seed)
        with torch.no_grad():
            change(model)
        return model

    return compared(Small, made)


def set_(name, value):
    return lambda model: setattr(model, name, value)


def fill(name, call):
    return lambda model: call(model.get_parameter(name).data)


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("constant", "table.weight", fill("table.weight", lambda weight: weight.normal_())),
        ("constant", "scale", fill("scale", lambda scale: scale.fill_(1e-5))),
        ("constant", "ramp", fill("ramp", lambda ramp: ramp.normal_())),
        ("constant", "norm.weight", fill("norm.weight", lambda weight: weight.zero_())),
        ("drawn", "one.weight", fill("one.weight", lambda weight: weight.fill_(0.1))),
        ("distribution", "linear.weight", fill("linear.weight", lambda weight: weight.mul_(1.15))),
        ("distribution", "linear.weight", fill("linear.weight", lambda weight: weight.add_(0.005))),
        ("distribution", "linear.weight", fill("linear.weight", lambda weight: weight.uniform_(-0.0346, 0.0346))),
        ("distribution", "packed", fill("packed", lambda packed: packed.copy_(packed.flip(0)))),
        ("distribution", "packed", fill("packed", lambda packed: packed[3, 3].fill_(float("nan")))),
        ("distribution", "narrow", fill("narrow", lambda narrow: narrow.mul_(2))),
        ("copy", "two.weight", fill("two.weight", lambda weight: weight.uniform_(-(32**-0.5), 32**-0.5))),
        (
            "copy",
            "normed.parametrizations.weight",
            lambda model: model.normed.parametrizations.weight.original0.mul_(1.001),
        ),
        ("buffer", "frequencies", lambda model: model.frequencies.mul_(1 + 1e-6)),
        ("buffer", "norm.running_var", lambda model: model.norm.running_var.zero_()),
        ("attribute", ".anchors[0]", lambda model: model.anchors[0].zero_()),
        ("attribute", ".anchors[0]", lambda model: model.anchors.__setitem__(0, torch.ones(4, device="meta"))),
        ("attribute", ".anchors[1]['grid']", lambda model: model.anchors[1].clear()),
        ("attribute", ".held[0]", lambda model: model.held.__setitem__(0, model.scale.detach().clone())),
        ("attribute", ".heads", set_("heads", 8)),
        ("structure", "norm", lambda model: model.norm.eval()),
        ("structure", "ramp", lambda model: model.ramp.requires_grad_(True)),
        ("structure", "tied.weight", lambda model: setattr(model.tied, "weight", nn.Parameter(model.tied.weight.data))),
        ("structure", "frequencies", lambda model: model.register_buffer("frequencies", model.frequencies)),
        ("structure", "narrow", set_("narrow", nn.Parameter(torch.randn(64, 64)))),
        ("structure", "scale", lambda model: setattr(model.scale, "no_decay", True)),
    ],
)
def test_every_difference_is_found(kind, name, change):
    found = changed(change)
    assert (kind, name) in [(one.kind, one.name) for one in found] or (
        kind == "structure" and any(one.kind == kind for one in found)
    ), found


def test_a_baked_draw_is_found():
    fixed = author(7)
    found = compared(Small, lambda build, seed: copy.deepcopy(fixed))
    assert {one.name for one in found if one.kind in ("drawn", "constant")} >= {"linear.weight", "packed", "one.bias"}


def test_a_model_that_cannot_be_made_is_a_difference():
    def fail(build, seed):
        raise RuntimeError("no way")

    assert [str(one) for one in compared(Small, fail)] == ["failed: RuntimeError: no way"]
