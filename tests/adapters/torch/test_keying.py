"""keyed: init code that runs late gives the bytes of deferred() and materialize()."""

import copy
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402

import fastinit  # noqa: E402
from fastinit.adapters.torch import DeferralError, deferred, keyed, materialize, verify  # noqa: E402


class Titan(nn.Module):
    """In torchtitan's style: nested init_weights, called after the model has its memory."""

    class Block(nn.Module):
        def __init__(self, depth):
            super().__init__()
            self.up, self.down = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)
            self.norm = nn.RMSNorm(16)
            self.depth = depth

        def init_weights(self):
            nn.init.trunc_normal_(self.up.weight, mean=0.0, std=0.02)
            nn.init.trunc_normal_(self.down.weight, std=0.02 / (2 * (self.depth + 1)) ** 0.5)
            self.norm.reset_parameters()

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 16, padding_idx=0)
        self.layers = nn.ModuleDict({str(depth): self.Block(depth) for depth in range(3)})
        self.head = nn.Linear(16, 40, bias=False)
        self.steps = nn.Parameter(torch.empty(16))
        self.packed = nn.Parameter(torch.empty(9, 6))
        self.register_buffer("frequencies", torch.empty(8), persistent=False)
        self.init_weights()

    def init_weights(self):
        nn.init.normal_(self.words.weight)
        with torch.no_grad():
            self.words.weight[0].fill_(0)
            self.steps.copy_((torch.rand(16) * 3 + 1).log())
        for part in self.packed.data.chunk(3):
            nn.init.xavier_uniform_(part)
        for layer in self.layers.values():
            layer.init_weights()
        torch.nn.init.trunc_normal_(self.head.weight, std=0.25, a=-0.75, b=0.75)
        self.frequencies = 10000 ** (-torch.arange(8) / 8)


def expected(make, seed=3, dtype=None):
    with deferred():
        model = make()
    record = materialize(model, seed=seed, dtype=dtype)
    return model, record


def same(model, other):
    for (name, tensor), found in zip(other.named_parameters(), model.parameters(), strict=True):
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_bytes_are_those_of_deferred_and_materialize(dtype):
    with torch.device("meta"):
        model = Titan()
    model = model.to(dtype) if dtype else model
    model.to_empty(device="cpu")
    before = dict(model.named_parameters())
    with keyed(model, seed=3) as drawn:
        model.init_weights()
    whole, record = expected(Titan, dtype=dtype)
    same(model, whole)
    assert all(tensor is before[name] for name, tensor in model.named_parameters())
    assert drawn.check() == ()
    assert [(one.name, one.key, one.std) for one in drawn.record] == [(one.name, one.key, one.std) for one in record]
    assert verify(drawn.record, model).is_sound
    assert torch.equal(model.frequencies, whole.frequencies)


def test_what_is_not_written_keeps_its_bytes_and_is_named():
    model = Titan()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with keyed(model, seed=3) as drawn:
        model.layers["1"].init_weights()
        noise = torch.randn(3)
    whole, _ = expected(Titan)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, whole.get_parameter(name) if "layers.1." in name else before[name]), name
    never, outside = drawn.check()
    assert never.startswith("never written: steps, packed, words.weight, layers.0.up.weight")
    assert outside == "drawn into other tensors than parameters: randn" and noise.isfinite().all()
    assert [entry.name for entry in drawn.record] == [f"layers.1.{role}.weight" for role in ("up", "down", "norm")]


def test_what_is_drawn_twice_has_the_key_of_its_last_draw_and_is_named():
    model = nn.Linear(8, 8)
    with keyed(model, seed=3) as drawn:
        model.reset_parameters()
        nn.init.normal_(model.weight, std=0.02)
    assert drawn.check() == ("drawn more than once: weight",)
    key = fastinit.Key(3).fold_in("weight")
    assert (
        model.weight.detach().numpy() == fastinit.fill(torch.empty(8, 8).numpy(), fastinit.Normal(0, 0.02), key)
    ).all()


