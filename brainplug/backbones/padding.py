"""Keeps padding out of what transformers computes of clips in a batch, so that a clip's tokens are those it has alone.

An attention mask does not reach two places of the wav2vec 2.0 family: the group norm behind the first convolution,
which takes its mean and variance over the padding too, and the convolutions of the positions, where there are several.
"""

import torch

from brainplug.backbones.spec import TokenMask


class ClipNorm(torch.nn.GroupNorm):
    """A group norm with a group for each channel, over the frames of a clip alone.

    Its attribute `present` is a `TokenMask` of the frames.

    Example
    -------
    >>> norm = ClipNorm(2, 2)
    >>> frames = torch.randn(1, 2, 5)
    >>> norm.present = TokenMask()
    >>> alone = norm(frames)
    >>> norm.present = TokenMask(torch.tensor([[True] * 5 + [False] * 3]))
    >>> padded = norm(torch.nn.functional.pad(frames, (0, 3)))
    >>> torch.allclose(padded[..., :5], alone, atol=1e-5)
    True
    """

    present: TokenMask

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Takes and returns ``[batch, channels, frames]``."""
        if self.present.tokens is None:
            return super().forward(frames)
        wide, present = frames.float(), self.present.tokens[:, None].float()  # sums of half precision overflow
        count = present.sum(2, keepdim=True).clamp(min=1)
        mean = (wide * present).sum(2, keepdim=True) / count
        variance = ((wide - mean).square() * present).sum(2, keepdim=True) / count
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return ((wide - mean) * scale + self.bias[:, None]).to(self.weight.dtype)


class Silence:
    """A hook before a convolution over tokens that sets padding to zero, as beyond the end of a clip that stands alone.

    Arguments
    ---------
    present : TokenMask
        Of the tokens.

    Example
    -------
    >>> convolution = torch.nn.Conv1d(1, 1, 3, padding=1)
    >>> _ = convolution.register_forward_pre_hook(Silence(TokenMask(torch.tensor([[True, False]]))))
    >>> torch.equal(convolution(torch.tensor([[[1.0, 5.0]]])), convolution(torch.tensor([[[1.0, 0.0]]])))
    True
    """

    def __init__(self, present: TokenMask):
        self.present = present

    def __call__(self, convolution: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        """Takes and returns ``[batch, dim, tokens]``."""
        present, (tokens,) = self.present.tokens, inputs
        return (tokens if present is None else tokens * present[:, None].to(tokens.dtype),)
