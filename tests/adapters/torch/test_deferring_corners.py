"""deferred(): code that few authors write, and that must not give other values than theirs in silence."""

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit import Constant, Normal, Painted, Replayed, Uniform  # noqa: E402
from fastinit.adapters.torch import DeferralError, deferred, initialize_, materialize  # noqa: E402
from fastinit.adapters.torch.internals import programs_of  # noqa: E402


def made(**parameters):
    """A module that a function of each parameter's makes under deferred()."""
    with deferred():
        module = nn.Module()
        for name, make in parameters.items():
            setattr(module, name, nn.Parameter(make()))
    return module


def filled(make, seed=0):
    module = made(weight=make)
    materialize(module, seed=seed)
    return module.weight.detach(), programs_of(module)["weight"].initializer


# Arguments by name and by position


def test_a_factor_that_an_operator_takes_by_position():
    values, found = filled(lambda: torch.rsub(torch.rand(1000), 1, alpha=2))
    assert values.min() < -0.9 and values.max() > 0.9 and isinstance(found, Replayed)
    assert filled(lambda: torch.sub(torch.randn(3), 1, alpha=2))[1] == Normal(-2.0, 1.0)
    assert filled(lambda: torch.clamp(torch.rand(3), max=2.0))[1] == Uniform()
    assert filled(lambda: torch.cat([torch.zeros(2, 1), torch.ones(2, 1)], 1))[0].tolist() == [[0, 1], [0, 1]]


def test_moments_that_are_tensors():
    values, found = filled(lambda: torch.normal(0.0, torch.tensor([1e-3, 1.0, 1e3])))
    assert isinstance(found, Replayed) and abs(values[0]) < 1e-2 and abs(values[2]) > 1
    assert filled(lambda: torch.normal(torch.arange(3.0), 1e-4))[0].round().tolist() == [0, 1, 2]


def test_complex_draws():
    values, _ = filled(lambda: torch.view_as_real(torch.randn(4000, dtype=torch.complex64)))
    assert values.shape == (4000, 2) and abs(values.std() - 0.5**0.5) < 0.03
    values, _ = filled(lambda: torch.empty(4000, dtype=torch.complex64).normal_().real * 1)
    assert abs(values.std() - 0.5**0.5) < 0.03


# Dtypes


def test_numbers_that_a_narrow_dtype_rounds():
    def rows(number, dtype):
        weight = torch.randn(2, 3)
        weight[0] = torch.full((3,), number, dtype=dtype)
        return weight

    assert filled(lambda: rows(0.1, torch.float16))[0][0].tolist() == torch.full((3,), 0.1).half().tolist()
    assert filled(lambda: rows(2, torch.bool))[0][0].tolist() == [1.0] * 3
    assert filled(lambda: torch.zeros(3, dtype=torch.int64).fill_(2.7) + torch.rand(3) * 0)[0].tolist() == [2.0] * 3


def test_the_default_dtype_of_what_is_replayed():
    def make():
        torch.set_default_dtype(torch.float64)
        try:
            return 1 / torch.arange(1, 5) + torch.rand(4) * 0
        finally:
            torch.set_default_dtype(torch.float32)

    values, found = filled(make)
    assert values.tolist() == make().tolist() and torch.get_default_dtype() == torch.float32
    assert isinstance(found, Replayed)


# Views


def test_elements_that_share_memory():
    values, _ = filled(lambda: torch.randn(1, 3).expand(4, 3))
    assert (values == values[0]).all() and (values[0] != 0).all()
    assert filled(lambda: torch.ones(1).expand(4))[1] == Constant(1.0)


def test_signs_that_a_view_has():
    made = torch.complex(torch.arange(3.0), torch.ones(3))
    for make in (
        lambda wave: wave.conj().imag.clone(),
        lambda wave: wave.conj().imag,
        lambda wave: torch.view_as_real(wave.conj().resolve_conj()),
        lambda wave: wave.conj().clone().imag * 2,
    ):
        values, found = filled(lambda make=make: make(torch.complex(torch.arange(3.0), torch.ones(3))))
        assert torch.equal(values, make(made))
        assert fastinit.initializer_from_config(fastinit.initializer_config(found)) == found
    values, _ = filled(lambda: torch.complex(torch.rand(9), torch.rand(9) + 1).conj().imag)
    assert (values <= -1).all() and (values > -2).all()


