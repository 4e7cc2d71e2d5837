"""The checkpoints of the published code: its parameter names, and which of its tensors one of ours is made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import ASTConfig, Wav2Vec2Config

from brainplug.backbones import random_backbone
from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.compat.petl_ast.flags import FLAGS, PROJECTIONS, Flags, translate
from brainplug.compat.petl_ast.methods import AST, RememberedOutput
from brainplug.errors import CheckpointError
from brainplug.methods import Method
from brainplug.methods.adapter import AdapterBlock
from brainplug.methods.bottleneck import BottleneckBlock
from brainplug.methods.conformer import ConformerBlock
from brainplug.methods.convpass import ConvpassBlock
from brainplug.methods.dense_moa import DenseMixture
from brainplug.methods.lora import LoRA, LoRALinear
from brainplug.methods.mixture import Mixture, MixtureOfAdapters
from brainplug.methods.prefix import Prefix, PrefixTuning
from brainplug.methods.prompt import PromptTuning
from brainplug.methods.soft_moa import SoftMixture
from brainplug.methods.sublayer import AdaptedSublayer
from brainplug.models.classifier import AudioClassifier

LETTERS = {target: name[1:] for name, target in PROJECTIONS.items()}  # of LoRA's parameters


class PublishedModel(torch.nn.Module):
    """An `AudioClassifier` that takes whole signals, as the published models do, with the sources of its tensors."""

    def __init__(self, classifier: AudioClassifier, sources: list["Source"]):
        super().__init__()
        self.classifier, self.sources = classifier, sources

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, classes]`` of signals ``[batch, frames, mel]`` or ``[batch, samples]``."""
        return self.classifier(signal, signal.new_ones(len(signal)))


def load_reference(
    method: str,
    flags: Flags,
    *,
    is_AST: bool,  # noqa: N803
    final_output: str,
    num_classes: int,
    config: dict[str, Any],
    state_dict: dict[str, torch.Tensor] | None,
) -> PublishedModel:
    """Builds what the published code builds, from its own words and weights.

    Arguments
    ---------
    method, flags, is_AST : str, Flags, bool
        As in `translate`.
    final_output : str
        Which tokens of AST are pooled: ``ALL``, ``CLS``, ``PROMPTS``, ``SPEECH`` or ``PROMPTS+SPEECH``.
    num_classes : int
        Classes of the head.
    config : dict
        The backbone's configuration, as transformers writes it.
    state_dict : dict[str, torch.Tensor], optional
        Published parameter name -> tensor. None: first weights, drawn as the published code draws them; the
        backbone's are then random.

    """
    chosen = translate(method, flags, is_AST=is_AST)
    backbone = random_backbone((ASTConfig if is_AST else Wav2Vec2Config)(**config))
    pretrained = {
        name: (tensor, _published_name(name)) for name, tensor in backbone.model.state_dict(keep_vars=True).items()
    }
    pooling = final_output if is_AST else "ALL"  # those for wav2vec 2.0 do not ask
    classifier = AudioClassifier(backbone, chosen, num_classes, pooling)
    sources = [
        *(Source(tensor, (published,)) for tensor, published in pretrained.values()),
        *_sources_of_method(classifier, FLAGS | flags),
        *_sources_of_module(classifier.head, "classification_head"),
    ]
    if state_dict is not None:
        _load(sources, state_dict)
    return PublishedModel(classifier, sources)


@dataclass(frozen=True)
class Source:
    """The published tensors that one of ours is made of.

    `names` have no leading ``model.``; several are the experts of a mixture, joined along `dim`. `index` takes one row
    of theirs.
    """

    tensor: torch.Tensor
    names: tuple[str, ...]
    dim: int = 0
    index: int | None = None

    def read(self, published: dict[str, torch.Tensor]) -> torch.Tensor:
        """Puts our tensor together from the published ones; a RuntimeError says that the sizes differ."""
        tensors = [published[name] if self.index is None else published[name][self.index] for name in self.names]
        return torch.cat(tensors, dim=self.dim).view(self.tensor.shape) if tensors[0].dim() else tensors[0]