def test_values_that_were_there_can_be_read():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    before = model[0].weight.detach().clone()
    with keyed(model) as drawn, torch.no_grad():
        assert float(model[0].weight.sum()) == float(before.sum())
        model[1].weight.copy_(model[0].weight * 2)
        model[0].bias[2:5] = 7
    assert torch.equal(model[1].weight, before * 2) and torch.equal(model[0].weight, before)
    assert (model[0].bias[2:5] == 7).all() and not (model[0].bias == 7).all()
    assert {entry.name for entry in drawn.record} == {"1.weight", "0.bias"}


@pytest.mark.parametrize("rows", [3, 3000], ids=["small", "large"])
def test_values_that_were_there_stay_in_what_was_computed_from_them(rows):
    """Copies that were made before the parameter or the buffer was drawn hold what it was before."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.full((rows, 1500), 2.0))
    for name, value in (("mean", 5.0), ("old", 0.0), ("old_mean", 0.0)):
        model.register_buffer(name, torch.full((rows, 1500), value))
    with keyed(model, seed=3), torch.no_grad():
        model.old.copy_(model.weight)
        model.kept, local = model.weight.detach().clone(), model.weight * 3
        nearly = torch.zeros_like(model.mean).uniform_(0, 1e-9) + model.mean
        model.old_mean.copy_(model.mean)
        nn.init.normal_(model.weight)
        model.mean.normal_()
    for found, value in ((model.old, 2), (model.kept, 2), (local, 6), (nearly, 5), (model.old_mean, 5)):
        assert (found == value).all()
    for name, tensor in (("weight", model.weight), ("mean", model.mean)):
        drawn = fastinit.fill(np.empty((rows, 1500), np.float32), fastinit.Normal(), fastinit.Key(3).fold_in(name))
        assert np.array_equal(tensor.detach().numpy(), drawn)


@pytest.mark.parametrize("seen", [lambda weight: weight, lambda weight: weight.detach()[2:]], ids=["itself", "a view"])
def test_what_was_taken_from_the_model_before_is_not_written(seen):
    model = nn.Linear(8, 8)
    taken, before = seen(model.weight), model.weight.detach().clone()
    with pytest.raises(DeferralError, match=r"'weight' was written through a reference .* before keyed"), keyed(model):
        nn.init.zeros_(model.bias)
        nn.init.normal_(taken)
    assert torch.equal(model.weight, before) and not (model.bias == 0).all()


def test_ties_and_attributes_and_flags_stay():
    model = Titan()
    model.head.weight = model.words.weight
    model.steps.requires_grad_(False)
    model.steps.mark = "kept"
    with keyed(model, seed=3):
        assert model.head.weight is model.words.weight and model.steps.mark == "kept"
        assert not model.steps.requires_grad
        model.init_weights()
    assert model.head.weight is model.words.weight and model.steps.mark == "kept"


def test_what_the_code_keeps_is_the_parameter():
    """Lists of parameters that are made inside hold those that last, also after an exception."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    weight, bias = model[0].weight, model[0].bias
    with keyed(model):
        for layer in model:
            layer.reset_parameters()
        model.float()
        model.decayed, model.groups = [model[0].weight], {"rest": (model[0].bias, "no decay")}
    assert model.decayed[0] is model[0].weight is weight and model.groups == {"rest": (bias, "no decay")}
    held = [getattr(model[1], name) for name in model[1]._flat_weights_names]
    assert list(map(id, model[1]._flat_weights)) == list(map(id, held))
    with pytest.raises(KeyError), keyed(model):
        model.decayed = [model[0].bias]
        raise KeyError("stop")
    assert model.decayed[0] is bias


def test_views_that_the_code_keeps_are_of_the_parameter():
    model = nn.Linear(4, 4)
    with keyed(model) as drawn:
        nn.init.normal_(model.weight)
        model.rows, model.kept = [model.weight.detach()[:2]], model.bias.data[1:]
        model.register_buffer("transposed", model.weight.detach().t())
    assert drawn.check() == ("never written: bias",)
    assert torch.equal(model.rows[0], model.weight[:2]) and torch.equal(model.transposed, model.weight.t())
    nn.init.zeros_(model.weight)
    nn.init.ones_(model.bias)
    assert not model.rows[0].any() and not model.transposed.any() and (model.kept == 1).all()


