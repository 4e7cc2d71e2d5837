"""Conformer adapter: a bottleneck with a depthwise convolution over the tokens.

Cappellazzo et al., "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers", MLSP 2024, section 3,
https://arxiv.org/abs/2312.03694. Its block is the convolution module of the Conformer (Gulati et al., 2020,
https://arxiv.org/abs/2005.08100).
"""

from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec
from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width, check_kernel_size, convolve


class ConformerBlock(AdapterBlock):
    """Norm, down with a gate, depthwise convolution, batch norm, swish, up; see `AdapterBlock`.

    The experts of a mixture share the norm.

    Arguments
    ---------
    dim, bottleneck, experts : int
        As in `AdapterBlock`.
    kernel_size : int
        Tokens that the convolution sees.
    ignores_norm : bool
        Has the norm, but reads the tokens without it, as the published code does on AST.

    Example
    -------
    >>> block = ConformerBlock(dim=32, bottleneck=4, kernel_size=8)
    >>> tokens = torch.randn(2, 10, 32)
    >>> block(tokens).shape == tokens.shape, bool(block(tokens).any())
    (True, False)
    """

    def __init__(
        self, dim: int, bottleneck: int, experts: int = 1, *, kernel_size: int = 31, ignores_norm: bool = False
    ):
        super().__init__(dim, bottleneck, experts, gates=2)
        self.norm = torch.nn.LayerNorm(dim)
        self.ignores_norm = ignores_norm
        channels = experts * bottleneck
        self.depthwise = torch.nn.Conv1d(channels, channels, kernel_size, groups=channels)
        self.batch_norm = torch.nn.BatchNorm1d(channels)

    def inside(self, tokens: torch.Tensor) -> torch.Tensor:
        """The bottlenecks ``[batch, tokens, experts * bottleneck]`` of tokens ``[batch, tokens, dim]``."""
        seen = tokens if self.ignores_norm else self.norm(tokens)
        return self.middle(self.down(seen), self.token_mask.tokens)

    def middle(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Gate, depthwise convolution over the tokens, batch norm, swish."""
        gated = torch.nn.functional.glu(channels.unflatten(2, (self.experts, -1)), dim=-1).flatten(2)
        mixed = convolve(self.depthwise, gated, mask)  # [batch, channels, tokens]
        return torch.nn.functional.silu(self.batch_norm(mixed)).transpose(1, 2)

    def initialise_as_published(self, deviation: float, on_waveform: bool) -> None:
        """All its maps are convolutions there: they keep torch's first weights, or are drawn anew on wav2vec 2.0."""
        maps = ((self.down.weight, self.down.bias), (self.up.weight, self.expert_bias))
        for weight, bias in (*maps, (self.depthwise.weight, self.depthwise.bias)):
            if on_waveform:
                torch.nn.init.kaiming_normal_(weight)
            else:
                torch.nn.init.kaiming_uniform_(weight, a=5**0.5)
            largest = weight[0].numel() ** -0.5  # 1 / sqrt(inputs of one output)
            torch.nn.init.uniform_(bias, -largest, largest)


@dataclass(frozen=True)
class ConformerAdapter(Adapter):
    """Settings of the conformer adapter, beside those of `Adapter`.

    Arguments
    ---------
    kernel_size : int
        Tokens that the depthwise convolution sees; 31 for speech and 8 for sounds in the paper.

    Example
    -------
    >>> ConformerAdapter(reduction_rate=96, kernel_size=8).placement
    'parallel'
    """

    kernel_size: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel_size(self.kernel_size)

    def block(self, dim: int, spec: BackboneSpec) -> ConformerBlock:
        """A bottleneck of ``dim / reduction_rate`` with a convolution."""
        ignores_norm = self.paper_code and spec.signal == "log_mel"
        width = bottleneck_width(dim, self.reduction_rate)
        return ConformerBlock(dim, width, kernel_size=self.kernel_size, ignores_norm=ignores_norm)
