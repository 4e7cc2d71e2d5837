"""Echo's attention, beside the plainest loops."""

import math

import pytest
import torch

from brainplug.backbones.echo.attention import (
    CrossAttention,
    Distances,
    LocalAttention,
    RelativeBias,
    RotaryAttention,
    SelfAttention,
)
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.layers import ConvolutionBranch, EncoderLayer

DIM, HEADS = 16, 2


def config(**changes: object) -> EchoConfig:
    sizes = {"n_audio_state": DIM, "n_audio_head": HEADS, "n_text_state": DIM, "n_text_head": HEADS, "max_rel_dist": 3}
    return EchoConfig(**{**sizes, "attn_implementation": "sdpa", "checkpointing": False, **changes})


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that are not those of the beginning, biases of distances among them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return module.eval()


def by_loops(attention: RotaryAttention, tokens: torch.Tensor, allowed=lambda distance: True) -> torch.Tensor:
    """One clip's attention, a query, a head and a key at a time; without the projection of the output."""
    query, key, value = (states[0] for states in attention.read(tokens, None, 0))
    farthest = attention.config.max_rel_dist - 1
    made = torch.zeros(tokens.shape[1], DIM)
    width = DIM // HEADS
    for head in range(HEADS):
        for i in range(tokens.shape[1]):
            keys = [j for j in range(tokens.shape[1]) if allowed(i - j)]
            scores = []
            for j in keys:
                bias = attention.bias.table[min(max(i - j, -farthest), farthest) + farthest, head]
                scores.append((query[head, i] * key[head, j]).sum() / math.sqrt(width) + bias)
            weights = torch.stack(scores).softmax(0)
            made[i, head * width : (head + 1) * width] = sum(
                weight * value[head, j] for weight, j in zip(weights, keys, strict=True)
            )
    return made[None]


class TestRelativeBias:
    def test_equals_the_formula(self):
        bias = trained(RelativeBias(3, HEADS))
        made, distances = bias(Distances(5, 7, first=2)), Distances(5, 7, first=2).matrix("cpu")
        for i in range(5):
            for j in range(7):
                index = min(max(2 + i - j, -2), 2) + 2
                assert distances[i, j] == 2 + i - j
                torch.testing.assert_close(made[:, i, j], bias.table[index])

    def test_far_distances_share_a_value(self):
        bias = trained(RelativeBias(3, HEADS))(Distances(9, 9))
        assert torch.equal(bias[:, 8, 0], bias[:, 2, 0])
        assert torch.equal(bias[:, 0, 8], bias[:, 0, 2])
        assert not torch.equal(bias[:, 2, 0], bias[:, 1, 0])


