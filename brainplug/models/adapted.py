"""A backbone, adapted by a method, with a head."""

from collections.abc import Callable, Mapping, Sequence

import torch
from transformers import PreTrainedModel

from brainplug.backbones import Backbone
from brainplug.backbones.spec import find_module
from brainplug.errors import CheckpointError, ConfigError
from brainplug.methods.base import Method, MethodState, Recoverable
from brainplug.models.gradient_checkpointing import checkpoint_layer, restore_layer


class AdaptedModel(torch.nn.Module):
    """A backbone, adapted by a method, with a head. A subclass defines the head and the forward pass.

    What the method does not train has no gradient, and its modules stay in evaluation mode (no dropout, fixed norms)
    when the model is in training mode.

    Arguments
    ---------
    backbone : Backbone
        Pretrained; adapted in place.
    method : Method
        Adapts the backbone.
    make_head : Callable[[int], torch.nn.Module]
        Makes the head for tokens of a given width.
    gradient_checkpointing : bool
        Recomputes the activations of each layer in the backward pass: less memory, more time.
    frozen_parts : Sequence[str]
        Paths of backbone modules that stay frozen with every method.

    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        make_head: Callable[[int], torch.nn.Module],
        gradient_checkpointing: bool = False,
        frozen_parts: Sequence[str] = (),
    ):
        super().__init__()
        model, spec = backbone.model, backbone.spec
        self.backbone, self.method = backbone.requires_grad_(False), method
        self.special_tokens = method.special_tokens(spec)
        pretrained_tensors = {id(tensor) for tensor in [*backbone.parameters(), *backbone.buffers()]}
        frozen = [part for path in frozen_parts for part in find_module(model, path).modules()]
        training = set(method.training_modules(model, spec)).difference(frozen)
        self._frozen_modules = [module for module in model.modules() if module not in training]
        self._is_merged = False
        self._method_state = method.attach(model, spec) or MethodState()
        if spec.final_norm and method.trains_final_norm:
            find_module(model, spec.final_norm).requires_grad_(True)
        for module in frozen:
            module.requires_grad_(False)
        self.head = make_head(backbone.dim)
        self._delta_names = _names_of_delta(self, pretrained_tensors)
        if gradient_checkpointing:
            for layer in spec.layers_of(model):
                checkpoint_layer(layer)

    def merge(self) -> PreTrainedModel:
        """Adds what was trained to the backbone's own weights, and returns the backbone's model.

        It has no module of the method any more, and computes the same as before. After
        ``backbone.save_pretrained(folder)`` transformers loads it without brainplug. A method that cannot be merged
        raises a `ConfigError`.
        """
        model, spec = self.backbone.model, self.backbone.spec
        if self._is_merged:
            raise ConfigError("A merged model was to be merged.", "It has no method any more.", "Merge it once")
        self.method.merge(model, spec)
        self._is_merged = True
        for layer in spec.layers_of(model):
            restore_layer(layer)
        return model

    def train(self, mode: bool = True) -> "AdaptedModel":
        """Sets training mode, except for frozen modules."""
        super().train(mode)
        for module in self._frozen_modules:
            module.training = False
        return self

    def penalty(self) -> torch.Tensor | float:
        """The term that the method adds to the loss of a training step."""
        return self._method_state.penalty()

    def after_step(self, step: int, total_steps: int) -> None:
        """Lets the method act after the optimiser's step number `step` of `total_steps`."""
        self._method_state.after_step(step, total_steps)

    def recoverables(self) -> dict[str, Recoverable]:
        """What a checkpoint keeps of the method beside its weights, by name."""
        return self._method_state.recoverables()

    def may_leave_unused(self) -> bool:
        """Whether a training step may leave trainable weights without a gradient."""
        return self.method.may_leave_unused(self.backbone.model)

    def delta(self) -> dict[str, torch.Tensor]:
        """Name -> tensor of all that training made: trained weights, and the method's own tensors with its buffers."""
        return {name: tensor for name, tensor in self.state_dict().items() if name in self._delta_names}

    def load_delta(self, delta: dict[str, torch.Tensor]) -> None:
        """Loads what `delta` returned for a model of the same kind; anything else raises as in `check_delta`."""
        self.check_delta(delta)
        self.load_state_dict(delta, strict=False)

    def check_delta(self, delta: dict[str, torch.Tensor]) -> None:
        """Raises a `CheckpointError` as `check_tensors` does."""
        check_tensors(self.delta(), delta)

    def output_of(self, waveform: torch.Tensor) -> torch.Tensor:
        """What the model computes of one clip ``[samples]``, by which a loaded model is verified."""
        output: torch.Tensor = self(self.backbone.extract(waveform)[None], torch.ones(1))
        return output

    def count_parameters(self) -> dict[str, int]:
        """Numbers of parameters: ``trainable``, ``trainable_without_head`` and ``total``."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        head = sum(p.numel() for p in self.head.parameters())
        total = sum(p.numel() for p in self.parameters())
        return {"trainable": trainable, "trainable_without_head": trainable - head, "total": total}


def check_tensors(own: Mapping[str, torch.Tensor], delta: Mapping[str, torch.Tensor]) -> None:
    """Names missing and unexpected tensors, and those of another shape or type, in a `CheckpointError`."""
    missing, unexpected = sorted(own.keys() - delta.keys()), sorted(delta.keys() - own.keys())
    misshapen = sorted(name for name in own.keys() & delta.keys() if _kind(own[name]) != _kind(delta[name]))
    if missing or unexpected or misshapen:
        raise CheckpointError(
            "Trained weights were to be loaded.",
            f"Missing: {missing[:5] or 'none'}; unexpected: {unexpected[:5] or 'none'}; "
            f"of another shape or type: {misshapen[:5] or 'none'}.",
            "Build the model with the method, the backbone and the classes that the file names",
        )


def _kind(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _names_of_delta(model: AdaptedModel, pretrained_tensors: set[int]) -> set[str]:
    """Names of the tensors that are trained, or that are not the backbone's own."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = model.state_dict().keys()
    return {
        name
        for name, tensor in tensors.items()
        if name in saved and (tensor.requires_grad or id(tensor) not in pretrained_tensors)
    }
