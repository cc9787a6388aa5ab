"""rename: pipeline stages that number their layers anew, and wrappers' prefixes, have the bytes of the whole model."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
dcp = pytest.importorskip("torch.distributed.checkpoint", exc_type=ImportError)
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import (  # noqa: E402
    InitReader,
    deferred,
    initialize_,
    keyed,
    materialize,
    replay,
    state_dict,
    verify,
)

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
LAYERS, STAGES = 8, 4


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(6, 10), nn.LayerNorm(10), nn.Linear(10, 6)
        self.register_buffer("noise", torch.empty(5))
        self.init_weights()

    def init_weights(self):
        for linear in (self.up, self.down):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.norm.reset_parameters()
        with torch.no_grad():
            self.noise.copy_(torch.randn(5))


class Whole(nn.Module):
    def __init__(self, copies=False):
        super().__init__()
        self.words = nn.Embedding(13, 6, padding_idx=0)
        first = Layer()
        self.layers = nn.ModuleList(copy.deepcopy(first) if copies else Layer() for _ in range(LAYERS))
        self.head = nn.Linear(6, 13)

    def init_weights(self):
        for module in (self.words, self.head):
            if module is not None:
                module.reset_parameters()
        for layer in self.layers:
            layer.init_weights()


def cut(model, stage):
    """One of the stages, made as pipelines make it: by deleting what it does not have, and numbering the rest."""
    count = LAYERS // STAGES
    model.layers = nn.ModuleList(list(model.layers)[stage * count : (stage + 1) * count])
    if stage:
        model.words = None
    if stage < STAGES - 1:
        model.head = None
    return model


def names(stage):
    count = LAYERS // STAGES
    return {f"layers.{layer}": f"layers.{stage * count + layer}" for layer in range(count)}


def whole(copies=False):
    with deferred():
        model = Whole(copies)
    return model, materialize(model, seed=3)


def differences(stage, rename, expected):
    state = expected.state_dict()
    for name, tensor in stage.state_dict().items():
        if not torch.equal(tensor, state[fastinit.extending.renaming(rename)(name)]):
            yield name


def by_function(stage):
    table = names(stage)

    def rename(name):
        outer = ".".join(name.split(".")[:2])
        return name.replace(outer, table.get(outer, outer), 1) if outer.startswith("layers") else name

    return rename


@pytest.mark.parametrize("copies", [False, True], ids=["drawn", "copied"])
@pytest.mark.parametrize("rename_of", [names, by_function])
def test_stages_that_were_cut_from_a_deferred_model(copies, rename_of):
    expected, record = whole(copies)
    entries = {}
    for stage in range(STAGES):
        with deferred():
            model = Whole(copies)
        cut(model, stage)
        rename = rename_of(stage)
        weights = state_dict(model, seed=3, rename=rename)
        loaded = {name: torch.empty_like(tensor, device="cpu") for name, tensor in model.state_dict().items()}
        dcp.load(loaded, storage_reader=InitReader(model, seed=3, rename=rename), no_dist=True)
        found = materialize(model, seed=3, rename=rename)
        assert list(weights) == list(model.state_dict()) == list(loaded)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, weights[name]) and torch.equal(tensor, loaded[name]), name
        assert not list(differences(model, rename, expected))
        assert verify(found, model, rename=rename).is_sound
        assert {row.verdict for row in verify(found, model)} & {"missing", "unknown"} or not stage
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        replay(found, model, rename=rename)
        assert not list(differences(model, rename, expected))
        entries |= {entry.name: entry for entry in found}
    assert entries == {entry.name: entry for entry in record}  # the stages' records together are the whole model's


@pytest.mark.parametrize("stage", range(STAGES))
def test_init_code_of_a_stage(stage):
    expected, _ = whole()
    with torch.device("meta"):
        model = cut(Whole(), stage)
    model.to_empty(device="cpu")
    with keyed(model, seed=3, rename=names(stage)) as drawn:
        model.init_weights()
    assert drawn.check() == ("drawn into other tensors than parameters: randn",)  # but a buffer
    assert not list(differences(model, names(stage), expected))
    assert verify(drawn.record, model, rename=names(stage)).is_sound


def test_code_may_change_what_a_prefix_matches_inside():
    model = nn.ModuleDict({"old": nn.Linear(3, 3), "other": nn.Linear(3, 3)})
    with keyed(model, seed=3, rename={"old": "new"}) as drawn:
        del model["old"]
        model["other"].reset_parameters()
    assert [entry.name for entry in drawn.record] == ["other.weight", "other.bias"]


@pytest.mark.parametrize("recipe", ["auto", "torch"])
@pytest.mark.parametrize(
    "rename", [{"model": ""}, {"model": "", "model.layers": "layers"}, lambda name: name.removeprefix("model.")]
)
def test_wrappers_that_put_a_prefix_before_all_names(recipe, rename):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Whole()

    expected = Whole()
    record = initialize_(expected, recipe, seed=3, digests=True)
    wrapped = Wrapper()
    assert initialize_(wrapped, recipe, seed=3, rename=rename, digests=True) == record
    for name, tensor in expected.named_parameters():
        assert torch.equal(tensor, wrapped.model.get_parameter(name)), name
    replay(record, wrapped, rename=rename)
    part = Whole().layers  # and a part that gains one
    initialize_(part, recipe, seed=3, rename={"": "layers"})
    for name, tensor in part.named_parameters():
        assert torch.equal(tensor, expected.layers.get_parameter(name)), name


def test_selections_and_rules_go_by_the_new_names():
    model = cut(Whole(), 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    record = initialize_(model, seed=3, rename=names(1), only="layers.3.*", skip="*.down.*")
    assert [entry.name for entry in record] == [
        f"layers.3.{role}" for role in ("up.weight", "up.bias", "norm.weight", "norm.bias")
    ]
    for name, tensor in model.named_parameters():
        assert bool((tensor == 7).all()) != name.startswith(("layers.1.up.", "layers.1.norm.")), name
    with pytest.raises(ValueError, match=r"only='layers\.0\.\*' matches no parameter"):
        initialize_(model, rename=names(1), only="layers.0.*")
    recipe = fastinit.AUTO.with_rules(fastinit.Rule("*", "layers.2.up.weight", fastinit.Constant(7.0)))
    initialize_(model, recipe, rename=names(1))
    assert (model.layers[0].up.weight == 7).all() and not (model.layers[1].up.weight == 7).any()


def test_tied_tensors_keep_all_their_names():
    model = nn.ModuleDict({"words": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["words"].weight
    record = initialize_(model, seed=3, rename={"words": "input.words", "head": "output"})
    (entry,) = record
    assert (entry.name, entry.other_names) == ("input.words.weight", ("output.weight",))
    assert entry.key == fastinit.Key(3).fold_in("input.words.weight")
    (entry,) = initialize_(model, seed=3, rename={"words": "table", "head": "table"})  # one tensor, one name
    assert (entry.name, entry.other_names) == ("table.weight", ())
    with deferred():
        tied = nn.ModuleDict({"words": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    tied["head"].weight = tied["words"].weight
    weights = state_dict(tied, seed=3, rename={"words": "table"})
    assert list(weights) == ["words.weight", "head.weight"]
    assert torch.equal(weights["words.weight"], weights["head.weight"])


def test_transformers_stages():
    """Its buffers are on the meta device: transformers' own code gives them values again, by the new names."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 4, "max_position_embeddings": 16}
    configuration = transformers.LlamaConfig(vocab_size=19, hidden_size=8, intermediate_size=12, **sizes)

    def make():
        with deferred():
            return transformers.LlamaForCausalLM(configuration)

    expected = make()
    materialize(expected, seed=3)
    for stage in range(2):
        model = make()
        model.model.layers = model.model.layers[2 * stage : 2 * stage + 2]
        rename = {f"model.layers.{layer}": f"model.layers.{2 * stage + layer}" for layer in range(2)}
        materialize(model, seed=3, rename=rename)
        assert not list(differences(model, rename, expected))


