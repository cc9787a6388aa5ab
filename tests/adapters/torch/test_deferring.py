"""deferred(): what constructors do to parameters becomes programs, and nothing is drawn."""

import copy
import dataclasses
import gc
import math
import pickle
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit import (  # noqa: E402
    Blocks,
    Box,
    Constant,
    Identity,
    Normal,
    Orthogonal,
    Painted,
    Replayed,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    ZeroRow,
)
from fastinit.adapters.torch import DeferralError, deferred, explain, init, materialize  # noqa: E402
from fastinit.adapters.torch.histories import Call, Data, Empty, Written  # noqa: E402
from fastinit.adapters.torch.internals import programs_of  # noqa: E402

ZEROS, ONES = Constant(0.0), Constant(1.0)


def program(make):
    """The program of a parameter that a function makes."""
    with deferred():
        module = nn.Module()
        module.weight = make()
    assert module.weight.is_meta
    return programs_of(module)["weight"]


def parameter(*shape):
    return nn.Parameter(torch.empty(*shape))


def timms(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """timm's trunc_normal_, as its authors wrote it."""
    with torch.no_grad():
        low, high = ((1.0 + math.erf((bound - mean) / std / math.sqrt(2.0))) / 2.0 for bound in (a, b))
        tensor.uniform_(2 * low - 1, 2 * high - 1)
        tensor.erfinv_()
        tensor.mul_(std * math.sqrt(2.0))
        tensor.add_(mean)
        tensor.clamp_(min=a, max=b)
    return tensor


def filled(make, fill):
    one = make()
    with torch.no_grad():
        fill(one)
    return one


# What folds


FOLDED = {
    "nn.init": (lambda: nn.init.normal_(parameter(4, 6), 0.0, 0.02), Normal(0.0, 0.02)),
    "nn.init on data": (
        lambda: filled(lambda: parameter(4, 6), lambda w: nn.init.uniform_(w.data, -1, 3)),
        Uniform(-1, 3),
    ),
    "kaiming": (
        lambda: nn.init.kaiming_normal_(parameter(4, 6), nonlinearity="relu"),
        VarianceScaling(2.0, "fan_in", "normal", "OI..."),
    ),
    "orthogonal": (lambda: nn.init.orthogonal_(parameter(4, 6), 0.5), Orthogonal(0.5, 0)),
    "identity": (lambda: nn.init.eye_(parameter(4, 6)), Identity()),
    "eye": (lambda: nn.Parameter(torch.eye(4) * 0.5), Identity(0.5)),
    "method": (lambda: filled(lambda: parameter(4, 6), lambda w: w.data.normal_(1.0, 0.5)), Normal(1.0, 0.5)),
    "legacy": (
        lambda: filled(lambda: nn.Parameter(torch.Tensor(4, 6)), lambda w: w.data.uniform_(-0.1, 0.1)),
        Uniform(-0.1, 0.1),
    ),
    "randn": (lambda: nn.Parameter(torch.randn(4, 6) * 0.02), Normal(0.0, 0.02)),
    "randn over": (lambda: nn.Parameter(torch.randn(4, 6) / 4), Normal(0.0, 0.25)),
    "from the left": (lambda: nn.Parameter(0.5 * torch.randn(4, 6) + 1), Normal(1.0, 0.5)),
    "one minus": (lambda: nn.Parameter(1 - torch.rand(4)), Uniform(0.0, 1.0)),
    "normal": (lambda: nn.Parameter(torch.normal(0.0, 0.5, (4, 6))), Normal(0.0, 0.5)),
    "a tensor's factor": (lambda: nn.Parameter(torch.randn(4) * torch.tensor(0.5)), Normal(0.0, 0.5)),
    "like": (lambda: nn.Parameter(torch.randn_like(torch.zeros(4))), Normal()),
    "in float64": (lambda: nn.Parameter(torch.randn(4, dtype=torch.float64).float()), Normal()),
    "zeros": (lambda: nn.Parameter(torch.zeros(4, 6)), ZEROS),
    "ones times": (lambda: nn.Parameter(0.25 * torch.ones(4)), Constant(0.25)),
    "full": (lambda: nn.Parameter(torch.full((4,), 2.5)), Constant(2.5)),
    "a number": (lambda: nn.Parameter(torch.tensor(2.5)), Constant(2.5)),
    "NumPy's": (lambda: nn.Parameter(torch.from_numpy(np.full(3, 0.5, np.float32))), Constant(0.5)),
    "computed": (lambda: nn.Parameter(torch.log(torch.ones(4) * 2).exp() * 0 + 3), Constant(3.0)),
    "timm": (lambda: timms(parameter(4, 6), std=0.02), TruncatedNormal(0.0, 0.02, -2, 2, "absolute")),
    "timm, scaled": (
        lambda: filled(lambda: timms(parameter(4, 6)), lambda w: w.mul_(0.5)),
        TruncatedNormal(0.0, 0.5, -1, 1, "absolute"),
    ),
    "torch's truncated": (
        lambda: nn.init.trunc_normal_(parameter(4, 6), std=0.02),
        TruncatedNormal(0.0, 0.02, -2, 2, "absolute"),
    ),
    "twice": (lambda: nn.init.normal_(nn.init.uniform_(parameter(4, 6))), Normal()),
    "our own": (lambda: init.lecun_normal_(parameter(4, 6)), VarianceScaling(1.0, "fan_in", "normal", "OI...")),
    "a padding row": (lambda: nn.Embedding(5, 3, padding_idx=2).weight, ZeroRow(Normal(), 2)),
    "a column": (
        lambda: filled(lambda: parameter(4, 6), lambda w: (w.normal_(), w[:, 2].fill_(3))),
        Painted(Normal(), (Box((0, 2), (4, 1), Constant(3.0)),)),
    ),
    "halves": (
        lambda: filled(lambda: parameter(4, 6), lambda w: (w[:2].normal_(), w[2:].zero_())),
        Painted(ZEROS, (Box((0, 0), (2, 6), Normal()),)),
    ),
    "chunks": (
        lambda: filled(lambda: parameter(4, 6), lambda w: [nn.init.xavier_uniform_(one) for one in w.chunk(2)]),
        Painted(
            ZEROS,
            (
                Box((0, 0), (2, 6), VarianceScaling(1.0, "fan_avg", "uniform", "OI...")),
                Box((2, 0), (2, 6), VarianceScaling(1.0, "fan_avg", "uniform", "OI..."), 1),
            ),
        ),
    ),
    "a part of ones": (
        lambda: filled(lambda: parameter(8), lambda w: (w.zero_(), w[2:4].fill_(1))),
        Blocks((ZEROS, ONES, ZEROS, ZEROS)),
    ),
    "joined": (lambda: nn.Parameter(torch.cat([torch.zeros(3), torch.ones(3)])), Blocks((ZEROS, ONES))),
    "a copy": (
        lambda: filled(lambda: parameter(4, 6), lambda w: w.copy_(torch.randn(4, 6) * 2)),
        Normal(0.0, 2.0),
    ),
    "a copy of a number": (lambda: filled(lambda: parameter(4), lambda w: w.copy_(torch.tensor(2.0))), Constant(2.0)),
    "exchanged": (lambda: set_data(parameter(4, 6), torch.randn(3, 2) * 3), Normal(0.0, 3.0)),
    "transposed": (lambda: filled(lambda: parameter(4, 6), lambda w: w.t().uniform_(-2, 2)), Uniform(-2, 2)),
    "reshaped": (lambda: nn.Parameter(torch.randn(24).view(4, 6)), Normal()),
}


def set_data(one, data):
    one.data = data
    return one


@pytest.mark.parametrize("name", FOLDED)
def test_what_folds(name):
    make, expected = FOLDED[name]
    found = program(make)
    assert found.initializer == expected and not found.uninitialized
    boxes = getattr(found.initializer, "boxes", ())
    random = sum(not isinstance(one.initializer, Constant) for one in boxes) if boxes else 0
    if not boxes or not isinstance(found.initializer.initializer, Constant):
        random += not isinstance(getattr(expected, "initializer", expected), (Constant, Identity, Blocks))
    assert len(found.draws) == random


# What is replayed


REPLAYED = {
    "log": (lambda: nn.Parameter(torch.log(torch.arange(1.0, 5.0))), ("arange", "log")),
    "a table": (lambda: nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), ()),
    "steps": (lambda: filled(lambda: parameter(6), lambda w: (w.zero_(), w[::2].fill_(1))), ("zero", "fill")),
    "outer": (lambda: nn.Parameter(torch.arange(3.0)[:, None] * torch.arange(4.0)), ("arange", "mul")),
    "exp of rand": (lambda: nn.Parameter(torch.exp(torch.rand(6))), ("rand", "exp")),
    "repeated": (lambda: nn.Parameter(torch.randn(1, 3).repeat(4, 1)), ("randn", "repeat")),
    "clamped": (lambda: filled(lambda: parameter(50), lambda w: w.normal_().clamp_(-1, 1)), ("normal", "clamp")),
    "integers": (lambda: nn.Parameter(torch.randint(0, 10, (20,)).float()), ("randint", "_to_copy")),
    "permutation": (lambda: nn.Parameter(torch.arange(9.0)[torch.randperm(9)]), ("arange", "randperm", "index")),
    "bernoulli": (lambda: nn.Parameter(torch.empty(20).bernoulli_(0.5)), ("bernoulli",)),
    "powers in place": (
        lambda: filled(lambda: nn.Parameter(torch.arange(4.0)), lambda w: w.pow_(2)),
        ("arange", "pow"),
    ),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_what_is_replayed(name):
    make, operators = REPLAYED[name]
    found = program(make).initializer
    assert isinstance(found, Replayed) and found.operators == operators
    key = fastinit.Key(3)
    again = pickle.loads(pickle.dumps(found))
    values = fastinit.fill(np.empty(found.shape, np.float32), found, key)
    assert (values == fastinit.fill(np.empty(found.shape, np.float32), again, key)).all()
    config = fastinit.initializer_config(found)
    assert fastinit.initializer_from_config(config) == found
    if found.draws:
        other = fastinit.fill(np.empty(found.shape, np.float32), found, fastinit.Key(4))
        assert (values != other).any()
    else:
        assert (values == make().detach().numpy()).all()


def test_what_is_replayed_has_the_streams_draws():
    found = program(REPLAYED["exp of rand"][0]).initializer
    key = fastinit.Key(3)
    drawn = torch.from_numpy(fastinit.fill(np.empty(6, np.float32), Uniform(), key)).exp()
    assert (fastinit.fill(np.empty(6, np.float32), found, key) == drawn.numpy()).all()


def test_replaying_leaves_torchs_generator_alone():
    found = program(REPLAYED["permutation"][0]).initializer
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    fastinit.fill(np.empty(9, np.float32), found, fastinit.Key(0))
    assert torch.equal(torch.rand(2), expected)


def test_an_operator_that_this_torch_lacks():
    graph = program(REPLAYED["log"][0]).initializer.graph
    for name in ("aten.gol.default", "aten.from_file.default"):
        with pytest.raises(ValueError, match=f"the operator '{name}' cannot be replayed"):
            fastinit.fill(np.empty(4), Replayed(graph.replace("aten.log.default", name)), fastinit.Key(0))


# Copies, ties, identities


def test_a_deep_copy_has_its_sources_draws():
    with deferred():
        model = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        )
    one, two = (programs_of(layer.linear1)["weight"] for layer in model.layers)
    assert one.draws == two.draws and one.initializer == two.initializer
    assert two.origin == ("layers.1.linear1.weight", "layers.0.linear1.weight") and one.origin is None


