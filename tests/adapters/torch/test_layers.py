"""What rules are told of the layers of torch, and which activation follows them."""

import copy
import functools

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch.layers import Activation, activation_of, parameters  # noqa: E402
from fastinit.adapters.torch.models import initialize_  # noqa: E402
from fastinit.advice.activations import ACTIVATIONS  # noqa: E402


def facts(model):
    return {place.parameter.name: place.parameter for place in parameters(model)}


def fans(model, name="weight"):
    found = facts(model)[name].fans
    return found.fan_in, found.fan_out


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(6, 8), (6, 8)),
        (nn.Bilinear(3, 5, 8), (15, 8)),
        (nn.Conv1d(6, 8, 3), (18, 24)),
        (nn.Conv2d(6, 8, 3, groups=2), (27, 36)),
        (nn.Conv3d(6, 12, 3, groups=6), (27, 54)),  # depthwise, two outputs each
        (nn.ConvTranspose1d(6, 8, 4, stride=2), (12, 32)),
        (nn.ConvTranspose2d(6, 8, 4, stride=2, groups=2), (12, 64)),
        (nn.ConvTranspose3d(6, 8, (1, 2, 3), stride=(1, 2, 3)), (6, 48)),
        (nn.Embedding(10, 4), (1, 4)),
        (nn.EmbeddingBag(10, 4), (1, 4)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_the_fans_of_a_layer_are_the_true_ones(layer, expected):
    assert fans(layer) == expected


def test_a_depthwise_convolution_sums_over_its_kernel_only():
    """By measurement: the mean square of the outputs over that of the inputs is fan_in times the weights' variance."""
    torch.manual_seed(0)
    for layer, place in [
        (nn.Conv2d(16, 32, 5, groups=16, bias=False), slice(None)),
        (nn.ConvTranspose2d(64, 16, 4, stride=2, groups=4, bias=False), slice(4, -4)),
    ]:
        nn.init.normal_(layer.weight)
        out = layer(torch.randn(8, layer.in_channels, 24, 24))[..., place, place]
        fan_in, _ = fans(layer)
        assert out.square().mean().item() == pytest.approx(float(fan_in), rel=0.1)


@pytest.mark.parametrize(("cls", "gates"), [(nn.RNN, 1), (nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_pack_their_gates(cls, gates):
    found = facts(cls(6, 8, num_layers=2, bidirectional=True))
    assert {parameter.blocks for parameter in found.values()} == {gates}
    assert len(found) == 16 and "weight_hh_l1_reverse" in found
    assert found["weight_ih_l0"].fans == fastinit.Fans(6, 8, 1)
    assert found["weight_ih_l1"].fans.fan_in == 16
    assert found["weight_hh_l1_reverse"].fans == fastinit.Fans(8, 8, 1)
    assert found["bias_ih_l0"].weight_shape == (8 * gates, 6)


@pytest.mark.parametrize(("cls", "gates"), [(nn.RNNCell, 1), (nn.LSTMCell, 4), (nn.GRUCell, 3)])
def test_recurrent_cells_pack_their_gates(cls, gates):
    found = facts(cls(6, 8))
    assert {parameter.blocks for parameter in found.values()} == {gates}
    assert found["weight_ih"].fans.fan_out == 8


def test_the_projection_of_an_lstm_is_one_matrix():
    found = facts(nn.LSTM(6, 8, proj_size=3))
    assert (found["weight_hr_l0"].blocks, found["weight_hr_l0"].fans) == (1, fastinit.Fans(8, 3, 1))
    assert found["weight_hh_l0"].fans == fastinit.Fans(3, 8, 1)


def test_an_rnn_says_which_activation_it_has():
    for cls in (nn.RNN, nn.RNNCell):
        assert {one.activation for one in facts(cls(3, 4, nonlinearity="relu")).values()} == {"relu"}
        assert {one.activation for one in facts(cls(3, 4)).values()} == {"tanh"}
    assert {one.activation for one in facts(nn.LSTM(3, 4)).values()} == {None}


def test_attention_packs_queries_keys_and_values():
    packed = facts(nn.MultiheadAttention(8, 2, add_bias_kv=True))
    assert packed["in_proj_weight"].fans == fastinit.Fans(8, 8, 1)
    assert packed["in_proj_bias"].blocks == 3 and packed["in_proj_bias"].weight_shape == (24, 8)
    assert packed["bias_k"].fans is None
    assert packed["out_proj.weight"].types[:2] == ("NonDynamicallyQuantizableLinear", "Linear")
    separate = facts(nn.MultiheadAttention(8, 2, kdim=6, vdim=4))
    assert separate["k_proj_weight"].fans == fastinit.Fans(6, 8, 1)
    assert separate["v_proj_weight"].fans == fastinit.Fans(4, 8, 1)


def test_what_a_layer_is_called_does_not_pack_it():
    model = nn.ModuleDict({"qkv": nn.Linear(4, 12), "other": nn.Linear(4, 12)})
    assert {parameter.blocks for parameter in facts(model).values()} == {1}


class NormedLinear(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.ones(1))


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


def test_a_layer_is_torchs_own_class_whatever_it_is_called():
    class GRU(nn.LSTM):
        pass

    for module, layer in [
        (nn.Linear(2, 2), "Linear"),
        (NormedLinear(2, 2), "Linear"),
        (Linear(), ""),
        (nn.Conv2d(2, 2, 2), "Conv2d"),
        (nn.BatchNorm2d(2), "BatchNorm2d"),
        (nn.SyncBatchNorm(2), "SyncBatchNorm"),
        (nn.EmbeddingBag(2, 2), "EmbeddingBag"),
        (nn.GRUCell(2, 2), "GRUCell"),
        (GRU(2, 2), "LSTM"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "Linear"),
        (torch.compile(nn.Linear(2, 2), backend="eager"), "Linear"),
    ]:
        assert {one.layer for one in facts(module).values()} == {layer}, module
    assert facts(GRU(2, 2))["weight_ih_l0"].blocks == 4
    attention = facts(nn.MultiheadAttention(4, 2))
    assert attention["in_proj_weight"].layer == "MultiheadAttention"
    assert attention["out_proj.bias"].layer == "NonDynamicallyQuantizableLinear"


def test_programs_are_read_from_the_module_that_owns_the_parameter():
    model = nn.Sequential(nn.Linear(2, 2), Linear())
    program = fastinit.Program(fastinit.Ones())
    vars(model[1])["_fastinit_programs"] = {"weight": program}
    assert [one.program for one in facts(model).values()] == [None, None, program]
    assert facts(copy.deepcopy(model))["1.weight"].program == program


def test_frozen_parameters_are_known():
    model = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, bias=False)))
    model[0].weight.requires_grad_(False)
    model[1].parametrizations.weight.original0.requires_grad_(False)
    assert {name: one.frozen for name, one in facts(model).items()} == {
        "0.weight": True,
        "0.bias": False,
        "1.weight": True,
    }


def test_padding_rows_roles_and_weight_shapes():
    model = nn.Sequential(
        nn.Embedding(10, 4, padding_idx=3), nn.Embedding(10, 4), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)
    )
    found = facts(model)
    assert (found["0.weight"].zero_row, found["1.weight"].zero_row) == (3, None)
    assert found["0.weight"].types == ("Embedding", "Module")
    assert (found["2.bias"].role, found["2.bias"].weight_shape) == ("bias", (8, 4, 3, 3))
    assert found["3.weight"].types[0] == "BatchNorm2d" and found["3.weight"].fans is None
    assert facts(nn.EmbeddingBag(10, 4, padding_idx=9))["weight"].zero_row == 9


