"""Graphs of torch.compile, torch.export, make_fx and torch.jit.trace: they fill as the eager functions do."""

import io
import warnings

import pytest

from fastinit import Key, Normal, Orthogonal

torch = pytest.importorskip("torch", reason="needs torch")
from torch import nn  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from fastinit.adapters.torch import drawing, init  # noqa: E402
from fastinit.adapters.torch.patching import patched  # noqa: E402
from fastinit.adapters.torch.tensors import fill_  # noqa: E402

KEY = Key(7).fold_in("layer")

FILLS = {
    "drawn": init.xavier_uniform_,
    "twice": lambda x: init.normal_(init.uniform_(x)[0], std=0.5),
    "a seed": lambda x: init.xavier_normal_(x, 2.0, key=3),
    "a key": lambda x: init.kaiming_normal_(x, nonlinearity="relu", key=KEY),
    "true fans": lambda x: init.kaiming_uniform_(x, groups=2, key=KEY),
    "lacking": init.lecun_normal_,
    "truncated": lambda x: init.trunc_normal_(x, 0.0, 0.02),
    "orthogonal": lambda x: init.orthogonal_(x, gain=0.5),
    "sparse": lambda x: init.sparse_(x, 0.3),
    "eye": init.eye_,
    "dirac": lambda x: init.dirac_(x[..., None]),
    "delta": lambda x: init.delta_orthogonal_(x[..., None]),
    "icnr": lambda x: init.icnr_(x[..., None], key=1),
    "zero": init.zero_init_,
    "a constant": lambda x: init.uniform_(x, 1.0, 1.0),
}


@pytest.fixture(autouse=True)
def nothing_said_or_compiled_yet():
    drawing.notices.said.clear()
    torch._dynamo.reset()


class Layer(nn.Module):
    def __init__(self, fill):
        super().__init__()
        self.fill = fill

    def forward(self, x):
        weight = torch.zeros_like(x)
        self.fill(weight)
        return weight + x.mean()


