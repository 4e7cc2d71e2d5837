"""Echo's rotations: orthogonal whatever is learned, and the same as one rotation after the other."""

import math

import pytest
import torch

from brainplug.backbones.echo.positions import LearnedSinusoids
from brainplug.backbones.echo.rotary import (
    AdaptiveBase,
    CombinedRotary,
    GivensRotations,
    OrthogonalMatrix,
    RotaryPositions,
)
from brainplug.errors import UsageError


def learned(rotary: CombinedRotary) -> CombinedRotary:
    """As after training: angles that are not zero, and R elsewhere."""
    generator = torch.Generator().manual_seed(0)
    for parameter in rotary.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return rotary


def one_after_the_other(rotations: GivensRotations, states: torch.Tensor) -> torch.Tensor:
    """As the definition says: N dense matrices, N products."""
    for (one, other), angle in zip(rotations.pairs.tolist(), rotations.thetas * rotations.theta_scale, strict=True):
        matrix = torch.eye(rotations.head_dim)
        matrix[one, one] = matrix[other, other] = angle.cos()
        matrix[one, other], matrix[other, one] = -angle.sin(), angle.sin()
        states = states @ matrix
    return states


class TestGivensRotations:
    @pytest.mark.parametrize("rotations", [1, 3, 4, 5, 12, 28])
    def test_product_equals_one_after_the_other(self, rotations):
        givens = GivensRotations(8, rotations)
        torch.nn.init.normal_(givens.thetas)
        torch.nn.init.constant_(givens.theta_scale, 1.5)
        states = torch.randn(5, 8)
        torch.testing.assert_close(states @ givens(), one_after_the_other(givens, states), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("head_dim", [2, 4, 8, 64])
    def test_every_pair_once_and_rounds_without_repetition(self, head_dim):
        pairs = GivensRotations(head_dim, head_dim * (head_dim - 1) // 2).pairs
        assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
        for several in pairs.split(head_dim // 2):
            assert several.flatten().sort()[0].tolist() == list(range(head_dim))

    def test_a_quarter_turn(self):
        givens = GivensRotations(2)
        givens.pairs.copy_(torch.tensor([[0, 1]]))
        torch.nn.init.constant_(givens.thetas, math.pi / 2)
        expected = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        torch.testing.assert_close(torch.eye(2) @ givens(), expected, atol=1e-6, rtol=0)

    def test_gradient_of_the_angles_is_that_of_finite_differences(self):
        givens = GivensRotations(6, 5).double()
        torch.nn.init.normal_(givens.thetas)
        weights = torch.randn(6, 6)

        def loss(thetas: torch.Tensor) -> torch.Tensor:
            return (torch.func.functional_call(givens, {"thetas": thetas}) * weights).sum()

        gradient = torch.autograd.grad(loss(givens.thetas), givens.thetas)[0]
        step = 1e-2
        for index in range(5):
            moved = torch.zeros(5, dtype=torch.double).index_fill(0, torch.tensor([index]), step)
            difference = (loss(givens.thetas + moved) - loss(givens.thetas - moved)) / (2 * step)
            assert gradient[index].item() == pytest.approx(difference.item(), abs=1e-3)
        assert gradient.abs().min() > 0

    def test_pairs_come_from_the_generator(self):
        drawn = []
        for seed in (1, 1, 2):
            givens = GivensRotations(32)
            givens.reset(torch.Generator().manual_seed(seed))
            drawn.append(givens.pairs)
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    @pytest.mark.parametrize("rotations", [0, 29])
    def test_too_many(self, rotations):
        with pytest.raises(UsageError, match=r"A head of 8 values has 28 pairs\. Write n_rotations: 4"):
            GivensRotations(8, rotations)


class TestOrthogonalMatrix:
    def test_stays_orthogonal_where_it_is_trained(self):
        matrix = OrthogonalMatrix(8, trained=True)
        before = matrix().detach().clone()
        optimizer = torch.optim.SGD(matrix.parameters(), lr=0.5)
        target = torch.randn(8, 8)
        for _ in range(20):
            optimizer.zero_grad()
            (matrix() - target).square().sum().backward()
            optimizer.step()
        assert not torch.allclose(matrix(), before, atol=0.1)
        torch.testing.assert_close(matrix() @ matrix().T, torch.eye(8), atol=1e-5, rtol=0)

    def test_begins_where_it_was_drawn(self):
        matrix = OrthogonalMatrix(8, trained=True)
        torch.testing.assert_close(matrix(), matrix.start, atol=1e-6, rtol=0)
        assert not torch.allclose(matrix.start, torch.eye(8), atol=0.1)


@pytest.mark.parametrize("train_orthogonal", [False, True])
@pytest.mark.parametrize("rotations", [None, 40])
class TestCombinedRotary:
    def test_is_orthogonal_and_keeps_lengths(self, train_orthogonal, rotations):
        rotary = learned(CombinedRotary(16, rotations=rotations, train_orthogonal=train_orthogonal))
        matrix = rotary.matrix()
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(16), atol=1e-5, rtol=0)
        states = torch.randn(2, 3, 5, 16)
        torch.testing.assert_close((states @ matrix).norm(dim=-1), states.norm(dim=-1))
        torch.testing.assert_close(rotary.positions(states).norm(dim=-1), states.norm(dim=-1))

    def test_scores_depend_on_the_distance_alone(self, train_orthogonal, rotations):
        rotary = learned(CombinedRotary(16, rotations=rotations, train_orthogonal=train_orthogonal))
        same = torch.randn(2, 16)[:, None, None, None].expand(2, 1, 1, 9, 16)  # a query and a key at all positions
        query, key = rotary(*same)
        scores = (query @ key.transpose(2, 3))[0, 0]
        for distance in range(-8, 9):
            diagonal = scores.diagonal(distance)
            torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
        assert (scores[0] - scores[0, 0]).abs().max() > 1e-2

    def test_at_one_position_scores_are_those_without_it(self, train_orthogonal, rotations):
        rotary = learned(CombinedRotary(16, rotations=rotations, train_orthogonal=train_orthogonal))
        query, key = torch.randn(2, 7, 1, 1, 16)
        turned_query, turned_key = rotary(query, key)
        torch.testing.assert_close((turned_query * turned_key).sum(-1), (query * key).sum(-1), atol=1e-4, rtol=1e-4)


def test_without_angles_and_with_the_identity_it_is_plain():
    plain, combined = CombinedRotary(16, "plain"), CombinedRotary(16)
    combined.orthogonal.start.copy_(torch.eye(16))
    states = torch.randn(2, 2, 5, 16)
    torch.testing.assert_close(combined(states)[0], plain(states)[0])
    assert not torch.allclose(CombinedRotary(16)(states)[0], plain(states)[0], atol=0.1)


class TestRotaryPositions:
    def test_equals_complex_numbers(self):
        turn, states = RotaryPositions(8), torch.randn(6, 8)
        frequencies = 10000.0 ** (-2 * torch.arange(4) / 8)
        torch.testing.assert_close(turn.frequencies, frequencies)
        turned = torch.view_as_complex(states.unflatten(1, (4, 2)).contiguous())
        turned = turned * torch.polar(torch.ones(6, 4), torch.arange(3, 9)[:, None] * frequencies)
        expected = torch.cat([turned.real, turned.imag], dim=1)
        torch.testing.assert_close(turn(states, offset=3), expected, atol=1e-5, rtol=1e-5)

    def test_an_offset_is_a_slice(self):
        turn, states = RotaryPositions(8), torch.randn(6, 8)
        torch.testing.assert_close(turn(states[4:], offset=4), turn(states)[4:])

    def test_a_new_base_reaches_tables_in_place(self):
        turn, states = RotaryPositions(8), torch.randn(6, 8)
        frequencies, before = turn.frequencies, turn(states)
        turn.set_base(torch.tensor(500.0))
        assert turn.frequencies is frequencies
        torch.testing.assert_close(frequencies, 500.0 ** (-2 * torch.arange(4) / 8))
        torch.testing.assert_close(turn(states), RotaryPositions(8, 500.0)(states))
        assert not torch.allclose(turn(states), before)

    def test_half_precision_keeps_positions_exact(self):
        exact, half = RotaryPositions(8), RotaryPositions(8).bfloat16()
        states = torch.randn(1, 8).bfloat16()
        torch.testing.assert_close(half(states, offset=5000), exact(states, offset=5000))
        assert half(states).dtype == torch.bfloat16

    def test_tables_of_inference_can_be_trained_with(self):
        turn = RotaryPositions(8)
        with torch.inference_mode():
            turn(torch.randn(6, 8))
        states = torch.randn(6, 8, requires_grad=True)
        turn(states).sum().backward()
        assert states.grad is not None


def test_what_is_made_in_half_precision_is_exact():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(0)
        rotary, adaptive = CombinedRotary(8, base=10000.0), AdaptiveBase(10000.0)
        matrix, turned = rotary.matrix(), rotary.positions(torch.ones(1, 1, 1001, 8, dtype=torch.float32))
    finally:
        torch.set_default_dtype(before)
    assert {buffer.dtype for buffer in (*rotary.buffers(), *adaptive.buffers())} == {torch.float32, torch.int64}
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8), atol=1e-5, rtol=0)
    expected = RotaryPositions(8)(torch.ones(1, 1, 1001, 8))
    assert torch.equal(turned, expected)


