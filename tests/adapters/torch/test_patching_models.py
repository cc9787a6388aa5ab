"""patched(): torch's own modules and whole models, unchanged but for the numbers."""

import contextlib
import math
import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from scipy import stats  # noqa: E402
from torch import nn  # noqa: E402

from fastinit.adapters.torch import init  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402

MODULES = {
    "Linear": lambda: nn.Linear(40, 60),
    "Linear without bias": lambda: nn.Linear(40, 60, bias=False),
    "Linear of bfloat16": lambda: nn.Linear(40, 60, dtype=torch.bfloat16),
    "Linear of float64": lambda: nn.Linear(40, 60, dtype=torch.float64),
    "Bilinear": lambda: nn.Bilinear(20, 15, 10),
    "Conv1d": lambda: nn.Conv1d(12, 20, 5),
    "Conv2d": lambda: nn.Conv2d(8, 16, 3),
    "Conv2d in groups": lambda: nn.Conv2d(8, 16, 3, groups=8),
    "Conv3d": lambda: nn.Conv3d(6, 8, (3, 2, 2)),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(12, 20, 5),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(8, 16, 3, stride=2, groups=2),
    "ConvTranspose3d": lambda: nn.ConvTranspose3d(6, 8, (3, 2, 2)),
    "RNN": lambda: nn.RNN(20, 30, num_layers=2),
    "LSTM": lambda: nn.LSTM(20, 30, bidirectional=True, proj_size=10),
    "GRU": lambda: nn.GRU(20, 30, batch_first=True),
    "RNNCell": lambda: nn.RNNCell(20, 30),
    "LSTMCell": lambda: nn.LSTMCell(20, 30),
    "GRUCell": lambda: nn.GRUCell(20, 30),
    "Embedding": lambda: nn.Embedding(100, 20),
    "Embedding with padding": lambda: nn.Embedding(100, 20, padding_idx=3),
    "EmbeddingBag": lambda: nn.EmbeddingBag(100, 20),
    "EmbeddingBag with padding": lambda: nn.EmbeddingBag(100, 20, padding_idx=-1),
    "MultiheadAttention": lambda: nn.MultiheadAttention(32, 4),
    "MultiheadAttention of other widths": lambda: nn.MultiheadAttention(32, 4, kdim=24, vdim=20, add_bias_kv=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(32, 4, 48),
    "TransformerDecoderLayer": lambda: nn.TransformerDecoderLayer(32, 4, 48),
    "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48), 2),
    "Transformer": lambda: nn.Transformer(32, 4, 1, 2, 48),
    "LayerNorm": lambda: nn.LayerNorm((5, 7)),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "RMSNorm": lambda: nn.RMSNorm(9),
    "BatchNorm1d": lambda: nn.BatchNorm1d(9),
    "BatchNorm2d": lambda: nn.BatchNorm2d(9),
    "BatchNorm3d": lambda: nn.BatchNorm3d(9),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(9),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(9, affine=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(9, affine=True),
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(9, affine=True, track_running_stats=True),
    "PReLU": lambda: nn.PReLU(5, 0.3),
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(32, 100, [20, 60]),
    "Linear without inputs": lambda: nn.Linear(4, 0, bias=False),
}
RANDOM = [name for name in MODULES if "Norm" not in name and name not in ("PReLU", "Linear without inputs")]
quiet = pytest.mark.filterwarnings(
    "ignore:Initializing zero-element tensors is a no-op:UserWarning", "ignore:enable_nested_tensor is True:UserWarning"
)


@contextlib.contextmanager
def renamed():
    """fastinit's functions put in place of torch's by name, wherever the models of these tests have them bound."""
    ours = {
        id(vars(nn.init)[name]): vars(init)[name]
        for name in vars(nn.init)
        if name in vars(init) and isinstance(vars(init)[name], types.FunctionType) and name.endswith("_")
    }
    tables = [vars(module) for name, module in list(sys.modules.items()) if name.startswith("torch.nn.modules.")]
    tables.append(vars(nn.init))
    if "transformers.initialization" in sys.modules:
        tables.append(sys.modules["transformers.initialization"].TORCH_INIT_FUNCTIONS)
    changes = [(table, key, value) for table in tables for key, value in table.items() if id(value) in ours]
    for table, key, value in changes:
        table[key] = ours[id(value)]
    try:
        yield
    finally:
        for table, key, value in changes:
            table[key] = value


def built(factory, context=contextlib.nullcontext, seed=11):
    torch.manual_seed(seed)
    with context():
        return factory()


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check_unchanged(ours, torchs):
    """The same parameters and buffers, of the same distributions, and constants where torch has them."""
    assert str(ours) == str(torchs)
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in torchs.named_modules()]
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    parameters = dict(ours.named_parameters(remove_duplicate=False))
    assert parameters.keys() == dict(torchs.named_parameters(remove_duplicate=False)).keys()
    for name, expected in torchs.state_dict(keep_vars=True).items():
        value = ours.state_dict(keep_vars=True)[name]
        assert (type(value), value.shape, value.dtype, value.stride()) == (
            type(expected),
            expected.shape,
            expected.dtype,
            expected.stride(),
        ), name
        assert value.requires_grad == expected.requires_grad and value.is_leaf, name
        if expected.numel() < 2 or expected.unique().numel() == 1:
            assert torch.equal(value, expected), name
            continue
        zeros = value == 0  # of bfloat16 an older torch draws some, and fastinit never
        assert torch.equal(zeros, expected == 0) or (value.dtype is torch.bfloat16 and not zeros.any()), name
        values, theirs = (x.detach().double().flatten().numpy() for x in (value, expected))
        assert stats.ks_2samp(values, theirs).pvalue > 1e-4, name
        assert abs(values.std() / theirs.std() - 1) < 6 / math.sqrt(values.size), name


def test_all_modules_with_parameters_are_here():
    """Every class of torch.nn that sets parameters itself, or a lazy one made into such."""
    setting = {
        name
        for name, kind in vars(nn).items()
        if isinstance(kind, type) and (hasattr(kind, "reset_parameters") or hasattr(kind, "_reset_parameters"))
    }
    lazy = {name for name in setting if name.startswith("Lazy")}
    assert setting - lazy - {"RNNBase", "RNNCellBase"} <= {name.split()[0] for name in MODULES}
    assert {name.removeprefix("Lazy") for name in lazy} <= setting


@quiet
@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    ours, torchs = built(MODULES[name], patched), built(MODULES[name])
    check_unchanged(ours, torchs)
    assert equal(ours, built(MODULES[name], patched))
    if name in RANDOM:
        assert equal(ours, built(MODULES[name], renamed))
    assert equal(ours, torchs) == (name not in RANDOM)


@pytest.mark.parametrize("name", RANDOM)
@quiet
def test_reset_parameters(name):
    """Of a module that was made outside."""
    module = MODULES[name]()
    resets = [
        getattr(part, name)
        for part in module.modules()
        for name in ("reset_parameters", "_reset_parameters")
        if hasattr(part, name)
    ]

    def reset():
        for function in resets:
            function()
        return {key: value.clone() for key, value in module.state_dict().items()}

    assert resets
    inside, again, outside = built(reset, patched), built(reset, patched), built(reset)
    assert all(torch.equal(inside[key], again[key]) for key in inside)
    assert any(not torch.equal(inside[key], outside[key]) for key in inside)


def test_lazy_modules():
    def build():
        model = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(30))
        model(torch.zeros(2, 3, 8, 8))
        return model

    ours = built(build, patched)
    check_unchanged(ours, built(build))
    assert equal(ours, built(build, renamed))


