"""initialize_ and replay: whole models, each parameter by the key of its name."""

import copy
import json
import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch.auditing import audit, lsuv_  # noqa: E402
from fastinit.adapters.torch.layers import parameters  # noqa: E402
from fastinit.adapters.torch.materializing import materialize  # noqa: E402
from fastinit.adapters.torch.models import initialize_, replay  # noqa: E402
from fastinit.adapters.torch.tensors import fill_  # noqa: E402
from fastinit.models.digests import digest  # noqa: E402
from fastinit.models.recipes import RECIPES, Recipe, Rule, UnmatchedParameter  # noqa: E402
from fastinit.models.records import Record  # noqa: E402


class Everything(nn.Module):
    """One of each layer that the recipes know."""

    def __init__(self, width=64):
        super().__init__()
        self.embedding = nn.Embedding(96, width, padding_idx=5)
        self.bag = nn.EmbeddingBag(96, width)
        self.convolutions = nn.Sequential(
            nn.Conv1d(width, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3, groups=4), nn.BatchNorm2d(width),
            nn.LeakyReLU(0.3), nn.Conv3d(8, width, 3), nn.GELU(), nn.Conv2d(width, 128, 5, groups=width), nn.SELU(),
            nn.ConvTranspose1d(width, width, 4, stride=2), nn.SiLU(), nn.ConvTranspose2d(width, width, 4, 2, groups=4),
            nn.Tanh(), nn.ConvTranspose3d(16, width, 2), nn.InstanceNorm2d(width, affine=True), nn.PReLU(width),
        )  # fmt: skip
        self.linear = nn.Linear(width, 3 * width)
        self.bilinear = nn.Bilinear(16, 16, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.GroupNorm(4, width), nn.RMSNorm(width)])
        self.attention = nn.MultiheadAttention(width, 4, add_bias_kv=True)
        self.cross = nn.MultiheadAttention(width, 4, kdim=48, vdim=32)
        self.recurrent = nn.ModuleList(
            [nn.RNN(width, 48, nonlinearity="relu"), nn.LSTM(width, 48, 2, bidirectional=True), nn.GRU(width, 48)]
        )
        self.projected = nn.LSTM(width, 48, proj_size=16)
        self.cells = nn.ModuleList([nn.RNNCell(width, 48), nn.LSTMCell(width, 48), nn.GRUCell(width, 48)])
        self.transformer = nn.Transformer(width, 4, 1, 1, 96, batch_first=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 96, width))


def same(first, second):
    """Names of the tensors that differ in a byte."""
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(raw(first[name]), raw(second[name]))]