def test_a_copy_that_is_drawn_again_is_none():
    with deferred():
        layers = nn.ModuleList([nn.Linear(3, 3)])
        layers.append(copy.deepcopy(layers[0]))
        layers[1].reset_parameters()
    one, two = (programs_of(layer)["weight"] for layer in layers)
    assert one.draws != two.draws and two.origin is None


def test_a_part_of_another_parameter():
    with deferred():
        module = nn.Module()
        module.a = nn.Parameter(torch.randn(2, 3))
        module.b = nn.Parameter(torch.zeros(4, 3))
        with torch.no_grad():
            module.b[1:3].copy_(module.a)
    programs = programs_of(module)
    assert programs["b"].draws == programs["a"].draws
    assert programs["b"].initializer == Painted(ZEROS, (Box((1, 0), (2, 3), Normal()),))


def test_one_object_stays_one_object():
    with deferred():
        model = nn.Module()
        shared = nn.Parameter(torch.ones(3))
        shared.note = "kept"
        model.a, model.b = nn.Module(), nn.Module()
        model.a.weight = model.b.weight = shared
        held = [shared]
        model.list = nn.ParameterList([torch.ones(2)])
        frozen = nn.Parameter(torch.arange(4.0), requires_grad=False)
        model.frozen = frozen
    assert model.a.weight is model.b.weight is held[0] and held[0].is_meta and held[0].note == "kept"
    assert model.frozen is frozen and frozen.is_meta and not frozen.requires_grad
    assert programs_of(model.a) == programs_of(model.b)
    assert programs_of(model.list)["0"].initializer == ONES
    assert [type(one) for one in model.parameters()] == [nn.Parameter] * 3


