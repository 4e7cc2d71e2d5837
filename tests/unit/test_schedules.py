"""Learning rate schedules against their closed forms."""

import math

import pytest

from brainplug.optim.schedules import constant, cosine, tri_stage


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


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.01), (5, 0.505), (10, 1.0), (30, 1.0), (50, 1.0), (75, math.sqrt(0.05)), (100, 0.05), (120, 0.05)],
)
def test_tri_stage_warms_up_holds_and_decays(step, factor):
    assert tri_stage(step, 100) == pytest.approx(factor, rel=1e-12)


def test_tri_stage_may_end_amid_its_decay():
    """HuBERT's ten hours: 8,000 updates of warm-up, a decay of 72,000, stopped at 25,000; the peak is 2e-5."""
    rate = 2e-5 * tri_stage(25000, 25000, warm_up=8 / 25, hold=0, decay=72 / 25)
    assert rate == pytest.approx(9.9e-6, rel=0.01)
