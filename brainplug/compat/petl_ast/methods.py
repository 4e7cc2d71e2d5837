"""The methods as the published code of the PETL papers computes them; docs/reproduction.md lists the differences.

That code has AST and wav2vec 2.0. Models of the same architecture as wav2vec 2.0 (HuBERT, WavLM, data2vec) follow it.
"""

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import ConfigError
from brainplug.methods.adapter import Adapter, AdapterBlock, bottleneck_width
from brainplug.methods.base import Method
from brainplug.methods.bitfit import BitFit
from brainplug.methods.bottleneck import BottleneckAdapter, BottleneckBlock
from brainplug.methods.conformer import ConformerAdapter, ConformerBlock
from brainplug.methods.convpass import ConvpassAdapter, ConvpassBlock, quick_gelu
from brainplug.methods.dense_moa import DenseMixture, DenseMoA
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA, LoRALinear
from brainplug.methods.mixture import MixtureOfAdapters
from brainplug.methods.prefix import PrefixTuning
from brainplug.methods.prompt import PromptTuning
from brainplug.methods.soft_moa import SoftMixture, SoftMoA
from brainplug.methods.sublayer import AdaptedSublayer

AST = "audio-spectrogram-transformer"
WAV2VEC2 = ("wav2vec2", "hubert", "wavlm", "data2vec-audio")
TRAINED_LAYERS_OF_WAV2VEC2 = 3  # by full fine-tuning


def draw_linear(linear: torch.nn.Linear, config: PreTrainedConfig) -> None:
    """Draws a linear map as loading the checkpoint does there: for every new map, also those that started at zero."""
    torch.nn.init.normal_(linear.weight, std=_initializer_range(config))
    if linear.bias is not None:
        torch.nn.init.zeros_(linear.bias)


def _initializer_range(config: PreTrainedConfig) -> float:
    std = getattr(config, "initializer_range", None)
    if std is None:
        raise ConfigError(
            f"--paper_code=True was asked for, with a backbone of the family {config.model_type!r}.",
            "The published code has AST and wav2vec 2.0 only.",
            "Leave it out, or write --backbone=ast or --backbone=wav2vec2",
        )
    return std


def draw_block(block: AdapterBlock, config: PreTrainedConfig) -> None:
    """Draws an adapter's maps as the published code does.

    The maps of a conformer block are convolutions there: on AST they keep torch's first weights, on wav2vec 2.0 loading
    the checkpoint draws them from a Kaiming normal distribution.
    """
    std = _initializer_range(config)
    if not isinstance(block, ConformerBlock):
        for weight in (block.down.weight, block.up.weight):
            torch.nn.init.normal_(weight, std=std)
        torch.nn.init.zeros_(block.down.bias)
        return
    maps = ((block.down.weight, block.down.bias), (block.up.weight, block.expert_bias))
    for weight, bias in (*maps, (block.depthwise.weight, block.depthwise.get_parameter("bias"))):
        if config.model_type in WAV2VEC2:
            torch.nn.init.kaiming_normal_(weight)
        else:
            torch.nn.init.kaiming_uniform_(weight, a=5**0.5)
        limit = weight[0].numel() ** -0.5  # 1 / sqrt(inputs of one output)
        torch.nn.init.uniform_(bias, -limit, limit)


class ConformerBlockWithoutNorm(ConformerBlock):
    """Has the norm, but discards its output."""

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """The bottlenecks of tokens that are not normalised."""
        return self.bottleneck(self.down(tokens), self.token_mask.tokens)