def same(graph, function, *, given=None):
    """Whether both fill with the same numbers, from the same state of the generator."""
    given = torch.zeros(8, 6) if given is None else given
    outputs = []
    for called in (graph, function):
        torch.manual_seed(3)
        outputs.append(called(given.clone()))
        following = torch.rand(1)
        outputs[-1] = torch.cat([outputs[-1].flatten(), following])
    return torch.equal(*outputs) and bool(outputs[0][:-1].any())


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_compiled_whole(fill):
    layer = Layer(fill)
    assert same(torch.compile(layer, backend="eager", fullgraph=True), layer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_by_other_backends(backend):
    def fill_all(x):
        for number, fill in enumerate(FILLS.values(), 1):  # each is read: compilers leave out what nobody reads
            weight = torch.zeros_like(x)
            fill(weight)
            x += number * weight

    layer = Layer(fill_all)
    assert same(torch.compile(layer, backend=backend, fullgraph=True), layer)


def test_a_parameter_that_is_filled_by_compiled_code():
    parameter = nn.Parameter(torch.zeros(4, 6))
    torch.compile(lambda: init.normal_(parameter, key=1), backend="aot_eager", fullgraph=True)()
    assert torch.equal(parameter, init.normal_(torch.zeros(4, 6), key=1)) and parameter.is_leaf


OF_ANY_SIZE = {
    "xavier": lambda x: init.xavier_normal_(x, key=1),
    "normal": lambda x: init.normal_(x, std=0.1, key=1),
    "kaiming": lambda x: init.kaiming_normal_(x, mode="fan_out", nonlinearity="relu", key=1),
}


@pytest.mark.parametrize("fill", OF_ANY_SIZE.values(), ids=OF_ANY_SIZE)
def test_sizes_may_change(fill):
    compiled = torch.compile(fill, backend="eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in range(3, 7):
            assert torch.equal(compiled(torch.zeros(rows, 5)), fill(torch.zeros(rows, 5)))


def test_sizes_that_matter_are_compiled_anew():
    compiled = torch.compile(lambda x: init.sparse_(x, 0.5, key=1), backend="eager", fullgraph=True, dynamic=True)
    for rows in range(3, 7):
        assert torch.equal(compiled(torch.zeros(rows, 5)), init.sparse_(torch.zeros(rows, 5), 0.5, key=1))


def test_what_fastinit_has_no_numbers_for_is_torchs():
    def fill(x):
        return init.normal_(init.normal_(x), std=2.0).abs()

    given = torch.zeros(5, dtype=torch.complex64)
    with pytest.warns(UserWarning, match=r"torch's own numbers fill tensors of torch\.complex64"):
        compiled = torch.compile(fill, backend="eager", fullgraph=True)
        assert same(compiled, lambda x: nn.init.normal_(nn.init.normal_(x), std=2.0).abs(), given=given)


@pytest.mark.filterwarnings("ignore:Graph break|Dynamo does not know:UserWarning")  # of an older torch
def test_errors_of_compiled_code():
    compiled = torch.compile(lambda x: init.xavier_normal_(x, key=1), backend="eager")
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        compiled(torch.zeros(5))


@pytest.mark.skipif(torch.__version__ < (2, 13), reason="the compiler of this torch fails at a generator")
def test_a_generator_breaks_the_graph():
    def fill(x):
        return init.normal_(x, generator=torch.Generator().manual_seed(1)) + 1

    assert torch.equal(torch.compile(fill, backend="eager")(torch.zeros(5)), fill(torch.zeros(5)))


def test_layers_that_are_reset_in_compiled_code_under_patched():
    layer = nn.Linear(4, 6)

    def reset(x):
        layer.reset_parameters()
        return layer.weight + x

    def under_patched(x):
        with patched():
            return compiled(x)

    compiled = torch.compile(reset, backend="eager", fullgraph=True)
    assert same(under_patched, lambda x: nn.Linear(4, 6).weight + x, given=torch.zeros(()))


def test_patched_in_compiled_code():
    def fill(x):
        with patched():
            return nn.init.normal_(x)

    assert same(torch.compile(fill, backend="eager", fullgraph=True), nn.init.normal_)


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_traced_by_jit(fill):
    layer = Layer(fill)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.trace.*", DeprecationWarning)
        if fill is FILLS["eye"]:  # torch's own function, whose sizes torch warns of
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, (torch.zeros(8, 6),), check_trace=False)
    assert same(traced, layer)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_made_by_make_fx(mode):
    for name in ("drawn", "a key", "orthogonal", "delta"):
        layer = Layer(FILLS[name])
        graph = make_fx(layer, tracing_mode=mode)(torch.zeros(8, 6))
        assert "fastinit.fill_" in graph.code and same(graph, layer), name


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    layer = Layer(lambda x: [FILLS[name](x) for name in ("drawn", "a key", "sparse", "delta", "lacking")])
    assert same(torch.export.export(layer, (torch.zeros(8, 6),), strict=strict).module(), layer)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch.export's own
@pytest.mark.parametrize("strict", [False, True])
def test_exported_for_any_size_and_read_from_a_file(strict):
    layer = Layer(lambda x: init.normal_(x, std=0.1))
    sizes = {"x": {0: torch.export.Dim("rows")}}
    exported = torch.export.export(layer, (torch.zeros(8, 6),), dynamic_shapes=sizes, strict=strict)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    for program in (exported, exported.run_decompositions(), torch.export.load(file)):
        assert same(program.module(), layer, given=torch.zeros(11, 6))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # of an older torch
def test_exported_with_a_parameter_that_it_fills():
    class Refilled(nn.Linear):
        def forward(self, x):
            init.normal_(self.weight, key=1)
            return super().forward(x)

    layer, x = Refilled(6, 4), torch.ones(2, 6)
    file = io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,)), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert torch.equal(loaded(x), layer(x)) and torch.equal(loaded.weight, init.normal_(torch.zeros(4, 6), key=1))


def made_by(maker, function, *given):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.trace.*", DeprecationWarning)
        if maker == "jit.trace":
            return torch.jit.trace(function, given, check_trace=False)
        return make_fx(function, tracing_mode=maker)(*given)


MAKERS = ["jit.trace", "real", "fake", "symbolic"]


@pytest.mark.parametrize("maker", MAKERS)
def test_an_initializer_and_a_key(maker):
    for initializer in (Normal(std=2.0), Orthogonal()):
        layer = Layer(lambda x, initializer=initializer: fill_(x, initializer, KEY))
        assert same(made_by(maker, layer, torch.zeros(8, 6)), layer)
        layer = Layer(lambda x, initializer=initializer: fill_(x.t()[1:], initializer, KEY))
        assert same(made_by(maker, layer, torch.zeros(8, 6)), layer)


@pytest.mark.parametrize("maker", MAKERS)
def test_no_graph_holds_a_part(maker):
    def fill(x):
        return fill_(torch.empty_like(x), Normal(), KEY, global_shape=(8, 6), offsets=(4, 0))

    with pytest.raises(ValueError, match="can hold fills of whole tensors only"):
        made_by(maker, fill, torch.zeros(4, 6))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_scripting_is_refused():
    def fill(x):
        return init.normal_(x)

    with pytest.raises(Exception, match="keyword-only arguments"):
        torch.jit.script(fill)


def test_operators_on_their_own():
    weight = torch.zeros(4, 6)
    torch.ops.fastinit.fill_(weight, '{"class": "Normal", "mean": 0.0, "std": 2.0}', list(KEY.words))
    assert torch.equal(weight, init.normal_(torch.zeros(4, 6), std=2.0, key=KEY))
    torch.library.opcheck(
        torch.ops.fastinit.fill_.default, (weight, '{"class": "Normal", "mean": 0.0, "std": 2.0}', [1, 2, 3, 4])
    )