# Lists of tensors


def test_operators_on_lists():
    def make():
        weights = [torch.ones(3), torch.randn(3)]
        torch._foreach_mul_(weights, 2.0)
        torch._foreach_add_(weights, [1.0, 100.0])
        return torch.cat(weights)

    values, _ = filled(make)
    assert values[:3].tolist() == [3.0] * 3 and (values[3:] > 80).all() and len(set(values[3:].tolist())) == 3


# Long histories


def test_long_histories():
    def scaled():
        weight = torch.randn(500)
        for _ in range(3000):
            weight.mul_(1.0001)
        return weight

    def half():
        weight = torch.zeros(500)
        weight[:250].normal_()
        for _ in range(1500):
            weight[:250].mul_(1.0002)
        return weight

    values, found = filled(scaled)
    assert isinstance(found, Normal) and abs(values.std() - 1.0001**3000) < 0.2
    values, found = filled(half)
    assert isinstance(found, Painted) and abs(values[:250].std() - 1.0002**1500) < 0.25 and not values[250:].any()


def test_what_is_read_often_is_looked_at_once():
    def average(times):
        one, two = torch.randn(3), torch.randn(3)
        for _ in range(times):
            one, two = two, one * 0.5 + two * 0.5
        return two

    start = time.perf_counter()
    values, _ = filled(lambda: average(60))
    assert time.perf_counter() - start < 20 and values.isfinite().all()


def test_many_rows_one_by_one():
    def rows(count):
        weight = torch.empty(count, 2)
        for row in range(count):
            nn.init.constant_(weight[row], row)
        return weight

    values, found = filled(lambda: rows(2000))
    assert values[:, 1].tolist() == list(range(2000)) and isinstance(found, Painted)
    values, found = filled(lambda: rows(5000))
    assert values[:, 1].tolist() == list(range(5000)) and isinstance(found, Replayed)