def raw(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def changed(model):
    """The model with other values."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    return model


def small():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4, bias=False))


@pytest.mark.parametrize("recipe", ["auto", "torch"])
def test_each_parameter_has_what_fill_gives_for_the_key_of_its_name(recipe):
    model = Everything()
    chosen = RECIPES[recipe].with_rules(Rule("*", "cls_token|pos_embed", fastinit.Normal()))
    record = initialize_(model, chosen, seed=3)
    assert [entry.name for entry in record] == [name for name, _ in model.named_parameters()]
    for entry, (name, parameter) in zip(record, model.named_parameters(), strict=True):
        assert entry.key == fastinit.Key(3).fold_in(name)
        expected = fill_(torch.empty(parameter.shape), entry.initializer, entry.key)
        assert torch.equal(expected, parameter), name


def test_the_torch_recipe_knows_every_layer_of_torch():
    with pytest.raises(UnmatchedParameter, match="cls_token"):  # Everything's own
        initialize_(Everything(), "torch")
    model = Everything()
    del model.cls_token, model.pos_embed
    initialize_(model, "torch")


@pytest.mark.parametrize("recipe", ["auto", "torch"])
def test_the_values_have_the_standard_deviation_of_the_record(recipe):
    model = Everything()
    del model.cls_token, model.pos_embed
    checked = 0
    for entry, parameter in zip(initialize_(model, recipe), model.parameters(), strict=True):
        if entry.std is None or parameter.numel() < 200:
            continue
        checked += 1
        # the deviation of a normal sample's is 1 / sqrt(2 n); a bit more for embeddings with a row of zeros
        assert parameter.std(correction=0).item() == pytest.approx(entry.std, rel=6 / math.sqrt(2 * parameter.numel()))
    assert checked > 40


def test_what_auto_does_to_the_parts_of_a_model():
    model = Everything()
    record = initialize_(model, unmatched="keep")
    assert not model.embedding.weight[5].any() and model.embedding.weight[4].any()
    for name, gates in (("recurrent.0", 1), ("recurrent.1", 4), ("recurrent.2", 3)):
        for gate in model.get_submodule(name).weight_hh_l0.chunk(gates):
            torch.testing.assert_close(gate @ gate.T, torch.eye(48), atol=1e-5, rtol=0)
    input_gate, forget_gate, *others = model.cells[1].bias_ih.chunk(4)
    assert (forget_gate == 1).all() and not any(gate.any() for gate in (input_gate, *others))
    assert (model.convolutions[15].weight == 0.25).all()
    assert record["convolutions.2.weight"].std == pytest.approx(math.sqrt(2 / (1 + 0.3**2) / (16 * 9)))
    assert record["convolutions.7.weight"].std == pytest.approx(1 / 5)  # depthwise, SELU
    assert record["convolutions.11.weight"].fans.fan_in == 64  # 16 inputs of a group, 16 taps, 4 outputs to share them
    assert record["attention.in_proj_weight"].std == pytest.approx(math.sqrt(2 / (64 + 64)))
    assert record["transformer.encoder.layers.0.linear1.weight"].std == pytest.approx(math.sqrt(2 / 64))
    assert not model.cls_token.any() and not model.pos_embed.any()  # kept
    for norm in (*model.norms, model.convolutions[3], model.convolutions[14]):
        assert (norm.weight == 1).all()


def test_from_one_activation_to_the_next_the_signal_keeps_its_size():
    inputs = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    for activation in (nn.ReLU(), nn.LeakyReLU(0.3), nn.PReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.SELU(), nn.Mish()):
        model = nn.Sequential(nn.Linear(512, 512), activation)
        initialize_(model)
        assert model[0](activation(inputs)).square().mean().item() == pytest.approx(1.0, rel=0.05), activation


# The law of names


def test_adding_removing_and_reordering_layers_changes_no_other():
    def build(*names):
        model = nn.ModuleDict()
        for name in names:
            model[name] = nn.LSTM(6, 6) if name == "lstm" else nn.Linear(6, 6)
        return model

    first, second = build("a", "lstm", "b"), build("new", "b", "lstm", "c", "a")
    initialize_(first, seed=5)
    initialize_(second, seed=5)
    for name in ("a", "lstm", "b"):
        assert same(first[name], second[name]) == []
    assert same(second["a"], second["c"]) == ["weight"]


def test_wrappers_leave_the_values_alone():
    whole = small()
    initialize_(whole)
    for wrap in (nn.DataParallel, lambda model: torch.compile(model, backend="eager")):
        model = small()
        record = initialize_(wrap(model))
        assert same(model, whole) == []
        assert [entry.name for entry in record] == ["0.weight", "0.bias", "2.weight"]


def test_the_seed_is_the_only_source_of_numbers():
    first, second, other, text = small(), changed(small()), small(), small()
    state = torch.get_rng_state()
    assert initialize_(first, seed=1) == initialize_(second, seed=1)
    initialize_(other, seed=2)
    initialize_(text, seed="1")
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, second) == []
    assert same(first, other) == same(first, text) == ["0.weight", "2.weight"]


def test_neither_threads_nor_layout_change_the_bytes():
    first, second = nn.Conv2d(256, 128, 5), nn.Conv2d(256, 128, 5).to(memory_format=torch.channels_last)
    one, two = initialize_(first, num_threads=1), initialize_(second, num_threads=2)
    assert one == two and same(first, second) == []
    assert second.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes(dtype):
    model = small().to(dtype)
    record = initialize_(model)
    assert record["0.weight"].dtype == str(dtype).removeprefix("torch.")
    expected = small()
    initialize_(expected)
    if dtype is not torch.float64:  # which has draws of its own
        assert torch.equal(raw(model[0].weight), raw(expected[0].weight.to(dtype)))
    assert model[0].weight.double().std().item() == pytest.approx(math.sqrt(2 / 6), rel=0.4)


# What stays as it is


def test_parameters_stay_the_objects_that_optimizers_hold():
    model = small()
    model[0].weight.requires_grad_(False)
    objects = [(parameter, parameter.data_ptr(), parameter._version) for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    initialize_(model, frozen=True)
    for parameter, (before, address, version) in zip(model.parameters(), objects, strict=True):
        assert parameter is before and parameter.data_ptr() == address and parameter._version == version + 1
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True]
    before = model[2].weight.detach().clone()
    model(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[2].weight, before)


def test_autograd_notices_that_a_saved_weight_was_filled():
    model = small()
    loss = model(torch.ones(1, 6)).sum()
    initialize_(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_norms_forget_what_they_have_seen_and_other_buffers_stay():
    model = changed(nn.Sequential(nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True), nn.Linear(4, 4)))
    model.register_buffer("table", torch.full((3,), 7.0))
    initialize_(model)
    for norm in model[:2]:
        assert not norm.running_mean.any() and (norm.running_var == 1).all() and norm.num_batches_tracked == 0
    assert (model.table == 7).all()


def test_a_norm_is_known_by_its_statistics_whatever_its_class_is_called():
    class Whitening(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.full((4,), 3.0))
            self.register_buffer("running_var", torch.full((4,), 5.0))
            self.linear = nn.Linear(4, 4)

    class NormedMean(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.full((4,), 3.0))

    model = nn.Sequential(Whitening(), NormedMean())
    initialize_(model)
    assert not model[0].running_mean.any() and (model[0].running_var == 1).all()
    assert (model[1].running_mean == 3).all()


def test_tied_parameters_have_the_values_of_the_first_name():
    def build(*, tied):
        model = nn.Module()
        model.embedding, model.head = nn.Embedding(100, 64), nn.Linear(64, 100, bias=False)
        if tied:
            model.head.weight = model.embedding.weight
        return model

    tied, free = build(tied=True), build(tied=False)
    record = initialize_(tied)
    initialize_(free)
    assert [entry.name for entry in record] == ["embedding.weight"]
    assert tied.head.weight is tied.embedding.weight
    # the same stream, at the scale of logits
    torch.testing.assert_close(tied.embedding.weight * 8, free.embedding.weight, rtol=1e-6, atol=0)
    assert record["embedding.weight"].std == pytest.approx(1 / 8)
    assert record["embedding.weight"].other_names == ("head.weight",)


# Errors, all of them before anything is written


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.lora_A = nn.Parameter(torch.zeros(2, 4))


def refused(model, error, match, *arguments, **options):
    before = copy.deepcopy(changed(model).state_dict())
    with pytest.raises(error, match=match):
        initialize_(model, *arguments, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(raw(tensor), raw(before[name])), name


def test_a_parameter_without_a_rule_is_named():
    refused(Custom(), UnmatchedParameter, r"'lora_A' of shape \(2, 4\) \(Custom\)")


def test_own_rules_come_first():
    model = Custom()
    recipe = RECIPES["auto"].with_rules(
        Rule("Custom", "lora_A", lambda parameter: fastinit.he_uniform(**parameter.geometry), "LoRA"),
        Rule("*", "layer.weight", fastinit.Orthogonal()),
    )
    record = initialize_(model, recipe)
    assert record["lora_A"].rule == "LoRA" and record["lora_A"].fans == fastinit.Fans(4, 2, 1)
    assert 0 < model.lora_A.abs().max() <= math.sqrt(6 / 4)
    torch.testing.assert_close(model.layer.weight @ model.layer.weight.T, torch.eye(4), atol=1e-6, rtol=0)


def test_what_cannot_be_filled_is_named():
    scalars = Recipe([Rule("*", "*", fastinit.DeltaOrthogonal())])
    refused(small(), ValueError, r"0\.weight", scalars)
    half = small().half()
    refused(
        half, ValueError, r"'2\.weight'.*float16", Recipe([Rule("*", "2.*", fastinit.Normal(0.0, 1e5)), *AUTO_RULES])
    )
    model = small()
    model.extra = nn.Linear(2, 2, dtype=torch.complex64)
    refused(model, TypeError, r"'extra\.weight': expected a dtype among float32.*, got complex64")
    model.extra = nn.Module()
    model.extra.weight = nn.Parameter(torch.zeros(3, dtype=torch.int32), requires_grad=False)
    refused(model, TypeError, r"'extra\.weight': expected a dtype among float32.*, got int32", ZEROS, frozen=True)
    initialize_(model, ZEROS)
    assert (model.extra.weight == 7).all()  # kept, whatever it is of


ZEROS = Recipe([Rule("*", "*", fastinit.Zeros())])
AUTO_RULES = RECIPES["auto"].rules


def test_tensors_of_unknown_kinds_are_named():
    class Odd(torch.Tensor):
        pass

    model = small()
    model[2].weight = nn.Parameter(torch.zeros(4, 8).as_subclass(Odd))
    with pytest.raises(TypeError, match=r"'2\.weight' is a Odd"):
        initialize_(changed(model))
    assert (model[0].weight == 7).all()
    model = small()
    del model[2].weight
    model[2].weight = nn.Parameter(torch.zeros(1, 8).expand(4, 8))
    with pytest.raises(ValueError, match=r"'2\.weight' overlap"):
        initialize_(model)


def test_wrong_arguments():
    refused(small(), ValueError, "own, auto, fans, torch", "fancy")
    refused(small(), TypeError, "recipe must be", 3)
    refused(small(), TypeError, "seed", "auto", 1.5)
    with torch.device("meta"):
        model = small()
    with pytest.raises(ValueError, match=r"0\.weight, 0\.bias, 2\.weight; materialize"):
        initialize_(model)
    with pytest.raises(ValueError, match=r"run a forward pass first, for weight, bias"):
        initialize_(nn.LazyLinear(3))


# Records


def test_digests_are_of_the_row_major_bytes():
    model = nn.Conv2d(4, 6, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    record = initialize_(model, digests=True)
    values = model.weight.detach().contiguous().view(torch.uint16).numpy()
    assert record["weight"].digest == digest(values)
    assert {entry.digest for entry in initialize_(model)} == {None}


def test_a_record_is_json_and_replays(tmp_path):
    model = Everything()
    recipe = RECIPES["auto"].with_rules(Rule("Everything", "*", fastinit.Normal()))
    record = initialize_(model, recipe, seed=11, digests=True)
    text = record.to_json()
    assert Record.from_json(text) == record
    record.save(tmp_path / "record.json")
    for given in (record, text, tmp_path / "record.json", str(tmp_path / "record.json")):
        other = changed(Everything())
        assert replay(given, other) == record
        assert same(other, model) == []


def test_a_record_without_digests_replays_too():
    model, other = small(), changed(small())
    record = initialize_(model)
    assert replay(record, other) == record == initialize_(model)
    assert same(other, model) == []


def test_what_a_record_does_not_fit():
    record = initialize_(small())
    for model, match in [
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), r"the record lacks the parameters 2\.bias"),
        (nn.Sequential(nn.Linear(6, 8)), r"the model lacks the parameters 2\.weight"),
        (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5, bias=False)), r"'2\.weight'.*\(4, 8\).*\(5, 8\)"),
        (small().double(), r"'0\.weight'.*float32.*float64"),
    ]:
        before = copy.deepcopy(changed(model).state_dict())
        with pytest.raises(ValueError, match=match):
            replay(record, model)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_record_of_other_bytes_or_of_another_stream():
    text = json.loads(initialize_(small(), digests=True).to_json())
    later = text | {"stream_version": 2}
    with pytest.raises(ValueError, match="stream version 1, got version 2"):
        replay(json.dumps(later), small())
    text["entries"][2]["digest"] = "0" * 64
    with pytest.raises(ValueError, match=r"'2\.weight'.*other bytes"):
        replay(json.dumps(text), small())
    with pytest.raises(TypeError, match="record must be"):
        replay(3, small())
    with pytest.raises(FileNotFoundError):
        replay("no such file", small())


def test_parameters_are_found_without_being_touched():
    model = changed(Everything())
    before = copy.deepcopy(model.state_dict())
    assert len(parameters(model)) == len(list(model.parameters()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Nothing is written before everything is known to fit


def half():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(4, 4)).half()


TOO_MUCH = [
    fastinit.Orthogonal(1e6),
    fastinit.Constant(1e6),
    fastinit.Sparse(0.5, 1e6),
    fastinit.Blocks((fastinit.Ones(), fastinit.Identity(1e5))),
    fastinit.Dirac(layout="OI..."),  # not of a matrix
]


def recipe_with(initializer):
    return RECIPES["auto"].with_rules(Rule("Linear", "1.weight", initializer))


@pytest.mark.parametrize("initializer", TOO_MUCH, ids=repr)
def test_a_later_parameter_that_cannot_be_filled_leaves_the_first_as_they_were(initializer):
    model = half()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'1\.weight'"):
        initialize_(model, recipe_with(initializer))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("initializer", TOO_MUCH, ids=repr)
def test_a_record_that_cannot_be_replayed_leaves_the_model_as_it_was(initializer):
    model = half()
    record = initialize_(model, recipe_with(fastinit.Zeros()))
    entries = [replace(entry, initializer=initializer) if entry.name == "1.weight" else entry for entry in record]
    nn.init.ones_(model[0].weight)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"'1\.weight'"):
        replay(replace(record, entries=tuple(entries)), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def overlapping(model):
    model[1].weight.data = torch.zeros(20).as_strided((4, 4), (1, 1))


def freed(model):
    model[1].weight.data = torch.zeros(4, 4)
    model[1].weight.untyped_storage().resize_(0)


@pytest.mark.parametrize("spoil, message", [(overlapping, "overlap"), (freed, "freed")])
def test_memory_that_cannot_be_written_is_found_first(spoil, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    spoil(model)
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=rf"'1\.weight'.*{message}"):
        initialize_(model)
    assert torch.equal(model[0].weight, before)


def test_what_is_no_model_is_named():
    record = initialize_(nn.Linear(2, 2), seed=0)
    for call in (initialize_, materialize, audit, lambda model: lsuv_(model, 1.0), lambda model: replay(record, model)):
        for wrong in (5, "model", nn.Linear):
            with pytest.raises(TypeError, match=rf"model must be a torch\.nn\.Module, not {type(wrong).__name__}"):
                call(wrong)
    with pytest.raises(TypeError, match="loss must be a function"):
        audit(nn.Linear(2, 2), torch.zeros(3, 2), loss=5)


@pytest.mark.parametrize("by", [initialize_, replay])
@pytest.mark.parametrize(
    "bad",
    [
        fastinit.Orthogonal(1e5, 0),
        fastinit.Sparse(0.1, 1e5),
        fastinit.Blocks((fastinit.Normal(), fastinit.Identity(1e5))),
        fastinit.ZeroRow(fastinit.Normal(1e5, 1.0), 0),
    ],
    ids=lambda initializer: type(initializer).__name__,
)
def test_every_range_is_known_before_the_first_parameter_is_written(by, bad):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8)).half()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = fastinit.RECIPES["auto"].with_rules(fastinit.Rule("Linear", "1.weight", bad))
    with pytest.raises(ValueError, match=r"'1\.weight'.* beyond the largest finite float16 value 65504"):
        if by is initialize_:
            initialize_(model, recipe)
        else:
            record = initialize_(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8)).half())
            entries = (replace(one, initializer=bad) if one.name == "1.weight" else one for one in record)
            replay(replace(record, entries=tuple(entries)).to_json(), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