@pytest.mark.parametrize(
    ("how", "error"), [({"seed": 1.5}, TypeError), ({"num_threads": 0}, ValueError), ({"num_threads": "2"}, TypeError)]
)
def test_bad_arguments_are_refused_before_the_code_runs(how, error):
    (argument,) = how
    with pytest.raises(error, match=argument), keyed(nn.Linear(4, 4), **how):
        pytest.fail("the code inside ran")


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_that_the_code_registers_stay(register):
    model, calls = nn.Linear(4, 4), []
    getattr(model.weight, register)(lambda _: calls.append("before"))
    with keyed(model):
        model.reset_parameters()
        getattr(model.weight, register)(lambda _: calls.append("inside"))
        handle = getattr(model.bias, register)(lambda _: calls.append("removed"))
        getattr(model.bias, register)(lambda _: calls.append("bias"))
    handle.remove()
    model(torch.ones(4)).sum().backward()
    assert sorted(calls) == ["before", "bias", "inside"]


def test_an_exception_inside_leaves_every_byte():
    model = Titan()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    objects = dict(model.named_parameters())
    with pytest.raises(KeyError), keyed(model):
        nn.init.zeros_(model.steps)
        nn.init.normal_(model.head.weight)
        raise KeyError("stop")
    with pytest.raises(DeferralError, match="reads a draw of"), keyed(model):
        nn.init.zeros_(model.steps)
        nn.init.normal_(model.head.weight)
        model.head.weight.sum().item()
    for name, tensor in model.named_parameters():
        assert tensor is objects[name] and torch.equal(tensor, before[name])
    with keyed(model, seed=3):
        model.init_weights()
    same(model, expected(Titan)[0])


def test_what_cannot_be_keyed_is_refused():
    with torch.device("meta"):
        bare = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="'weight' is on the meta device"), keyed(bare):
        pass
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="'weight' is parametrized"), keyed(normed):
        pass
    model = nn.Linear(3, 3)
    with keyed(model), pytest.raises(DeferralError, match="inside deferred"), keyed(model):
        pass
    with deferred(), pytest.raises(DeferralError, match="inside deferred"), keyed(model):
        pass
    both = nn.Module()
    both.a = nn.Linear(2, 2)
    both.b = nn.Module()
    both.b._orig_mod = nn.Linear(2, 2)
    both.b.weight = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"canonical name 'b.weight'"), keyed(both):
        pass


def _replaced(model):
    model[0].weight = nn.Parameter(torch.randn(8, 8) * 0.02)
    model[0].bias = nn.Parameter(torch.ones(8))
    model[1].reset_parameters()


def _removed(model):
    nn.init.normal_(model[0].weight)
    model[0].bias = None
    del model[1]


def _added(model):
    for layer in model:
        layer.reset_parameters()
    model[0].scale = nn.Parameter(torch.randn(4))
    model.append(nn.Linear(8, 3))


def _tied(model):
    for layer in model:
        layer.reset_parameters()
    model[1].weight = model[0].weight


def _said(model):
    for layer in model:
        layer.reset_parameters()
    model[0].weight.mark = True
    model[0].bias.requires_grad = False


def _swapped(model):
    model[0].weight.data = torch.from_numpy(np.arange(64, dtype=np.float32).reshape(8, 8))
    model[0].bias.data = torch.zeros(8)
    model[1].weight.data = torch.randn(8, 8).t().contiguous()
    model[1].bias.data = model[0].bias.data


def _buffered(model):
    for layer in model:
        layer.reset_parameters()
    model.register_buffer("first", model[0].weight.detach().clone())
    model.register_buffer("noise", torch.randn(4))
    model.table.copy_(model[0].weight.detach() * 2)
    model.again = model[0].weight.detach().clone()


def _made_of_linear():
    with deferred():
        return nn.Sequential(nn.Linear(8, 8))


