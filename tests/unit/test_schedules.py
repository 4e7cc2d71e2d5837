"""Learning rate schedules against their closed forms."""

import math

import pytest

from brainplug.optim.schedules import constant, cosine


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1.0), (25, (2 + math.sqrt(2)) / 4), (50, 0.5), (75, (2 - math.sqrt(2)) / 4), (100, 0.0)]
)
def test_cosine_equals_the_closed_form(step, factor):
    assert cosine(step, 100) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("total_steps", [1, 2, 7, 1000])
def test_cosine_falls_from_one_to_zero(total_steps):
    factors = [cosine(step, total_steps) for step in range(total_steps + 1)]
    assert factors[0] == 1
    assert factors[-1] == 0
    assert all(earlier > later for earlier, later in zip(factors, factors[1:], strict=False))


def test_cosine_stays_at_zero_beyond_the_last_step():
    assert cosine(11, 10) == cosine(10**6, 10) == 0


@pytest.mark.parametrize("step", [0, 5, 10, 11])
def test_constant(step):
    assert constant(step, 10) == 1
