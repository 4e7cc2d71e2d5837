"""The objective of HuBERT: to say at masked frames to which cluster the sound belongs.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units", 2021,
sections II-B and II-C, https://arxiv.org/abs/2106.07447
"""

import torch
from transformers import HubertModel

TEMPERATURE = 0.1


class HubertObjective(torch.nn.Module):
    """Predicts clusters by the cosine between projected tokens and a codebook.

    ``logit_c = cos(A o_t, e_c) / 0.1``, as one product of matrices with rows of unit length;
    ``L = alpha L_masked + (1 - alpha) L_unmasked``, each the mean cross-entropy over its frames.

    Arguments
    ---------
    dim : int
        Width of a token.
    clusters : int
        Size of the codebook.
    projection : int
        Width in which tokens and codes are compared.
    alpha : float
        Weight of the masked frames.

    Example
    -------
    >>> objective = HubertObjective(dim=16, clusters=5, projection=8)
    >>> objective(torch.randn(2, 7, 16)).shape
    torch.Size([2, 7, 5])
    """

    def __init__(self, dim: int, clusters: int, projection: int = 256, alpha: float = 1.0):
        super().__init__()
        self.alpha = alpha
        self.projection = torch.nn.Linear(dim, projection)
        self.codebook = torch.nn.Parameter(torch.rand(clusters, projection))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compares tokens with the codebook.

        Arguments
        ---------
        tokens : torch.Tensor
            ``[..., dim]``.

        Returns
        -------
        torch.Tensor
            Logits ``[..., clusters]``.
        """
        projected = torch.nn.functional.normalize(self.projection(tokens), dim=-1)
        return projected @ torch.nn.functional.normalize(self.codebook, dim=-1).t() / TEMPERATURE

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The loss of a batch. Frames of no weight are left out before the product.

        Arguments
        ---------
        tokens : torch.Tensor
            What the model made of the masked clips, ``[batch, frames, dim]``.
        labels : torch.Tensor
            Clusters, ``[batch, frames]``.
        mask : torch.Tensor
            True where a frame was masked, ``[batch, frames]``.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        loss = tokens.new_zeros(())
        for weight, where in ((self.alpha, mask), (1 - self.alpha, ~mask)):
            if weight:
                loss = loss + weight * torch.nn.functional.cross_entropy(self(tokens[where]).float(), labels[where])
        return loss


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: object, values: torch.Tensor, factor: float) -> torch.Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * context.factor, None


def scale_gradient(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Leaves values as they are, and scales the gradient that comes back.

    Arguments
    ---------
    values : torch.Tensor
        Any.
    factor : float
        HuBERT's convolutions learn with 0.1 of it.

    Returns
    -------
    torch.Tensor
        The same values.

    Example
    -------
    >>> values = torch.ones(2, requires_grad=True)
    >>> scale_gradient(values, 0.1).sum().backward()
    >>> values.grad.tolist() == [torch.tensor(0.1).item()] * 2
    True
    """
    return _ScaledGradient.apply(values, factor)


class HubertPretraining(torch.nn.Module):
    """A model and its objective.

    Arguments
    ---------
    model : HubertModel
        What is trained; its configuration says the rates of dropout and of dropped layers.
    clusters : int
        Size of the codebook.
    projection : int
        As in `HubertObjective`.
    alpha : float
        As in `HubertObjective`.
    feature_penalty : float
        Weight of the convolutions' mean squared output in the loss.
    feature_gradient : float
        With how much of the gradient the convolutions learn.

    Example
    -------
    >>> from transformers import HubertConfig
    >>> config = HubertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    ...     conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    >>> pretraining = HubertPretraining(HubertModel(config), clusters=5)
    >>> mask = torch.arange(49) < 20
    >>> outputs = pretraining(torch.randn(2, 16000), torch.zeros(2, 49, dtype=torch.long), mask.expand(2, 49))
    >>> outputs["tokens"].shape
    torch.Size([2, 49, 16])
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
        """Computes the loss of a batch.

        Arguments
        ---------
        waveforms : torch.Tensor
            Crops without padding, ``[batch, samples]``.
        labels, mask : torch.Tensor
            As in `HubertObjective.loss`.

        Returns
        -------
        dict[str, torch.Tensor]
            ``loss``, ``tokens`` ``[batch, frames, dim]``, and the labels and the mask as they are.
        """
        features = scale_gradient(self.model.feature_extractor(waveforms), self.feature_gradient)
        projected = self.model.feature_projection(features.transpose(1, 2))  # [batch, frames, dim]
        hidden = self.model.masked_spec_embed.to(projected.dtype)
        tokens = self.model.encoder(torch.where(mask[..., None], hidden, projected)).last_hidden_state
        loss = self.objective.loss(tokens, labels, mask) + self.feature_penalty * features.float().square().mean()
        return {"loss": loss, "tokens": tokens, "labels": labels, "mask": mask}
