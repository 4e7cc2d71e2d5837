"""The base of the mixtures of adapters: their experts and where they are placed.

Cappellazzo et al., "Efficient Fine-tuning of Audio Spectrogram Transformers via Soft Mixture of Adapters",
Interspeech 2024, https://arxiv.org/abs/2402.00828
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import ConfigError, nearest
from brainplug.methods.adapter import AdapterBlock, bottleneck_width, check_kernel_size
from brainplug.methods.base import Method
from brainplug.methods.bottleneck import BottleneckBlock
from brainplug.methods.conformer import ConformerBlock
from brainplug.methods.convpass import ConvpassBlock
from brainplug.methods.sublayer import AdaptedSublayer, adapt_sublayers, check_location

BLOCKS: dict[str, type[AdapterBlock]] = {
    "bottleneck": BottleneckBlock,
    "conformer": ConformerBlock,
    "convpass": ConvpassBlock,
}


class Mixture(torch.nn.Module):
    """Experts, stacked in one block, with weights that combine them; maps tokens to the same shape."""

    def __init__(self, experts: AdapterBlock):
        super().__init__()
        self.experts = experts

    @abstractmethod
    def shares(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """How much the mixture uses each expert for tokens ``[batch, tokens, dim]``.

        Returns
        -------
        dict[str, torch.Tensor]
            Name of the weights -> share of each expert in each clip, ``[batch, experts]``.
        """

    def mean_over_tokens(self, weights: torch.Tensor) -> torch.Tensor:
        """Means ``[batch, experts]`` of weights ``[batch, tokens, experts]``, without padding."""
        mask = self.experts.token_mask.tokens
        if mask is None:
            return weights.mean(1)
        return (weights * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class MixtureOfAdapters(Method):
    """Settings that mixtures share. A mixture is parallel to a sub-layer and reads the sub-layer's input.

    Arguments
    ---------
    experts : int
        Number of experts.
    expert_block : str
        ``bottleneck``, ``conformer`` or ``convpass``.
    reduction_rate : float
        Width of a token over the width of one expert's bottleneck.
    kernel_size : int
        Tokens that the convolution of a conformer or convpass expert covers.
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
            raise ConfigError(f"{self.experts} experts were asked for.", "That is none.", "Write experts: 1 or more")
        if self.expert_block not in BLOCKS:
            raise ConfigError(
                f"The expert_block {self.expert_block!r} was asked for.",
                "It does not exist.",
                f"Write one of: {nearest(self.expert_block, BLOCKS)}",
            )

    @abstractmethod
    def mixture(self, config: PreTrainedConfig) -> Mixture:
        """Makes the mixture of one sub-layer, for a backbone with this configuration."""

    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """Makes the experts of one mixture."""
        return self.stack_experts(BLOCKS[self.expert_block], config)

    def stack_experts(self, block: type[AdapterBlock], config: PreTrainedConfig) -> AdapterBlock:
        """Makes a block of this class with all experts."""
        width = bottleneck_width(config.hidden_size, self.reduction_rate)
        settings = {} if self.expert_block == "bottleneck" else {"kernel_size": self.kernel_size}
        return block(config.hidden_size, width, self.experts, **settings)

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Places one mixture at each sub-layer of the location."""

        def adapt(sublayer: torch.nn.Module) -> AdaptedSublayer:
            mixture = self.mixture(model.config)
            mixture.experts.token_mask = spec.token_mask
            return AdaptedSublayer(sublayer, mixture, "parallel")

        adapt_sublayers(model, spec, self.location, adapt)