def test_a_parameter_that_somebody_refers_to_weakly():
    import weakref

    with deferred():
        layer = nn.Linear(2, 2)
        reference = weakref.ref(layer.weight)
    assert layer.weight.is_meta and reference is not None
    assert programs_of(layer).keys() == {"weight", "bias"}


def test_programs_live_with_the_module():
    with deferred():
        model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)))
    before = programs_of(model[1][0])
    for one in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert programs_of(one[1][0]) == before
    assert programs_of(copy.deepcopy(model[1][0])) == before


def test_a_deep_copy_made_inside():
    with deferred():
        model = copy.deepcopy(nn.Linear(3, 3))
    assert model.weight.is_meta and programs_of(model).keys() == {"weight", "bias"}


# What stays in memory


def test_buffers_and_plain_tensors_have_their_values():
    with deferred():
        model = nn.Module()
        model.register_buffer("ramp", torch.linspace(0, 1, 16))
        model.register_buffer("large", torch.arange(1500.0)[:, None] * torch.ones(1, 1500))
        model.register_buffer("copied", copy.deepcopy(model.large))
        model.anchors = [torch.ones(4), {"a": torch.arange(3)}]
        model.norm = nn.BatchNorm1d(3)
        table = np.asarray(model.ramp)
        rates = [one.item() for one in torch.linspace(0, 0.1, 5)]
        numbers = (model.large + 1).tolist()
    assert torch.equal(model.ramp, torch.linspace(0, 1, 16)) and (table == model.ramp.numpy()).all()
    assert torch.equal(model.large, torch.arange(1500.0)[:, None].expand(1500, 1500))
    assert torch.equal(model.copied, model.large) and model.copied.data_ptr() != model.large.data_ptr()
    assert torch.equal(model.anchors[0], torch.ones(4)) and torch.equal(model.anchors[1]["a"], torch.arange(3))
    assert torch.equal(model.norm.running_var, torch.ones(3))
    assert rates == [one.item() for one in torch.linspace(0, 0.1, 5)] and numbers[7][0] == 8.0