def _remembered(model):
    for layer in model:
        layer.reset_parameters()
    model.first = [model[1].weight.detach().clone(), {"bias": model[0].bias.detach().clone()}]


def _into_itself(model):
    """A copy between tied weights."""
    for layer in model:
        layer.reset_parameters()
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)


def _transposed(model):
    with torch.no_grad():
        nn.init.normal_(model[0].weight)
        model[1].weight.copy_(model[0].weight.t() * 2)
        model.table.copy_(model[0].weight.t())
        for layer in model:
            nn.init.zeros_(layer.bias)


@pytest.mark.parametrize(
    "init",
    [_transposed, _replaced, _removed, _added, _tied, _said, _swapped, _buffered, _remembered, _into_itself],
)
def test_what_the_code_changes_is_as_deferred_has_it(init):
    def make():
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        model.register_buffer("table", torch.zeros(8, 8))
        return model

    late = make()
    with keyed(late, seed=3) as drawn:
        init(late)
    with deferred():
        model = make()
        init(model)
    materialize(model, seed=3)
    same(late, model)
    for (name, tensor), found in zip(model.named_parameters(), late.parameters(), strict=True):
        assert vars(found) == vars(tensor) and found.requires_grad == tensor.requires_grad, name
    assert list(late.state_dict()) == list(model.state_dict())
    for (name, tensor), found in zip(model.named_buffers(), late.buffers(), strict=True):
        assert torch.equal(found, tensor), name
    if init is _transposed:
        assert torch.equal(late[1].weight, late[0].weight.t() * 2) and torch.equal(late.table, late[0].weight.t())
    if init is _remembered:
        for remembered in (late.first, model.first):
            assert torch.equal(remembered[0], late[1].weight) and torch.equal(remembered[1]["bias"], late[0].bias)
    if init is _into_itself:
        assert drawn.record["0.weight"].initializer == materialize(_made_of_linear(), seed=3)["0.weight"].initializer
    if init is _buffered:
        assert torch.equal(late.again, late[0].weight)
    assert verify(drawn.record, late).is_sound
    assert not any(said.startswith("never") for said in drawn.check())


def test_an_exception_takes_back_what_was_replaced():
    model = nn.Linear(8, 8)
    weight, bias = model.weight, model.bias
    with pytest.raises(KeyError), keyed(model):
        model.weight = nn.Parameter(torch.zeros(8, 8))
        del model.bias
        raise KeyError("stop")
    assert model.weight is weight and model.bias is bias


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda model: model.half(),
            DeferralError,
            r"'weight' .* another dtype .* torch.float16 in the place of torch.fl",
        ),
        (lambda model: model.to(torch.bfloat16), DeferralError, "convert the model before keyed"),
        (
            lambda model: setattr(model.weight, "data", model.weight.data.double()),
            DeferralError,
            "'weight' was given another dtype .* convert the model before keyed",
        ),
        (
            lambda model: setattr(model.bias, "data", torch.zeros(3)),
            DeferralError,
            r"'bias' was given another shape .* \(3,\) in the place of \(8,\): put a new Parameter in its place",
        ),
        (
            nn.utils.parametrizations.weight_norm,
            ValueError,
            "'weight' is parametrized: parametrize it after the init code",
        ),
    ],
    ids=["half", "to", "data", "shape", "parametrized"],
)
def test_what_is_refused_inside_says_what_to_do(change, error, message):
    model = nn.Linear(8, 8)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    parameters = model.weight, model.bias
    with pytest.raises(error, match=message), keyed(model):
        model.reset_parameters()
        change(model)
    assert torch.equal(parameters[0], weight) and torch.equal(parameters[1], bias)


def test_what_another_thread_writes_is_lost_and_said():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(3, 3))
    before = [tensor.detach().clone() for tensor in model.parameters()]
    with keyed(model) as drawn:
        model[0].reset_parameters()
        thread = threading.Thread(target=model[1].reset_parameters)
        thread.start()
        thread.join()
    assert drawn.check() == (
        "written in another thread, where keyed() does not see it, and lost: 1.weight, 1.bias",
        "never written: 2.weight, 2.bias",
    )
    changed = [not torch.equal(tensor, old) for tensor, old in zip(model.parameters(), before, strict=True)]
    assert changed == [True, True, False, False, False, False]


