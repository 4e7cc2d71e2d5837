"""The objective of HuBERT: to say at masked frames to which cluster the sound belongs.

Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units", 2021,
sections II-B and II-C, https://arxiv.org/abs/2106.07447
"""

import torch

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
