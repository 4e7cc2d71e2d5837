"""The base of Echo, its encoder and its decoder: how weights are drawn and loaded, and layers are checkpointed."""

import os
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from transformers import PreTrainedModel

from brainplug.backbones.echo.config import EchoConfig, bounds_of
from brainplug.backbones.echo.rotary import RotaryPositions
from brainplug.errors import CheckpointError


class EchoPreTrainedModel(PreTrainedModel):
    """The base class of Echo, its encoder and its decoder."""

    config_class = EchoConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = ["audio", "text"]  # noqa: RUF012  as transformers reads it
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["orthogonal.start", "rotary.positions", "adaptive_base"]  # noqa: RUF012
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]  # noqa: RUF012  as transformers reads it

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *arguments: Any, **named: Any
    ) -> Any:
        """Loads as all models do; raises a `CheckpointError` if weights are missing, unexpected, or of another base."""
        source = str(pretrained_model_name_or_path)
        returns_report = named.pop("output_loading_info", False)
        try:
            loaded: Any = super().from_pretrained(source, *arguments, output_loading_info=True, **named)
        except RuntimeError as error:
            if "size mismatch" not in str(error) and "mismatched" not in str(error):
                raise
            raise _other_weights(source, str(error)) from error
        model, report = loaded
        missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        if missing or unexpected:
            problem = f"Missing: {', '.join(missing[:3]) or 'none'}; unexpected: {', '.join(unexpected[:3]) or 'none'}."
            raise _other_weights(source, problem)
        base = next(module.base for module in model.modules() if isinstance(module, RotaryPositions))
        _check_base(source, base, model.config)
        return loaded if returns_report else model

    def apply_initialization(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew.

        Linear maps and the first convolution: Xavier; the second convolution: Kaiming, by its outputs; biases zero;
        embeddings of tokens: normal, of `init_std`; R orthogonal; angles and relative biases zero.
        """
        for module in self.modules():
            self._initialize(module, generator)

    def _init_weights(self, module: torch.nn.Module) -> None:
        self._initialize(module, None)

    @torch.no_grad()
    def _initialize(self, module: torch.nn.Module, generator: torch.Generator | None) -> None:
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=self.config.init_std, generator=generator)
        elif isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
        elif isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            if isinstance(module, torch.nn.Conv1d) and module.stride[0] > 1:
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            else:
                torch.nn.init.xavier_normal_(module.weight, generator=generator)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset", None)):
            reset(generator)

    def _finish(self, config: EchoConfig) -> None:
        """Draws the weights and sets up checkpointing, when all modules exist."""
        self.post_init()
        if config.checkpointing:  # not by the public method, whose name transformers is about to change
            recompute = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
            self._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=recompute)


def _check_base(source: str, base: torch.Tensor, config: EchoConfig) -> None:
    """Refuses a base of the file out of the bounds of the configuration, or another one if it does not adapt."""
    bounds = bounds_of(config.base, config.base_min, config.base_max) if config.adaptive_base else (config.base,) * 2
    lowest, highest = base.new_tensor(bounds)  # in its precision
    if not lowest <= base <= highest:
        expected = f"from {lowest:g} to {highest:g}" if config.adaptive_base else f"{lowest:g}"
        raise _other_weights(source, f"The base is {base:g} in the file, {expected} in the configuration.")


def _other_weights(source: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"The Echo of {source!r} was asked for.",
        f"Its weights are not those of its configuration. {problem}",
        "Leave config out, or name the folder that the weights were saved in",
    )