def test_buffers_under_the_meta_device_have_their_values():
    with deferred(), torch.device("meta"):
        model = nn.Module()
        model.register_buffer("ramp", torch.linspace(0, 1, 16))
        model.linear = nn.Linear(3, 3)
        model.legacy = nn.Parameter(torch.Tensor(3, 2))
        nn.init.normal_(model.legacy)
    assert torch.equal(model.ramp, torch.linspace(0, 1, 16))
    assert programs_of(model)["legacy"].initializer == Normal()
    assert isinstance(programs_of(model.linear)["weight"].initializer, VarianceScaling)


def test_a_table_on_a_parameters_device():
    with deferred():
        model = nn.Linear(4, 4)
        model.register_buffer("table", torch.arange(4, device=model.weight.device) + model.weight.new_zeros(4))
    assert torch.equal(model.table, torch.arange(4.0))


def test_a_constructor_that_runs_itself():
    class Hybrid(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
            with torch.no_grad():
                self.stem.eval()
                shape = self.stem(torch.zeros(1, 3, 33, 33)).shape
                self.stem.train()
            self.head = nn.Linear(shape.numel(), 2)

    with deferred():
        model = Hybrid()
    assert model.head.in_features == Hybrid().head.in_features
    assert torch.equal(model.stem[1].running_var, torch.ones(8)) and model.stem[1].num_batches_tracked == 0


def test_parameters_from_before_keep_their_memory():
    base = nn.Linear(3, 3)
    before = base.weight.detach().clone()
    with deferred():
        model = nn.Sequential(base, nn.Linear(3, 2))
    assert torch.equal(base.weight, before) and model[0].weight is base.weight and model[1].weight.is_meta
    assert programs_of(base) == {}


def test_integers_and_complex_parameters_keep_their_memory():
    with deferred():
        model = nn.Module()
        model.index = nn.Parameter(torch.arange(4), requires_grad=False)
        model.waves = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    assert torch.equal(model.index, torch.arange(4)) and torch.equal(model.waves, torch.ones(2, dtype=torch.complex64))


def test_what_came_from_outside_is_read_as_it_was():
    outside = torch.ones(3)
    with deferred():
        module = nn.Module()
        module.weight = nn.Parameter(outside * 2)
        outside.zero_()
        module.other = nn.Parameter(torch.cat([outside, torch.ones(3)]))
    assert not outside.any()
    assert programs_of(module)["weight"].initializer == Constant(2.0)
    assert programs_of(module)["other"].initializer == Blocks((ZEROS, ONES))


def test_random_buffers_have_programs():
    torch.manual_seed(0)
    with deferred():
        module = nn.Module()
        module.register_buffer("noise", torch.randn(100))
        module.register_buffer("ramp", torch.ones(3))
    assert module.noise.std() > 0.5 and programs_of(module).keys() == {"noise", "ramp"}
    assert programs_of(module)["noise"].initializer == Normal()


def test_nothing_large_is_allocated():
    import resource

    with deferred():
        nn.Linear(3, 3)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model = nn.Module()
        model.experts = nn.Parameter(torch.empty(64, 16384, 16384))
        nn.init.normal_(model.experts)
        model.table = nn.Parameter(torch.randn(1 << 30) * 0.02)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
    assert programs_of(model)["table"].initializer == Normal(0.0, 0.02)


def test_memory_that_nobody_wrote():
    assert program(lambda: parameter(4, 6)).uninitialized
    partly = program(lambda: filled(lambda: parameter(4, 6), lambda w: w[0].zero_()))
    assert partly.uninitialized
    assert not program(lambda: filled(lambda: parameter(2, 6), lambda w: (w[0].zero_(), w[1].normal_()))).uninitialized


# What is refused


def test_a_drawn_value_that_is_read():
    line = test_a_drawn_value_that_is_read.__code__.co_firstlineno + 4
    message = rf"test_deferring\.py:{line} reads a draw of randn\. Construct"
    with pytest.raises(DeferralError, match=message), deferred():
        torch.randn(3).sum().item()
    for read in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.nonzero, lambda one: bool(one[0] > 0)):
        with pytest.raises(DeferralError, match="cannot be read while a model is deferred"), deferred():
            read(torch.randn(3))
    assert not nn.Linear(2, 2).weight.is_meta