def test_buffers_that_transformers_own_code_draws():
    """On the meta device, where no program says what they are: by the key of the layer's name in the whole model."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    class Noisy(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("noise", torch.empty(5))

    class Model(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, configuration):
            super().__init__(configuration)
            self.layers = nn.ModuleList(Noisy() for _ in range(4))
            self.post_init()

        def _init_weights(self, module):
            if isinstance(module, Noisy):
                nn.init.normal_(module.noise)

    def make():
        with torch.device("meta"):
            return Model(transformers.PretrainedConfig())

    expected, stage = make(), make()
    materialize(expected, "torch", seed=3)
    stage.layers = stage.layers[2:]
    rename = {"layers.0": "layers.2", "layers.1": "layers.3"}
    materialize(stage, "torch", seed=3, rename=rename)
    assert not list(differences(stage, rename, expected))
    assert not torch.equal(expected.layers[0].noise, expected.layers[2].noise)


DOORS = {
    "initialize_": lambda model, rename: initialize_(model, "torch", rename=rename),
    "keyed": lambda model, rename: keyed(model, rename=rename).__enter__(),
    "replay": lambda model, rename: replay(fastinit.Record((), 0, "auto", "0"), model, rename=rename),
    "verify": lambda model, rename: verify(fastinit.Record((), 0, "auto", "0"), model, rename=rename),
    "materialize": lambda model, rename: materialize(model.to("meta"), "torch", rename=rename),
    "state_dict": lambda model, rename: state_dict(model.to("meta"), "torch", rename=rename),
    "InitReader": lambda model, rename: InitReader(model.to("meta"), "torch", rename=rename),
}


@pytest.mark.parametrize("door", DOORS)
def test_what_names_nothing_or_joins_two_is_refused_before_anything_is_written(door):
    for rename, error, said in (
        (lambda name: name.rpartition(".")[2], ValueError, "joins two tensors .* '0.weight' and '1.weight' become 'w"),
        ({"0": "a", "1": "a"}, ValueError, "joins two tensors under one name: '0.weight' and '1.weight' become 'a.w"),
        ({"table": "0.weight"}, ValueError, "joins two tensors under one name: 'table' and '0.weight' become '0.w"),
        ({"other": "table"}, ValueError, "joins two tensors under one name: 'table' and 'other' become 'table'"),
        ({"2": "0"}, ValueError, "the prefix '2' matches no name; there are 6: table, other, 0.weight"),
        (lambda name: None, ValueError, "rename must return a non-empty str for '.*, got None"),
        (7, TypeError, "rename must be a function of a name, or a mapping of prefixes; got 7"),
    ):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model.register_buffer("table", torch.zeros(3))
        model.register_buffer("other", torch.zeros(3))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(error, match=said):
            DOORS[door](model, rename)
        for name, tensor in model.state_dict().items():
            assert tensor.is_meta or torch.equal(tensor, before[name])
