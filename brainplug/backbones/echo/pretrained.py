"""What Echo's encoder, its decoder and the whole have in common: how weights begin, are loaded and checkpointed."""

from functools import partial
from typing import Self

import torch
import torch.utils.checkpoint
from transformers import PreTrainedModel

from brainplug.backbones.echo.config import EchoConfig, bounds_of
from brainplug.backbones.echo.rotary import RotaryPositions
from brainplug.errors import UsageError


class EchoPreTrainedModel(PreTrainedModel):
    """What encoder, decoder and the whole have in common."""

    config_class = EchoConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["orthogonal.start", "rotary.positions", "adaptive_base"]  # noqa: RUF012
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]  # noqa: RUF012  as transformers reads it

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, *arguments: object, **named: object) -> Self:
        """Loads as all models do, but no weight is left to chance.

        Raises
        ------
        UsageError
            The file's weights are not those of the configuration.
        """
        wants_report = named.pop("output_loading_info", False)
        try:
            model, report = super().from_pretrained(
                pretrained_model_name_or_path, *arguments, output_loading_info=True, **named
            )
        except RuntimeError as error:
            if "size mismatch" not in str(error) and "mismatched" not in str(error):
                raise
            raise _other_weights(pretrained_model_name_or_path, str(error)) from error
        missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        if missing or unexpected:
            found = f"Missing: {', '.join(missing[:3]) or 'none'}; unexpected: {', '.join(unexpected[:3]) or 'none'}."
            raise _other_weights(pretrained_model_name_or_path, found)
        there = next(module.base for module in model.modules() if isinstance(module, RotaryPositions))
        _check_base(pretrained_model_name_or_path, there, model.config)
        return (model, report) if wants_report else model

    def apply_initialization(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew.

        Linear maps and the first convolution: Xavier; the second convolution: Kaiming, by its outputs; biases zero;
        embeddings of tokens: normal, of `init_std`; R orthogonal; angles and relative biases zero.

        Arguments
        ---------
        generator : torch.Generator, optional
            Where random numbers come from; torch's own by default.
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
        elif hasattr(module, "reset"):
            module.reset(generator)

    def _finish(self, config: EchoConfig) -> None:
        """Draws weights and sets up checkpointing, once all parts are there."""
        self.post_init()
        if config.checkpointing:  # not by the public method, whose name transformers is about to change
            recompute = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
            self._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=recompute)


def _check_base(source: str, there: torch.Tensor, config: EchoConfig) -> None:
    """A base that follows the loss has moved within its bounds, another one is where it was."""
    bounds = bounds_of(config.base, config.base_min, config.base_max) if config.adaptive_base else [config.base] * 2
    lowest, highest = there.new_tensor(bounds)  # in its precision
    if not lowest <= there <= highest:
        here = f"from {lowest:g} to {highest:g}" if config.adaptive_base else f"{lowest:g}"
        raise _other_weights(source, f"The base is {there:g} there, {here} here.")


def _other_weights(source: str, found: str) -> UsageError:
    return UsageError(
        f"The Echo of {source!r} was asked for.",
        f"Its weights are not those of its configuration. {found}",
        "Leave config out, or name the folder that the weights were saved in",
    )
