"""New rows of resized embeddings, of their heads and biases: transformers resizes, and the old rows keep every bit."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit import NewRows, Normal, UnmatchedParameter  # noqa: E402
from fastinit.adapters.torch import deferred, fill_, initialize_, materialize, replay, verify  # noqa: E402

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
OLD, NEW = 120, 133
WAYS = ("mean", "mean_covariance")


def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def of(name, configuration):
    return lambda size: getattr(transformers(), name)(
        getattr(transformers(), configuration[0])(vocab_size=size, **configuration[1])
    )


GPT2 = {"n_positions": 48, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "GPT-2, tied": (of("GPT2LMHeadModel", ("GPT2Config", GPT2)), {"transformer.wte.weight"}),
    "BERT, tied, with a bias": (
        of("BertForMaskedLM", ("BertConfig", SMALL)),
        {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"},
    ),
    "T5, thrice tied": (of("T5ForConditionalGeneration", ("T5Config", T5)), {"shared.weight"}),
    "Llama, untied": (
        of("LlamaForCausalLM", ("LlamaConfig", {**SMALL, "num_key_value_heads": 2})),
        {"model.embed_tokens.weight", "lm_head.weight"},
    ),
    "GPT-J, untied, with a bias": (
        of("GPTJForCausalLM", ("GPTJConfig", {**GPT2, "rotary_dim": 4})),
        {"transformer.wte.weight", "lm_head.weight", "lm_head.bias"},
    ),
}


def trained(build, size=OLD, seed=1):
    """A model whose values are none of an initialization."""
    with deferred():
        model = build(size)
    materialize(model, seed=seed)
    with torch.no_grad():
        for number, tensor in enumerate(model.parameters()):
            tensor.mul_(1.5).add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)) * 0.01)
    return model


def bytes_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def resized(model, size=NEW, **options):
    model.resize_token_embeddings(size, **{"mean_resizing": False} | options)
    return model


@pytest.fixture(params=MODELS)
def case(request):
    build, names = MODELS[request.param]
    return trained(build), names, build


@pytest.mark.parametrize("initializer", [*WAYS, Normal(0.0, 0.02)], ids=str)
def test_old_rows_and_all_else_keep_every_bit(case, initializer):
    model, names, _ = case
    old = bytes_of(model)
    resized(model)
    before = bytes_of(model)
    record = initialize_(model, seed=3, rows={name: NewRows(OLD, initializer) for name in names})
    assert {entry.name for entry in record} == names
    for name, tensor in model.state_dict().items():
        if tensor.shape == old[name].shape:
            assert torch.equal(tensor, old[name]), name
        else:
            assert tensor.shape[0] == NEW and torch.equal(tensor[:OLD], old[name]), name
            assert not torch.equal(tensor[OLD:], before[name][OLD:]), name
    assert {verify(record, model)[name].verdict for name in names} == {"equal"}
    assert fastinit.Record.from_json(record.to_json()) == record


def test_own_rows_are_those_of_the_whole_model(case):
    """The same bytes in one step, in two, and in a model that had so many rows from the start."""
    model, names, build = case
    with deferred():
        whole = build(NEW)
    own = materialize(whole, seed=3)
    # a head that transformers has made anew has no program: what it is drawn from is said
    rows = {name: NewRows(OLD, own[name].initializer if "head" in name else "own") for name in names}
    stepwise = copy.deepcopy(model)
    initialize_(resized(model), seed=3, rows=rows)
    initialize_(resized(stepwise, 125), seed=3, rows=rows)
    rows = {name: fastinit.NewRows(125, new.initializer) for name, new in rows.items()}
    initialize_(resized(stepwise), seed=3, rows=rows)
    for name in names:
        tensor = model.get_parameter(name)
        assert torch.equal(tensor[OLD:], whole.get_parameter(name)[OLD:]), name
        assert torch.equal(stepwise.get_parameter(name), tensor), name


def test_means(case):
    model, names, _ = case
    initialize_(resized(model), rows={name: NewRows(OLD, "mean") for name in names})
    for name in names:
        tensor = model.get_parameter(name).detach().double()
        torch.testing.assert_close(tensor[OLD:], tensor[:OLD].mean(0).expand_as(tensor[OLD:]), rtol=1e-6, atol=1e-9)


def test_a_head_that_was_made_anew_has_no_rule_of_its_own():
    model = resized(trained(MODELS["Llama, untied"][0]))
    before = bytes_of(model)
    with pytest.raises(UnmatchedParameter, match=r"lm_head\.weight"):
        initialize_(model, rows={"*embed_tokens.weight": OLD, "lm_head.weight": OLD})
    with pytest.raises(
        ValueError, match=r"new rows of 'lm_head.weight' need an initializer from the recipe, got '.*no rule: kept"
    ):
        initialize_(model, rows={"*embed_tokens.weight": OLD, "lm_head.weight": OLD}, unmatched="keep")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_distribution_is_that_of_transformers_own():
    """Its ``mean_resizing``, with the same scale: means and covariances of many new rows."""
    settings = {**GPT2, "n_embd": 16, "n_layer": 1}
    theirs = trained(of("GPT2LMHeadModel", ("GPT2Config", settings)), 900)
    with torch.no_grad():
        weight = theirs.transformer.wte.weight
        mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        weight.copy_(weight.double() @ mixing * 1000 + 1e-3 * torch.arange(16))
    ours = copy.deepcopy(theirs)
    torch.manual_seed(0)
    resized(theirs, 20_900, mean_resizing=True)
    initialize_(resized(ours, 20_900), rows={"*wte.weight": NewRows(900, "mean_covariance", 1e-9)})
    old = weight[:900].detach().double()
    deviations = []
    for model in (theirs, ours):
        new = model.transformer.wte.weight[900:].detach().double()
        assert torch.equal(model.transformer.wte.weight[:900], weight[:900])
        deviations.append((new - old.mean(0)) / math.sqrt(1e-9))
    covariance = old.T.cov(correction=0)
    scale = covariance.diag().sqrt()
    spread = (torch.outer(scale, scale) ** 2 + covariance**2).sqrt() / math.sqrt(20_000)
    for found in deviations:
        assert (found.mean(0).abs() < 5 * scale / math.sqrt(20_000)).all()
        assert ((found.T.cov() - covariance).abs() < 5 * spread).all()
    probabilities = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    theirs_at, ours_at = (torch.quantile(found / scale, probabilities, dim=0) for found in deviations)
    assert (theirs_at - ours_at).abs().max() < 0.19  # five standard errors of the first percentile's difference


# Models of one's own


class Model(nn.Module):
    def __init__(self, size=OLD):
        super().__init__()
        self.words = nn.Embedding(size, 8, padding_idx=0)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, size)


def test_rows_and_whole_parameters_at_once():
    """Parameters of `only` are filled whole, beside the new rows; `skip` leaves out either."""
    model, whole = trained(Model, NEW), Model(NEW)
    before = bytes_of(model)
    initialize_(whole, "auto", seed=3)
    rows = {"words.weight": OLD, "head.*": NewRows(OLD, "own")}
    record = initialize_(model, "auto", seed=3, only="norm.*", skip="head.bias", rows=rows)
    assert [entry.name for entry in record] == ["words.weight", "norm.weight", "norm.bias", "head.weight"]
    assert torch.equal(model.head.bias, before["head.bias"])
    assert torch.equal(model.norm.weight, whole.norm.weight) and not model.norm.running_mean.any()
    for name in ("words.weight", "head.weight"):
        tensor = model.get_parameter(name)
        assert torch.equal(tensor[:OLD], before[name][:OLD])
        assert torch.equal(tensor[OLD:], whole.get_parameter(name)[OLD:])
    record = initialize_(model, "auto", seed=3, rows=rows)
    assert {entry.name for entry in record} == {"words.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("way", [*WAYS, Normal(0.0, 0.02)], ids=str)
def test_dtypes_and_layouts(way, dtype):
    """A transposed parameter has the bytes of a plain one."""
    model, other = nn.Module(), nn.Module()
    plain = fill_(torch.empty(NEW, 8, dtype=dtype), Normal(), fastinit.Key(9))
    model.weight = nn.Parameter(plain.clone())
    other.weight = nn.Parameter(torch.empty(8, NEW, dtype=dtype).T)
    with torch.no_grad():
        other.weight.copy_(plain)
    for one in (model, other):
        record = initialize_(one, seed=2, rows={"weight": NewRows(OLD, way)})
        assert verify(record, one).is_sound
    raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(model.weight.view(raw), other.weight.detach().contiguous().view(raw))
    assert torch.equal(model.weight[:OLD].view(raw), plain[:OLD].view(raw))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", [*WAYS, Normal(0.0, 0.02)], ids=str)
def test_on_a_device(way):
    model = trained(Model, NEW)
    there = copy.deepcopy(model).cuda()
    for one in (model, there):
        record = initialize_(one, "auto", seed=2, rows={"words.weight": NewRows(OLD, way)})
        assert verify(record, one)["words.weight"].verdict == "equal"
    assert torch.equal(there.words.weight.cpu(), model.words.weight)


def test_a_frozen_table_is_filled_when_its_rows_are_said():
    model = Model(NEW).requires_grad_(False)
    before = bytes_of(model)
    with pytest.raises(
        ValueError, match=r"new rows of 'words.weight' need an initializer from the recipe, got 'frozen: kept"
    ):
        initialize_(model, "auto", rows={"words.weight": OLD})
    record = initialize_(model, "auto", seed=1, rows={"words.weight": NewRows(OLD, "mean_covariance")})
    assert not model.words.weight.requires_grad and verify(record, model)["words.weight"].verdict == "equal"
    initialize_(model, "auto", seed=1, frozen=True, rows={"words.weight": OLD})
    assert torch.equal(model.words.weight[:OLD], before["words.weight"][:OLD])


def test_a_record_is_replayed_on_the_same_old_rows():
    model = trained(Model, NEW)
    rows = {"*.weight": NewRows(OLD, "mean_covariance")}
    record = initialize_(model, "auto", only="*", rows=rows, skip="norm.*", digests=True)
    again = copy.deepcopy(model)
    with torch.no_grad():
        for name in ("words.weight", "head.weight"):
            again.get_parameter(name)[OLD:] = 7
    del again.norm
    replay(record, again)
    assert all(torch.equal(again.get_parameter(entry.name), model.get_parameter(entry.name)) for entry in record)
    with torch.no_grad():
        again.words.weight[:OLD] += 1
    with pytest.raises(ValueError, match=r"'words.weight' was filled with other bytes"):
        replay(record, again)


def test_what_became_of_new_rows():
    model = trained(Model, NEW)
    record = initialize_(
        model, "auto", rows={"words.weight": NewRows(OLD, "mean_covariance"), "head.weight": NewRows(OLD, Normal())}
    )
    assert [row.verdict for row in verify(record, model)][:2] == ["equal", "equal"]
    with torch.no_grad():
        model.words.weight[OLD:] *= 1.5
        model.head.weight[OLD:] *= 1.5
        model.head.weight[:OLD] = 0  # which the record says nothing of
    found = verify(record, model)
    assert found["words.weight"].verdict == found["head.weight"].verdict == "trained"
    assert "by 0.5 of their size" in found["head.weight"].detail
    with torch.no_grad():
        model.words.weight[0, 0] = math.nan
    assert verify(record, model)["words.weight"].verdict == "damaged"
    half = verify(record, model.half())
    assert half["words.weight"].verdict == "kept" and "follow from old ones in float32" in half["words.weight"].detail


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"word.weight": OLD}, ValueError, r"rows='word.weight' matches no parameter"),
        ({"words.weight": 0}, ValueError, "first must be at least 1"),
        ({"words.weight": NEW}, ValueError, r"'words.weight'.*must be one of the 133"),
        ({"norm.weight": 100}, ValueError, r"'norm.weight'.*must be one of the 8"),
        ({"words.weight": "mean"}, TypeError, "first: expected an integer"),
        ({"words.weight": OLD, "w*": 119}, ValueError, "rows must agree about 'words.weight'"),
        ({"factor": NewRows(1, "mean")}, ValueError, r"'factor'.*need a tensor with at least 1 axis"),
        (
            {"bad": NewRows(2, "mean"), "words.weight": OLD},
            ValueError,
            r"'bad': the mean of the 2 old rows is not finite",
        ),
        ({"parametrized.weight": NewRows(2, "mean")}, ValueError, r"'parametrized.weight' is parametrized"),
        ({7: OLD}, TypeError, "patterns in rows must be str, got 7"),
        ("words.weight", TypeError, "rows must be a mapping"),
        ({}, ValueError, "leave none"),
    ],
)
def test_what_means_nothing_is_said_before_anything_is_written(rows, error, message):
    model = Model(NEW)
    model.factor = nn.Parameter(torch.tensor(1.0))
    model.bad = nn.Parameter(torch.tensor([1.0, math.inf, 0.0]))
    model.parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    before = bytes_of(model)
    with pytest.raises(error, match=message):
        initialize_(model, "auto", rows=rows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_tensor_without_values_has_no_old_rows():
    with torch.device("meta"):
        model = Model(NEW)
    recipe = fastinit.AUTO.with_rules(fastinit.Rule("Embedding", "words.weight", NewRows(OLD, "mean")))
    with pytest.raises(ValueError, match=r"new rows of 'words.weight' need its old rows"):
        materialize(model, recipe)
    assert model.words.weight.is_meta
    real = Model(NEW)
    before = bytes_of(real)
    assert "mean" in str(initialize_(real, recipe)["words.weight"].initializer)
    assert torch.equal(real.words.weight[:OLD], before["words.weight"][:OLD])
