"""Views of a parameter that a conversion takes when it saves: strides tell which slices of which tensor they are."""

import random

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import fastinit  # noqa: E402
from fastinit.adapters.torch import Virtual  # noqa: E402
from fastinit.adapters.torch.origins import _view_of  # noqa: E402
from fastinit.checkpoints import Filled, Plan, Tensor, Values  # noqa: E402

SHAPES = [(6,), (4, 4), (1, 5), (3, 4, 4), (2, 1, 3), (4, 1, 1, 4), (2, 3, 2, 3)]


def steps(rng, tensor):
    """A chain of operations that slice and transpose, as functions of a tensor."""
    found = []
    for _ in range(rng.randint(1, 4)):
        if not tensor.dim():
            break
        axis, other = (rng.randrange(tensor.dim()) for _ in range(2))
        kind = rng.choice(["narrow", "select", "transpose", "chunk"])
        if kind == "narrow":
            begin = rng.randrange(tensor.shape[axis])
            size = rng.randint(1, tensor.shape[axis] - begin)
            step = lambda one, axis=axis, begin=begin, size=size: one.narrow(axis, begin, size)  # noqa: E731
        elif kind == "select":
            place = rng.randrange(tensor.shape[axis])
            step = lambda one, axis=axis, place=place: one.select(axis, place)  # noqa: E731
        elif kind == "transpose":
            step = lambda one, axis=axis, other=other: one.transpose(axis, other)  # noqa: E731
        else:
            step = lambda one, axis=axis: one.chunk(2, axis)[-1]  # noqa: E731
        found.append(step)
        tensor = step(tensor)
    return found


def filled(shape):
    return Filled(fastinit.Entry("base", shape, "given", fastinit.Normal(), fastinit.Key(3), dtype="float32"))


def applied(steps, tensor):
    for step in steps:
        tensor = step(tensor)
    return tensor


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_and_transposes_are_found(shape):
    rng, whole = random.Random(str(shape)), Tensor("base", filled(shape))
    values, base = Virtual(Plan((whole,))).get_tensor("base"), torch.empty(shape, device="meta")
    for _ in range(150):
        chain = steps(rng, base)
        view = applied(chain, base)
        found = _view_of(whole, base, view, "view")
        assert found is not None and found.name == "view"
        assert torch.equal(Virtual(Plan((found,))).get_tensor("view"), applied(chain, values)), (view.shape, found)


@pytest.mark.parametrize(
    "view",
    [
        lambda one: one[:, ::2],
        lambda one: one.flatten(),
        lambda one: one.diagonal(),
        lambda one: one.unfold(1, 3, 1),
        lambda one: one[:1].expand(3, 8),
        lambda one: one.as_strided((2, 2), (8, 9)),
        lambda one: one.view(2, 2, 8),
        lambda one: one.view(8, 4),
    ],
)
def test_other_views_are_not_taken_for_slices(view):
    base = torch.empty((4, 8), device="meta")
    assert _view_of(Tensor("base", filled((4, 8))), base, view(base), "view") is None


def test_only_whole_filled_tensors_are_sliced():
    base = torch.empty((4, 4), device="meta")
    known = Tensor("base", Values("float32", (4, 4), bytes(64)))
    part = Tensor("base", Filled(filled((8, 4)).entry, (2, 0), (4, 4)))
    transposed = Tensor("base", Filled(filled((4, 4)).entry, axes=(1, 0)))
    for tensor in (known, part, transposed):
        assert _view_of(tensor, base, base[1:], "view") is None
        assert _view_of(tensor, base, base.T, "view") is None
        renamed = _view_of(tensor, base, base.view(4, 4), "view")
        assert renamed is not None and renamed.source is tensor.source
