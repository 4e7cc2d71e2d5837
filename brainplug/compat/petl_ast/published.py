"""The published code of the PETL papers on AST: what its words say of a model, its parameter names, its checkpoints.

Cappellazzo et al., 2024, https://arxiv.org/abs/2312.03694 and https://arxiv.org/abs/2402.00828. Everything that knows
an old name of a model stands here; the rest of the command line is in `brainplug.compat.petl_ast.command_line`. What
that code computes is brainplug's own with `paper_code`; see docs/reproduction.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import ASTConfig, Wav2Vec2Config

from brainplug.backbones import random_backbone
from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import UsageError, nearest
from brainplug.methods import Method
from brainplug.methods.adapter import AdapterBlock
from brainplug.methods.bitfit import BitFit
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.methods.conformer import ConformerAdapter
from brainplug.methods.convpass import ConvpassAdapter
from brainplug.methods.dense_moa import DenseMoA
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.methods.mixture import KeptOutput
from brainplug.methods.prefix import PrefixTuning
from brainplug.methods.prompt import PromptTuning
from brainplug.methods.soft_moa import SoftMoA
from brainplug.methods.sublayer import AdaptedSublayer
from brainplug.models.adapted import AudioClassifier

# Every flag of the published command line that says what a model is, with its default there.
FLAGS = {
    "seq_or_par": "parallel",
    "reduction_rate_adapter": 64,
    "adapter_type": "Pfeiffer",
    "apply_residual": False,
    "adapter_block": "conformer",
    "kernel_size": 31,
    "is_adapter_ablation": False,
    "befafter": "after",
    "location": "FFN",
    "reduction_rate_moa": 128,
    "adapter_type_moa": "Pfeiffer",
    "location_moa": "MHSA",
    "adapter_module_moa": "bottleneck",
    "num_adapters": 7,
    "num_slots": 1,
    "normalize": False,
    "reduction_rate_lora": 64,
    "alpha_lora": 8,
    "is_lora_ablation": False,
    "lora_config": "Wq,Wv",
    "prompt_len_pt": 24,
    "prompt_len_prompt": 25,
    "is_deep_prompt": True,
    "drop_prompt": 0.0,
}
CHOICES = {
    "seq_or_par": ("sequential", "parallel"),
    "adapter_type": ("Pfeiffer", "Houlsby"),
    "adapter_block": ("bottleneck", "conformer", "convpass"),
    "befafter": ("before", "after"),
    "location": ("MHSA", "FFN"),
    "adapter_type_moa": ("Pfeiffer", "Houlsby"),
    "location_moa": ("MHSA", "FFN"),
    "adapter_module_moa": ("bottleneck", "conformer", "convpass"),
}
ADAPTERS = {"bottleneck": BottleneckAdapter, "conformer": ConformerAdapter, "convpass": ConvpassAdapter}
PROJECTIONS = {"Wq": "query", "Wk": "key", "Wv": "value", "Wo": "output"}
LETTERS = {target: name[1:] for name, target in PROJECTIONS.items()}  # of LoRA's parameters
ON_WAVEFORM = ("full-FT", "linear", "adapter")  # the methods that the published code has for wav2vec 2.0

Flags = dict[str, str | int | float | bool]


def _full(flags: Flags) -> Method:
    return FullFineTuning(paper_code=True)


def _linear(flags: Flags) -> Method:
    return LinearProbe(paper_code=True)


def _bitfit(flags: Flags) -> Method:
    return BitFit(paper_code=True)


def _lora(flags: Flags) -> Method:
    targets = flags["lora_config"] if flags["is_lora_ablation"] else "Wq,Wv"
    return LoRA(
        reduction_rate=flags["reduction_rate_lora"],
        alpha=flags["alpha_lora"],
        scaling="reduction_rate",
        targets=tuple(PROJECTIONS[target.strip()] for target in targets.split(",")),
        paper_code=True,
    )


def _prompt(flags: Flags) -> Method:
    return PromptTuning(
        prompts=flags["prompt_len_prompt"],
        deep=bool(flags["is_deep_prompt"]),
        dropout=float(flags["drop_prompt"]),
        paper_code=True,
    )


def _prefix(flags: Flags) -> Method:
    return PrefixTuning(length=flags["prompt_len_pt"], paper_code=True)


def _adapter(flags: Flags) -> Method:
    block, placement = flags["adapter_block"], flags["seq_or_par"]
    settings = {"kernel_size": flags["kernel_size"]} if block == "conformer" else {}
    if flags["is_adapter_ablation"]:
        location, reads = flags["location"].lower(), flags["befafter"]
        residual = (placement, reads) == ("sequential", "after")
    else:
        location, reads = "houlsby" if flags["adapter_type"] == "Houlsby" else "ffn", None
        residual = bool(flags["apply_residual"])
    return ADAPTERS[block](
        reduction_rate=flags["reduction_rate_adapter"],
        location=location,
        placement=placement,
        reads=reads,
        residual=residual,
        **settings,
        paper_code=True,
    )


def _mixture_settings(flags: Flags) -> dict:
    return {
        "experts": flags["num_adapters"],
        "expert_block": flags["adapter_module_moa"],
        "reduction_rate": flags["reduction_rate_moa"],
        "kernel_size": 3 if flags["adapter_module_moa"] == "convpass" else flags["kernel_size"],
        "location": "houlsby" if flags["adapter_type_moa"] == "Houlsby" else flags["location_moa"].lower(),
        "paper_code": True,
    }


def _dense_moa(flags: Flags) -> Method:
    return DenseMoA(**_mixture_settings(flags))


def _soft_moa(flags: Flags) -> Method:
    return SoftMoA(slots=flags["num_slots"], normalize=bool(flags["normalize"]), **_mixture_settings(flags))


METHODS: dict[str, Callable[[Flags], Method]] = {
    "full-FT": _full,
    "linear": _linear,
    "BitFit": _bitfit,
    "LoRA": _lora,
    "prompt-tuning": _prompt,
    "prefix-tuning": _prefix,
    "adapter": _adapter,
    "Dense-MoA": _dense_moa,
    "Soft-MoA": _soft_moa,
}


def translate(method: str, flags: Flags, *, is_AST: bool) -> Method:  # noqa: N803
    """Turns the published command line's words into a method of ours.

    Arguments
    ---------
    method : str
        ``adapter``, ``LoRA``, ...
    flags : Flags
        Flag -> value; what is left out has its default there.
    is_AST : bool
        AST or wav2vec 2.0.

    Returns
    -------
    Method
        With `paper_code`.

    Raises
    ------
    UsageError
        There is no such method, flag or choice, or the published code does not have it for this backbone.

    Example
    -------
    >>> translate("adapter", {"adapter_block": "bottleneck", "adapter_type": "Houlsby"}, is_AST=True).location
    'houlsby'
    """
    known = METHODS if is_AST else ON_WAVEFORM
    if method not in known:
        raise UsageError(
            f"The published method {method!r} was asked for{'' if is_AST else ' on wav2vec 2.0'}.",
            "The published code has it for AST only." if method in METHODS else "It is not one that can be imported.",
            f"Write one of: {nearest(method, known)}",
        )
    for name, value in flags.items():
        if name not in FLAGS:
            raise UsageError(
                f"The published flag {name!r} was asked for.",
                "It does not exist, or says nothing about a model.",
                f"Write one of: {nearest(name, FLAGS)}",
            )
        if value not in CHOICES.get(name, (value,)):
            raise UsageError(
                f"The published flag {name}: {value!r} was asked for.",
                "It has no such choice.",
                f"Write one of: {nearest(str(value), CHOICES[name])}",
            )
    return METHODS[method](FLAGS | flags)


class PublishedModel(torch.nn.Module):
    """An `AudioClassifier` that takes whole signals alone, as the published models do.

    Arguments
    ---------
    classifier : AudioClassifier
        Adapted with `paper_code`.
    """

    def __init__(self, classifier: AudioClassifier):
        super().__init__()
        self.classifier = classifier

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
    config: dict,
    state_dict: dict[str, torch.Tensor] | None,
) -> torch.nn.Module:
    """Builds what the published code builds, from its own words and weights.

    Arguments
    ---------
    method : str
        As in `translate`.
    flags : Flags
        As in `translate`.
    is_AST : bool
        AST or wav2vec 2.0.
    final_output : str
        Which tokens of AST are pooled: ``ALL``, ``CLS``, ``PROMPTS``, ``SPEECH`` or ``PROMPTS+SPEECH``.
    num_classes : int
        Classes of the head.
    config : dict
        The backbone's configuration, as transformers writes it.
    state_dict : dict[str, torch.Tensor], optional
        Published parameter name -> tensor. None: first weights, drawn as the published code draws them; the
        backbone's are then random.

    Returns
    -------
    torch.nn.Module
        Maps ``[batch, frames, mel]`` or ``[batch, samples]`` to logits ``[batch, classes]``.

    Raises
    ------
    UsageError
        A word is unknown, or the state dict does not fit: what is missing, unexpected or misshapen is listed.

    Example
    -------
    >>> config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    ...     "max_length": 64}
    >>> model = load_reference("LoRA", {"reduction_rate_lora": 4}, is_AST=True, final_output="ALL", num_classes=3,
    ...     config=config, state_dict=None)
    >>> tuple(model(torch.randn(2, 64, 128)).shape)
    (2, 3)
    """
    chosen = translate(method, flags, is_AST=is_AST)
    backbone = random_backbone((ASTConfig if is_AST else Wav2Vec2Config)(**config))
    pretrained = {
        name: (tensor, _published_name(name)) for name, tensor in backbone.model.state_dict(keep_vars=True).items()
    }
    pooling = final_output if is_AST else "ALL"  # those for wav2vec 2.0 do not ask
    classifier = AudioClassifier(backbone, chosen, num_classes, pooling)
    model = PublishedModel(classifier)
    model.sources = [
        *(Source(tensor, (published,)) for tensor, published in pretrained.values()),
        *_sources_of_method(classifier, FLAGS | flags),
        *_sources_of_module(classifier.head, "classification_head"),
    ]
    if state_dict is not None:
        _load(model.sources, state_dict)
    return model


@dataclass(frozen=True)
class Source:
    """Which published tensors one of ours is made of.

    Arguments
    ---------
    tensor : torch.Tensor
        Ours.
    names : tuple[str, ...]
        Theirs, without a leading ``model.``; several are the experts of a mixture.
    dim : int
        Along which experts are put together.
    index : int, optional
        Takes only this row of theirs.
    """

    tensor: torch.Tensor
    names: tuple[str, ...]
    dim: int = 0
    index: int | None = None

    def read(self, published: dict[str, torch.Tensor]) -> torch.Tensor:
        """Puts our tensor together.

        Arguments
        ---------
        published : dict[str, torch.Tensor]
            Published name -> tensor.

        Returns
        -------
        torch.Tensor
            In our shape.

        Raises
        ------
        RuntimeError
            The sizes differ.
        """
        tensors = [published[name] if self.index is None else published[name][self.index] for name in self.names]
        return torch.cat(tensors, dim=self.dim).view(self.tensor.shape) if tensors[0].dim() else tensors[0]


def without_prefix(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Brings published names to one form: most of those models list the encoder twice, with and without ``model.``.

    Arguments
    ---------
    state_dict : dict[str, torch.Tensor]
        Published parameter name -> tensor.

    Returns
    -------
    dict[str, torch.Tensor]
        Name without a leading ``model.`` -> tensor.

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
    misshapen = []
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
        raise UsageError(
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
    """What the method put in."""
    spec, model, method = classifier.backbone.spec, classifier.backbone.model, classifier.method
    layers = "encoder.layer" if spec.signal == "log_mel" else "encoder.layers"
    for index, layer in enumerate(spec.layers_of(model)):
        theirs = f"{layers}.{index}"
        if isinstance(method, PromptTuning):
            yield from _sources_of_prompts(layer, index, method.deep)
        elif isinstance(method, LoRA):
            in_case = str.upper if flags["is_lora_ablation"] else str.lower
            letters = {target: in_case(LETTERS[target]) for target in method.targets}
            yield from _sources_of_lora(layer, theirs, spec, letters)
        elif isinstance(method, PrefixTuning):
            prefix = layer.get_submodule(spec.attention).prefix
            yield Source(prefix.keys, (f"{theirs}.attention.attention.key_tokens",))
            yield Source(prefix.values, (f"{theirs}.attention.attention.value_tokens",))
        else:
            for place, path in (("MHSA", spec.attention), ("FFN", spec.feed_forward)):
                wrapper = layer.get_submodule(path)
                if isinstance(wrapper, AdaptedSublayer):
                    place = "" if flags["is_adapter_ablation"] else f"_{place}"
                    yield from _sources_of_adapter(wrapper.adapter, theirs, place, method)


def _sources_of_prompts(layer: torch.nn.Module, index: int, deep: bool) -> Iterator[Source]:
    if index == 0:
        yield Source(layer.prompts, ("prompt_embeddings",), index=0)
    elif deep:
        yield Source(layer.prompts, ("deep_prompt_embeddings",), index=index - 1)


def _sources_of_lora(
    layer: torch.nn.Module, theirs: str, spec: BackboneSpec, letters: dict[str, str]
) -> Iterator[Source]:
    for target, letter in letters.items():
        place = "output" if target == "output" else "attention"
        lora = find_module(layer, getattr(spec, target))
        for tensor, part in ((lora.down.weight, "down"), (lora.up.weight, "up")):
            yield Source(tensor, (f"{theirs}.attention.{place}.lora_{part}_{letter}.weight",))


def _sources_of_adapter(adapter: torch.nn.Module, theirs: str, place: str, method: Method) -> Iterator[Source]:
    if isinstance(adapter, AdapterBlock):
        yield from _sources_of_block(adapter, [f"{theirs}.adapter_module{place}"])
        return
    mixture = adapter.module if isinstance(adapter, KeptOutput) else adapter
    place = place.lower() if method.location == "houlsby" else ""
    experts = [f"{theirs}.moa{place}.moa.{expert}" for expert in range(method.experts)]
    yield from _sources_of_block(mixture.experts, experts)
    if isinstance(method, DenseMoA):
        yield from _sources_of_module(mixture.router, f"{theirs}.router{place}.ff")
    else:
        yield Source(mixture.slots, (f"{theirs}.moa{place}.slot_params",))
        if method.normalize:
            yield Source(mixture.scale, (f"{theirs}.moa{place}.scale",))


# Ours -> theirs, by the names of a block's maps.
BLOCK_NAMES = {
    "BottleneckBlock": {"down": "linear_downsample", "up": "linear_upsample"},
    "ConformerBlock": {
        "norm": "lnorm", "down": "pwise_conv1", "depthwise": "dwise_conv", "batch_norm": "bnorm", "up": "pwise_conv2",
    },
    "ConvpassBlock": {"down": "adapter_down", "convolution": "adapter_conv", "up": "adapter_up"},
}  # fmt: skip


def _sources_of_block(block: AdapterBlock, experts: list[str]) -> Iterator[Source]:
    names = BLOCK_NAMES[type(block).__name__]
    for name, tensor in block.state_dict(keep_vars=True).items():
        module, _, part = name.rpartition(".") if name != "expert_bias" else ("up", ".", "bias")
        dim = 1 if name == "up.weight" else 0  # experts stand side by side in what the map up reads
        yield Source(tensor, tuple(f"{expert}.{names[module]}.{part}" for expert in experts), dim)
