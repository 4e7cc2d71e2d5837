"""The loop that both objectives share: steps that depend on their numbers alone, a log of health, alarms."""

import csv
import json
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import brainplug  # noqa: F401  before SpeechBrain: it lets torchaudio load beside any torch

# isort: split
import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import if_main_process

from brainplug.data.augment import distort
from brainplug.data.masking import span_mask
from brainplug.errors import UsageError
from brainplug.files import atomic_file
from brainplug.pretrain.corpus import Crops
from brainplug.pretrain.health import Alarm

logger = logging.getLogger(__name__)


class BatchNumbers(torch.utils.data.Sampler):
    """Which batches an epoch hears: every number once in a run, in order.

    Arguments
    ---------
    batches : int
        Of an epoch, in each process.
    rank, processes : int
        Which process this is, of how many.

    Example
    -------
    >>> numbers = BatchNumbers(2, rank=1, processes=2)
    >>> numbers.set_epoch(3)
    >>> list(numbers)
    [9, 11]
    """

    def __init__(self, batches: int, rank: int = 0, processes: int = 1):
        self.batches, self.rank, self.processes, self.epoch = batches, rank, processes, 1

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes, from 1 on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = (self.epoch - 1) * self.batches
        return iter([(first + step) * self.processes + self.rank for step in range(self.batches)])

    def __len__(self) -> int:
        return self.batches


@register_checkpoint_hooks
class HealthLog:
    """What was measured on the way, a row every so many steps; a resumed run goes on with its checkpoint's rows.

    Arguments
    ---------
    path : str
        Of the CSV file.

    Example
    -------
    >>> log = HealthLog(str(getfixture("tmp_path") / "health.csv"))
    >>> log.add({"step": 10, "loss": 2.5})
    >>> Path(log.path).read_text().splitlines()
    ['step,loss', '10,2.5']
    """

    def __init__(self, path: str):
        self.path, self.rows = path, []
        self.valid: dict[str, float] = {}  # of the last epoch

    def add(self, row: dict[str, float]) -> None:
        """Adds a row and writes the file."""
        self.rows.append(row)
        with atomic_file(self.path, newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)

    @mark_as_saver
    def save(self, path: str) -> None:
        """Writes all of it for a checkpoint."""
        Path(path).write_text(json.dumps([self.rows, self.valid]))

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        """Takes over what a checkpoint has."""
        self.rows, self.valid = json.loads(Path(path).read_text())