def test_tables_follow_what_others_write_into_the_frequencies():
    one, other = RotaryPositions(8), RotaryPositions(8, base=100.0)
    states = torch.randn(1, 5, 8)
    one(states)  # has made its tables
    with torch.no_grad():
        for buffer, new in zip(one.buffers(), other.buffers(), strict=True):
            buffer.copy_(new)
    assert torch.equal(one(states), other(states))


class TestAdaptiveBase:
    def test_only_falling_losses(self):
        adaptive = AdaptiveBase(10000.0)
        for step in range(10000):
            adaptive.update(torch.tensor(1e5 - step))
        assert adaptive.base.item() / 10000 == pytest.approx(1.0025**400, rel=1e-3)

    @pytest.mark.parametrize(("sign", "bound"), [(-1, 100000.0), (1, 1000.0)])
    def test_bounds(self, sign, bound):
        adaptive = AdaptiveBase(10000.0, factor=2, interval=1)
        for step in range(20):
            adaptive.update(torch.tensor(sign * float(step)))
        assert adaptive.base.item() == bound

    def test_changes_at_its_interval_only(self):
        adaptive = AdaptiveBase(10000.0, interval=3)
        assert [adaptive.update(torch.tensor(1.0)) for _ in range(7)] == [False, False, True, False, False, True, False]

    @pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
    def test_a_loss_that_is_not_finite_is_forgotten(self, strange):
        adaptive = AdaptiveBase(10000.0, interval=1)
        for loss in (3.0, 2.0, strange, 1.0, 0.5):
            adaptive.update(loss)
        # Larger by the first, the second, the fourth and the fifth; the mean stood still at the third.
        assert adaptive.base.item() == pytest.approx(10000 * 1.0025**3)
        assert adaptive.loss.isfinite()

    def test_goes_on_where_it_was_saved(self):
        losses = [torch.tensor(value) for value in (3.0, 2.0, 2.5, 1.0, 1.5, 0.5, 0.7)]
        unbroken, first = AdaptiveBase(100.0, interval=2), AdaptiveBase(100.0, interval=2)
        for loss in losses:
            unbroken.update(loss)
        for loss in losses[:3]:
            first.update(loss)
        second = AdaptiveBase(100.0, interval=2)
        second.update(torch.tensor(9.0))  # has counted something else
        second.load_state_dict(first.state_dict())
        for loss in losses[3:]:
            second.update(loss)
        assert all(torch.equal(value, unbroken.state_dict()[name]) for name, value in second.state_dict().items())


