"""HuBERT's objective against its published construction, closed forms, and overfitting to a few clips."""

import math

import pytest
import torch
from transformers import HubertConfig, HubertModel

from brainplug.data.masking import span_mask
from brainplug.pretrain.corpus import frames_in
from brainplug.pretrain.hubert import HubertObjective, scale_gradient

CLIPS, FRAMES, DIM, CLUSTERS = 3, 20, 16, 7


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(CLIPS, FRAMES, DIM, generator=generator)
    labels = torch.randint(CLUSTERS, (CLIPS, FRAMES), generator=generator)
    return tokens, labels, span_mask(CLIPS, FRAMES, 0.6, 4, 2, generator)


def make_objective(alpha: float = 1.0, clusters: int = CLUSTERS) -> HubertObjective:
    torch.manual_seed(0)
    return HubertObjective(DIM, clusters, projection=8, alpha=alpha)


def published_logits(tokens: torch.Tensor, labels: torch.Tensor, objective: HubertObjective) -> torch.Tensor:
    """As fairseq's compute_nce does: the positive, then all codes, where the positive counts minus infinity."""
    projected, codes = objective.projection(tokens), objective.codebook
    positives = codes.index_select(0, labels)
    negatives = codes.unsqueeze(1).expand(-1, len(projected), -1)  # [clusters, frames, dim]
    duplicates = (positives == negatives).all(-1)
    candidates = torch.cat([positives.unsqueeze(0), negatives])
    logits = torch.cosine_similarity(projected, candidates, dim=-1) / 0.1
    duplicates = torch.cat([torch.zeros_like(duplicates[:1]), duplicates])
    return logits.masked_fill(duplicates, -math.inf).t()  # [frames, 1 + clusters]


def gradients(loss: torch.Tensor, tokens: torch.Tensor, objective: HubertObjective) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, [tokens, *objective.parameters()])


def test_loss_and_gradients_equal_the_published_construction():
    objective = make_objective()
    tokens, labels, mask = batch()
    tokens.requires_grad_()
    logits = published_logits(tokens[mask], labels[mask], objective)
    published = torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    ours = objective.loss(tokens, labels, mask)
    assert ours.item() == pytest.approx(published.item(), rel=1e-6)
    for one, other in zip(gradients(ours, tokens, objective), gradients(published, tokens, objective), strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_logits_are_those_of_the_published_construction_in_the_order_of_the_clusters():
    objective = make_objective()
    tokens, labels, mask = batch()
    published = published_logits(tokens[mask], labels[mask], objective)
    ours = objective(tokens[mask])
    torch.testing.assert_close(ours.gather(1, labels[mask][:, None])[:, 0], published[:, 0])
    others = torch.arange(CLUSTERS) != labels[mask][:, None]
    torch.testing.assert_close(ours[others], published[:, 1:][others])
    assert published[:, 1:][~others].eq(-math.inf).all()


@pytest.mark.parametrize("clusters", [100, 500])
def test_a_loss_starts_at_the_logarithm_of_the_clusters_and_half_the_logits_variance(clusters):
    torch.manual_seed(1)
    objective = HubertObjective(64, clusters, projection=256)
    torch.nn.init.normal_(objective.codebook)
    tokens, labels = torch.randn(4, 500, 64), torch.randint(clusters, (4, 500))
    with torch.no_grad():
        std = objective(tokens).std().item()
        loss = objective.loss(tokens, labels, torch.ones(4, 500, dtype=torch.bool)).item()
    assert std == pytest.approx(10 / math.sqrt(256), rel=0.1)
    assert loss == pytest.approx(math.log(clusters) + std**2 / 2, abs=0.05)


def test_the_codebook_starts_as_published():
    codebook = HubertObjective(8, 400).codebook
    assert codebook.shape == (400, 256)
    assert codebook.min() >= 0 and codebook.max() < 1
    assert codebook.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_alpha_weighs_the_means_over_masked_and_other_frames(alpha):
    objective = make_objective(alpha)
    tokens, labels, mask = batch()
    entry = torch.nn.functional.cross_entropy(objective(tokens).flatten(0, 1), labels.flatten(), reduction="none")
    masked, others = entry[mask.flatten()].mean(), entry[~mask.flatten()].mean()
    assert objective.loss(tokens, labels, mask).item() == pytest.approx((alpha * masked + (1 - alpha) * others).item())


@pytest.mark.parametrize(
    ("alpha", "masked_count", "others_count"), [(1.0, True, False), (0.0, False, True), (0.5, True, True)]
)
def test_targets_of_frames_without_weight_change_nothing(alpha, masked_count, others_count):
    objective = make_objective(alpha)
    tokens, labels, mask = batch()
    before = objective.loss(tokens, labels, mask)
    for where, counts in ((mask, masked_count), (~mask, others_count)):
        changed = torch.where(where, (labels + 1) % CLUSTERS, labels)
        assert torch.equal(objective.loss(tokens, changed, mask), before) != counts


def test_tokens_that_are_not_masked_get_no_gradient():
    tokens, labels, mask = batch()
    tokens.requires_grad_()
    make_objective().loss(tokens, labels, mask).backward()
    assert tokens.grad[~mask].eq(0).all() and tokens.grad[mask].ne(0).any(1).all()


def test_only_directions_count():
    objective = make_objective()
    tokens, labels, mask = batch()
    before = objective.loss(tokens, labels, mask)
    with torch.no_grad():
        objective.codebook *= torch.rand(CLUSTERS, 1) + 0.5
        objective.projection.weight *= 3
        objective.projection.bias *= 3
    torch.testing.assert_close(objective.loss(tokens, labels, mask), before)


@pytest.mark.parametrize("factor", [0.1, 1.0, 0.0])
def test_a_gradient_is_scaled_and_values_are_not(factor):
    convolution, rest = torch.nn.Conv1d(1, 4, 3), torch.nn.Linear(4, 2)
    waveform = torch.randn(2, 1, 10)

    def both(features: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        output = rest(features.transpose(1, 2))
        return output, torch.autograd.grad(output.square().sum(), [convolution.weight, rest.weight])

    plain, (slow, usual) = both(convolution(waveform))
    scaled, (slowed, unchanged) = both(scale_gradient(convolution(waveform), factor))
    assert torch.equal(plain, scaled) and torch.equal(usual, unchanged)
    torch.testing.assert_close(slowed, factor * slow)


def test_a_few_clips_can_be_overfitted():
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=48,  # frames within a masked run differ by what is beside it
        num_conv_pos_embedding_groups=4,
        layerdrop=0.0,
        **dict.fromkeys(["hidden_dropout", "attention_dropout", "feat_proj_dropout"], 0.0),
    )
    model, objective = HubertModel(config).train(), HubertObjective(64, 10, projection=32)
    waveforms = torch.randn(4, 16000)
    frames = frames_in(16000)
    labels = torch.randint(10, (4, frames))
    mask = span_mask(4, frames, 0.8, 10, 2, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=3e-3, betas=(0.9, 0.98))
    for _ in range(60):
        tokens = model(waveforms, mask_time_indices=mask).last_hidden_state
        optimizer.zero_grad()
        objective.loss(tokens, labels, mask).backward()
        optimizer.step()
    accuracy = (objective(tokens[mask]).argmax(1) == labels[mask]).float().mean()
    assert accuracy > 0.95
