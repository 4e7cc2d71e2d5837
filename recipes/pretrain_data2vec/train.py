#!/usr/bin/env python3
"""Pre-trains a data2vec on any folder of sound (Baevski et al., 2022).

python recipes/pretrain_data2vec/train.py recipes/pretrain_data2vec/hparams/nano.yaml --data_folder=FOLDER
"""

import sys

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import speechbrain as sb
import torch
from speechbrain.utils.distributed import ddp_init_group, if_main_process

from brainplug.backbones.filters import begin_with_mel_filters
from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import load_experiment, parse_arguments, run_command
from brainplug.pretrain.brain import PretrainBrain
from brainplug.pretrain.corpus import frames_in
from brainplug.pretrain.data2vec import Data2VecPretraining, Teacher, tau_at
from brainplug.pretrain.health import Alarm, deviation, effective_rank, explained, mean_correlation, mean_cosine
from brainplug.pretrain.labels import mfcc_features
from brainplug.pretrain.run import finish, is_finished, open_sound, pretrain


class Data2VecBrain(PretrainBrain):
    """Predicts at masked frames what a slower copy of the model makes of the whole crop."""

    alarms = (
        Alarm("target_deviation", "all targets are alike", below=0.1, stops=True),
        Alarm("prediction_deviation", "all predictions are alike", below=0.01, stops=True),
        Alarm("target_rank_share", "targets spread over few directions", below=0.1, rows=10),
        Alarm("target_cosine", "targets of different clips are alike", above=0.9),
        Alarm("explained", "the mean of each channel would be the better prediction", below=0, rows=10),
        Alarm("teacher_distance", "the teacher is the student", below=1e-9),
    )

    def __init__(self, pretraining: Data2VecPretraining, teacher: Teacher, *arguments: object):
        super().__init__({"pretraining": pretraining}, *arguments)
        self.teacher = teacher
        teacher.encoder.to(self.device)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("teacher", teacher.encoder)

    def compute_forward(self, batch: dict[str, torch.Tensor], stage: sb.Stage) -> dict[str, torch.Tensor]:
        """The loss, and what `indicators` looks at."""
        waveforms = batch["waveforms"].to(self.device)
        mask = self.draw_mask(len(waveforms), frames_in(waveforms.shape[1]), stage)
        return self.modules.pretraining(waveforms, mask, self.teacher, self.heard(waveforms, stage))

    def optimizers_step(self) -> None:
        """Steps; then the teacher follows."""
        super().optimizers_step()
        self.teacher.follow(self._tau())

    def _tau(self) -> float:
        return tau_at(self.optimizer_step - 1, self.hparams.tau_start, self.hparams.tau_end, self.hparams.tau_steps)

    def indicators(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """How far targets and predictions spread, how far they agree, and how far the teacher is from the student."""
        mask = outputs["mask"]
        predictions, targets = (outputs[name][mask].float() for name in ("predictions", "targets"))
        clips = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)[mask]
        pairs = torch.Generator().manual_seed(0)
        distance = sum((own - other).square().sum() for own, other in zip(*self.teacher.averaged(), strict=True)).sqrt()
        return {
            "target_deviation": deviation(targets),
            "prediction_deviation": deviation(predictions),
            "target_rank_share": effective_rank(targets) / targets.shape[1],
            "target_correlation": mean_correlation(targets),
            "target_cosine": mean_cosine(targets, clips, pairs),
            "explained": explained(predictions, targets),
            "teacher_distance": distance,
            "tau": torch.tensor(self._tau()),
        }


def main(arguments: list[str]) -> None:
    """Makes the run, unless it was made before."""
    recipe_file, run_opts, overrides = parse_arguments(arguments)
    ddp_init_group(run_opts)
    experiment = load_experiment(recipe_file, run_opts, overrides)
    hparams = experiment.hparams
    check_output_folder(experiment)
    if is_finished(hparams):
        print(f"was finished before: {hparams['model_folder']}")
        return
    sb.create_experiment_directory(hparams["output_folder"], recipe_file, experiment.overrides)
    sound = open_sound(hparams)
    begin_with_mel_filters(hparams["model"])
    pretraining = Data2VecPretraining(hparams["model"], hparams["beta"])
    teacher = Teacher(hparams["model"], hparams["top_layers"])
    brain = Data2VecBrain(
        pretraining, teacher, hparams["optimizer"], hparams, experiment.run_opts, hparams["checkpointer"]
    )  # fmt: skip
    pretrain(brain, hparams, sound)
    if if_main_process():
        settings = {name: hparams[name] for name in ("top_layers", "tau_start", "tau_end", "tau_steps")}
        finish(brain, hparams, sound, normalize=True, others={"MFCC": mfcc_features}, settings=settings)


if __name__ == "__main__":
    sys.exit(run_command(main))
