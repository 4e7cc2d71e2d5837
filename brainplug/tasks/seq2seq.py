"""Sequence to sequence: the encoder of an Echo is adapted, and its decoder generates characters; see docs/echo.md."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from transformers import WhisperFeatureExtractor

from brainplug.adapters.description import RecognizerDescription
from brainplug.adapters.file import Adapter
from brainplug.backbones.echo import EchoConfig
from brainplug.backbones.echo_encoder import EchoBackbone
from brainplug.config.recipe import Recipe
from brainplug.data.augment import choose_augmentations, suitable
from brainplug.data.characters import Characters, choose_characters
from brainplug.data.manifest import Clip
from brainplug.data.transcripts import set_aside
from brainplug.errors import CheckpointError
from brainplug.models.adapted import AdaptedModel
from brainplug.models.echo_recognizer import (
    ECHO_FOLDER,
    NEW,
    EchoRecognizer,
    check_texts_fit,
    echo_without_weights,
    load_echo,
    name_of_parts,
    save_echo,
    why_too_long,
)
from brainplug.tasks.base import Assembly, RunComponents, RunData, begin_run
from brainplug.tasks.loading import Weights, check_same, config_of, load_again, restored_method
from brainplug.tasks.recognition import Recognition, RecognitionSettings
from brainplug.tasks.settings import Changes
from brainplug.training.brain import Tested
from brainplug.training.seq2seq import EchoBrain

Share = Annotated[float, Field(ge=0, lt=1)]


class Seq2SeqSettings(RecognitionSettings):
    """The keys of a recipe of an Echo."""

    augmentations: dict[str, Any]
    augment_settings: Changes | None
    label_smoothing: Share
    precision: str
    eval_precision: str
    rotation: str
    adaptive_base: bool
    use_hybrid_attention: bool
    use_convolution: bool
    dropout: Share
    model: Any

    without_file: ClassVar[tuple[str, ...]] = (NEW,)


class Seq2Seq(Recognition[Seq2SeqSettings]):
    """Trains an Echo to recognise speech, from nothing or from a trained one that a method adapts."""

    name = kind = "seq2seq"
    schema = Seq2SeqSettings
    brain = EchoBrain

    def augmentations(self, settings: Seq2SeqSettings) -> list[Any]:
        """The entries that the recipe names."""
        chosen = choose_augmentations(settings.augment, settings.augmentations, settings.augment_settings)
        return suitable(chosen, ["log_mel"])

    def is_new(self, settings: Seq2SeqSettings) -> bool:
        """A new Echo is trained from nothing."""
        return settings.backbone == NEW

    def assemble(self, settings: Seq2SeqSettings, weights: Weights, like: Any = None) -> Assembly[Characters]:
        """The encoder of an Echo, whose decoder becomes the head of an `EchoRecognizer`."""
        characters = self.placeholder if settings.characters is None else Characters(settings.characters)
        if like is not None:
            echo, backbone = echo_without_weights(like.model.config, settings.backbone, like.extractor)
        else:
            with torch.device("meta" if weights == "meta" else torch.get_default_device()):
                echo, backbone = load_echo(settings.backbone, settings.backbone_revision, settings.model, characters)
        checkpointing = settings.gradient_checkpointing
        return Assembly(backbone, lambda method, chars: EchoRecognizer(backbone, method, echo, chars, checkpointing))

    def run(self, recipe: Recipe[Seq2SeqSettings]) -> dict[str, Any] | None:
        """Does one run; where the recipe names no characters, those of the training transcripts come first."""
        settings = recipe.settings
        if settings.characters is None:
            components = self.build(recipe, "meta")  # refuses what cannot be before clips are listed
            begin_run(recipe, components.method)
            clips = self.list_clips(settings, components)
            symbols = choose_characters(None, clips).symbols
            recipe = replace(recipe, settings=settings.model_copy(update={"characters": symbols}))
        return super().run(recipe)

    def set_aside(
        self,
        settings: Seq2SeqSettings,
        components: RunComponents[Characters],
        clips: list[Clip],
        outputs: Characters,
    ) -> tuple[list[Clip], list[tuple[Clip, str]]]:
        """Sets aside clips without a transcript, and clips that the encoder has no positions for."""
        usable, skipped = set_aside(clips, partial(why_too_long, cast(EchoBackbone, components.backbone)))
        check_texts_fit([clip.text for clip in usable], components.backbone.model.config.n_text_ctx)
        return usable, skipped

    def result_row(
        self, brain: EchoBrain, settings: Seq2SeqSettings, data: RunData[Characters], tested: Tested
    ) -> dict[str, Any]:
        """Beside the error rates: the parts of the Echo, and its configuration."""
        config = cast(EchoConfig, cast(EchoRecognizer, brain.model).echo.config)
        parts = {"backbone": name_of_parts(config), "echo": config.to_diff_dict()}
        return {**super().result_row(brain, settings, data, tested), **parts}

    def after_adapter(self, model: EchoRecognizer, settings: Seq2SeqSettings) -> None:
        """Writes the whole Echo as transformers' own files, where its method can be merged."""
        save_echo(model, f"{settings.output_folder}/{ECHO_FOLDER}")

    def describe_adapter(
        self, model: AdaptedModel, settings: Seq2SeqSettings, outputs: Characters
    ) -> RecognizerDescription:
        """Of an Echo that is trained from nothing, its configuration too."""
        description = super().describe_adapter(model, settings, outputs)
        if not self.is_new(settings):
            return description
        changed = cast(EchoRecognizer, model).echo.config.to_diff_dict()
        fields = {name: value for name, value in changed.items() if name in vars(EchoConfig())}
        return description.model_copy(update={"echo": fields})

    def rebuild(self, description: RecognizerDescription, location: str | None, weights: Weights) -> EchoRecognizer:
        """Builds the Echo that a description names, or the one that it adapted, before its weights are loaded."""
        characters, method = Characters(description.characters), restored_method(description)
        if description.echo is not None:
            echo, backbone = load_echo(NEW, None, EchoConfig.from_dict(description.echo), characters)
        elif weights == "meta":
            config = cast(EchoConfig, load_again(description, location, config_of))
            echo, backbone = echo_without_weights(config, description.backbone, WhisperFeatureExtractor(config.n_mels))
        else:
            echo, backbone = load_again(
                description, location, lambda name, revision: load_echo(name, revision, None, characters)
            )
            check_same(description, backbone)
        return EchoRecognizer(backbone, method, echo, characters)

    def restore(self, adapter: Adapter, location: str | None = None, verify: bool = True) -> EchoRecognizer:
        """The Echo, whose rotations are multiplied into its projections where it was trained from nothing."""
        description = cast(RecognizerDescription, adapter.description)
        if description.backbone == NEW and description.echo is None:
            raise CheckpointError(
                "A recogniser was asked for.",
                f"It is a whole Echo in an older format, whose folder {ECHO_FOLDER} is missing beside it.",
                f"Copy the folder {ECHO_FOLDER} of its run too",
            )
        model = cast(EchoRecognizer, super().restore(adapter, location, verify))
        if description.echo is not None:
            model.echo.fold()
        return model