def test_a_padding_row_is_one_of_all_layers_that_share_the_table():
    model = nn.Module()
    model.first, model.second, model.head = nn.Embedding(9, 4), nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 9)
    model.second.weight = model.head.weight = model.first.weight
    found = facts(model)["first.weight"]
    assert (found.zero_row, found.tied, found.other_names) == (0, True, ("second.weight", "head.weight"))
    model = nn.Module()
    model.head, model.table = nn.Linear(4, 9, bias=False), nn.Embedding(9, 4, padding_idx=2)
    model.table.weight = model.head.weight
    initialize_(model)
    assert not model.head.weight[2].any() and model.head.weight.any(1).sum() == 8


# Activations


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("relu", "relu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("swish", "silu"),
        ("quick_gelu", "quick_gelu"),
        (nn.ReLU(), "relu"),
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.SiLU(inplace=True), "silu"),
        (nn.ELU(), "elu"),
        (nn.ELU(alpha=2.0), None),
        (nn.Hardtanh(), "hardtanh"),
        (nn.Hardtanh(0.0, 6.0), None),
        (nn.Softplus(), "softplus"),
        (nn.Softplus(beta=3.0), None),
        (nn.functional.relu, "relu"),
        (torch.relu, "relu"),
        (torch.tanh, "tanh"),
        (nn.functional.silu, "silu"),
        (nn.functional.gelu, "gelu"),
        (functools.partial(nn.functional.gelu, approximate="tanh"), "gelu_tanh"),
        (functools.partial(nn.functional.softplus, beta=3.0), None),
        (nn.Linear(2, 2), None),
        (nn.Softmax(-1), None),
        (torch.exp, None),
        (lambda x: x, None),
        ("unheard of", None),
        (None, None),
        (7, None),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(value),  # the same in every process: no addresses
)
def test_activations_are_recognized(value, expected):
    found = activation_of(value)
    assert (found and found.name) == expected


def test_leaky_rectifiers_have_a_slope():
    assert activation_of(nn.LeakyReLU(0.2)) == Activation("leaky_relu", 0.2)
    assert activation_of(nn.functional.leaky_relu) == Activation("leaky_relu", 0.01)
    assert activation_of(nn.PReLU()) == Activation("prelu", 0.25)


