"""An adapted backbone that says, for each of its tokens, which character is spoken."""

from functools import partial

import torch

from brainplug.backbones import Backbone, load_backbone
from brainplug.backbones.spec import find_module
from brainplug.errors import UsageError
from brainplug.methods import Method
from brainplug.models.adapted import AdaptedModel
from brainplug.models.span_masks import SpanMasks


class CTCModel(AdaptedModel):
    """Scores characters token by token.

    The convolutions that make tokens of samples stay frozen with every method. `freeze_backbone` freezes the
    transformer and the method's modules too, for as long as only the head trains.

    Arguments
    ---------
    backbone, method, gradient_checkpointing : Backbone, Method, bool
        As in `AdaptedModel`; the backbone takes waveforms.
    n_characters : int
        Size of the vocabulary, its blank included.
    masks : SpanMasks, optional
        Masks what the transformer reads while the model trains, be the transformer frozen or not.
    layerdrop : float
        Share of the layers that a step leaves out, where the method trains the whole transformer.

    Raises
    ------
    UsageError
        The masks do not fit the backbone.

    Example
    -------
    >>> from brainplug.backbones import known_config, random_backbone
    >>> from brainplug.methods.full import FullFineTuning
    >>> with torch.device("meta"):
    ...     model = CTCModel(random_backbone(known_config("hubert")), FullFineTuning(), n_characters=29)
    >>> any(parameter.requires_grad for parameter in model.backbone.model.feature_extractor.parameters())
    False
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        n_characters: int,
        masks: SpanMasks | None = None,
        layerdrop: float = 0.0,
        gradient_checkpointing: bool = False,
    ):
        spec, model = backbone.spec, backbone.model
        head = partial(torch.nn.Linear, out_features=n_characters)
        super().__init__(backbone, method, head, gradient_checkpointing, frozen_parts=[spec.convolutions])
        self.masks, self.held = masks or SpanMasks(), False
        self.masks.check_width(backbone.dim)
        model.config.layerdrop = layerdrop
        # transformers masks by itself where the backbone trains, and only there.
        model.config.apply_spec_augment = False
        find_module(model, spec.layers.rpartition(".")[0]).register_forward_pre_hook(self._mask)

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores a batch.

        Arguments
        ---------
        signal : torch.Tensor
            ``[batch, samples]``.
        lengths : torch.Tensor
            Share of each signal that is not padding, ``[batch]``.

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor]
            Logits ``[batch, tokens, characters]``, and how many tokens of each clip are no padding ``[batch]``.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.held):
            tokens, present = self.backbone(signal, lengths)
        of_clip = tokens[:, self.special_tokens + self.method.prompts :]
        return self.head(of_clip), present.sum(1)

    def freeze_backbone(self, held: bool) -> None:
        """Freezes all but the head, or lets it train.

        Arguments
        ---------
        held : bool
            Whether it is frozen; its modules are in evaluation mode meanwhile.
        """
        if held != self.held:
            self.held = held
            self.train(self.training)

    def train(self, mode: bool = True) -> "CTCModel":
        """Sets training mode, but for what is frozen."""
        super().train(mode)
        if self.held:
            self.backbone.eval()
        return self

    def _mask(self, transformer: torch.nn.Module, inputs: tuple) -> tuple:
        """Masks the first of what the transformer is given, ``[batch, tokens, dim]``."""
        if not self.training:
            return inputs
        frames, *others = inputs
        spec = self.backbone.spec
        embedding = frames.new_zeros(frames.shape[-1])
        if spec.mask_embedding:
            embedding = self.backbone.model.get_parameter(spec.mask_embedding)
        counts = spec.token_mask.tokens.sum(1)
        return (self.masks(frames, counts, embedding), *others)


def load_waveform_backbone(name: str, revision: str | None = None, **_: object) -> Backbone:
    """Loads a backbone that can be fine-tuned to recognise speech.

    Arguments
    ---------
    name, revision : str, str
        As in `load_backbone`.
    **_ : object
        Settings of other families' input.

    Returns
    -------
    Backbone
        With its weights.

    Raises
    ------
    UsageError
        It does not take waveforms, or cannot be loaded.

    Example
    -------
    >>> load_waveform_backbone("nano-ast")
    Traceback (most recent call last):
    brainplug.errors.UsageError: Recognition with the backbone 'nano-ast' was asked for. It reads log_mel, ...
    """
    backbone = load_backbone(name, revision)
    if backbone.spec.signal != "waveform":
        raise UsageError(
            f"Recognition with the backbone {name!r} was asked for.",
            f"It reads {backbone.spec.signal}, not waveforms.",
            "Write --backbone=hubert, or another one of the wav2vec 2.0 family",
        )
    return backbone