# The context


def test_it_is_for_this_thread_and_ends_with_an_exception():
    found, inside, done = [], threading.Event(), threading.Event()

    def other():
        inside.wait(10)
        layer = nn.Linear(2, 2)
        found.append((layer.weight.is_meta, programs_of(layer), layer.weight.std() > 0))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with pytest.raises(KeyError), deferred():
        inside.set()
        done.wait(10)
        layer = nn.Linear(2, 2)
        raise KeyError
    thread.join()
    assert found == [(False, {}, True)] and programs_of(layer) == {}
    after = nn.Linear(2, 2)
    assert not after.weight.is_meta and programs_of(after) == {}


def test_of_nested_contexts_the_outermost_ends_it():
    with deferred():
        with deferred():
            one = nn.Linear(2, 2)
        nn.init.zeros_(one.weight)
    assert one.weight.is_meta and programs_of(one)["weight"].initializer == ZEROS


def test_a_tape_keeps_nothing():
    with deferred():
        for _ in range(3):
            nn.Linear(100, 100)
        gc.collect()
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) in (Call, Written, Data, Empty)]


def test_the_default_dtype_of_the_code():
    torch.set_default_dtype(torch.bfloat16)
    try:
        with deferred():
            layer = nn.Linear(3, 3)
            layer.scale = nn.Parameter(torch.randn(3) * 0.02)
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.weight.dtype == torch.bfloat16 and programs_of(layer)["scale"].initializer == Normal(0.0, 0.02)


def test_plain_tensors_under_the_meta_device_have_their_values():
    with deferred(), torch.device("meta"):
        model = nn.Linear(2, 2)
        model.anchors = [torch.ones(4), {"a": torch.arange(3)}, (torch.zeros(2), "text")]
        model.table = torch.linspace(0, 1, 5)
    assert torch.equal(model.anchors[0], torch.ones(4)) and torch.equal(model.anchors[1]["a"], torch.arange(3))
    assert torch.equal(model.anchors[2][0], torch.zeros(2)) and torch.equal(model.table, torch.linspace(0, 1, 5))


