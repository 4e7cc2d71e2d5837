"""The objective of HuBERT: predict the clusters of masked frames.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units", 2021,
sections II-B and II-C, https://arxiv.org/abs/2106.07447
"""

from typing import Any

import torch
from transformers import HubertModel

TEMPERATURE = 0.1


class HubertObjective(torch.nn.Module):
    """Predicts clusters by the cosine between projected tokens and a codebook.

    ``logit_c = cos(A o_t, e_c) / 0.1``, computed as one matrix product of rows with unit length;
    ``L = alpha L_masked + (1 - alpha) L_unmasked``, each the mean cross-entropy over its frames.

    Arguments
    ---------
    dim : int
        Width of a token.
    projection : int
        Width in which tokens and codes are compared.
    alpha : float
        Weight of the masked frames.
    """

    def __init__(self, dim: int, clusters: int, projection: int = 256, alpha: float = 1.0):
        super().__init__()
        self.alpha = alpha
        self.projection = torch.nn.Linear(dim, projection)
        self.codebook = torch.nn.Parameter(torch.rand(clusters, projection))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[..., dim]`` to logits ``[..., clusters]``."""
        projected = torch.nn.functional.normalize(self.projection(tokens), dim=-1)
        return projected @ torch.nn.functional.normalize(self.codebook, dim=-1).t() / TEMPERATURE

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The loss of the model's output for masked clips; frames of weight 0 are left out before the product.

        Arguments
        ---------
        tokens, labels, mask : torch.Tensor
            ``[batch, frames, dim]``, and ``[batch, frames]`` for clusters and the mask, True where a frame was masked.
        """
        loss = tokens.new_zeros(())
        for weight, where in ((self.alpha, mask), (1 - self.alpha, ~mask)):
            if weight:
                loss = loss + weight * torch.nn.functional.cross_entropy(self(tokens[where]).float(), labels[where])
        return loss


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * context.factor, None


def scale_gradient(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Returns the values unchanged, and multiplies their gradient by a factor."""
    return _ScaledGradient.apply(values, factor)


class HubertPretraining(torch.nn.Module):
    """A HuBERT with its objective.

    Arguments
    ---------
    projection, alpha : int, float
        As in `HubertObjective`.
    feature_penalty : float
        Weight of the convolutions' mean squared output in the loss.
    feature_gradient : float
        Factor of the gradient that the convolutions get.
    """

    def __init__(
        self,
        model: HubertModel,
        clusters: int,
        projection: int = 256,
        alpha: float = 1.0,
        feature_penalty: float = 10.0,
        feature_gradient: float = 0.1,
    ):
        super().__init__()
        self.model = model
        self.objective = HubertObjective(model.config.hidden_size, clusters, projection, alpha)
        self.feature_penalty, self.feature_gradient = feature_penalty, feature_gradient
        torch.nn.init.uniform_(model.masked_spec_embed)

    def forward(self, waveforms: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Computes the loss of crops without padding, ``[batch, samples]``; labels and mask are ``[batch, frames]``.

        Returns
        -------
        dict[str, torch.Tensor]
            ``loss``, ``tokens`` ``[batch, frames, dim]``, and the given ``labels`` and ``mask``.
        """
        features = scale_gradient(self.model.feature_extractor(waveforms), self.feature_gradient)
        projected = self.model.feature_projection(features.transpose(1, 2))  # [batch, frames, dim]
        hidden = self.model.masked_spec_embed.to(projected.dtype)
        tokens = self.model.encoder(torch.where(mask[..., None], hidden, projected)).last_hidden_state
        loss = self.objective.loss(tokens, labels, mask) + self.feature_penalty * features.float().square().mean()
        return {"loss": loss, "tokens": tokens, "labels": labels, "mask": mask}