@quiet
@pytest.mark.parametrize("name", ["Linear", "Conv2d", "LSTM", "Transformer", "Embedding with padding"])
def test_meta_tensors_draw_nothing(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with patched(), torch.device("meta"):
        module = MODULES[name]()
    assert all(value.is_meta for value in module.state_dict().values())
    assert torch.equal(torch.get_rng_state(), before)


def test_skip_init():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with patched():
        layer = torch.nn.utils.skip_init(nn.Linear, 40, 60, dtype=torch.float64)
    assert layer.weight.shape == (60, 40) and layer.weight.dtype == torch.float64 and not layer.weight.is_meta
    assert torch.equal(torch.get_rng_state(), before)


def test_a_default_device():
    with patched(), torch.device("cpu"):
        inside = built(MODULES["Linear"])
    assert equal(inside, built(MODULES["Linear"], patched))


class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.downsample(x)).relu()


class ResNet(nn.Module):
    """As torchvision writes it: the modules' constructors, then a loop over them."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.layers = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.fc = nn.Linear(32, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(module.weight, 1)
                nn.init.constant_(module.bias, 0)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.constant_(module.bn2.weight, 0)

    def forward(self, x):
        return self.fc(self.layers(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


def test_resnet():
    ours, torchs = built(ResNet, patched), built(ResNet)
    check_unchanged(ours, torchs)
    assert equal(ours, built(ResNet, renamed)) and not equal(ours, torchs)
    weight = ours.layers[1].conv2.weight
    assert abs(weight.std().item() / math.sqrt(2 / (32 * 9)) - 1) < 0.04  # fan_out
    loss = ours(torch.randn(2, 3, 16, 16)).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
