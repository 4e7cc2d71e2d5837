"""A learned table of positions that starts as sinusoids."""

import torch

from brainplug.errors import ConfigError

LONGEST_WAVE = 10000.0  # positions / (2 pi), as in Vaswani et al., 2017, section 3.5


class LearnedSinusoids(torch.nn.Module):
    """Embeddings of positions: rows of a trained table, scaled to the length `gain`.

    The table starts with sines in its even and cosines in its odd columns, of p 10000^(-2i/dim); `dim` is even.
    """

    def __init__(self, length: int, dim: int, gain: float = 1.0):
        super().__init__()
        self.weight, self.gain = torch.nn.Parameter(torch.empty(length, dim)), gain
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Computes the sinusoids; nothing is drawn."""
        length, dim = self.weight.shape
        frequencies = LONGEST_WAVE ** (torch.arange(0, dim, 2, device=self.weight.device) / -dim)
        angles = torch.arange(length, device=self.weight.device)[:, None] * frequencies
        self.weight.copy_(torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))

    def forward(self, length: int, offset: int = 0) -> torch.Tensor:
        """The embeddings ``[length, dim]`` of the positions from `offset` on."""
        if not 0 <= offset <= offset + length <= len(self.weight):
            raise ConfigError(
                f"The positions {offset} to {offset + length - 1} were asked for.",
                f"The table has {len(self.weight)}.",
                "Cut the clip or the text, or build the model with a larger n_audio_ctx or n_text_ctx",
            )
        return self.gain * torch.nn.functional.normalize(self.weight[offset : offset + length], dim=1)
