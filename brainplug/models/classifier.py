"""A classifier of clips: an adapted backbone, pooling and a linear head."""

from functools import partial

import torch
from transformers import PreTrainedConfig

from brainplug.backbones import Backbone, random_backbone
from brainplug.methods.base import Method
from brainplug.models.adapted import AdaptedModel
from brainplug.models.pooling import check_pooling, pool


class AudioClassifier(AdaptedModel):
    """Classifies clips with an adapted backbone.

    Arguments
    ---------
    backbone, method, gradient_checkpointing : Backbone, Method, bool
        As in `AdaptedModel`.
    n_classes : int
        Number of classes.
    pooling : str
        The tokens to take the mean of: ``ALL``, ``CLS``, ``SPECIAL`` (all that stand before those of the clip),
        ``PROMPTS`` (of prompt tuning), ``SPEECH`` (those of the clip) or ``PROMPTS+SPEECH``.
    head_norm : float, optional
        The epsilon of a layer norm before the linear map of the head; None: no norm.

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
        head_norm: float | None = None,
    ):
        check_pooling(pooling, backbone.spec.special_tokens, method.prompts)
        super().__init__(backbone, method, partial(make_head, n_classes, head_norm), gradient_checkpointing)
        self.pooling = pooling

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, n_classes]`` of signals ``[batch, frames, mel_bands]`` or ``[batch, samples]``.

        `lengths` is the share of each signal that is not padding, ``[batch]``.
        """
        return self.head(self.pool(*self.backbone(signal, lengths)))

    def pool(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Pools the backbone's tokens to one vector per clip, ``[batch, dim]``; see `brainplug.models.pooling.pool`."""
        return pool(tokens, mask, self.pooling, self.special_tokens, self.method.prompts)


def make_head(n_classes: int, norm: float | None, dim: int) -> torch.nn.Module:
    """The head of a classifier, with the epsilon of its norm if it has one."""
    linear = torch.nn.Linear(dim, n_classes)
    return linear if norm is None else torch.nn.Sequential(torch.nn.LayerNorm(dim, eps=norm), linear)


def classifier_without_weights(
    config: PreTrainedConfig, method: Method, n_classes: int, pooling: str = "ALL"
) -> AudioClassifier:
    """Builds a classifier on torch's meta device, without memory: its tensors have shapes, but no values.

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