def test_many_elements_one_by_one():
    def elements():
        weight = torch.zeros(20, 20)
        for number in range(400):
            weight[number // 20, number % 20] = number
        return weight + torch.rand(20, 20) * 0

    values, found = filled(elements)
    assert values.flatten().tolist() == np.arange(400.0).tolist() and isinstance(found, Replayed)


def test_memory_of_a_long_replay():
    import resource

    def rows():
        weight = torch.randn(200, 5000)
        for row in weight:
            row.div_(row.norm())
        return weight

    filled(lambda: torch.rand(3).exp())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, _ = filled(rows)
    assert torch.allclose(values.norm(dim=1), torch.ones(200))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB; a tensor has 4 MiB


# What holds a parameter


def test_what_holds_a_parameter_weakly_has_it_still():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with deferred():
        recurrent = nn.LSTM(3, 4)
    assert all(one.is_meta for one in recurrent._flat_weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert [ref() for ref in recurrent._flat_weight_refs] == list(recurrent.parameters())
    materialize(recurrent, seed=0)
    assert recurrent(torch.zeros(2, 1, 3))[0].isfinite().all()


def test_hooks_of_parameters_stay():
    called = []
    with deferred():
        layer = nn.Linear(2, 2)
        handle = layer.weight.register_hook(lambda grad: called.append("hook"))
        layer.weight.register_post_accumulate_grad_hook(lambda weight: called.append("after"))
    materialize(layer, seed=0)
    layer(torch.ones(1, 2)).sum().backward()
    assert called == ["hook", "after"]
    handle.remove()
    layer(torch.ones(1, 2)).sum().backward()
    assert called == ["hook", "after", "after"]


def test_shared_memory():
    with deferred():
        module = nn.Module()
        module.register_buffer("table", torch.ones(3).share_memory_())
        module.weight = nn.Parameter(torch.zeros(3).share_memory_() + torch.rand(3))
        with pytest.raises(DeferralError, match="cannot be read"):
            nn.Linear(2, 2).share_memory()
    materialize(module, seed=0)
    assert module.table.is_shared() and module.weight.all()


def test_running_statistics_that_the_constructor_set():
    with deferred():
        norm = nn.BatchNorm1d(3)
        norm.running_mean.fill_(0.5)
    materialize(norm, seed=0)
    assert norm.running_mean.tolist() == [0.5] * 3 and norm.running_var.tolist() == [1.0] * 3
    norm(torch.randn(4, 3))
    initialize_(norm, seed=0)
    assert norm.running_mean.tolist() == [0.5] * 3 and norm.num_batches_tracked == 0


# Keys of the author's own


@pytest.mark.parametrize(
    "view",
    [lambda w: w, lambda w: w.t(), lambda w: w[1:3, 2:5], lambda w: w.view(6, 4), lambda w: w.t()[1:4], lambda w: w[2]],
    ids=["whole", "transposed", "block", "reshaped", "rows of transposed", "row"],
)
def test_a_fill_with_a_key_keeps_its_order(view):
    def make():
        weight = torch.zeros(4, 6)
        fastinit.adapters.torch.fill_(view(weight), Normal(), fastinit.Key(5))
        return weight

    assert torch.equal(filled(make, seed=1)[0], make())


# Tensors that are neither parameters nor buffers


def test_plain_tensors_that_are_drawn():
    class Lazy(nn.Linear):
        """Its output is taken relative to that of its first weights."""

        def __init__(self):
            super().__init__(3, 3)
            self.first = self.weight.detach().clone()
            self.noise = {"fixed": [torch.randn(5) * 2, torch.ones(2)]}

    def build(*before):
        with deferred():
            model = nn.Sequential(*(nn.Linear(2, 2) for _ in before), Lazy())
        materialize(model, seed=0)
        return model

    model, same, later = build(), build(), build(1)
    assert torch.equal(model[0].first, model[0].weight)
    assert torch.equal(model[0].noise["fixed"][0], same[0].noise["fixed"][0])
    assert torch.equal(later[1].first, later[1].weight) and torch.equal(model[0].noise["fixed"][1], torch.ones(2))
    assert torch.equal(model[0].noise["fixed"][0] / 2, fastinit_normal("0.noise['fixed'][0]", 5))


def fastinit_normal(name, size):
    key = fastinit.Key(0).fold_in(name)
    return torch.from_numpy(fastinit.fill(np.empty(size, np.float32), Normal(), key))


def test_a_transposed_copy_is_the_transpose():
    class Tied(nn.Module):
        """An autoencoder whose decoder begins as its encoder's transpose."""

        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(8, 4), nn.Linear(4, 8)
            self.decoder.weight.data = self.encoder.weight.data.t().clone()
            self.scaled = nn.Parameter(self.encoder.weight.detach().t() * 2)
            self.register_buffer("first", self.encoder.weight.detach().t().contiguous())
            self.alone = nn.Parameter(torch.randn(3, 4).t())

    with deferred():
        model = Tied()
    record = materialize(model, seed=3)
    weight = model.encoder.weight.t()
    assert torch.equal(model.decoder.weight, weight) and torch.equal(model.scaled, weight * 2)
    assert torch.equal(model.first, weight)
    assert isinstance(record["alone"].initializer, fastinit.Normal)  # nobody can tell in which order it was drawn


def test_what_is_copied_into_itself_stays():
    class Tied(nn.Module):
        """A head that is tied to its table, and then made equal to it."""

        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
            self.head.weight = self.table.weight
            with torch.no_grad():
                self.head.weight.copy_(self.table.weight)

    with deferred():
        model = Tied()
    assert isinstance(materialize(model, seed=3)["table.weight"].initializer, fastinit.Normal)
    with deferred():
        alone = nn.ModuleDict({"table": nn.Embedding(8, 4)})
    materialize(alone, seed=3)
    assert torch.equal(model.head.weight, alone["table"].weight)


def test_what_was_read_before_it_was_drawn_over_stays():
    with deferred():
        numbers = torch.tensor([1.0, 2.0, 3.0])
        nearly = torch.zeros(3).uniform_(0, 1e-9) + numbers
        numbers.normal_()
    assert nearly.tolist() == [1, 2, 3] and numbers.tolist() != [1, 2, 3]
