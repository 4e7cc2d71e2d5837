"""Backbone, method and head as one module; with a pooling it classifies."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.utils.checkpoint
from transformers import PreTrainedConfig

from brainplug.backbones import Backbone, random_backbone
from brainplug.backbones.spec import BackboneSpec, find_module
from brainplug.errors import UsageError, nearest
from brainplug.methods import Method

POOLINGS = ("ALL", "CLS", "PROMPTS", "SPEECH", "PROMPTS+SPEECH")


class AdaptedModel(torch.nn.Module):
    """A backbone, adapted by a method, with a head; what the head is, reads and answers, a subclass says.

    Frozen means frozen: what the method does not train has no gradient, and its modules stay in evaluation mode (no
    dropout, fixed norms) while the method's own modules train.

    Arguments
    ---------
    backbone : Backbone
        Pretrained; adapted in place.
    method : Method
        How it is adapted.
    make_head : Callable
        Called with the width of the backbone's tokens; returns what reads them.
    gradient_checkpointing : bool
        Computes each layer a second time on the way back instead of keeping what is inside it: less memory, more time.
    frozen_parts : Sequence[str]
        Paths of the backbone's modules that stay frozen whatever the method trains.

    Raises
    ------
    UsageError
        Settings of the method do not suit the backbone.
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
        spec = backbone.spec
        self.backbone, self.method = backbone.requires_grad_(False), method
        self.special_tokens = method.special_tokens(spec)
        pretrained_tensors = {id(tensor) for tensor in [*backbone.parameters(), *backbone.buffers()]}
        frozen = [part for path in frozen_parts for part in find_module(backbone.model, path).modules()]
        training = set(method.training_modules(backbone.model, spec)).difference(frozen)
        self._frozen_modules = [module for module in backbone.model.modules() if module not in training]
        method.attach(backbone.model, spec)
        if spec.final_norm and method.trains_final_norm:
            find_module(backbone.model, spec.final_norm).requires_grad_(True)
        for module in frozen:
            module.requires_grad_(False)
        self.head = make_head(backbone.dim)
        self._delta_names = _names_of_delta(self, pretrained_tensors)
        if gradient_checkpointing:
            for layer in spec.layers_of(backbone.model):
                _recompute(layer)

    def merge(self) -> None:
        """Computes what was trained into the backbone's own weights.

        Afterwards ``backbone.model`` is a plain model of transformers, which computes what the adapted one did.

        Raises
        ------
        UsageError
            The method cannot be merged.
        """
        self.method.merge(self.backbone.model, self.backbone.spec)

    def train(self, mode: bool = True) -> "AdaptedModel":
        """Sets training mode, but for what is frozen."""
        super().train(mode)
        for module in self._frozen_modules:
            module.training = False
        return self

    def penalty(self) -> torch.Tensor | float:
        """What the method adds to the loss of a training step."""
        return self.method.penalty(self.backbone.model)

    def after_step(self, step: int, total_steps: int) -> None:
        """Lets the method act after the optimiser's step number `step` of `total_steps`."""
        self.method.after_step(self.backbone.model, step, total_steps)

    def recoverables(self) -> dict[str, object]:
        """What a checkpoint keeps of the method beside its weights: name -> object with SpeechBrain's hooks."""
        return self.method.recoverables(self.backbone.model)

    def may_leave_unused(self) -> bool:
        """Whether a training step may leave trainable weights without a gradient."""
        return self.method.may_leave_unused(self.backbone.model)

    def delta(self) -> dict[str, torch.Tensor]:
        """What training made: trained weights and the method's own tensors, its buffers included.

        Returns
        -------
        dict[str, torch.Tensor]
            Name -> tensor.
        """
        return {name: tensor for name, tensor in self.state_dict().items() if name in self._delta_names}

    def load_delta(self, delta: dict[str, torch.Tensor]) -> None:
        """Takes over what `delta` returned, here or elsewhere.

        Arguments
        ---------
        delta : dict[str, torch.Tensor]
            Name -> tensor.

        Raises
        ------
        UsageError
            It does not fit; what is missing, unexpected or of another shape is named.
        """
        own = self.delta()
        missing, unexpected = sorted(own.keys() - delta.keys()), sorted(delta.keys() - own.keys())
        misshapen = sorted(name for name in own.keys() & delta.keys() if own[name].shape != delta[name].shape)
        if missing or unexpected or misshapen:
            raise UsageError(
                "Trained weights were to be loaded.",
                f"Missing: {missing[:5] or 'none'}; unexpected: {unexpected[:5] or 'none'}; "
                f"of another shape: {misshapen[:5] or 'none'}.",
                "Build the model with the method, the backbone and the classes that the file names",
            )
        self.load_state_dict(delta, strict=False)

    def count_parameters(self) -> dict[str, int]:
        """Counts parameters.

        Returns
        -------
        dict[str, int]
            ``trainable``, ``trainable_without_head`` and ``total``.
        """
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        head = sum(p.numel() for p in self.head.parameters())
        total = sum(p.numel() for p in self.parameters())
        return {"trainable": trainable, "trainable_without_head": trainable - head, "total": total}