class TestSelfAttention:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    def test_equals_loops(self, causal, implementation):
        attention = trained(SelfAttention(config(attn_implementation=implementation), DIM, HEADS, causal))
        tokens = torch.randn(1, 7, DIM)
        expected = attention.out_proj(by_loops(attention, tokens, lambda distance: not causal or distance >= 0))
        torch.testing.assert_close(attention(tokens)[0], expected, atol=1e-5, rtol=1e-4)

    def test_a_constant_of_all_distances_changes_nothing(self):
        attention, tokens = trained(SelfAttention(config(), DIM, HEADS)), torch.randn(2, 7, DIM)
        before = attention(tokens)[0]
        attention.bias.table.data += 3
        torch.testing.assert_close(attention(tokens)[0], before, atol=1e-5, rtol=1e-4)
        attention.bias.table.data[0] += 3
        assert not torch.allclose(attention(tokens)[0], before, atol=1e-2)

    def test_sees_no_padding(self):
        attention, tokens = trained(SelfAttention(config(), DIM, HEADS)), torch.randn(2, 7, DIM)
        mask = torch.arange(7) < torch.tensor([[7], [4]])
        both = attention(tokens, mask)[0]
        torch.testing.assert_close(both[1:, :4], attention(tokens[1:, :4])[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both[:1], attention(tokens[:1])[0], atol=1e-5, rtol=1e-4)

    def test_causal_means_that_nothing_later_counts(self):
        attention, tokens = trained(SelfAttention(config(), DIM, HEADS, causal=True)), torch.randn(1, 7, DIM)
        before = attention(tokens)[0]
        tokens[:, 4] += 1
        torch.testing.assert_close(attention(tokens)[0][:, :4], before[:, :4], atol=1e-6, rtol=0)
        assert not torch.allclose(attention(tokens)[0][:, 4:], before[:, 4:], atol=1e-2)

    def test_folding_changes_nothing(self):
        attention, tokens = trained(SelfAttention(config(train_orthogonal=True), DIM, HEADS)), torch.randn(2, 7, DIM)
        before = attention(tokens)[0]
        attention.fold()
        assert attention.rotary.matrix() is None
        torch.testing.assert_close(attention(tokens)[0], before, atol=1e-4, rtol=1e-4)


class TestLocalAttention:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize(("tokens", "window"), [(12, 4), (13, 4), (3, 4), (9, 1), (1, 1), (10, 64)])
    def test_blocks_equal_loops(self, tokens, window, causal):
        attention = trained(LocalAttention(config(window_size=window), DIM, HEADS, causal))
        states = torch.randn(1, tokens, DIM)
        expected = by_loops(attention, states, lambda d: (0 if causal else -window) <= d <= window)
        torch.testing.assert_close(attention(states)[0], attention.out_proj(expected), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("causal", [False, True])
    def test_a_wide_window_is_the_whole(self, causal):
        local = trained(LocalAttention(config(window_size=8), DIM, HEADS, causal))
        whole = SelfAttention(config(), DIM, HEADS, causal).eval()
        whole.load_state_dict(local.state_dict())
        tokens = torch.randn(2, 9, DIM)
        torch.testing.assert_close(local(tokens)[0], whole(tokens)[0], atol=1e-5, rtol=1e-4)

    def test_clips_do_not_see_each_other_nor_padding(self):
        attention, tokens = trained(LocalAttention(config(window_size=2), DIM, HEADS)), torch.randn(3, 9, DIM)
        mask = torch.arange(9) < torch.tensor([[9], [5], [7]])
        made = attention(tokens, mask)[0]
        order = torch.tensor([2, 0, 1])
        torch.testing.assert_close(attention(tokens[order], mask[order])[0], made[order])
        for clip, length in zip(range(3), [9, 5, 7], strict=True):
            alone = attention(tokens[clip : clip + 1, :length])[0]
            torch.testing.assert_close(made[clip : clip + 1, :length], alone, atol=1e-5, rtol=1e-4)
        assert torch.isfinite(made).all()


class TestCrossAttention:
    def test_every_token_hears_all_of_the_audio(self):
        attention = trained(CrossAttention(config()))
        text, audio = torch.randn(1, 4, DIM), torch.randn(1, 6, DIM)
        before = attention(text, audio)[0]
        for position in range(6):
            other = audio.clone()
            other[:, position] += 1
            assert (attention(text, other)[0] - before).abs().sum(2).min() > 1e-4

    def test_positions_play_no_part_but_with_card_parity(self):
        text, audio = torch.randn(1, 4, DIM), torch.randn(1, 6, DIM)
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        for card_parity in (False, True):
            attention = trained(CrossAttention(config(card_parity=card_parity)))
            same = torch.allclose(attention(text, audio)[0], attention(text, audio[:, order])[0], atol=1e-5)
            assert same != card_parity


class TestConvolutionBranch:
    def test_without_its_output_a_layer_adds_its_feed_forward_alone(self):
        layer = trained(EncoderLayer(config(use_convolution=True)))
        torch.nn.init.zeros_(layer.convolution.out_proj.weight)
        torch.nn.init.zeros_(layer.convolution.out_proj.bias)
        tokens = torch.randn(1, 5, DIM)
        torch.testing.assert_close(layer(tokens), tokens + layer.feed_forward(layer.feed_forward_norm(tokens)))

    def test_without_its_convolution_it_is_attention(self):
        branch = trained(ConvolutionBranch(DIM, HEADS, 3))
        for tensor in (branch.convolution.weight, branch.convolution.bias, branch.convolution_norm.bias):
            torch.nn.init.zeros_(tensor)
        tokens, attended = torch.randn(2, 1, 5, DIM)
        torch.testing.assert_close(branch(tokens, attended), branch.out_proj(branch.norm(attended)))

    @pytest.mark.parametrize("kernel_size", [1, 3, 5])
    def test_keeps_the_number_of_tokens_and_hears_no_padding(self, kernel_size):
        branch = trained(ConvolutionBranch(DIM, HEADS, kernel_size))
        tokens, attended = torch.randn(2, 2, 7, DIM)
        made = branch(tokens, attended, torch.arange(7) < torch.tensor([[7], [4]]))
        assert made.shape == tokens.shape
        alone = branch(tokens[1:, :4], attended[1:, :4])
        torch.testing.assert_close(made[1:, :4], alone, atol=1e-5, rtol=1e-4)
