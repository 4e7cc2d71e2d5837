"""Classification: one label for each clip."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from pydantic import PositiveInt
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.run_opts import RunOptions

from brainplug.adapters.description import ClassifierDescription
from brainplug.backbones import Backbone
from brainplug.backbones.positions import Positions
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.config.recipe import Recipe
from brainplug.data.augment import choose_augmentations, suitable
from brainplug.data.manifest import Clip, label_map
from brainplug.data.pipeline import make_datasets
from brainplug.data.protocol.few_shot import keep_examples, write_examples
from brainplug.methods.registry import Variants
from brainplug.models.adapted import AdaptedModel
from brainplug.models.classifier import AudioClassifier
from brainplug.models.pooling import Pooling
from brainplug.results.schema import code_name
from brainplug.tasks.base import (
    Assembly,
    Extract,
    RunComponents,
    RunData,
    Task,
    brain_hparams,
    clip_reader,
    loader_options,
)
from brainplug.tasks.loading import Weights, load_weights, restore_backbone
from brainplug.tasks.results import describe_method, summary_text
from brainplug.tasks.settings import Changes, TaskSettings
from brainplug.training.brain import Tested
from brainplug.training.classification import ClassificationBrain
from brainplug.training.diagnostics import observe, write_observations, write_predictions

Labels = dict[str, int]  # label -> index

logger = logging.getLogger(__name__)


class ClassificationSettings(TaskSettings):
    """The keys of a recipe of classification."""

    few_shot: PositiveInt | None
    few_shot_draws: PositiveInt
    few_shot_short: Literal["error", "keep"]
    frames: PositiveInt | None
    features_on_device: bool
    augmentations: dict[str, Any]
    augment_settings: Changes | None
    paper_code: bool
    positions: Positions
    pooling: Pooling

    def name_suffix(self, given: Mapping[str, object], defaults: Mapping[str, object]) -> str:
        """Beside what all tasks say: the number of examples, and the published code."""
        examples = f"-{self.few_shot}shot" if self.few_shot else ""
        return super().name_suffix(given, defaults) + examples + ("-published" if self.paper_code else "")

    def finalised(self, run_opts: RunOptions) -> tuple[Self, RunOptions]:
        """With ``paper_code`` the positions are those of the published code and no gradient is clipped."""
        settings, run_opts = super().finalised(run_opts)
        if not settings.paper_code:
            return settings, run_opts
        # SpeechBrain looks at the options that were given, and would clip otherwise.
        given = {*run_opts.overridden_args, "max_grad_norm"}
        run_opts = replace(run_opts, max_grad_norm=0.0, overridden_args=given)
        return settings.model_copy(update={"positions": "published"}), run_opts


class Classification(Task[ClassificationSettings, Labels]):
    """Adapts a backbone with a linear head over pooled tokens."""

    name = "classification"
    schema = ClassificationSettings
    placeholder = {"one": 0, "other": 1}

    def augmentations(self, settings: ClassificationSettings) -> list[Callable[..., Any]]:
        """The entries that the recipe names; what does not suit the signal is left out with a warning."""
        return choose_augmentations(settings.augment, settings.augmentations, settings.augment_settings)

    def variants(self, settings: ClassificationSettings) -> Variants:
        """The published variants of the methods, where the recipe has ``paper_code: True``."""
        return PUBLISHED if settings.paper_code else {}

    def assemble(
        self, settings: ClassificationSettings, weights: Weights, like: Backbone | None = None
    ) -> Assembly[Labels]:
        """A backbone of any family under an `AudioClassifier`."""
        backbone = load_weights(
            settings.backbone,
            settings.backbone_revision,
            weights,
            like,
            frames=settings.frames,
            positions=settings.positions,
        )
        options = settings.pooling, settings.gradient_checkpointing
        return Assembly(backbone, lambda method, labels: AudioClassifier(backbone, method, len(labels), *options))

    def reading(self, settings: ClassificationSettings, backbone: Backbone) -> tuple[Extract, dict[str, Any]]:
        """The backbone's signal; with ``features_on_device`` the waveform, whose features are made in the batch."""
        if not settings.features_on_device:
            return super().reading(settings, backbone)
        backbone.extract_batch(torch.zeros(1, 1), torch.ones(1))  # refuses families that cannot
        return torch.nn.Identity(), {"signal": "waveform"}

    def build(self, recipe: Recipe[ClassificationSettings], weights: Weights = "pretrained") -> RunComponents[Labels]:
        """Puts the components together; leaves out augmentations that do not work on the signal."""
        components = super().build(recipe, weights)
        if "frames" in recipe.overrides and "frames" not in components.backbone.signal_settings:
            text = "--frames=%s has no effect: the backbone %s reads clips of any length."
            logger.warning(text, recipe.settings.frames, recipe.settings.backbone)
        signals = [components.backbone.spec.signal]
        if recipe.settings.features_on_device:
            signals = ["waveform", *signals]
        return replace(components, augment=suitable(components.augment, signals))

    def list_clips(self, settings: ClassificationSettings, components: RunComponents[Labels]) -> list[Clip]:
        """The checked clips; of the training clips those that a few-shot run draws."""
        clips = super().list_clips(settings, components)
        if not settings.few_shot:
            return clips
        clips = draw_examples(clips, settings)
        run_on_main(write_examples, args=[clips, settings.output_folder, settings.few_shot, settings.seed])
        return clips

    def find_outputs(self, settings: ClassificationSettings, clips: Sequence[Clip]) -> Labels:
        """The labels of the training clips, in alphabetical order."""
        return label_map(clips)

    def make_datasets(
        self,
        settings: ClassificationSettings,
        components: RunComponents[Labels],
        clips: Sequence[Clip],
        outputs: Labels,
    ) -> dict[str, DynamicItemDataset]:
        """Signals with the indices of their labels."""
        return make_datasets(clips, outputs, clip_reader(settings, components))

    def make_brain(
        self,
        model: AdaptedModel,
        components: RunComponents[Labels],
        recipe: Recipe[ClassificationSettings],
        outputs: Labels,
    ) -> ClassificationBrain:
        """Cross-entropy, measured by accuracy."""
        hparams = brain_hparams(recipe.settings, components)
        checkpointer = recipe.settings.checkpointer
        return ClassificationBrain(model, components.optimizer, components.lr, hparams, recipe.run_opts, checkpointer)

    def tested_epoch(self, settings: ClassificationSettings) -> Literal["best", "last"]:
        """The best epoch in validation; with the published code the last one."""
        return "last" if settings.paper_code else "best"

    def before_training(
        self, brain: ClassificationBrain, settings: ClassificationSettings, data: RunData[Labels]
    ) -> dict[str, torch.Tensor]:
        """Pooled vectors of test clips, before adapting."""
        return observe(brain, data.datasets["test"], loader_options(settings))

    def write_files(
        self,
        brain: ClassificationBrain,
        settings: ClassificationSettings,
        data: RunData[Labels],
        before: dict[str, torch.Tensor],
    ) -> None:
        """Writes predictions.csv and observations.safetensors."""
        after = observe(brain, data.datasets["test"], loader_options(settings))
        if if_main_process():
            write_predictions(brain, data.clips, data.outputs, settings.output_folder)
            write_observations(before, after, data.outputs, settings.output_folder)

    def describe_adapter(
        self, model: AdaptedModel, settings: ClassificationSettings, outputs: Labels
    ) -> ClassifierDescription:
        """Labels and pooling, beside what every adapter says."""
        return ClassifierDescription(
            **describe_method(model, settings),
            paper_code=settings.paper_code,
            positions=settings.positions,
            pooling=settings.pooling,
            labels=sorted(outputs, key=outputs.__getitem__),
        )

    def rebuild(self, description: ClassifierDescription, location: str | None, weights: Weights) -> AudioClassifier:
        """Builds the classifier that a description names, before its trained weights are loaded."""
        restored, method = restore_backbone(description, location, weights)
        classes, head_norm = len(description.labels), description.head_norm
        return AudioClassifier(restored, method, classes, description.pooling, head_norm=head_norm)

    def result_row(
        self, brain: ClassificationBrain, settings: ClassificationSettings, data: RunData[Labels], tested: Tested
    ) -> dict[str, Any]:
        """``test_accuracy`` is that of the best validation epoch, with ``paper_code`` that of the last one."""
        chosen = tested[self.tested_epoch(settings)]
        return {
            "few_shot": settings.few_shot,
            "n_classes": len(data.outputs),
            "best_epoch": tested["best"]["epoch"],
            "tested_epoch": chosen["epoch"],
            "valid_accuracy": chosen["valid_accuracy"],
            "test_accuracy": chosen["test_accuracy"],
            "test_accuracy_best_epoch": tested["best"]["test_accuracy"],
            "test_accuracy_last_epoch": tested["last"]["test_accuracy"],
            "paper_code": settings.paper_code,
        }

    def summary(self, results: dict[str, Any], output_folder: str) -> str:
        """Accuracies of the best and of the last epoch, the tested one first."""
        fold = "" if results["fold"] is None else f", fold {results['fold']}"
        examples = "" if results["few_shot"] is None else f", {results['few_shot']} training clips a class"
        accuracies = [
            f"{100 * results['test_accuracy_best_epoch']:.2f} % (epoch {results['best_epoch']}, best in validation)",
            f"{100 * results['test_accuracy_last_epoch']:.2f} % (epoch {results['epochs']}, the last)",
        ]
        tested, other = reversed(accuracies) if results["paper_code"] else accuracies
        data = f"{results['dataset']}{fold}: {results['n_test']} test clips, {results['n_classes']} classes{examples}"
        rows = [
            ("code", code_name(results["paper_code"])),
            ("test accuracy", tested),
            ("  beside it", other),
            ("valid accuracy", f"{100 * results['valid_accuracy']:.2f} %"),
        ]
        return summary_text(results, output_folder, data, rows)


def draw_examples(clips: Sequence[Clip], settings: ClassificationSettings) -> list[Clip]:
    """The clips of a few-shot run, as its settings draw them."""
    return keep_examples(
        clips, settings.few_shot or 0, settings.seed, first=settings.paper_code, short=settings.few_shot_short
    )