class TestLearnedSinusoids:
    def test_begins_as_sinusoids(self):
        table = LearnedSinusoids(20, 6).weight
        for position, column in [(0, 0), (3, 2), (7, 4)]:
            angle = position * 10000 ** (-column / 6)
            assert table[position, column].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, column + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)

    def test_gradient_has_no_radial_part(self):
        embed = LearnedSinusoids(20, 6)
        (embed(5, offset=2) * torch.randn(5, 6)).sum().backward()
        used, gradient = embed.weight[2:7], embed.weight.grad[2:7]
        assert gradient.norm(dim=1).min() > 1e-3
        torch.testing.assert_close((used * gradient).sum(1), torch.zeros(5), atol=1e-6, rtol=0)
        assert embed.weight.grad[:2].abs().max() == 0

    def test_an_offset_is_a_slice_and_rows_have_the_length_of_the_gain(self):
        embed = LearnedSinusoids(20, 6, gain=2.0)
        assert torch.equal(embed(5, offset=7), embed(20)[7:12])
        torch.testing.assert_close(embed(20).norm(dim=1), torch.full((20,), 2.0))

    @pytest.mark.parametrize(("length", "offset"), [(21, 0), (1, 20), (1, -1)])
    def test_longer_than_the_table(self, length, offset):
        with pytest.raises(
            UsageError, match=r"were asked for\. The table has 20\. .* larger n_audio_ctx or n_text_ctx"
        ):
            LearnedSinusoids(20, 6)(length, offset)
