"""The training loop of both objectives: steps that depend on their numbers alone, a health log, and alarms."""

import logging
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.run_opts import RunOptions

from brainplug.data.augment import distort
from brainplug.data.masking import span_mask
from brainplug.errors import UsageError
from brainplug.pretrain.corpus import Crops
from brainplug.pretrain.health import Alarm, HealthLog
from brainplug.pretrain.schema import MaskedSettings
from brainplug.training.loggers import log_epoch

logger = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]


class BatchNumbers(torch.utils.data.Sampler[int]):
    """The batches of an epoch in one process: over a run and its processes every number occurs once, in order.

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
        """Chooses the next epoch, from 1 on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = (self.epoch - 1) * self.batches
        return iter([(first + step) * self.processes + self.rank for step in range(self.batches)])

    def __len__(self) -> int:
        return self.batches


class PretrainBrain(sb.Brain):
    """Pre-trains a transformer on random crops; `pretraining` is the model in ``settings.model`` with its objective.

    Masks, dropout and crops depend on the seed and the number of a step, so that a resumed run equals an uninterrupted
    one. A subclass defines `compute_forward`, which returns the loss and the inputs of `indicators`.
    """

    alarms: ClassVar[Sequence[Alarm]] = ()
    normalize: ClassVar[bool]  # whether the model takes waveforms of mean 0 and variance 1

    def __init__(
        self, pretraining: torch.nn.Module, settings: MaskedSettings, run_opts: RunOptions | None = None
    ) -> None:
        modules = {"pretraining": pretraining}
        super().__init__(modules, settings.optimizer, dict(settings), run_opts, settings.checkpointer)
        self.settings = settings
        self.pretraining = pretraining  # `modules` may hold it wrapped
        self.find_unused_parameters = settings.model.config.layerdrop > 0
        self.total_steps = settings.epoch_counter.limit * settings.steps_per_epoch
        self.log: HealthLog = settings.health_log
        self.batch_ended = time.monotonic()
        self._reset_timer()
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables({**modules, "epoch_counter": settings.epoch_counter, "health": self.log})

    @abstractmethod
    def indicators(self, outputs: Batch) -> Batch:
        """Scalars by name that show whether the model learns, from the outputs of `compute_forward`."""

    def pretrain(self, train: Crops, valid: Crops) -> None:
        """Trains to the end, from the last checkpoint if there is one; `UsageError` where the model collapses."""
        rank, processes = (self.rank, torch.distributed.get_world_size()) if self.distributed_launch else (0, 1)
        batches = self.settings.steps_per_epoch * self.grad_accumulation_factor
        self.train_sampler = BatchNumbers(batches, rank, processes)
        loader = sb.dataio.dataloader.SaveableDataLoader(train, sampler=self.train_sampler, batch_size=None)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("dataloader-TRAIN", loader)
        self.fit(self.settings.epoch_counter, loader, torch.utils.data.DataLoader(valid, batch_size=None))

    def on_fit_batch_start(self, batch: Batch, should_step: bool) -> None:
        """Seeds the step, and adds the time that it waited for its batch."""
        self.waited += time.monotonic() - self.batch_ended
        torch.manual_seed(self._seed(self.settings.epoch_counter.current))

    def _seed(self, epoch: int) -> int:
        rank = self.rank if self.distributed_launch else 0
        return int(np.random.SeedSequence([self.settings.seed, epoch, self.step, rank]).generate_state(1)[0])

    def augment(self, waveforms: torch.Tensor, stage: sb.Stage) -> torch.Tensor:
        """Augments waveforms ``[batch, samples]`` in training.

        Targets come from the waveforms without augmentation, as in Chen et al., "WavLM", 2022, section III-B.
        """
        augment = self.settings.augment if stage == sb.Stage.TRAIN else []
        return distort(augment, waveforms, waveforms.new_ones(len(waveforms)))

    def draw_mask(self, clips: int, frames: int, stage: sb.Stage) -> torch.Tensor:
        """Draws the mask of a batch, ``[clips, frames]``. In validation it is the same in each epoch."""
        settings = self.settings
        epoch = settings.epoch_counter.current if stage == sb.Stage.TRAIN else 0
        generator = torch.Generator().manual_seed(self._seed(epoch))
        mask = span_mask(
            clips, frames, settings.mask_probability, settings.mask_length, settings.mask_minimum, generator,
            settings.mask_same_count,
        )  # fmt: skip
        return mask.to(self.device)

    def compute_objectives(self, outputs: Batch, batch: Batch, stage: sb.Stage) -> torch.Tensor:
        """Returns the loss; in validation it also measures the indicators."""
        if stage != sb.Stage.TRAIN:
            measured = self.indicators(outputs)
            self.measured.append(torch.stack([value.float() for value in measured.values()]))
            self.names = list(measured)
        return outputs["loss"]

    def optimizers_step(self) -> None:
        """Sets the learning rate of this step, then steps."""
        factor = self.settings.lr_schedule(self.optimizer_step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * factor
        if self._is_due(self.optimizer_step + 1):
            gradients = [p.grad for p in self.pretraining.parameters() if p.grad is not None]
            self.gradient_norm = torch.nn.utils.get_total_norm(gradients)
        super().optimizers_step()

    def _is_due(self, step: int) -> bool:
        return step % self.settings.health_interval == 0

    def on_fit_batch_end(self, batch: Batch, outputs: Batch, loss: torch.Tensor, should_step: bool) -> None:
        """Every `health_interval` steps, measures and logs the indicators and raises alarms."""
        if should_step and self._is_due(self.optimizer_step) and if_main_process():
            with torch.no_grad():
                measured = {name: value.item() for name, value in self.indicators(outputs).items()}
            self._log_step(loss.item(), measured)
        self.batch_ended = time.monotonic()

    def _log_step(self, loss: float, measured: dict[str, float]) -> None:
        seconds = time.monotonic() - self.timer_started
        minutes = self.log.rows[-1]["minutes"] if self.log.rows else 0.0
        row = {
            "step": self.optimizer_step,
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": self.gradient_norm.item(),
            **measured,
            "updates_per_second": (self.optimizer_step - self.first_step) / seconds,
            "data_wait_fraction": self.waited / seconds,
            "minutes": minutes + seconds / 60,
        }
        self.log.add(row)
        self._reset_timer()
        ringing = self.ringing()
        for alarm, value in ringing.items():
            logger.warning("Step %d: %s is %.4g; %s", self.optimizer_step, alarm.indicator, value, alarm)
        if any(alarm.stops for alarm in ringing):
            raise UsageError(
                f"Pre-training was asked for, and got to step {self.optimizer_step}.",
                f"The model has collapsed: {'; '.join(map(str, ringing))}. {self.log.path} shows the steps before.",
                "Write a lower --lr, a longer warm-up, or for data2vec a higher tau",
            )

    def ringing(self) -> dict[Alarm, float]:
        """The alarms that ring now, with their values; none before `alarms_after` steps."""
        rows = [row for row in self.log.rows if row["step"] >= self.settings.alarms_after]
        return {alarm: alarm.value(rows) for alarm in self.alarms if rows and alarm.rings(rows)}

    def _reset_timer(self) -> None:
        self.timer_started, self.waited, self.first_step = time.monotonic(), 0.0, self.optimizer_step

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Clears the measurements of the last stage."""
        self.measured: list[torch.Tensor] = []
        self.batch_ended = time.monotonic()
        if stage == sb.Stage.TRAIN:
            self._reset_timer()

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs the epoch and saves a checkpoint after validation."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        means = torch.stack(self.measured).mean(0).tolist()
        self.log.valid = {"loss": stage_loss, **dict(zip(self.names, means, strict=True))}
        rate = self.optimizer.param_groups[0]["lr"]
        log_epoch([self.settings.train_logger], epoch, rate, self.train_loss, self.log.valid)
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(self.log.valid, num_to_keep=2)
