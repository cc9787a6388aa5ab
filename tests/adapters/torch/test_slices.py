"""Slices that engines cut themselves: gathered, the bytes of one process; marks that do not fit are refused."""

import copy
import pickle
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
dcp = pytest.importorskip("torch.distributed.checkpoint", exc_type=ImportError)
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import (  # noqa: E402
    DeferralError,
    InitReader,
    audit,
    deferred,
    explain,
    initialize_,
    keyed,
    lsuv_,
    mark_slice,
    materialize,
    replay,
    state_dict,
    verify,
)

sys.path.insert(0, str(Path(__file__).parent))  # where a group of ranks begins to look
from engines import ColumnParallelLinear, RowParallelLinear, Transformer, gathered, normal  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
RANKS = pytest.mark.parametrize("ranks", [1, 2, 4, 8])


def one_process():
    with deferred():
        model = Transformer()
    return model, materialize(model, seed=3)


def held(model):
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def same(models, expected):
    found = gathered(models[0], [held(model) for model in models])
    for name, tensor in expected.named_parameters():
        assert found[name].shape == tensor.shape and torch.equal(found[name], tensor), name


def materialized(rank, ranks):
    with deferred():
        model = Transformer(rank, ranks)
    return model, materialize(model, seed=3)


def drawn_late(rank, ranks):
    with torch.device("meta"):
        model = Transformer(rank, ranks)
    model.to_empty(device="cpu").tie()
    with keyed(model, seed=3) as drawn:
        model.init_weights()
    assert [one for one in drawn.check() if not one.startswith("drawn more than once: words.weight")] == []
    return model, drawn.record


def initialized(rank, ranks):
    with deferred():
        model = Transformer(rank, ranks)
    model.to_empty(device="cpu").tie()
    return model, initialize_(model, seed=3)


def loaded(rank, ranks):
    with deferred():
        model = Transformer(rank, ranks)
    state = {name: torch.empty_like(tensor, device="cpu") for name, tensor in model.state_dict().items()}
    dcp.load(state, storage_reader=InitReader(model, seed=3), no_dist=True)
    weights = state_dict(model, seed=3)
    for name, tensor in state.items():
        assert torch.equal(tensor, weights[name]), name
        if tensor.dim() == 2:
            assert torch.equal(tensor[1:, 1:], weights.slice(name, (1, 1))), name
    record = materialize(copy.deepcopy(model), seed=3)
    model.to_empty(device="cpu").tie()
    model.load_state_dict(state)
    return model, record


@RANKS
@pytest.mark.parametrize("door", [materialized, drawn_late, initialized, loaded])
def test_gathered_slices_are_the_bytes_of_one_process(door, ranks):
    expected, record = one_process()
    made = [door(rank, ranks) for rank in range(ranks)]
    same([model for model, _ in made], expected)
    for model, own in made:
        assert verify(own, model).is_sound and verify(record, model).is_sound
        found = {one.name: (one.shape, one.key, one.std, one.fans) for one in own}
        assert found == {one.name: (one.shape, one.key, one.std, one.fans) for one in record}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7)
        assert not verify(record, model).is_sound
        replay(record, model)
    same([model for model, _ in made], expected)


