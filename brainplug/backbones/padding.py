"""Keeps padding out of what the wav2vec 2.0 family computes, so that a clip has the same tokens in every batch.

transformers' attention mask does not reach two modules: the group norm after the first convolution, whose mean and
variance include the padding, and the convolutions of the positions, if there are several.
"""

import torch

from brainplug.backbones.spec import TokenMask


class ClipNorm(torch.nn.GroupNorm):
    """A group norm with a group for each channel, over the frames of a clip that are not padding.

    It takes the parameters of the norm that it replaces; `mask` is of the frames.

    Example
    -------
    >>> mask = TokenMask()
    >>> norm, frames = ClipNorm(torch.nn.GroupNorm(2, 2), mask), torch.randn(1, 2, 5)
    >>> alone = norm(frames)
    >>> mask.tokens = torch.tensor([[True] * 5 + [False] * 3])
    >>> torch.allclose(norm(torch.nn.functional.pad(frames, (0, 3)))[..., :5], alone, atol=1e-5)
    True
    """

    def __init__(self, norm: torch.nn.GroupNorm, mask: TokenMask):
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        self.weight, self.bias, self.mask, self.training = norm.weight, norm.bias, mask, norm.training

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Takes and returns ``[batch, channels, frames]``."""
        if self.mask.tokens is None:
            return super().forward(frames)
        wide, present = frames.float(), self.mask.tokens[:, None].float()  # sums of half precision overflow
        count = present.sum(2, keepdim=True).clamp(min=1)
        mean = (wide * present).sum(2, keepdim=True) / count
        variance = ((wide - mean).square() * present).sum(2, keepdim=True) / count
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return ((wide - mean) * scale + self.bias[:, None]).to(self.weight.dtype)


class ZeroPadding:
    """A hook before a convolution over tokens ``[batch, dim, tokens]`` that sets padding to zero, as after a clip."""

    def __init__(self, mask: TokenMask):
        self.mask = mask

    def __call__(self, convolution: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        """The masked input."""
        (tokens,) = inputs
        present = self.mask.tokens
        return (tokens if present is None else tokens * present[:, None].to(tokens.dtype),)