def test_values_in_other_layouts_are_read_and_values_that_are_elsewhere_refused():
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    before = model.weight.detach().clone()
    with torch.no_grad(), keyed(model):
        model.weight.mul_(2)
    assert torch.equal(model.weight, before * 2) and model.weight.stride() == before.stride()
    table = torch.randn(20, 4)
    model = nn.Module()
    model.rows, model.other = nn.Parameter(table[:10]), nn.Parameter(torch.randn(10, 4))
    before = model.rows.detach().clone()
    for read in (
        lambda: model.rows.mul_(2),
        lambda: model.other.copy_(model.rows * 2),
        lambda: float(model.rows.sum()),
        lambda: model.register_buffer("copy", model.rows.detach().clone()),
    ):
        with pytest.raises(DeferralError, match="part"), torch.no_grad(), keyed(model):
            read()
        vars(model)["_buffers"].clear()
    assert torch.equal(model.rows, before)
    with torch.no_grad(), keyed(model, seed=3):
        model.rows.copy_(torch.zeros_like(model.rows) + torch.randn_like(model.rows))
    assert not torch.equal(model.rows, before)


def test_sharded_parameters_are_neither_read_nor_replaced():
    distributed = pytest.importorskip("torch.distributed")
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not distributed.is_available() or not hasattr(fsdp, "fully_shard"):
        pytest.skip("FSDP2 is not in this torch")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        fsdp.fully_shard(model)
        before = dict(model.named_parameters())
        for change, said in (
            (lambda: setattr(model[0], "weight", nn.Parameter(torch.zeros(8, 8))), "'0.weight' is sharded"),
            (lambda: setattr(model[0], "weight", model[1].weight), "'0.weight' is sharded"),
            (lambda: model[0].weight.data.mul_(2), "part of '0.weight'"),
            (lambda: float(model[0].weight.sum()), "only a part"),
        ):
            with pytest.raises(DeferralError, match=said), keyed(model):
                change()
            assert all(tensor is before[name] for name, tensor in model.named_parameters())
        with torch.no_grad(), keyed(model, seed=3) as drawn:
            nn.init.normal_(model[0].weight)
            model[1].weight.copy_(model[0].weight * 2)
        assert torch.equal(model[1].weight.full_tensor(), model[0].weight.full_tensor() * 2)
        assert len(drawn.record) == 2 and all(
            verify(drawn.record, model)[entry.name].is_sound for entry in drawn.record
        )
    finally:
        distributed.destroy_process_group()


def test_parameters_of_other_dtypes_get_what_the_code_writes():
    model = nn.Linear(8, 8)
    model.phases = nn.Parameter(torch.zeros(4, dtype=torch.complex64))
    model.counts = nn.Parameter(torch.zeros(4, dtype=torch.int32), requires_grad=False)
    with torch.no_grad(), keyed(model, seed=3) as drawn:
        model.reset_parameters()
        model.phases.copy_(torch.randn(4, dtype=torch.complex64))
        model.counts.fill_(7)
    assert model.phases.abs().min() > 0 and (model.counts == 7).all()
    assert [entry.name for entry in drawn.record] == ["weight", "bias"] and verify(drawn.record, model)["bias"].is_sound


def test_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    configuration = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=8)

    def make():
        return transformers.GPT2LMHeadModel(configuration)

    model = make()
    late = copy.deepcopy(model)
    for module in late.modules():
        vars(module).pop("_is_hf_initialized", None)
    for parameter in late.parameters():
        vars(parameter).pop("_is_hf_initialized", None)
    with keyed(late, seed=3) as drawn:
        late.init_weights()
    same(late, expected(make)[0])
    (said,) = drawn.check()  # which GPT-2 does: the table, and the projections into the residual stream
    assert said.startswith("drawn more than once: transformer.wte.weight, transformer.h.0.attn.c_proj.weight, ")