@RANKS
@pytest.mark.parametrize("recipe", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recipes_see_the_whole(recipe, ranks, dtype):
    """Fans, gains and padding rows of torch's own layers, of which engines made slices."""

    def make(rank, ranks):
        model = nn.Sequential(
            nn.Embedding(16 // ranks, 8, padding_idx=0 if rank == 0 else None),
            nn.Linear(8, 32 // ranks),
            nn.GELU(),
            nn.Linear(32 // ranks, 8),
        ).to(dtype)
        if ranks > 1:
            mark_slice(model[0], "weight", (16, 8), (16 // ranks * rank, 0))
            mark_slice(model[1], "weight", (32, 8), (32 // ranks * rank, 0))
            mark_slice(model[1], "bias", (32,), (32 // ranks * rank,))
            mark_slice(model[3], "weight", (8, 32), (0, 32 // ranks * rank))
        return model

    whole = make(0, 1)
    record = initialize_(whole, recipe, seed=3, digests=True)
    parts = [make(rank, ranks) for rank in range(ranks)]
    records = [initialize_(part, recipe, seed=3, digests=True) for part in parts]
    for number, axis in ((0, 0), (1, 0), (3, 1)):
        assert torch.equal(torch.cat([part[number].weight for part in parts], axis), whole[number].weight)
    assert torch.equal(torch.cat([part[1].bias for part in parts]), whole[1].bias)
    assert (whole[0].weight[0] == 0).all() and whole[0].weight.abs().sum() > 0
    for part, own in zip(parts, records, strict=True):
        assert torch.equal(part[3].bias, whole[3].bias)
        assert own["3.weight"].fans == record["3.weight"].fans and own["3.weight"].fans.fan_in == 32
        assert own["3.weight"].digest is None or ranks == 1
        assert own["3.bias"].digest == record["3.bias"].digest is not None
        assert verify(record, part).is_sound


def test_a_padding_row_is_counted_in_the_whole_table():
    whole = nn.Embedding(16, 8, padding_idx=11)
    initialize_(whole, "auto", seed=3)
    part = nn.Embedding(4, 8, padding_idx=3)  # rows 8 to 11
    mark_slice(part, "weight", (16, 8), (8, 0))
    assert initialize_(part, "auto", seed=3)["weight"].initializer.row == 11
    assert torch.equal(part.weight, whole.weight[8:12]) and (part.weight[3] == 0).all()


def test_ranges_that_hold_everything_in_another_order_have_no_digest():
    whole, mine = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
    record = initialize_(whole, "auto", seed=3, digests=True)
    order = [range(0, 2), range(4, 6), range(2, 4)]
    mark_slice(mine, "weight", (6, 4), ranges=[order, [range(4)]])
    (entry,) = initialize_(mine, "auto", seed=3, digests=True)
    assert torch.equal(mine.weight, whole.weight[[0, 1, 4, 5, 2, 3]]) and entry.digest is None
    replay(record, mine)
    assert record["weight"].digest and not audit(mine, record=record).findings


def test_marks_survive_what_replaces_parameters():
    with deferred():
        model = Transformer(1, 2)
    expected, _ = materialized(1, 2)
    for other in (
        copy.deepcopy(model.layers),
        pickle.loads(pickle.dumps(model.layers)),
        nn.ModuleList([model.layers[0]]),
    ):
        other.to_empty(device="cpu")
        initialize_(other, seed=3, rename={"": "layers"})
        for name, tensor in other.named_parameters():
            assert torch.equal(tensor, expected.layers.get_parameter(name)), name
    materialize(model.to("meta"), seed=3, dtype=torch.bfloat16)
    whole, _ = one_process()
    assert torch.equal(model.words.weight, whole.words.weight[20:].bfloat16())


def test_a_stage_of_slices():
    """A pipeline stage, whose layers are numbered anew, of tensor-parallel layers."""
    expected, _ = one_process()
    for ranks in (1, 2):
        stages = []
        for rank in range(ranks):
            with deferred():
                stage = Transformer(rank, ranks)
            stage.layers = stage.layers[1:]
            stage.words = stage.head = None
            record = materialize(stage, seed=3, rename={"layers.0": "layers.1"})
            assert verify(record, stage, rename={"layers.0": "layers.1"}).is_sound
            stages.append(stage)
        for name, tensor in gathered(stages[0], [held(stage) for stage in stages]).items():
            assert torch.equal(tensor, expected.get_parameter(name.replace("layers.0", "layers.1"))), name


@RANKS
def test_experts_that_are_modules_of_their_own(ranks):
    """Dealt to ranks as a list each: their names begin anew, and rename says which they are."""

    def make(count):
        with deferred():
            return nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(4, 6) for _ in range(count))})

    expected = make(8)
    record = materialize(expected, seed=3)
    names = []
    for rank in range(ranks):
        mine = make(8 // ranks)
        first = 8 // ranks * rank
        rename = {f"experts.{number}": f"experts.{first + number}" for number in range(8 // ranks)}
        names += [entry.name for entry in materialize(mine, seed=3, rename=rename)]
        for number, expert in enumerate(mine["experts"]):
            assert torch.equal(expert.weight, expected["experts"][first + number].weight)
    assert names == [entry.name for entry in record]


def test_an_empty_slice_and_a_slice_of_everything():
    whole = nn.Linear(4, 6)
    initialize_(whole, "auto", seed=3)
    none = nn.Module()
    none.weight = nn.Parameter(torch.empty(0, 4))
    mark_slice(none, "weight", (6, 4), (6, 0))
    recipe = fastinit.Recipe((fastinit.Rule("*", "*", fastinit.Normal()),))
    (entry,) = initialize_(none, recipe, digests=True)
    assert entry.shape == (6, 4) and entry.digest is None and verify(fastinit.Record((entry,), 0, "r", "0"), none)
    everything = nn.Linear(4, 6)
    mark_slice(everything, "weight", (6, 4))
    record = initialize_(everything, "auto", seed=3, digests=True)
    assert torch.equal(everything.weight, whole.weight) and record["weight"].digest
    with torch.no_grad(), keyed(everything):
        everything.weight.mul_(2)  # which this process has in full
    assert torch.equal(everything.weight, whole.weight * 2)


# What a constructor says of a slice


class Made(nn.Module):
    """Rows 4 to 7 of a weight of 16 x 4, however it is made."""

    def __init__(self, make, local=(4, 4)):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*local))
        self.fastinit_slices = {"weight": ((16, 4), (4, 0))}
        with torch.no_grad():
            make(self.weight)


def _with_a_padding_row(weight):
    nn.init.normal_(weight)
    weight[0].fill_(0)


def _computed(weight):
    weight.copy_(torch.rand(weight.shape).exp().log1p())


def _cut_from_a_master(weight):
    """As Megatron initializes on the CPU: the whole is drawn on every rank, and cut."""
    master = torch.empty(16, 4)
    nn.init.normal_(master)
    weight.copy_(master[4:8])


def _table(weight):
    weight.copy_(torch.arange(16.0).reshape(4, 4))


@pytest.mark.parametrize("make", [nn.init.orthogonal_, _with_a_padding_row, _computed, _table, nn.init.eye_])
def test_what_depends_on_the_shape_of_a_slice_is_refused_by_name(make):
    with deferred():
        model = nn.ModuleDict({"first": nn.Linear(3, 3), "up": Made(make)})
    for door in (materialize, state_dict, InitReader):
        with pytest.raises(ValueError, match=r"'up.weight' of shape \(16, 4\): .* a slice of shape \(4, 4\)"):
            door(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    materialize(model, only="first.*")  # which asks nothing of the other
    model["up"].to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"'up.weight' of shape \(16, 4\)"):
        initialize_(model)
    with keyed(model["up"], seed=3) as drawn, torch.no_grad():  # where the code sees the whole
        make(model["up"].weight) if make is not _table else model["up"].weight.copy_(torch.eye(16, 4))
    with deferred():
        whole = nn.Module()
        whole.weight = nn.Parameter(torch.empty(16, 4))
        with torch.no_grad():
            make(whole.weight) if make is not _table else whole.weight.copy_(torch.eye(16, 4))
    materialize(whole, seed=3)
    assert torch.equal(model["up"].weight, whole.weight[4:8]) and verify(drawn.record, model["up"]).is_sound


def test_a_master_weight_that_is_cut():
    """The draw is of the whole, and yet the parameter is a part of it, replayed: no slice of a program of the whole."""
    with deferred():
        model = Made(_cut_from_a_master)
    with pytest.raises(ValueError, match="'weight'"):
        materialize(model)


@pytest.mark.parametrize(
    "make", [normal(0.02), nn.init.xavier_uniform_, nn.init.trunc_normal_, nn.init.ones_, nn.init.kaiming_normal_]
)
def test_elements_are_those_of_the_whole(make):
    with deferred():
        model, whole = Made(make), nn.Module()
        whole.weight = nn.Parameter(torch.empty(16, 4))
        make(whole.weight)
    record = materialize(whole, seed=3)
    assert [(one.shape, one.std) for one in materialize(model, seed=3)] == [(one.shape, one.std) for one in record]
    assert torch.equal(model.weight, whole.weight[4:8])


def test_a_program_of_the_whole_is_cut():
    """An engine that builds the whole, and cuts it afterwards."""
    with deferred():
        model = nn.Sequential(nn.Linear(4, 16))
        nn.init.orthogonal_(model[0].weight)
        whole = copy.deepcopy(model)
    model[0].weight, model[0].bias = nn.Parameter(model[0].weight[4:8]), nn.Parameter(model[0].bias[4:8])
    mark_slice(model[0], "weight", (16, 4), (4, 0))
    mark_slice(model[0], "bias", (16,), (4,))
    materialize(model, seed=3)
    materialize(whole, seed=3)
    assert torch.equal(model[0].weight, whole[0].weight[4:8]) and torch.equal(model[0].bias, whole[0].bias[4:8])


def test_a_bias_that_was_scaled_by_a_slice_is_refused():
    """torch's Linear scales its bias by the fan-in, of which a row-parallel layer sees a part only."""
    with deferred():
        model = nn.Linear(8, 6)
    mark_slice(model, "weight", (6, 32), (0, 8))
    for recipe in ("own", "auto"):
        with pytest.raises(ValueError, match=r"'bias' of shape .* with the fans of a slice"):
            materialize(model, recipe)
    record = materialize(model, skip="bias")
    assert record["weight"].fans.fan_in == 32
    with deferred():
        model = nn.Linear(8, 6)  # rows only: the fan-in is the whole
    mark_slice(model, "weight", (24, 8), (6, 0))
    mark_slice(model, "bias", (24,), (6,))
    materialize(model)


# Marks that do not fit


@pytest.mark.parametrize(
    "given, said",
    [
        (((16, 4), (13, 0)), r"\[13, 17\) of axis 0 is not within \[0, 16\)"),
        (((16, 4), (-1, 0)), "offsets"),
        (((16, 3), (0, 0)), "of axis 1 is not within"),
        (((16,), (0,)), "same number of axes"),
        (((16, 4), (0,)), "same number of axes"),
        (((16, 4), None, ([range(0, 3)], [range(4)])), "hold 3 indices of axis 0, the local axis 4"),
        (((16, 4), None, ([range(0, 2), range(1, 3)], [range(4)])), "more than once"),
        (((16, 4), None, ([range(14, 18)], [range(4)])), "does not ascend within"),
        (((16, 4), (0, 0), ([range(4)], [range(4)])), "expected one of offsets, ranges and start"),
        ((), "expected .global_shape, offsets."),
        (7, "expected .global_shape, offsets."),
        ((None, (0, 0)), "expected .global_shape, offsets."),
        (((16, 4.5), (0, 0)), "global_shape"),
    ],
)
def test_a_mark_that_does_not_fit_is_refused_before_anything_is_written(given, said):
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "up": Made(nn.init.ones_)})
    model["up"].fastinit_slices = {"weight": given}
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    record = fastinit.Record((), 0, "auto", "0")
    for door in (
        initialize_,
        keyed_once,
        explain,
        audit,
        lambda one: replay(record, one),
        lambda one: verify(record, one),
    ):
        with pytest.raises((ValueError, TypeError), match=rf"'up.weight' .*{said}"):
            door(model)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name])
    with deferred():
        meta = nn.ModuleDict({"first": nn.Linear(3, 3), "up": Made(nn.init.ones_)})
    meta["up"].fastinit_slices = {"weight": given}
    for door in (materialize, state_dict, InitReader):
        with pytest.raises((ValueError, TypeError), match=rf"'up.weight' .*{said}"):
            door(meta)
    assert meta["first"].weight.is_meta
    if isinstance(given, tuple) and len(given) > 1 and given[0]:
        ranges = given[2] if len(given) > 2 else None
        with pytest.raises((ValueError, TypeError), match=f"'weight' .*{said}"):
            mark_slice(model["up"], "weight", *given[:2], ranges=ranges)


def keyed_once(model):
    with keyed(model):
        pass


def test_marks_of_what_is_no_parameter_are_refused():
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="Linear has no parameter 'wait' of its own"):
        mark_slice(model, "wait", (8, 4))
    with pytest.raises(ValueError, match="Linear has no parameter 'bias'"):
        mark_slice(nn.Linear(4, 4, bias=False), "bias", (8,))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, not Parameter"):
        mark_slice(model.weight, "weight", (8, 4))
    model.fastinit_slices = {"wait": ((8, 4), (0, 0))}
    with pytest.raises(ValueError, match="'wait' is marked as a slice, and Linear has no such parameter"):
        initialize_(model)
    model.fastinit_slices = [((8, 4), (0, 0))]
    with pytest.raises(ValueError, match="fastinit_slices of the model must be a dict by name"):
        initialize_(model)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    normed.fastinit_slices = {"weight": ((8, 4), (0, 0))}
    with pytest.raises(ValueError, match="'weight' is parametrized, and marked as a slice"):
        initialize_(normed)
    without = nn.Linear(4, 4, bias=False)
    without.fastinit_slices = {"weight": ((8, 4), (4, 0)), "bias": ((8,), (4,))}  # one rule for all layers
    assert initialize_(without, "auto")["weight"].shape == (8, 4)


def test_a_class_may_say_it_for_its_modules():
    class Rows(nn.Linear):
        rank = 3

        @property
        def fastinit_slices(self):
            return {"weight": ((4 * self.out_features, self.in_features), (self.rank * self.out_features, 0))}

    whole, mine = nn.Linear(4, 16), Rows(4, 4)
    initialize_(whole, "auto")
    initialize_(mine, "auto")
    assert torch.equal(mine.weight, whole.weight[12:])
    mark_slice(mine, "bias", (16,), (12,))  # which leaves what the class says
    assert [entry.shape for entry in initialize_(mine, "auto")] == [(16, 4), (16,)]


def test_one_tensor_is_one_slice():
    model = nn.ModuleDict({"words": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["words"].weight
    mark_slice(model["head"], "weight", (8, 3), (4, 0))  # said by the second owner alone
    assert initialize_(model, "auto")["words.weight"].shape == (8, 3)
    mark_slice(model["words"], "weight", (8, 3), (0, 0))
    with pytest.raises(ValueError, match=r"'words.weight' and 'head.weight' are one tensor, marked as two different"):
        initialize_(model, "auto")
    mark_slice(model["words"], "weight", (8, 3), (4, 0))
    initialize_(model, "auto")


def test_slices_are_neither_read_nor_replaced_inside_keyed():
    model = ColumnParallelLinear(4, 8, 1, 2, normal(0.02))
    nn.init.ones_(model.weight)
    weight = model.weight
    for change, said in (
        (lambda: setattr(model, "weight", nn.Parameter(torch.zeros(8, 4))), "'weight' is sharded, and was replaced"),
        (lambda: model.weight.data.mul_(2), "part of 'weight'"),
        (lambda: float(model.weight.sum()), "only a part"),
        (lambda: model.weight[:4].data.fill_(1), "part of 'weight'"),
        (lambda: setattr(model.weight, "data", torch.zeros(4, 4)), "another shape"),
    ):
        with pytest.raises(DeferralError, match=said), torch.no_grad(), keyed(model):
            change()
        assert model.weight is weight and (weight == 1).all() and weight.shape == (4, 4)
    with keyed(model):
        assert model.weight.shape == (8, 4) and model.bias.shape == (8,)


def test_scaling_by_data_is_for_the_whole():
    model = nn.Sequential(nn.Linear(4, 4))
    mark_slice(model[0], "weight", (8, 4), (4, 0))
    with pytest.raises(ValueError, match=r"'0\.weight' is sharded"):
        lsuv_(model, torch.randn(8, 4))
    assert audit(RowParallelLinear(64, 32, 0, 2, nn.init.xavier_normal_)) is not None


@pytest.mark.ranks(2)
def test_slices_in_flat_parameters_are_refused(rank, world):
    """FSDP's first version knows the slice only; fully_shard keeps what the module says."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    for original in (False, True):
        model = nn.Sequential(ColumnParallelLinear(4, 8, rank, world, normal(0.02)))
        sharded = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=original)
        before = [parameter.detach().clone() for parameter in sharded.parameters()]
        try:
            initialize_(sharded, "torch")
            yield "not refused"
        except ValueError as error:
            if "'0.weight' is in a flat parameter of FSDP's first version, and marked as a slice" not in str(error):
                yield str(error)
        for parameter, values in zip(sharded.parameters(), before, strict=True):
            if not torch.equal(parameter, values):
                yield "written"