class ConvpassBlockWithoutConvolution(ConvpassBlock):
    """Has the convolution, but discards its output."""

    def bottleneck(self, channels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Quick GELU twice, dropout."""
        return self.dropout(quick_gelu(quick_gelu(channels)))


def conformer_block(config: PreTrainedConfig) -> type[ConformerBlock]:
    """The class of conformer blocks for a backbone: the published code for wav2vec 2.0 uses the norm."""
    return ConformerBlockWithoutNorm if config.model_type == AST else ConformerBlock


class PublishedMethod(Method):
    """Some trainable weights have no effect in the published code, and so no gradient."""

    def may_leave_unused(self, model: torch.nn.Module) -> bool:
        """True."""
        return True


class InTrainingMode(PublishedMethod):
    """The published code never sets the backbone to evaluation mode for these methods."""

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """All modules."""
        return model.modules()


class PublishedBitFit(InTrainingMode, BitFit):
    """BitFit with the whole backbone in training mode."""


class PublishedLinearProbe(InTrainingMode, LinearProbe):
    """Linear probing with the whole backbone in training mode, but without masked frames on wav2vec 2.0."""

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Turns the masking of frames off; transformers masks in training mode."""
        model.config.apply_spec_augment = False


class PublishedFullFineTuning(InTrainingMode, FullFineTuning):
    """Full fine-tuning: on wav2vec 2.0 of the last three layers, with the whole backbone in training mode."""

    def trained_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> list[torch.nn.Module]:
        """The model, or its last layers."""
        if self.layers is None and cast(PreTrainedModel, model).config.model_type in WAV2VEC2:
            return list(spec.layers_of(model))[-TRAINED_LAYERS_OF_WAV2VEC2:]
        return super().trained_modules(model, spec)


class PublishedLoRA(PublishedMethod, LoRA):
    """LoRA that starts with two random factors, always scaled by alpha / reduction rate."""

    def scale_and_rank(self, dim: int) -> tuple[float, int]:
        """The scaling and the rank for tokens of this width."""
        _, rank = super().scale_and_rank(dim)
        return self.alpha / (self.reduction_rate or dim / rank), rank

    def adapt(self, linear: torch.nn.Linear, config: PreTrainedConfig) -> LoRALinear:
        """Adds a low-rank change to one projection."""
        adapted = super().adapt(linear, config)
        draw_linear(adapted.down, config)
        draw_linear(adapted.up, config)
        return adapted


class PublishedPromptTuning(PublishedMethod, PromptTuning):
    """Prompt tuning that keeps [CLS] and drops the distillation token."""

    def special_tokens(self, spec: BackboneSpec) -> int:
        """One, if the backbone has special tokens."""
        return min(1, spec.special_tokens)


class PublishedSublayer(AdaptedSublayer):
    """Computes ``s(B(z)) + B(z)`` for an adapter that is sequential and reads before."""

    def __init__(
        self,
        sublayer: torch.nn.Module,
        adapter: torch.nn.Module,
        placement: str,
        reads: str | None = None,
        residual: bool = False,
    ):
        super().__init__(sublayer, adapter, placement, reads, residual)
        self.adds = self.parallel or self.reads_before


class PublishedAdapter(PublishedMethod, Adapter):
    """An adapter that starts with random maps; any placement may go with or without residual."""

    def check_start(self) -> None:
        """Accepts settings with which the adapted model does not start as the backbone."""

    def wrap(self, sublayer: torch.nn.Module, block: AdapterBlock, config: PreTrainedConfig) -> AdaptedSublayer:
        """Combines a sub-layer with its adapter; on wav2vec 2.0 a parallel adapter has no residual."""
        residual = self.residual and not (config.model_type in WAV2VEC2 and self.placement == "parallel")
        return PublishedSublayer(sublayer, block, self.placement, self.reads, residual)

    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """Makes the adapter of one sub-layer."""
        block = self.make_block(config, config.hidden_size, bottleneck_width(config.hidden_size, self.reduction_rate))
        draw_block(block, config)
        return block

    def make_block(self, config: PreTrainedConfig, dim: int, width: int) -> AdapterBlock:
        """Makes an adapter before its maps are drawn."""
        raise NotImplementedError

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Places the adapters; the unused embedding of masked frames stays trainable on wav2vec 2.0."""
        super().attach(model, spec)
        if spec.mask_embedding:
            model.get_parameter(spec.mask_embedding).requires_grad_(True)


class PublishedBottleneckAdapter(PublishedAdapter, BottleneckAdapter):
    """The bottleneck adapter; see `PublishedAdapter`."""

    def make_block(self, config: PreTrainedConfig, dim: int, width: int) -> BottleneckBlock:
        """A bottleneck."""
        return BottleneckBlock(dim, width)


class PublishedConformerAdapter(PublishedAdapter, ConformerAdapter):
    """The conformer adapter, without its norm on AST; see `PublishedAdapter`."""

    def make_block(self, config: PreTrainedConfig, dim: int, width: int) -> ConformerBlock:
        """A bottleneck with a depthwise convolution."""
        return conformer_block(config)(dim, width, kernel_size=self.kernel_size)


class PublishedConvpassAdapter(PublishedAdapter, ConvpassAdapter):
    """The convpass adapter, without its convolution and with its dropout in evaluation mode; see `PublishedAdapter`."""

    def make_block(self, config: PreTrainedConfig, dim: int, width: int) -> ConvpassBlock:
        """A bottleneck with a convolution that has no effect."""
        return ConvpassBlockWithoutConvolution(dim, width, kernel_size=self.kernel_size, dropout=0.0)


class RememberedOutput(torch.nn.Module):
    """Remembers the output of a module, for `AddedAgain`."""

    calls_its_parts: ClassVar[bool] = True

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module
        self.output: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens as the module does."""
        output: torch.Tensor = self.module(tokens)
        self.output = output
        return output


class AddedAgain(torch.nn.Module):
    """A sub-layer that adds another module's remembered output to its own, as the published code does by mistake."""

    def __init__(self, sublayer: torch.nn.Module, remembered: RememberedOutput):
        super().__init__()
        self.sublayer, self._remembered = sublayer, [remembered]  # in a list: it is a part of another module

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens as the sub-layer does, and adds."""
        [remembered] = self._remembered
        output, remembered.output = remembered.output, None  # no graph stays after the step
        return self.sublayer(tokens) + output


class PublishedMixture(PublishedMethod, MixtureOfAdapters):
    """A mixture whose experts start with random maps.

    At the attention alone, its output is added once more after the feed-forward block.
    """

    def block(self, config: PreTrainedConfig) -> AdapterBlock:
        """Makes the experts of one mixture."""
        blocks = {"conformer": conformer_block(config), "convpass": ConvpassBlockWithoutConvolution}
        return self.stack_experts(blocks.get(self.expert_block, BottleneckBlock), config)

    def attach(self, model: PreTrainedModel, spec: BackboneSpec) -> None:
        """Places the mixtures."""
        super().attach(model, spec)
        if self.location != "mhsa":
            return
        for layer in spec.layers_of(model):
            attention, feed_forward = find_module(layer, spec.attention), find_module(layer, spec.feed_forward)
            remembered = RememberedOutput(attention.get_submodule("adapter"))
            attention.add_module("adapter", remembered)
            layer.set_submodule(spec.feed_forward, AddedAgain(feed_forward, remembered))


class PublishedDenseMoA(PublishedMixture, DenseMoA):
    """Dense-MoA; see `PublishedMixture`."""

    def mixture(self, config: PreTrainedConfig) -> DenseMixture:
        """Experts with a router."""
        mixture = super().mixture(config)
        draw_block(mixture.experts, config)
        draw_linear(mixture.router, config)
        return mixture


class PublishedSoftMixture(SoftMixture):
    """Divides Phi by its length over the experts."""

    normalized_axis: ClassVar[int] = 1


class PublishedSoftMoA(PublishedMixture, SoftMoA):
    """Soft-MoA; see `PublishedMixture`."""

    def mixture(self, config: PreTrainedConfig) -> SoftMixture:
        """Experts with slots."""
        mixture = PublishedSoftMixture(config.hidden_size, self.block(config), self.slots, self.normalize)
        draw_block(mixture.experts, config)
        return mixture


# `choose_method` and `restore_method` take these classes in place of the plain ones.
PUBLISHED: dict[type[Method], type[Method]] = {
    BitFit: PublishedBitFit,
    BottleneckAdapter: PublishedBottleneckAdapter,
    ConformerAdapter: PublishedConformerAdapter,
    ConvpassAdapter: PublishedConvpassAdapter,
    DenseMoA: PublishedDenseMoA,
    FullFineTuning: PublishedFullFineTuning,
    LinearProbe: PublishedLinearProbe,
    LoRA: PublishedLoRA,
    PrefixTuning: PrefixTuning,  # computes the same
    PromptTuning: PublishedPromptTuning,
    SoftMoA: PublishedSoftMoA,
}
