"""An adapted backbone with a head that scores characters for each of its tokens."""

from functools import partial
from typing import cast

import torch

from brainplug.backbones import Backbone
from brainplug.backbones.spec import find_module
from brainplug.methods import Method
from brainplug.models.adapted import AdaptedModel
from brainplug.models.span_masks import SpanMasks


class CTCModel(AdaptedModel):
    """Scores characters token by token.

    The convolutions that turn samples into tokens stay frozen with every method. `freeze_backbone` freezes the
    transformer and the method's modules too, for as long as only the head trains.

    Arguments
    ---------
    backbone : Backbone
        Reads waveforms.
    n_characters : int
        Size of the vocabulary, its blank included.
    masks : SpanMasks, optional
        Masks the transformer's input in training, whether the transformer is frozen or not.
    layerdrop : float
        Share of the layers that a step leaves out, where the method trains the whole transformer.

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
        super().__init__(backbone, method, head, gradient_checkpointing, frozen_parts=[spec.convolutions or ""])
        self.masks, self.frozen = masks or SpanMasks(), False
        self.masks.check_width(backbone.dim)
        model.config.layerdrop = layerdrop
        # transformers masks by itself where the backbone trains, and only there.
        model.config.apply_spec_augment = False
        find_module(model, spec.layers.rpartition(".")[0]).register_forward_pre_hook(self._mask)

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[batch, tokens, characters]``, and how many tokens of each clip are no padding ``[batch]``.

        `signal` is ``[batch, samples]``, and `lengths` the share of each that is not padding, ``[batch]``.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens, present = self.backbone(signal, lengths)
        of_clip = tokens[:, self.special_tokens + self.method.prompts :]
        return self.head(of_clip), present.sum(1)

    def output_of(self, waveform: torch.Tensor) -> torch.Tensor:
        """Logits ``[1, tokens, characters]`` of one clip ``[samples]``."""
        logits: torch.Tensor = self(self.backbone.extract(waveform)[None], torch.ones(1))[0]
        return logits

    def freeze_backbone(self, frozen: bool) -> None:
        """Freezes all but the head and keeps it in evaluation mode, or lets it train again."""
        if frozen != self.frozen:
            self.frozen = frozen
            self.train(self.training)

    def train(self, mode: bool = True) -> "CTCModel":
        """Sets training mode, except for what is frozen."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def _mask(self, transformer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Masks the transformer's first input, ``[batch, tokens, dim]``."""
        if not self.training:
            return inputs
        frames, *others = inputs
        spec = self.backbone.spec
        embedding = frames.new_zeros(frames.shape[-1])
        if spec.mask_embedding:
            embedding = self.backbone.model.get_parameter(spec.mask_embedding)
        present = cast(torch.Tensor, spec.token_mask.tokens)  # the backbone has set it for this batch
        return (self.masks(frames, present.sum(1), embedding), *others)