class PretrainBrain(sb.Brain):
    """Pre-trains a transformer on crops of sound.

    Masks, dropout and crops are drawn from the seed and the number of a step, so that a resumed run repeats what an
    unbroken one does. `compute_forward` and `indicators` are the objective's own.

    Arguments
    ---------
    modules : dict[str, torch.nn.Module]
        ``pretraining``: the model and what its objective adds.
    optimizer : Callable
        Called with the parameters.
    hparams : dict
        Needs ``seed``, ``augment``, ``epoch_counter``, ``steps_an_epoch``, ``lr_schedule``, ``health_interval``,
        ``alarms_after``, ``mask_probability``, ``mask_length``, ``mask_minimum``, ``mask_same_count``,
        ``train_logger`` and ``health_log``.
    run_opts : dict, optional
        SpeechBrain's run options.
    checkpointer : Checkpointer, optional
        Where checkpoints go.
    """

    alarms: Sequence[Alarm] = ()

    def __init__(
        self,
        modules: dict[str, torch.nn.Module],
        optimizer: Callable,
        hparams: dict,
        run_opts: dict | None = None,
        checkpointer: sb.utils.checkpoints.Checkpointer | None = None,
    ):
        super().__init__(modules, optimizer, hparams, run_opts, checkpointer)
        self.pretraining = modules["pretraining"]  # as it is, where `modules` may hold it wrapped
        self.find_unused_parameters = self.pretraining.model.config.layerdrop > 0
        self.total_steps = hparams["epoch_counter"].limit * hparams["steps_an_epoch"]
        self.log: HealthLog = hparams["health_log"]
        self.ended = time.monotonic()
        self._forget_pace()
        if checkpointer is not None:
            checkpointer.add_recoverables({**modules, "epoch_counter": hparams["epoch_counter"], "health": self.log})

    @abstractmethod
    def indicators(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What shows whether the model learns.

        Arguments
        ---------
        outputs : dict[str, torch.Tensor]
            What `compute_forward` returned.

        Returns
        -------
        dict[str, torch.Tensor]
            Name -> scalar.
        """

    def pretrain(self, train: Crops, valid: Crops) -> None:
        """Trains to the end, from the last checkpoint where there is one.

        Arguments
        ---------
        train, valid : Crops
            Batches to learn from, and those that measure progress.

        Raises
        ------
        UsageError
            The model collapsed.
        """
        rank, processes = (self.rank, torch.distributed.get_world_size()) if self.distributed_launch else (0, 1)
        batches = self.hparams.steps_an_epoch * self.grad_accumulation_factor
        self.train_sampler = BatchNumbers(batches, rank, processes)
        loader = sb.dataio.dataloader.SaveableDataLoader(train, sampler=self.train_sampler, batch_size=None)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("dataloader-TRAIN", loader)
        self.fit(self.hparams.epoch_counter, loader, torch.utils.data.DataLoader(valid, batch_size=None))

    def on_fit_batch_start(self, batch: dict[str, torch.Tensor], should_step: bool) -> None:
        """Seeds the step, and counts how long it waited for its batch."""
        self.waited += time.monotonic() - self.ended
        self.place = [self.hparams.epoch_counter.current, self.step]
        torch.manual_seed(self._seed())

    def _seed(self) -> int:
        rank = self.rank if self.distributed_launch else 0
        return int(np.random.SeedSequence([self.hparams.seed, *self.place, rank]).generate_state(1)[0])

    def heard(self, waveforms: torch.Tensor, stage: sb.Stage) -> torch.Tensor:
        """What the model hears of a batch: in training with noise, where the recipe says so.

        What it is to predict comes from the sound without noise, as in Chen et al., "WavLM", 2022, section III-B.

        Arguments
        ---------
        waveforms : torch.Tensor
            ``[batch, samples]``, on the device.
        stage : sb.Stage
            Training or not.

        Returns
        -------
        torch.Tensor
            ``[batch, samples]``.
        """
        augment = self.hparams.augment if stage == sb.Stage.TRAIN else []
        return distort(augment, waveforms, waveforms.new_ones(len(waveforms)))

    def draw_mask(self, clips: int, frames: int, stage: sb.Stage) -> torch.Tensor:
        """Draws the mask of a batch.

        Arguments
        ---------
        clips, frames : int
            Its size.
        stage : sb.Stage
            The validation's masks are the same in each epoch.

        Returns
        -------
        torch.Tensor
            True where a frame is masked, ``[clips, frames]``.
        """
        if stage != sb.Stage.TRAIN:
            self.place = [0, self.step]
        generator = torch.Generator().manual_seed(self._seed())
        settings = self.hparams.mask_probability, self.hparams.mask_length, self.hparams.mask_minimum
        return span_mask(clips, frames, *settings, generator, self.hparams.mask_same_count).to(self.device)

    def compute_objectives(
        self, outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], stage: sb.Stage
    ) -> torch.Tensor:
        """The loss; in validation the indicators too."""
        if stage != sb.Stage.TRAIN:
            measured = self.indicators(outputs)
            self.measured.append(torch.stack([value.float() for value in measured.values()]))
            self.names = list(measured)
        return outputs["loss"]

    def optimizers_step(self) -> None:
        """Sets the rate of this step, then steps."""
        factor = self.hparams.lr_schedule(self.optimizer_step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.hparams.lr * factor
        if self._is_due(self.optimizer_step + 1):
            gradients = [p.grad for p in self.pretraining.parameters() if p.grad is not None]
            self.gradient_norm = torch.nn.utils.get_total_norm(gradients)
        super().optimizers_step()

    def _is_due(self, step: int) -> bool:
        return step % self.hparams.health_interval == 0

    def on_fit_batch_end(
        self, batch: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor], loss: torch.Tensor, should_step: bool
    ) -> None:
        """Every so many steps: measures, logs, and raises alarms."""
        if should_step and self._is_due(self.optimizer_step) and if_main_process():
            with torch.no_grad():
                measured = {name: value.item() for name, value in self.indicators(outputs).items()}
            self._log_step(loss.item(), measured)
        self.ended = time.monotonic()

    def _log_step(self, loss: float, measured: dict[str, float]) -> None:
        seconds = time.monotonic() - self.began
        before = self.log.rows[-1] if self.log.rows else {"minutes": 0.0, "step": 0}
        row = {
            "step": self.optimizer_step,
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": self.gradient_norm.item(),
            **measured,
            "updates_a_second": (self.optimizer_step - self.first_step) / seconds,
            "share_waiting_for_data": self.waited / seconds,
            "minutes": before["minutes"] + seconds / 60,
        }
        self.log.add(row)
        self._forget_pace()
        ringing = self.ringing()
        for alarm, value in ringing.items():
            logger.warning("Step %d: %s is %.4g; %s", self.optimizer_step, alarm.indicator, value, alarm)
        if any(alarm.stops for alarm in ringing):
            raise UsageError(
                f"Pre-training was asked for, and got to step {self.optimizer_step}.",
                f"The model has collapsed: {'; '.join(map(str, ringing))}. {self.log.path} shows how it came.",
                "Write a lower --lr, a longer warm-up, or for data2vec a higher tau",
            )

    def ringing(self) -> dict[Alarm, float]:
        """The alarms that ring now, and for what value; none before `alarms_after` steps were made."""
        rows = [row for row in self.log.rows if row["step"] >= self.hparams.alarms_after]
        return {alarm: alarm.value(rows) for alarm in self.alarms if rows and alarm.rings(rows)}

    def _forget_pace(self) -> None:
        self.began, self.waited, self.first_step = time.monotonic(), 0.0, getattr(self, "optimizer_step", 0)

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Forgets the last stage's measurements."""
        self.measured: list[torch.Tensor] = []
        self.ended = time.monotonic()
        if stage == sb.Stage.TRAIN:
            self._forget_pace()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs, and saves after validation."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        means = torch.stack(self.measured).mean(0).tolist()
        self.log.valid = {"loss": stage_loss, **dict(zip(self.names, means, strict=True))}
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}, {"loss": self.train_loss}, self.log.valid
        )
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(self.log.valid, num_to_keep=2)
