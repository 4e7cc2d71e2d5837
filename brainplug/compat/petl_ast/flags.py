"""What the words of the published command line say of a model; `translate` turns them into a method.

Cappellazzo et al., 2024, https://arxiv.org/abs/2312.03694 and https://arxiv.org/abs/2402.00828. The rest of the command
line is in `brainplug.compat.petl_ast.command_line`.
"""

from collections.abc import Callable
from typing import Any

from brainplug.compat.petl_ast.methods import (
    PublishedAdapter,
    PublishedBitFit,
    PublishedBottleneckAdapter,
    PublishedConformerAdapter,
    PublishedConvpassAdapter,
    PublishedDenseMoA,
    PublishedFullFineTuning,
    PublishedLinearProbe,
    PublishedLoRA,
    PublishedPromptTuning,
    PublishedSoftMoA,
)
from brainplug.errors import ConfigError, nearest
from brainplug.methods import Method
from brainplug.methods.prefix import PrefixTuning

Flags = dict[str, Any]  # flag -> text, number or switch

# Every flag of the published command line that says what a model is, with its default there.
FLAGS: Flags = {
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
ADAPTERS: dict[str, type[PublishedAdapter]] = {
    "bottleneck": PublishedBottleneckAdapter,
    "conformer": PublishedConformerAdapter,
    "convpass": PublishedConvpassAdapter,
}
PROJECTIONS = {"Wq": "query", "Wk": "key", "Wv": "value", "Wo": "output"}
ON_WAVEFORM = ("full-FT", "linear", "adapter")  # the methods that the published code has for wav2vec 2.0


def _full(flags: Flags) -> Method:
    return PublishedFullFineTuning()


def _linear(flags: Flags) -> Method:
    return PublishedLinearProbe()


def _bitfit(flags: Flags) -> Method:
    return PublishedBitFit()


def _lora(flags: Flags) -> Method:
    targets = flags["lora_config"] if flags["is_lora_ablation"] else "Wq,Wv"
    return PublishedLoRA(
        reduction_rate=flags["reduction_rate_lora"],
        alpha=flags["alpha_lora"],
        scaling="reduction_rate",
        targets=tuple(PROJECTIONS[target.strip()] for target in targets.split(",")),
    )


def _prompt(flags: Flags) -> Method:
    return PublishedPromptTuning(
        prompts=flags["prompt_len_prompt"],
        deep=bool(flags["is_deep_prompt"]),
        dropout=float(flags["drop_prompt"]),
    )


def _prefix(flags: Flags) -> Method:
    return PrefixTuning(length=flags["prompt_len_pt"])


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
    )


def _mixture_settings(flags: Flags) -> dict[str, Any]:
    return {
        "experts": flags["num_adapters"],
        "expert_block": flags["adapter_module_moa"],
        "reduction_rate": flags["reduction_rate_moa"],
        "kernel_size": 3 if flags["adapter_module_moa"] == "convpass" else flags["kernel_size"],
        "location": "houlsby" if flags["adapter_type_moa"] == "Houlsby" else flags["location_moa"].lower(),
    }


def _dense_moa(flags: Flags) -> Method:
    return PublishedDenseMoA(**_mixture_settings(flags))


def _soft_moa(flags: Flags) -> Method:
    return PublishedSoftMoA(slots=flags["num_slots"], normalize=bool(flags["normalize"]), **_mixture_settings(flags))


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


def translate(method: str, flags: Flags, *, is_AST: bool) -> Method:  # noqa: N803  as the flag is written there
    """Turns the published command line's words into a method.

    Arguments
    ---------
    method : str
        ``adapter``, ``LoRA``, ...
    flags : Flags
        A flag that is left out has its default there.
    is_AST : bool
        AST or wav2vec 2.0.

    Example
    -------
    >>> translate("adapter", {"adapter_block": "bottleneck", "adapter_type": "Houlsby"}, is_AST=True).location
    'houlsby'
    """
    available = METHODS if is_AST else ON_WAVEFORM
    if method not in available:
        raise ConfigError(
            f"The published method {method!r} was asked for{'' if is_AST else ' on wav2vec 2.0'}.",
            "The published code has it for AST only." if method in METHODS else "It is not one that can be imported.",
            f"Write one of: {nearest(method, available)}",
        )
    for name, value in flags.items():
        if name not in FLAGS:
            raise ConfigError(
                f"The published flag {name!r} was asked for.",
                "It does not exist, or says nothing about a model.",
                f"Write one of: {nearest(name, FLAGS)}",
            )
        if value not in CHOICES.get(name, (value,)):
            raise ConfigError(
                f"The published flag {name}: {value!r} was asked for.",
                "It has no such choice.",
                f"Write one of: {nearest(str(value), CHOICES[name])}",
            )
    return METHODS[method](FLAGS | flags)
