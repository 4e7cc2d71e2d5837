"""The base of all adapters: the block that maps down to a bottleneck and up again, and the method that places it."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from brainplug.backbones.spec import BackboneSpec, TokenMask
from brainplug.errors import ConfigError
from brainplug.methods.base import Method
from brainplug.methods.sublayer import AdaptedSublayer, adapt_sublayers, check_location, check_placement


class AdapterBlock(torch.nn.Module):
    """One adapter, or the experts of a mixture side by side.

    Expert n is ``A_n(z) = U_n m_n(D_n z + b_n) + c_n``. The maps of all experts are stacked, so that one product serves
    all of them; `bottleneck` computes all ``m_n`` on channels that are stacked in the same way. The output is zero at
    the start, because ``U`` and ``c`` start with zeros. `width` is that of one expert's bottleneck; `gates` is 2 if
    `bottleneck` uses half of its channels as a gate.
    """

    def __init__(self, dim: int, width: int, experts: int = 1, gates: int = 1):
        super().__init__()
        self.experts, self.token_mask = experts, TokenMask()
        self.norm: torch.nn.Module = torch.nn.Identity()
        self.down = torch.nn.Linear(dim, experts * gates * width)
        self.up = torch.nn.Linear(experts * width, dim, bias=False)
        self.expert_bias = torch.nn.Parameter(torch.zeros(experts, dim))
        torch.nn.init.zeros_(self.up.weight)

    def bottleneck(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Maps channels ``[batch, tokens, experts * gates * width]`` to ``[batch, tokens, experts * width]``.

        The mask ``[batch, tokens]`` is False where a token is padding, which a convolution must not read.
        """
        raise NotImplementedError

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[batch, tokens, dim]`` to the same shape, with a single expert."""
        return torch.nn.functional.linear(self.hidden(tokens), self.up.weight, self.expert_bias[0])

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[batch, tokens, dim]`` to all bottlenecks ``[batch, tokens, experts * width]``."""
        return self.bottleneck(self.down(self.norm(tokens)), self.token_mask.tokens)

    def forward_experts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Applies each expert to its own tokens ``[batch, tokens, experts, dim]``; returns the same shape."""
        down = self.down.weight.unflatten(0, (self.experts, -1))  # [experts, gates * width, dim]
        up = self.up.weight.unflatten(1, (self.experts, -1))  # [dim, experts, width]
        channels = torch.einsum("btnd,nrd->btnr", self.norm(tokens), down).flatten(2) + self.down.bias
        hidden = self.bottleneck(channels).unflatten(2, (self.experts, -1))
        return torch.einsum("btnr,dnr->btnd", hidden, up) + self.expert_bias


@dataclass(frozen=True)
class Adapter(Method):
    """Settings that all adapters share; a subclass makes the block.

    Arguments
    ---------
    reduction_rate : float
        Width of a token over the width of the bottleneck.
    location : str
        ``ffn`` or ``mhsa`` (one adapter per layer, as in Pfeiffer et al.), or ``houlsby`` (one at each of both).
    placement : str
        ``parallel`` or ``sequential`` to the sub-layer.
    reads : str, optional
        ``before`` or ``after`` the sub-layer; default: ``before`` if parallel, ``after`` if sequential.
    residual : bool
        Adds the adapter's input to its output; goes with ``sequential``.
    """

    reduction_rate: float = 96
    location: str = "ffn"
    placement: str = "parallel"
    reads: str | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        check_location(self.location)
        check_placement(self.placement, self.reads)
        self.check_start()

    def check_start(self) -> None:
        """Raises a `ConfigError` if the adapted model would not start as the backbone."""
        if self.residual != (self.placement == "sequential"):
            raise ConfigError(
                f"A {self.placement} adapter {'with' if self.residual else 'without'} residual was asked for.",
                "The adapted model would not start as the backbone.",
                "Write residual: False beside placement: parallel, or residual: True beside placement: sequential",
            )

    @abstractmethod
    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """Makes the adapter of one sub-layer, for a backbone with this configuration."""

    def wrap(self, sublayer: torch.nn.Module, block: AdapterBlock, config: PreTrainedConfig) -> AdaptedSublayer:
        """Combines a sub-layer with its adapter."""
        return AdaptedSublayer(sublayer, block, self.placement, self.reads, self.residual)

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Places one adapter at each sub-layer of the location."""

        def adapt(sublayer: torch.nn.Module) -> AdaptedSublayer:
            block = self.block(model.config)
            block.token_mask = spec.token_mask
            return self.wrap(sublayer, block, model.config)

        adapt_sublayers(model, spec, self.location, adapt)


def bottleneck_width(dim: int, reduction_rate: float) -> int:
    """Width of a bottleneck, ``dim / reduction_rate`` rounded; a `ConfigError` unless it is from 1 to `dim`.

    Example
    -------
    >>> bottleneck_width(768, reduction_rate=96)
    8
    """
    if not 1 <= reduction_rate <= dim:
        raise ConfigError(
            f"The reduction rate {reduction_rate} was asked for.",
            f"The backbone's tokens are {dim} wide.",
            f"Write a rate from 1 to {dim}",
        )
    return round(dim / reduction_rate)


def convolve(convolution: torch.nn.Conv1d, channels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Convolves channels ``[batch, tokens, channels]`` over the tokens, to ``[batch, channels, tokens]``.

    Zeros are before the tokens, after them and in place of padding, where the mask ``[batch, tokens]`` is False. The
    convolution has no padding of its own.
    """
    if mask is not None:
        channels = channels * mask[..., None]
    kernel_size = convolution.kernel_size[0]
    padding = (kernel_size - 1) // 2, kernel_size // 2
    return convolution(torch.nn.functional.pad(channels.transpose(1, 2), padding))


def check_kernel_size(kernel_size: int) -> None:
    """Raises a `ConfigError` if a convolution's kernel covers no token."""
    if kernel_size < 1:
        raise ConfigError(
            f"A kernel of {kernel_size} tokens was asked for.", "A kernel has at least 1.", "Write kernel_size: 3"
        )