def test_memory_that_is_written_behind_torchs_back():
    def written():
        one = nn.Parameter(torch.zeros(2, 3))
        one.detach().numpy()[:] = [[1, 2, 3], [4, 5, 6]]
        return one

    found = program(written).initializer
    assert isinstance(found, Replayed)
    assert (fastinit.fill(np.empty((2, 3)), found, fastinit.Key(0)) == [[1, 2, 3], [4, 5, 6]]).all()


def test_a_generator_of_the_authors_own():
    def table():
        generator = torch.Generator().manual_seed(7)
        return torch.cat([torch.randn(3, generator=generator), nn.init.normal_(torch.empty(3), generator=generator)])

    found = program(lambda: nn.Parameter(table()))
    assert not found.is_drawn
    assert (fastinit.fill(np.empty(6, np.float32), found.initializer, fastinit.Key(0)) == table().numpy()).all()


def test_a_program_of_another_stream():
    foreign = dataclasses.replace(program(lambda: nn.Parameter(torch.zeros(3))), stream_version=2)
    weight = fastinit.Parameter("up.weight", (3,), program=foreign)
    with pytest.raises(ValueError, match=r"the program of 'up\.weight' needs stream version 1, got 2"):
        fastinit.models.keying.program_keys([weight], 0)


# The law of names


class Stack(nn.Module):
    def __init__(self, depth=3, extra=False):
        super().__init__()
        if extra:
            self.before = nn.Linear(2, 2)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.scale = nn.Parameter(torch.exp(torch.rand(5)))
        self.head = nn.Linear(8, 3)


def values(model, **options):
    materialize(model, seed=1, **options)
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def test_layers_that_are_cut_off_added_or_wrapped_change_no_other_parameter():
    with deferred():
        whole, stage, longer, wrapped = Stack(), Stack(), Stack(4, extra=True), Stack()
        held = nn.Module()
        held.inner = Stack()
    expected = values(whole)
    del stage.encoder.layers[0]
    for name, tensor in values(stage).items():
        number = name.split(".")[2] if name.startswith("encoder") else None
        there = name if number is None else name.replace(f"layers.{number}", f"layers.{int(number) + 1}")
        # deep copies: every layer has the values of the first
        assert torch.equal(tensor, expected[there]), name
    for name, tensor in values(longer).items():
        assert name not in expected or torch.equal(tensor, expected[name]), name
    for name, tensor in values(nn.DataParallel(wrapped)).items():
        assert torch.equal(tensor, expected[name.removeprefix("module.")])
    assert values(held).keys() == {f"inner.{name}" for name in expected}
    layers = held.inner.encoder.layers
    assert torch.equal(layers[0].linear1.weight, layers[2].linear1.weight)


@pytest.mark.parametrize("place", ["alone", "within a larger model", "taken out of one"])
def test_a_copy_whose_source_is_cut_off_keeps_its_values(place):
    """As in a pipeline stage, which has other things where the layers of the others were."""
    with deferred():
        whole, stage = Stack(), Stack()
        held = nn.Module()
        if place == "taken out of one":
            held.inner = stage
    if place == "within a larger model":
        held.inner, inner, whole = stage, whole, nn.Module()
        whole.inner = inner
    model = held if place == "within a larger model" else stage
    stage.encoder.layers[0] = nn.Identity()
    expected, found = values(whole), values(model)
    cut = [name for name in expected if "encoder.layers.0." in name]
    assert cut and not set(cut) & set(found) and any("encoder.layers.1." in name for name in found)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_the_first_draw_has_the_key_of_a_rule_that_says_the_same():
    with deferred():
        model = nn.Linear(4, 6)
        nn.init.normal_(model.weight, std=0.02)
    materialize(model, seed=1)
    other = nn.Linear(4, 6)
    rule = fastinit.Recipe([fastinit.Rule("*", "*", Normal(0.0, 0.02))])
    fastinit.adapters.torch.initialize_(other, rule, seed=1)
    assert torch.equal(model.weight, other.weight)


def test_a_record_replays_what_was_replayed():
    with deferred():
        model = Stack()
    record = materialize(model, seed=1, digests=True)
    assert [entry.rule for entry in record if entry.name == "scale"] == ["the author's own: rand, exp"]
    again = Stack()
    fastinit.adapters.torch.replay(record.to_json(), again)
    for name, tensor in again.named_parameters():
        assert torch.equal(tensor, model.get_parameter(name)), name
    copied = record["encoder.layers.1.linear1.weight"]
    assert copied.rule == "the author's own: a copy of encoder.layers.0.linear1.weight"


