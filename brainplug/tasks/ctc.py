"""CTC: a head scores characters for each token of a backbone that reads waveforms.

Graves et al., 2006; fine-tuning as Baevski et al., 2020, https://arxiv.org/abs/2006.11477
"""

from typing import Annotated, Any

from pydantic import Field, PositiveInt

from brainplug.adapters.description import RecognizerDescription
from brainplug.backbones import Backbone
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.data.transcripts import usable_clips
from brainplug.errors import ConfigError
from brainplug.models.ctc import CTCModel
from brainplug.tasks.base import Assembly, RunComponents, RunData
from brainplug.tasks.loading import Weights, load_weights, restore_backbone
from brainplug.tasks.recognition import Recognition, RecognitionSettings
from brainplug.training.brain import Tested
from brainplug.training.ctc import CTCBrain

Share = Annotated[float, Field(ge=0, le=1)]


class CTCSettings(RecognitionSettings):
    """The keys of a recipe of CTC."""

    frozen_updates: Annotated[int, Field(ge=0)]
    layerdrop: Share
    speed: Any
    noise: Any
    mask_time: Share
    mask_time_length: PositiveInt
    mask_channels: Share
    mask_channel_length: PositiveInt
    masks: Any


class CTC(Recognition[CTCSettings]):
    """Fine-tunes a backbone to recognise speech with CTC over characters."""

    name = kind = "ctc"
    schema = CTCSettings
    brain = CTCBrain

    def assemble(self, settings: CTCSettings, weights: Weights, like: Backbone | None = None) -> Assembly[Characters]:
        """A backbone with convolutions over samples, under a `CTCModel`."""
        backbone = load_weights(settings.backbone, settings.backbone_revision, weights, like)
        if backbone.spec.convolutions is None:
            raise ConfigError(
                f"Recognition with the backbone {settings.backbone!r} was asked for.",
                f"It reads {backbone.spec.signal}, not waveforms.",
                "Write --backbone=hubert, or another one of the wav2vec 2.0 family",
            )
        settings.masks.check_width(backbone.dim)
        options = settings.masks, settings.layerdrop, settings.gradient_checkpointing
        return Assembly(backbone, lambda method, characters: CTCModel(backbone, method, len(characters), *options))

    def set_aside(
        self, settings: CTCSettings, components: RunComponents[Characters], clips: list[Clip], outputs: Characters
    ) -> tuple[list[Clip], list[tuple[Clip, str]]]:
        """Sets aside clips without a transcript, and training clips too short for theirs."""
        backbone: Any = components.backbone  # of a family that counts tokens
        return usable_clips(clips, outputs, backbone.count_tokens, backbone.sample_rate)

    def result_row(
        self, brain: CTCBrain, settings: CTCSettings, data: RunData[Characters], tested: Tested
    ) -> dict[str, Any]:
        """Beside the error rates: for how many updates the head alone trained."""
        return {**super().result_row(brain, settings, data, tested), "frozen_updates": settings.frozen_updates}

    def rebuild(self, description: RecognizerDescription, location: str | None, weights: Weights) -> CTCModel:
        """Builds the model that a description names, before its trained weights are loaded."""
        restored, method = restore_backbone(description, location, weights)
        return CTCModel(restored, method, len(Characters(description.characters)))
