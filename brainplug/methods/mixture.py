"""What the mixtures of adapters share: their experts and where they are placed.

Cappellazzo et al., "Efficient Fine-tuning of Audio Spectrogram Transformers via Soft Mixture of Adapters",
Interspeech 2024, https://arxiv.org/abs/2402.00828
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import UsageError, nearest
from brainplug.methods.adapter import AdapterBlock, bottleneck_width, check_kernel_size
from brainplug.methods.base import Method
from brainplug.methods.bottleneck import BottleneckBlock
from brainplug.methods.conformer import ConformerBlock
from brainplug.methods.convpass import ConvpassBlock
from brainplug.methods.sublayer import AdaptedSublayer, adapt_sublayers, check_location

BLOCKS = ("bottleneck", "conformer", "convpass")


class Mixture(torch.nn.Module):
    """Experts with what chooses among them.

    Arguments
    ---------
    experts : AdapterBlock
        All experts of one place.
    """

    def __init__(self, experts: AdapterBlock):
        super().__init__()
        self.experts = experts

    @abstractmethod
    def shares(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """How much each expert is used.

        Arguments
        ---------
        tokens : torch.Tensor
            What the mixture reads, ``[batch, tokens, dim]``.

        Returns
        -------
        dict[str, torch.Tensor]
            By the name of the weights: a share of each expert for each clip, ``[batch, experts]``.
        """

    def mean_over_tokens(self, weights: torch.Tensor) -> torch.Tensor:
        """Means over tokens, padding left out.

        Arguments
        ---------
        weights : torch.Tensor
            ``[batch, tokens, experts]``.

        Returns
        -------
        torch.Tensor
            ``[batch, experts]``.
        """
        mask = self.experts.token_mask.tokens
        if mask is None:
            return weights.mean(1)
        return (weights * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def initialise_as_published(self, deviation: float, on_waveform: bool) -> None:
        """See `AdapterBlock.initialise_as_published`."""
        self.experts.initialise_as_published(deviation, on_waveform)


class KeptOutput(torch.nn.Module):
    """Keeps what a module last put out, for another one to add it again."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module, self.output = module, None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens as the module does."""
        self.output = self.module(tokens)
        return self.output


class AddedAgain(torch.nn.Module):
    """A sub-layer to whose output the one that was kept is added, as the published code does by mistake."""

    def __init__(self, sublayer: torch.nn.Module, kept: KeptOutput):
        super().__init__()
        self.sublayer, self._kept = sublayer, [kept]  # in a list: it is a part of another module

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens as the sub-layer does, and adds."""
        [kept] = self._kept
        added, kept.output = kept.output, None  # no graph is held beyond its step
        return self.sublayer(tokens) + added


@dataclass(frozen=True)
class MixtureOfAdapters(Method):
    """Settings that mixtures share; they stand parallel to a sub-layer and read what it reads.

    Arguments
    ---------
    experts : int
        How many.
    expert_block : str
        ``bottleneck``, ``conformer`` or ``convpass``.
    reduction_rate : float
        Width of a token over the width of one expert's bottleneck.
    kernel_size : int
        Tokens that the convolution of a conformer or convpass expert sees.
    location : str
        ``ffn``, ``mhsa`` or ``houlsby``.
    """

    experts: int = 7
    expert_block: str = "bottleneck"
    reduction_rate: float = 128
    kernel_size: int = 3
    location: str = "mhsa"

    def __post_init__(self) -> None:
        check_location(self.location)
        check_kernel_size(self.kernel_size)
        if self.experts < 1:
            raise UsageError(f"{self.experts} experts were asked for.", "That is none.", "Write experts: 1 or more")
        if self.expert_block not in BLOCKS:
            raise UsageError(
                f"The expert_block {self.expert_block!r} was asked for.",
                "It does not exist.",
                f"Write one of: {nearest(self.expert_block, BLOCKS)}",
            )

    @abstractmethod
    def mixture(self, dim: int, experts: AdapterBlock) -> Mixture:
        """Makes the mixture of one sub-layer.

        Arguments
        ---------
        dim : int
            Width of a token.
        experts : AdapterBlock
            All its experts.

        Returns
        -------
        Mixture
            Maps tokens ``[batch, tokens, dim]`` to the same shape.
        """

    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Places one mixture at each sub-layer of the location."""
        config = model.config

        def adapt(sublayer: torch.nn.Module) -> AdaptedSublayer:
            mixture = self.mixture(config.hidden_size, self._block(config.hidden_size, spec))
            mixture.experts.token_mask = spec.token_mask
            if self.paper_code:
                mixture.initialise_as_published(config.initializer_range, spec.signal == "waveform")
            return AdaptedSublayer(sublayer, mixture, "parallel")

        adapt_sublayers(model, spec, self.location, adapt)
        if self.paper_code and self.location == "mhsa":
            for layer in spec.layers_of(model):
                attention, feed_forward = find_module(layer, spec.attention), find_module(layer, spec.feed_forward)
                attention.adapter = KeptOutput(attention.adapter)
                layer.set_submodule(spec.feed_forward, AddedAgain(feed_forward, attention.adapter))

    def _block(self, dim: int, spec: BackboneSpec) -> AdapterBlock:
        sizes = dim, bottleneck_width(dim, self.reduction_rate), self.experts
        if self.expert_block == "bottleneck":
            return BottleneckBlock(*sizes)
        if self.expert_block == "convpass":
            return ConvpassBlock(*sizes, kernel_size=self.kernel_size, ignores_convolution=self.paper_code)
        ignores_norm = self.paper_code and spec.signal == "log_mel"
        return ConformerBlock(*sizes, kernel_size=self.kernel_size, ignores_norm=ignores_norm)