def without_prefix(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Brings published names to one form: most of those models list the encoder twice, with and without ``model.``.

    Example
    -------
    >>> list(without_prefix({"model.layernorm.bias": torch.zeros(2), "layernorm.bias": torch.zeros(2)}))
    ['layernorm.bias']
    """
    return {name.removeprefix("model."): tensor for name, tensor in state_dict.items()}


def _load(sources: list[Source], state_dict: dict[str, torch.Tensor]) -> None:
    published = without_prefix(state_dict)
    wanted = {name for source in sources for name in source.names}
    missing, unexpected = sorted(wanted - published.keys()), sorted(published.keys() - wanted)
    misshapen: list[str] = []
    for source in sources:
        if not missing:
            try:
                values = source.read(published)
            except (RuntimeError, IndexError):
                misshapen += source.names
                continue
            with torch.no_grad():
                source.tensor.copy_(values)
    if missing or unexpected or misshapen:
        raise CheckpointError(
            "Published weights were to be loaded.",
            f"Missing: {missing or 'none'}; unexpected: {unexpected or 'none'}; of another shape: "
            f"{misshapen or 'none'}.",
            "Write the method, flags, classes and configuration with which they were trained",
        )


# Ours -> theirs, in the order in which they are applied.
AST_NAMES = (
    ("layers.", "encoder.layer."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
WAV2VEC2_NAMES = (
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
)


def _published_name(name: str) -> str:
    """The published name of one of the backbone's own tensors; those of wav2vec 2.0 have hardly changed."""
    on_waveform = name.startswith("encoder.") or name.startswith("feature_") or name == "masked_spec_embed"
    for ours, theirs in WAV2VEC2_NAMES if on_waveform else AST_NAMES:
        name = name.replace(ours, theirs)
    return name


def _sources_of_module(module: torch.nn.Module, theirs: str) -> Iterator[Source]:
    """A module that both have: the names of its tensors are the same."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        yield Source(tensor, (f"{theirs}.{name}",))


def _sources_of_method(classifier: AudioClassifier, flags: Flags) -> Iterator[Source]:
    """The tensors that the method added."""
    spec, model, method = classifier.backbone.spec, classifier.backbone.model, classifier.method
    layers = "encoder.layer" if model.config.model_type == AST else "encoder.layers"
    for index, layer in enumerate(spec.layers_of(model)):
        theirs = f"{layers}.{index}"
        if isinstance(method, PromptTuning):
            yield from _sources_of_prompts(layer, index, method.deep)
        elif isinstance(method, LoRA):
            in_case = str.upper if flags["is_lora_ablation"] else str.lower
            letters = {target: in_case(LETTERS[target]) for target in method.targets}
            yield from _sources_of_lora(layer, theirs, spec, letters)
        elif isinstance(method, PrefixTuning):
            prefix = cast(Prefix, layer.get_submodule(f"{spec.attention}.prefix"))
            yield Source(prefix.keys, (f"{theirs}.attention.attention.key_tokens",))
            yield Source(prefix.values, (f"{theirs}.attention.attention.value_tokens",))
        else:
            for sublayer, path in (("MHSA", spec.attention), ("FFN", spec.feed_forward)):
                wrapper = layer.get_submodule(path)
                if isinstance(wrapper, AdaptedSublayer):
                    suffix = "" if flags["is_adapter_ablation"] else f"_{sublayer}"
                    yield from _sources_of_adapter(wrapper.adapter, theirs, suffix, method)


def _sources_of_prompts(layer: torch.nn.Module, index: int, deep: bool) -> Iterator[Source]:
    if index == 0:
        yield Source(layer.get_parameter("prompts"), ("prompt_embeddings",), index=0)
    elif deep:
        yield Source(layer.get_parameter("prompts"), ("deep_prompt_embeddings",), index=index - 1)


def _sources_of_lora(
    layer: torch.nn.Module, theirs: str, spec: BackboneSpec, letters: dict[str, str]
) -> Iterator[Source]:
    for target, letter in letters.items():
        module = "output" if target == "output" else "attention"
        lora = cast(LoRALinear, find_module(layer, getattr(spec, target)))
        for tensor, part in ((lora.down.weight, "down"), (lora.up.weight, "up")):
            yield Source(tensor, (f"{theirs}.attention.{module}.lora_{part}_{letter}.weight",))


def _sources_of_adapter(adapter: torch.nn.Module, theirs: str, suffix: str, method: Method) -> Iterator[Source]:
    if isinstance(adapter, RememberedOutput):
        adapter = adapter.module
    if isinstance(adapter, AdapterBlock):
        yield from _sources_of_block(adapter, [f"{theirs}.adapter_module{suffix}"])
    elif isinstance(adapter, Mixture) and isinstance(method, MixtureOfAdapters):
        suffix = suffix.lower() if method.location == "houlsby" else ""
        experts = [f"{theirs}.moa{suffix}.moa.{expert}" for expert in range(method.experts)]
        yield from _sources_of_block(adapter.experts, experts)
        yield from _sources_of_weights(adapter, theirs, suffix)


def _sources_of_weights(mixture: Mixture, theirs: str, suffix: str) -> Iterator[Source]:
    if isinstance(mixture, DenseMixture):
        yield from _sources_of_module(mixture.router, f"{theirs}.router{suffix}.ff")
    elif isinstance(mixture, SoftMixture):
        yield Source(mixture.slots, (f"{theirs}.moa{suffix}.slot_params",))
        if mixture.scale is not None:
            yield Source(mixture.scale, (f"{theirs}.moa{suffix}.scale",))


# Ours -> theirs, by the names of a block's maps.
BLOCK_NAMES: dict[type[AdapterBlock], dict[str, str]] = {
    BottleneckBlock: {"down": "linear_downsample", "up": "linear_upsample"},
    ConformerBlock: {
        "norm": "lnorm", "down": "pwise_conv1", "depthwise": "dwise_conv", "batch_norm": "bnorm", "up": "pwise_conv2",
    },
    ConvpassBlock: {"down": "adapter_down", "convolution": "adapter_conv", "up": "adapter_up"},
}  # fmt: skip


def _sources_of_block(block: AdapterBlock, experts: list[str]) -> Iterator[Source]:
    names = next(of_class for kind, of_class in BLOCK_NAMES.items() if isinstance(block, kind))
    for name, tensor in block.state_dict(keep_vars=True).items():
        module, _, part = name.rpartition(".") if name != "expert_bias" else ("up", ".", "bias")
        dim = 1 if name == "up.weight" else 0  # experts stand side by side in what the map up reads
        yield Source(tensor, tuple(f"{expert}.{names[module]}.{part}" for expert in experts), dim)