def test_what_was_sharded_inside_is_refused():
    from torch.distributed.tensor import DTensor

    class Sharded(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(DTensor.from_local(torch.randn(3), MESH, run_check=False))

    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    try:
        MESH = init_device_mesh("cpu", (1,))
        with pytest.raises(DeferralError, match=r"'weight' of Sharded was sharded inside deferred\(\)"), deferred():
            kept = Sharded()
        assert kept is not None
    finally:
        distributed.destroy_process_group()


# Parametrized weights, and conditions on what is drawn


@pytest.mark.parametrize(
    "parametrized",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
    ],
    ids=lambda function: function.__name__,
)
def test_parametrized_weights(parametrized):
    with deferred():
        model = nn.Sequential(parametrized(nn.Linear(6, 5)), nn.Linear(6, 5))
    plain = nn.Linear(6, 5)
    record = materialize(model, seed=1)
    weight = next(entry for entry in record if entry.initializer == programs_of(model[1])["weight"].initializer)
    fastinit.adapters.torch.fill_(plain.weight, weight.initializer, weight.key)
    expected = parametrized(copy.deepcopy(plain))
    chain, other = model[0].parametrizations.weight, expected.parametrizations.weight
    for name, tensor in other.named_parameters():
        assert torch.allclose(chain.get_parameter(name), tensor, atol=1e-6), name
    assert model[0](torch.ones(2, 6)).isfinite().all()
    if parametrized is nn.utils.parametrizations.spectral_norm:
        for _ in range(20):
            model[0](torch.ones(2, 6))
        assert torch.linalg.matrix_norm(model[0].weight.detach(), 2) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=lambda one: one.__name__)
@pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning")
def test_the_old_norms_of_weights(normed):
    with deferred():
        model = normed(nn.Linear(6, 5))
    record = materialize(model, seed=1)
    names = {"weight_g", "weight_v"} if normed is nn.utils.weight_norm else {"weight_orig"}
    assert {entry.name for entry in record} == names | {"bias"}
    if normed is nn.utils.weight_norm:
        assert torch.allclose(model.weight_g, model.weight_v.norm(dim=1, keepdim=True))
        assert record["weight_v"].key == fastinit.Key(1).fold_in("weight_v")
    assert model(torch.ones(2, 6)).isfinite().all()


def test_a_condition_that_all_draws_answer_alike():
    with deferred():
        weight = torch.randn(50)
        assert not weight.isnan().any() and not torch.equal(weight, torch.zeros(50)) and (weight.abs() < 50).all()
        assert not torch.allclose(weight, torch.zeros(50))
    with pytest.raises(DeferralError, match=r"reads a draw of randn"), deferred():
        assert torch.randn(1) < 0


def test_a_local_variable_that_holds_a_parameters_memory_takes_none():
    import resource

    with deferred():
        nn.Linear(3, 3)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        table = torch.randn(1 << 28)
        model = nn.Module()
        model.table = nn.Parameter(table)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB
    assert model.table.is_meta and table.shape == model.table.shape


class Reset(nn.Module):
    """Of an author who leaves one linear layer to torch, resets one, and draws one and an embedding by himself."""

    def __init__(self):
        super().__init__()
        self.left, self.reset, self.drawn = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.words, self.places = nn.Embedding(50, 64), nn.Embedding(50, 64)
        self.attention = nn.MultiheadAttention(64, 4)
        self.reset.apply(lambda module: module.reset_parameters())
        nn.init.kaiming_uniform_(self.drawn.weight, a=5**0.5)
        self.words.weight.data.normal_()


def test_what_the_author_draws_is_chosen_and_what_a_layer_draws_is_not():
    with deferred():
        model = Reset()
    own = {row.name: row.own for row in explain(model)}
    changed = {row.name for row in explain(model) if row.auto != row.own}
    assert own["drawn.weight"] == own["left.weight"] and own["words.weight"] == own["places.weight"]
    assert {"left.weight", "reset.weight", "attention.in_proj_weight"} <= changed
    assert not {"drawn.weight", "words.weight"} & changed


def test_auto_keeps_the_words_of_t5():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    with deferred():
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    assert explain(model)["shared.weight"].difference.split("; ")[0] == "same"
    assert [row.name for row in explain(model) if row.auto != row.own] == []
