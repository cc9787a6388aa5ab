"""What audits measure of layers that ran, from plain arrays."""

import numpy as np
import pytest

import fastinit
from fastinit.audits.measuring import (
    AUDIT_KEY,
    Measured,
    Unscalable,
    called,
    check_finite,
    differentiated,
    measured,
    noise,
    numbered,
)
from fastinit.models.rules import Parameter


def values(rows=16, units=4, number=0):
    return np.random.default_rng(number).standard_normal((rows, units))


def test_the_output_of_a_layer():
    array = values()
    weight = Parameter("layer.weight", (4, 4))
    found = measured("layer", array, weight=weight, norm=True)
    assert found == Measured("layer", 4, array.var(), weight=weight, norm=True)


@pytest.mark.parametrize(
    ("array", "identical"),
    [
        (np.repeat(values(units=1), 4, axis=1), True),
        (values(), False),
        (np.zeros((16, 4)), False),
        (np.full((16, 4), 3.0), False),  # a constant has no variance
        (values(units=1), False),
    ],
)
def test_units_that_compute_the_same(array, identical):
    assert measured("layer", array).identical is identical


def test_the_gradients_of_a_layer():
    array, gradients = values(), values(number=1)
    array[:, 1], gradients[:, 1:3] = -np.abs(array[:, 1]), 0  # only the first of the two has one sign
    before = measured("layer", array)
    after = differentiated(before, array, gradients)
    assert after.dead == 0.25
    assert after.gradient_variance == gradients.var()
    assert after.response == pytest.approx(((array * gradients) ** 2).sum())
    assert (after.name, after.width, after.variance) == (before.name, before.width, before.variance)


def test_units_without_a_gradient_and_with_other_signs_are_not_dead():
    array = np.abs(values())
    array[:, ::2] *= -1
    assert differentiated(measured("layer", array), array, np.zeros_like(array)).dead == 0.5  # a branch that is dropped
    for sign in (1, -1):
        same = sign * np.abs(array)
        assert differentiated(measured("layer", same), same, np.zeros_like(array)).dead == 1.0


def test_too_few_values_say_nothing_of_dead_units():
    gradients = np.zeros((7, 4))
    assert differentiated(measured("layer", gradients), gradients, gradients).dead is None
    gradients = np.zeros((8, 4))
    assert differentiated(measured("layer", gradients), gradients, gradients).dead == 1.0


def test_what_overflows_is_measured_without_a_warning():
    array = np.array([[np.inf, 1.0], [1e300, -1e300]])
    found = differentiated(measured("layer", array), array, array)
    assert not np.isfinite([found.variance, found.gradient_variance, found.response]).any()


def test_repeated_calls_are_numbered():
    calls = [Measured(name, 1, 1.0) for name in ("one", "two", "one", "one")]
    assert [call.name for call in numbered(calls)] == ["one", "two", "one, call 2", "one, call 3"]


def test_the_noise_is_the_same_every_time():
    drawn = fastinit.fill(np.empty((3, 5), np.float32), fastinit.Normal(), AUDIT_KEY.fold_in(2))
    assert noise((3, 5), 2).tobytes() == drawn.tobytes()
    assert noise((3, 5), 1).tobytes() != drawn.tobytes()
    assert noise((), 0).shape == ()


def test_a_batch_that_is_not_finite():
    check_finite([np.ones(3), np.array([1, 2]), np.array(["text"])])
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="expected a finite batch, got NaN or infinity"):
            check_finite([np.ones(3), np.array([1.0, wrong], np.float16)])


def test_what_a_model_raises_is_named():
    def run(problem):
        with called("Net"):
            raise problem

    with pytest.raises(ValueError, match="the batch does not fit Net, which raised KeyError: 'x'") as caught:
        run(KeyError("x"))
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(Unscalable, match="as it is"):
        run(Unscalable("as it is"))
