"""Backbone, method, pooling and head as one module."""

import torch

from brainplug.backbones import Backbone
from brainplug.backbones.spec import find_module
from brainplug.errors import UsageError, nearest
from brainplug.methods import Method

POOLINGS = ("ALL", "CLS")


class AudioClassifier(torch.nn.Module):
    """Classifies clips with an adapted backbone.

    Frozen means frozen: what the method does not train has no gradient, and its modules stay in evaluation mode (no
    dropout, fixed norms) while the method's own modules train.

    Arguments
    ---------
    backbone : Backbone
        Pretrained; adapted in place.
    method : Method
        How it is adapted.
    n_classes : int
        Number of classes.
    pooling : str
        ``ALL``: the mean over all tokens that are not padding; ``CLS``: the first token.

    Raises
    ------
    UsageError
        Unknown pooling.

    Example
    -------
    >>> from brainplug.backbones import load_backbone
    >>> from brainplug.methods.linear import LinearProbe
    >>> model = AudioClassifier(load_backbone("nano-ast", frames=100), LinearProbe(), n_classes=5)
    >>> model.count_parameters()["trainable"] == 2 * 192 + 193 * 5  # final layer norm and head
    True
    """

    def __init__(self, backbone: Backbone, method: Method, n_classes: int, pooling: str = "ALL"):
        super().__init__()
        if pooling not in POOLINGS:
            raise UsageError(
                f"The pooling {pooling!r} was asked for.", "It does not exist.", f"Write: {nearest(pooling, POOLINGS)}"
            )
        self.backbone, self.pooling = backbone.requires_grad_(False), pooling
        pretrained_tensors = {id(tensor) for tensor in [*backbone.parameters(), *backbone.buffers()]}
        self._frozen_modules = [] if method.trains_backbone else list(backbone.modules())
        method.attach(backbone.model, backbone.spec)
        if backbone.spec.final_norm:
            find_module(backbone.model, backbone.spec.final_norm).requires_grad_(True)
        self.head = torch.nn.Linear(backbone.dim, n_classes)
        self._delta_names = _names_of_delta(self, pretrained_tensors)

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
            ``[batch, tokens, dim]``.
        mask : torch.Tensor, optional
            ``[batch, tokens]``, True where a token counts.

        Returns
        -------
        torch.Tensor
            ``[batch, dim]``.
        """
        if self.pooling == "CLS":
            return tokens[:, 0]
        if mask is None:
            return tokens.mean(1)
        weights = mask.to(tokens.dtype)[..., None]
        return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)

    def train(self, mode: bool = True) -> "AudioClassifier":
        """Sets training mode, but for what is frozen."""
        super().train(mode)
        for module in self._frozen_modules:
            module.training = False
        return self

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


def _names_of_delta(model: torch.nn.Module, pretrained_tensors: set[int]) -> set[str]:
    """Names of the tensors that are trained, or that the backbone did not bring along."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = model.state_dict().keys()
    return {
        name
        for name, tensor in named.items()
        if name in saved and (tensor.requires_grad or id(tensor) not in pretrained_tensors)
    }
