"""What all adapters share: the block that maps down and up again, and where it is placed."""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec, TokenMask
from brainplug.errors import UsageError
from brainplug.methods.base import Method
from brainplug.methods.sublayer import AdaptedSublayer, adapt_sublayers, check_location, check_placement


class AdapterBlock(torch.nn.Module):
    """One adapter, or the experts of a mixture side by side: down to the bottleneck, something there, up again.

    Expert n is ``A_n(z) = U_n m_n(D_n z + b_n) + c_n``. The maps of all experts are stacked, so that one product serves
    them all; `middle` computes all ``m_n`` on channels that are stacked in the same way. Zero at the start: ``U`` and
    ``c`` begin with zeros.

    Arguments
    ---------
    dim : int
        Width of a token.
    bottleneck : int
        Width inside of one expert.
    experts : int
        How many there are.
    gates : int
        2 where `middle` uses half of what comes down as a gate, else 1.

    Example
    -------
    >>> from brainplug.methods.bottleneck import BottleneckBlock
    >>> block = BottleneckBlock(dim=32, bottleneck=4)
    >>> tokens = torch.randn(2, 10, 32)
    >>> block(tokens).shape == tokens.shape, bool(block(tokens).any())
    (True, False)
    """

    def __init__(self, dim: int, bottleneck: int, experts: int = 1, gates: int = 1):
        super().__init__()
        self.experts, self.token_mask = experts, TokenMask()
        self.norm = torch.nn.Identity()
        self.down = torch.nn.Linear(dim, experts * gates * bottleneck)
        self.up = torch.nn.Linear(experts * bottleneck, dim, bias=False)
        self.expert_bias = torch.nn.Parameter(torch.zeros(experts, dim))
        torch.nn.init.zeros_(self.up.weight)

    def middle(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What happens in the bottleneck.

        Arguments
        ---------
        channels : torch.Tensor
            ``[batch, tokens, experts * gates * bottleneck]``.
        mask : torch.Tensor, optional
            ``[batch, tokens]``, True where a token is not padding: a convolution must not hear the others.

        Returns
        -------
        torch.Tensor
            ``[batch, tokens, experts * bottleneck]``.
        """
        raise NotImplementedError

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[batch, tokens, dim]`` to the same shape, with a single expert."""
        return torch.nn.functional.linear(self.inside(tokens), self.up.weight, self.expert_bias[0])

    def inside(self, tokens: torch.Tensor) -> torch.Tensor:
        """The bottlenecks of all experts for the same tokens.

        Arguments
        ---------
        tokens : torch.Tensor
            ``[batch, tokens, dim]``.

        Returns
        -------
        torch.Tensor
            ``[batch, tokens, experts * bottleneck]``.
        """
        return self.middle(self.down(self.norm(tokens)), self.token_mask.tokens)

    def forward_experts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Applies every expert to tokens of its own.

        Arguments
        ---------
        tokens : torch.Tensor
            ``[batch, tokens, experts, dim]``.

        Returns
        -------
        torch.Tensor
            The same shape.
        """
        down = self.down.weight.unflatten(0, (self.experts, -1))  # [experts, gates * bottleneck, dim]
        up = self.up.weight.unflatten(1, (self.experts, -1))  # [dim, experts, bottleneck]
        channels = torch.einsum("btnd,nrd->btnr", self.norm(tokens), down).flatten(2) + self.down.bias
        inside = self.middle(channels).unflatten(2, (self.experts, -1))
        return torch.einsum("btnr,dnr->btnd", inside, up) + self.expert_bias

    def initialise_as_published(self, deviation: float, on_waveform: bool) -> None:
        """Gives the weights that the published code starts with, where loading the checkpoint drew them anew.

        Arguments
        ---------
        deviation : float
            Of the normal distribution of every linear map; biases are zero.
        on_waveform : bool
            Whether the backbone is wav2vec 2.0.
        """
        for weight in (self.down.weight, self.up.weight):
            torch.nn.init.normal_(weight, std=deviation)
        torch.nn.init.zeros_(self.down.bias)


@dataclass(frozen=True)
class Adapter(Method):
    """Settings that all adapters share; a subclass says which block it places.

    Arguments
    ---------
    reduction_rate : float
        Width of a token over the width of the bottleneck.
    location : str
        ``ffn`` or ``mhsa`` (one adapter a layer, as Pfeiffer et al. do), or ``houlsby``: one at each of both.
    placement : str
        ``parallel`` or ``sequential`` to the sub-layer.
    reads : str
        ``before`` or ``after`` the sub-layer; by default ``before`` if parallel, ``after`` if sequential.
    residual : bool
        Adds the adapter's input; goes with ``sequential``.
    """

    reduction_rate: float = 96
    location: str = "ffn"
    placement: str = "parallel"
    reads: str | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        check_location(self.location)
        check_placement(self.placement, self.reads, self.residual, self.paper_code)

    @abstractmethod
    def block(self, dim: int, spec: BackboneSpec) -> AdapterBlock:
        """Makes the adapter of one sub-layer.

        Arguments
        ---------
        dim : int
            Width of a token.
        spec : BackboneSpec
            Of the backbone.

        Returns
        -------
        AdapterBlock
            With its first weights.
        """

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Places one adapter at each sub-layer of the location."""
        config = model.config
        # The published code leaves the residual out on wav2vec 2.0 where the adapter is parallel.
        left_out = self.paper_code and spec.signal == "waveform" and self.placement == "parallel"

        def adapt(sublayer: torch.nn.Module) -> AdaptedSublayer:
            block = self.block(config.hidden_size, spec)
            block.token_mask = spec.token_mask
            if self.paper_code:
                block.initialise_as_published(config.initializer_range, spec.signal == "waveform")
            residual = self.residual and not left_out
            return AdaptedSublayer(sublayer, block, self.placement, self.reads, residual, self.paper_code)

        adapt_sublayers(model, spec, self.location, adapt)
        if self.paper_code and spec.mask_embedding:  # forgotten when all else was frozen; nothing reads it
            model.get_parameter(spec.mask_embedding).requires_grad_(True)


def bottleneck_width(dim: int, reduction_rate: float) -> int:
    """Width of a bottleneck.

    Arguments
    ---------
    dim : int
        Width of a token.
    reduction_rate : float
        How many times narrower the bottleneck is.

    Returns
    -------
    int
        ``dim / reduction_rate``, rounded.

    Raises
    ------
    UsageError
        Nothing is left of it.

    Example
    -------
    >>> bottleneck_width(768, reduction_rate=96)
    8
    """
    if not 1 <= reduction_rate <= dim:
        raise UsageError(
            f"The reduction rate {reduction_rate} was asked for.",
            f"The backbone's tokens are {dim} wide.",
            f"Write a rate from 1 to {dim}",
        )
    return round(dim / reduction_rate)


def convolve(convolution: torch.nn.Conv1d, channels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Convolves over the tokens, as if there were zeros before, behind, and where there is padding.

    Arguments
    ---------
    convolution : torch.nn.Conv1d
        Without padding of its own.
    channels : torch.Tensor
        ``[batch, tokens, channels]``.
    mask : torch.Tensor, optional
        ``[batch, tokens]``, True where a token is not padding.

    Returns
    -------
    torch.Tensor
        ``[batch, channels, tokens]``: as many tokens as before.

    Example
    -------
    >>> convolve(torch.nn.Conv1d(4, 4, 8), torch.randn(2, 10, 4), None).shape[2]
    10
    """
    if mask is not None:
        channels = channels * mask[..., None]
    kernel_size = convolution.kernel_size[0]
    padding = (kernel_size - 1) // 2, kernel_size // 2
    return convolution(torch.nn.functional.pad(channels.transpose(1, 2), padding))


def check_kernel_size(kernel_size: int) -> None:
    """Makes sure that a convolution sees a token.

    Arguments
    ---------
    kernel_size : int
        Tokens that it sees.

    Raises
    ------
    UsageError
        It sees none.
    """
    if kernel_size < 1:
        raise UsageError(
            f"A kernel of {kernel_size} tokens was asked for.", "A kernel has at least 1.", "Write kernel_size: 3"
        )
