#!/usr/bin/env python3
"""Pre-trains a data2vec on any folder of audio (Baevski et al., 2022).

python recipes/pretrain_data2vec/train.py recipes/pretrain_data2vec/hparams/nano.yaml --data_folder=FOLDER
"""

import sys

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group
from speechbrain.utils.run_opts import RunOptions

from brainplug.backbones.filters import begin_with_mel_filters
from brainplug.config.arguments import parse_arguments
from brainplug.config.lock import hold_folder
from brainplug.config.recipe import Recipe
from brainplug.errors import run_command
from brainplug.pretrain.brain import Batch, PretrainBrain
from brainplug.pretrain.corpus import frames_in
from brainplug.pretrain.data2vec import Data2VecPretraining, Teacher, tau_at
from brainplug.pretrain.health import (
    Alarm,
    effective_rank,
    explained_variance,
    mean_correlation,
    mean_cosine,
    mean_std,
)
from brainplug.pretrain.labels import mfcc_features
from brainplug.pretrain.run import begin_run, train_and_export
from brainplug.pretrain.schema import Data2VecSettings


class Data2VecBrain(PretrainBrain):
    """Predicts the teacher's output for whole crops at masked frames."""

    normalize = True
    alarms = (
        Alarm("target_std", "all targets are alike", below=0.1, stops=True),
        Alarm("prediction_std", "all predictions are alike", below=0.01, stops=True),
        Alarm("target_rank_fraction", "targets spread over few directions", below=0.1, rows=10),
        Alarm("target_cosine", "targets of different clips are alike", above=0.9),
        Alarm("explained_variance", "the mean of each channel is the better prediction", below=0, rows=10),
        Alarm("teacher_distance", "the teacher equals the student", below=1e-9),
    )

    def __init__(self, settings: Data2VecSettings, run_opts: RunOptions):
        pretraining = Data2VecPretraining(settings.model, settings.beta)
        teacher = Teacher(settings.model, settings.top_layers)
        super().__init__(pretraining, settings, run_opts)
        self.tau = (settings.tau_start, settings.tau_end, settings.tau_steps)
        self.teacher = teacher
        teacher.encoder.to(self.device)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("teacher", teacher.encoder)

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> Batch:
        """The loss, and the inputs of `indicators`."""
        waveforms = batch["waveforms"].to(self.device)
        mask = self.draw_mask(len(waveforms), frames_in(waveforms.shape[1]), stage)
        return self.modules.pretraining(waveforms, mask, self.teacher, self.augment(waveforms, stage))

    def optimizers_step(self) -> None:
        """Steps, then updates the teacher."""
        super().optimizers_step()
        self.teacher.update(self._tau())

    def _tau(self) -> float:
        return tau_at(self.optimizer_step - 1, *self.tau)

    def indicators(self, outputs: Batch) -> Batch:
        """The spread of targets and predictions, their agreement, and the distance of teacher and student."""
        mask = outputs["mask"]
        predictions, targets = (outputs[name][mask].float() for name in ("predictions", "targets"))
        clips = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
        pairs = torch.Generator().manual_seed(0)
        distance = sum((own - other).square().sum() for own, other in zip(*self.teacher.averaged(), strict=True)).sqrt()
        return {
            "target_std": mean_std(targets),
            "prediction_std": mean_std(predictions),
            "target_rank_fraction": effective_rank(targets) / targets.shape[1],
            "target_correlation": mean_correlation(targets),
            "target_cosine": mean_cosine(targets, clips, pairs),
            "explained_variance": explained_variance(predictions, targets),
            "teacher_distance": distance,
            "tau": torch.tensor(self._tau()),
        }


def run(recipe: Recipe[Data2VecSettings]) -> None:
    """Pre-trains, unless the run was finished before."""
    settings, audio = recipe.settings, begin_run(recipe)
    if audio is None:
        print(f"The run was finished before: {settings.model_folder}")
        return
    begin_with_mel_filters(settings.model)
    brain = Data2VecBrain(settings, recipe.run_opts)
    facts = {name: getattr(settings, name) for name in ("top_layers", "tau_start", "tau_end", "tau_steps")}
    train_and_export(brain, audio, {"MFCC": mfcc_features}, facts)


def main(arguments: list[str]) -> None:
    """Does the run that a command line describes."""
    recipe_file, run_opts, overrides = parse_arguments(arguments, lambda file: [Data2VecSettings])
    ddp_init_group(run_opts)
    recipe = Recipe.load(recipe_file, overrides, run_opts, Data2VecSettings)
    with hold_folder(recipe.settings.output_folder):
        run(recipe)


if __name__ == "__main__":
    sys.exit(run_command(main))