class AudioClassifier(AdaptedModel):
    """Classifies clips with an adapted backbone.

    Arguments
    ---------
    backbone, method, gradient_checkpointing : Backbone, Method, bool
        As in `AdaptedModel`.
    n_classes : int
        Number of classes.
    pooling : str
        Over which tokens the mean goes, padding left out: ``ALL``; ``CLS``, the first one; ``PROMPTS``, those of prompt
        tuning; ``SPEECH``, those of the clip; ``PROMPTS+SPEECH``.

    Raises
    ------
    UsageError
        Unknown pooling, or one over tokens that there are not; settings of the method that do not suit the backbone.

    Example
    -------
    >>> from brainplug.backbones import load_backbone
    >>> from brainplug.methods.linear import LinearProbe
    >>> model = AudioClassifier(load_backbone("nano-ast", frames=100), LinearProbe(), n_classes=5)
    >>> model.count_parameters()["trainable"] == 2 * 192 + 193 * 5  # final layer norm and head
    True
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        n_classes: int,
        pooling: str = "ALL",
        gradient_checkpointing: bool = False,
    ):
        _check_pooling(pooling, backbone.spec, method)
        super().__init__(backbone, method, partial(torch.nn.Linear, out_features=n_classes), gradient_checkpointing)
        self.pooling = pooling

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Classifies a batch.

        Arguments
        ---------
        signal : torch.Tensor
            ``[batch, frames, mel_bands]`` or ``[batch, samples]``.
        lengths : torch.Tensor
            Share of each signal that is not padding, ``[batch]``.

        Returns
        -------
        torch.Tensor
            Logits ``[batch, n_classes]``.
        """
        return self.head(self.pool(*self.backbone(signal, lengths)))

    def pool(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Turns the tokens of a clip into one vector.

        Arguments
        ---------
        tokens : torch.Tensor
            ``[batch, special tokens + prompts + tokens of the clip, dim]``.
        mask : torch.Tensor, optional
            True where a token is not padding, ``[batch, special tokens + tokens of the clip]``.

        Returns
        -------
        torch.Tensor
            ``[batch, dim]``.
        """
        prompts_end = self.special_tokens + self.method.prompts
        start, end = {
            "ALL": (0, None),
            "CLS": (0, 1),
            "PROMPTS": (self.special_tokens, prompts_end),
            "SPEECH": (prompts_end, None),
            "PROMPTS+SPEECH": (self.special_tokens, None),
        }[self.pooling]
        if mask is None:
            return tokens[:, start:end].mean(1)
        prompts = mask.new_ones(len(mask), self.method.prompts)
        mask = torch.cat([mask[:, : self.special_tokens], prompts, mask[:, self.special_tokens :]], dim=1)
        weights = mask[:, start:end, None].to(tokens.dtype)
        return (tokens[:, start:end] * weights).sum(1) / weights.sum(1).clamp(min=1)


def classifier_without_weights(
    config: PreTrainedConfig, method: Method, n_classes: int, pooling: str = "ALL"
) -> AudioClassifier:
    """Builds a classifier on torch's meta device: at once, and without memory. It has shapes, but no values.

    Arguments
    ---------
    config : PreTrainedConfig
        Of the backbone.
    method, n_classes, pooling : Method, int, str
        As in `AudioClassifier`.

    Returns
    -------
    AudioClassifier
        To be counted, or to see whether all of this goes together.

    Raises
    ------
    UsageError
        It does not.

    Example
    -------
    >>> from brainplug.backbones import known_config
    >>> from brainplug.methods.linear import LinearProbe
    >>> model = classifier_without_weights(known_config("ast"), LinearProbe(), n_classes=2)
    >>> model.count_parameters()["trainable_without_head"] == 2 * 768
    True
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return AudioClassifier(random_backbone(config), method, n_classes, pooling)


def _check_pooling(pooling: str, spec: BackboneSpec, method: Method) -> None:
    there = [name for name in POOLINGS if method.prompts or "PROMPTS" not in name]
    there = [name for name in there if spec.special_tokens or name != "CLS"]
    if pooling not in there:
        raise UsageError(
            f"The pooling {pooling!r} was asked for.",
            "This backbone has no [CLS] token." if pooling == "CLS" else
            "This method has no prompts." if pooling in POOLINGS else "It does not exist.",
            f"Write one of: {nearest(pooling, there)}",
        )  # fmt: skip


def _recompute(layer: torch.nn.Module) -> None:
    """Has a layer keep its input alone; what is inside is computed again for the gradients."""
    batch_norms = [module for module in layer.modules() if isinstance(module, torch.nn.BatchNorm1d)]

    @contextlib.contextmanager
    def counting_no_batch_twice() -> Iterator[None]:
        momenta, counts = [], []
        for norm in batch_norms:
            momenta.append(norm.momentum)
            counts.append(norm.num_batches_tracked.clone())
            norm.momentum = 0.0  # the running means have seen this batch
        try:
            yield
        finally:  # torch leaves by an exception as soon as it has what it needs
            for norm, momentum, count in zip(batch_norms, momenta, counts, strict=True):
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)

    layer.forward = partial(
        torch.utils.checkpoint.checkpoint,
        layer.forward,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), counting_no_batch_twice()),
    )


def _names_of_delta(model: AdaptedModel, pretrained_tensors: set[int]) -> set[str]:
    """Names of the tensors that are trained, or that the backbone did not bring along."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = model.state_dict().keys()
    return {
        name
        for name, tensor in named.items()
        if name in saved and (tensor.requires_grad or id(tensor) not in pretrained_tensors)
    }
