"""audit() of other libraries' models as they construct them: no finding, and a healthy verdict."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from zoos import load_timm  # noqa: E402

from fastinit.adapters.torch.auditing import audit  # noqa: E402
from fastinit.adapters.torch.layers import parameters  # noqa: E402
from fastinit.extending import is_linear_map  # noqa: E402

# What case B14 names, and the libraries' own defaults that were taken for faults.
NAMED = {
    "timm": ["resnet50", "mobilenetv2_100", "efficientnet_b0"],
    "torchvision": ["resnet50", "mobilenet_v2", "efficientnet_b0"],
}
TIMM = [
    "resnet18", "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "mobilenetv2_050", "efficientvit_b0",
    "ghostnet_050", "hgnetv2_b0", "lcnetv2_small", "mobilenetv3_small_050", "mobilevit_xxs", "pvt_v2_b0", "regnety_002",
    "repvit_m1", "test_vit_relpos", "test_mambaout", "starnet_s100", "swiftformer_xs", "rexnet_100", "convit_tiny",
]  # fmt: skip
TORCHVISION = [
    "resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0", "mnasnet1_0", "regnet_y_400mf", "squeezenet1_0",
    "densenet121", "convnext_tiny", "swin_t", "resnext50_32x4d", "googlenet",
]  # fmt: skip


def timm():
    try:
        return load_timm()
    except ModuleNotFoundError as missing:
        pytest.skip(f"needs {missing.name}")


def built(library, name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            model = timm().create_model(name)
            size = model.pretrained_cfg["input_size"][-1] if model.pretrained_cfg.get("fixed_input_size") else 64
        else:
            timm()  # which finds torchvision, too
            models = pytest.importorskip("torchvision.models", reason="needs torchvision")
            size, more = 64, {"init_weights": True} if name == "googlenet" else {}
            model = models.get_model(name, weights=None, **more)
    generator = torch.Generator().manual_seed(0)
    return model, torch.randn((4, 3, size, size), generator=generator)


def check(library, name):
    model, batch = built(library, name)
    found = audit(model, batch)
    assert found.ok, str(found)
    assert found.verdict == "healthy", found.reason


@pytest.mark.parametrize(
    ("library", "name"),
    [
        pytest.param(library, name, marks=[pytest.mark.long] * (not name.startswith("mobilenet")))
        for library, names in NAMED.items()
        for name in names
    ],
)
def test_what_was_taken_for_broken_is_healthy(library, name):
    check(library, name)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "test_vit_relpos"])
def test_a_sample_of_timm(name):
    check("timm", name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("library", "name"), [("timm", name) for name in TIMM] + [("torchvision", name) for name in TORCHVISION]
)
def test_all_of_them(library, name):
    check(library, name)


# Real models that somebody breaks


def maps(model):
    return [place for place in parameters(model) if is_linear_map(place.parameter)]


def middle(model):
    """A weight in the middle of a model, and one of many units."""
    several = [place for place in maps(model) if place.parameter.groups == 1 and len(place.tensor) > 1]
    return several[len(several) // 2]


def scaled(factor):
    def change(model):
        middle(model).tensor.mul_(factor)
        return {middle(model).parameter.name}

    return change


def one_row(model):
    tensor = middle(model).tensor
    tensor.copy_(tensor[:1].expand_as(tensor))
    return {middle(model).parameter.name}


def larger_in_every_layer(model):
    for place in maps(model):
        place.tensor.mul_(20.0)
    return {place.parameter.name for place in maps(model)}


def depthwise_by_fan_out(model):
    depthwise = {name: layer for name, layer in model.named_modules() if getattr(layer, "groups", 1) > 1}
    generator = torch.Generator().manual_seed(0)
    for layer in depthwise.values():
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", generator=generator)
    return {f"{name}.weight" for name in depthwise}


BREAKS = {
    "ten times as large": scaled(10.0),
    "a twentieth": scaled(0.05),
    "zeros": scaled(0.0),
    "one row for all": one_row,
    "larger in every layer": larger_in_every_layer,
    "depthwise by fan_out": depthwise_by_fan_out,
}
# Each with its options, and what does it no harm.
BROKEN = {
    "resnet18": ({}, {"depthwise by fan_out"}),  # it has none; the last norm in each block begins at zero
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 6}, {"depthwise by fan_out"}),
    "mobilenetv2_050": ({}, {"depthwise by fan_out"}),  # norms make up for it: torchvision's is like that
    "pvt_v2_b0": ({}, {"a twentieth", "zeros"}),  # of the last layer of a branch
}
SLOW = ("resnet18", "mobilenetv2_050", "pvt_v2_b0")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in BROKEN]
)
def test_real_models_that_are_broken(name):
    options, harmless = BROKEN[name]
    torch.manual_seed(0)
    model = timm().create_model(name, **options)
    batch = torch.randn((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    state = copy.deepcopy(model.state_dict())
    for what, change in BREAKS.items():
        with torch.no_grad():
            wrong = change(model)
        found = {one.name if one.name in wrong else f"{one.name}.weight" for one in audit(model, batch).findings}
        if what in harmless:
            assert not found, (what, found)
        else:
            assert found & wrong, what
            assert len(wrong) > 1 or found <= wrong | {f"{one}.weight" for one in wrong}, (what, found)
        model.load_state_dict(state)


@pytest.mark.parametrize("name", [pytest.param("cait_xxs24_224", marks=pytest.mark.long), "efficientformerv2_s0"])
def test_layer_scales_inside_a_block_hold_gradients_back(name):
    check("timm", name)


class Vision(nn.Module):
    """A head of zeros, a frozen pattern, and a parameter of its own that begins at zero."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.branch = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        nn.init.zeros_(self.branch[1].weight)
        self.scale = nn.Parameter(torch.full((32, 1, 1), 1e-5))
        self.last = nn.Conv2d(32, 32, 1)
        self.blur = nn.Parameter(torch.tensor([0.25, 0.5, 0.25]).expand(32, 1, 3).clone(), requires_grad=False)
        self.head = nn.Linear(32, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, image):
        image = self.norm(self.stem(image)).relu_()
        image = image + self.branch(image)
        image = image + self.scale * self.last(image)
        return self.head(image.mean((2, 3)))


def test_branches_that_begin_closed():
    torch.manual_seed(0)
    model = Vision()
    found = audit(model, torch.randn(8, 3, 12, 12))
    assert found.ok, str(found)
    assert found.verdict == "healthy"
    assert all(layer.response for layer in found.layers if layer.name in ("stem", "norm"))  # past the head of zeros


def test_a_network_that_is_cut_is_still_found():
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())))
    assert audit(model, torch.randn(32, 64)).verdict == "healthy"
    nn.init.zeros_(model[9].weight)
    assert audit(model, torch.randn(32, 64)).verdict == "vanishing"
    nn.init.constant_(model[9].weight, 0.1)
    nn.init.zeros_(model[9].bias)
    assert audit(model, torch.randn(32, 64)).verdict == "symmetric"


def test_deferred_models_carry_what_their_author_meant():
    from fastinit.adapters.torch import deferred, materialize

    with deferred():
        layers = [nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 64)]
        nn.init.zeros_(layers[2].weight)
        nn.init.uniform_(layers[0].weight, 0.0, 1.0)
        model = nn.Sequential(*layers)
    materialize(model, "own", seed=0)
    assert audit(model).ok, str(audit(model))
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    assert [(one.name, one.kind) for one in audit(model).findings] == [("0.weight", "scale")]