def test_every_activation_of_torch_that_is_recognized_is_the_one_of_that_name():
    """Against the functions that gains are computed from."""
    points = torch.linspace(-3, 3, 61, dtype=torch.float64)
    recognized = 0
    for name in nn.modules.activation.__all__:
        try:
            module = getattr(nn, name)()
        except TypeError:
            continue  # attention and thresholds, which need arguments
        found = activation_of(module)
        if found is None:
            continue
        recognized += 1
        slope = {"negative_slope": found.negative_slope} if found.negative_slope else {}
        expected = torch.from_numpy(ACTIVATIONS[found.name](points.numpy(), **slope))
        torch.testing.assert_close(module.double().eval()(points).detach(), expected, rtol=1e-6, atol=1e-9)
    assert recognized >= 17


def activations(model):
    return {
        name.removesuffix(".weight"): one.activation for name, one in facts(model).items() if name.endswith("weight")
    }


def test_in_a_sequence_an_activation_follows_the_layer_before_it():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential(nn.Dropout(), nn.Sequential(nn.Tanh())),
        nn.Sequential(nn.Linear(4, 4), nn.Identity()), nn.GELU(), nn.Linear(4, 2), nn.Softmax(-1),
    )  # fmt: skip
    assert activations(model) == {"0": "relu", "1": "relu", "6": None, "7": "tanh", "9.0": "gelu", "11": None}


def test_a_sequence_with_a_forward_of_its_own_says_nothing():
    class Branches(nn.Sequential):
        def forward(self, x):
            return [module(x) for module in self]

    assert activations(Branches(nn.Linear(2, 2), nn.ReLU())) == {"0": None}
    assert activations(nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])) == {"0": None}


def test_wrappers_are_looked_through():
    model = nn.Sequential(
        torch.compile(nn.Linear(2, 2), backend="eager"), nn.ReLU(), nn.DataParallel(nn.Sequential(nn.Linear(2, 2)))
    )
    model.append(nn.Tanh())
    assert activations(model) == {"0": "relu", "2.0": "tanh"}


class MLP(nn.Module):
    def __init__(self, activation, *names):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(2, 2))
        for name, value in activation.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MLP({"act": nn.GELU()}, "fc1", "fc2"), {"fc1": "gelu", "fc2": None}),
        (MLP({"activation_fn": nn.functional.relu}, "fc1", "fc2"), {"fc1": "relu", "fc2": None}),
        (MLP({"nonlinearity": "tanh"}, "linear1", "linear2"), {"linear1": "tanh", "linear2": None}),
        (
            MLP({"act_fn": nn.SiLU()}, "gate_proj", "up_proj", "down_proj"),
            {"gate_proj": "silu", "up_proj": None, "down_proj": None},
        ),
        (MLP({"act_fn": nn.ReLU()}, "up_proj", "down_proj"), {"up_proj": "relu", "down_proj": None}),
        (MLP({"activation": nn.SiLU()}, "w1", "w2", "w3"), {"w1": "silu", "w2": None, "w3": None}),
        (MLP({"act_fn": nn.SiLU()}, "gate_up_proj", "down_proj"), {"gate_up_proj": None, "down_proj": None}),
        (MLP({"activation": nn.Tanh()}, "dense"), {"dense": "tanh"}),
        (MLP({"relu": nn.ReLU()}, "conv1", "bn1", "conv2"), {"conv1": "relu", "bn1": None, "conv2": None}),
        (MLP({"act": nn.GELU()}, "query", "key"), {"query": None, "key": None}),
        (MLP({"act": 3.5}, "fc1"), {"fc1": None}),
    ],
    ids=lambda value: "" if isinstance(value, dict) else ",".join(dict(value.named_children())),
)
def test_an_attribute_beside_a_layer_of_a_known_name(model, expected):
    assert activations(model) == expected


def test_the_layers_of_a_transformer():
    for cls in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        found = activations(cls(8, 2, 16, activation="gelu"))
        assert {name: value for name, value in found.items() if value} == {"linear1": "gelu"}


# Names


def test_two_tensors_under_one_canonical_name_are_refused():
    model = nn.Sequential()
    model.a = nn.Linear(2, 2)
    model.a.module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"canonical name 'a\.weight'"):
        parameters(model)


def test_ties_are_found_under_all_their_names():
    model = nn.Module()
    model.embedding, model.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    model.head.weight = model.embedding.weight
    (place,) = parameters(model)
    assert (place.parameter.name, place.parameter.other_names) == ("embedding.weight", ("head.weight",))
    assert place.parameter.tied and place.parameter.types[0] == "Embedding"
    assert place.owners == ((model.embedding, "weight"), (model.head, "weight"))


def test_embeddings_that_share_a_table_are_no_output_head():
    model = nn.Module()
    model.first = model.second = nn.Embedding(10, 4)
    (place,) = parameters(model)
    assert place.parameter.other_names == ("second.weight",) and not place.parameter.tied


def test_lazy_layers_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3), nn.LazyConv2d(3, 3))
    with pytest.raises(ValueError, match=r"1\.weight, 1\.bias, 2\.weight, 2\.bias"):
        parameters(model)
