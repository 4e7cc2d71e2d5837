"""SpeechBrain's training loop for adapted models."""

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.checkpoints import Checkpointer, mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_broadcast
from torch.nn.parallel import DistributedDataParallel

from brainplug.adapters.file import load_delta
from brainplug.errors import CheckpointError, ConfigError, DataError
from brainplug.models.adapted import AdaptedModel
from brainplug.optim.entry import OptimizerEntry, as_entry
from brainplug.training.loggers import log_epoch

CHECKPOINTS_TO_KEEP = 2  # the newest two, so that one may be torn, and the best two

Tested = dict[str, dict[str, Any]]  # "best" and "last" -> epoch, valid_<metric>, test_<metric>


@register_checkpoint_hooks
class Stopwatch:
    """Counts the seconds of a run over all of its resumptions."""

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self.before + time.monotonic() - self.started

    @mark_as_saver
    def save(self, path: str) -> None:
        """Writes the seconds so far."""
        with open(path, "w") as file:
            file.write(str(self.seconds))

    @mark_as_loader
    def load(self, path: str, end_of_epoch: bool) -> None:
        """Continues from the seconds that were written."""
        with open(path) as file:
            self.before, self.started = float(file.read()), time.monotonic()


class AdaptationBrain(sb.Brain, ABC):
    """Trains and tests an adapted model; a subclass computes the loss and the metrics.

    It tests both the best validation epoch and the last one; test data selects nothing. Every step draws its random
    numbers from the run's seed, the epoch and the step, so that a resumed run repeats what an uninterrupted one does.

    Arguments
    ---------
    model : AdaptedModel
        What is trained.
    optimizer : Callable
        Called with the trainable parameters and ``lr``; or an `OptimizerEntry`.
    lr : float
        Highest learning rate.
    hparams : Mapping[str, Any]
        Needs ``seed``, ``epoch_counter``, ``train_loggers`` and ``lr_schedule``.
    run_opts : RunOptions, optional
        SpeechBrain's run options; ``max_grad_norm`` 0 clips no gradient.
    checkpointer : Checkpointer, optional
        Where checkpoints go. What must be recovered is added to it.
    """

    best_key: ClassVar[str]  # of a checkpoint's meta data: the best epoch has the largest
    model: Any  # an `AdaptedModel` of the kind that the subclass trains
    # SpeechBrain's, which has no types
    max_grad_norm: float
    find_unused_parameters: bool
    train_sampler: Any

    def __init__(
        self,
        model: AdaptedModel,
        optimizer: Callable[..., torch.optim.Optimizer] | OptimizerEntry,
        lr: float,
        hparams: Mapping[str, Any],
        run_opts: Any = None,
        checkpointer: Checkpointer | None = None,
    ):
        make_optimizer = partial(_make_optimizer, as_entry(optimizer), model, lr)
        super().__init__({"model": model}, make_optimizer, dict(hparams), run_opts, checkpointer)
        # SpeechBrain would clip the first group alone, and with 0 set every gradient to zero; `init_optimizers` clips.
        self.largest_norm, self.max_grad_norm = self.max_grad_norm or math.inf, math.inf
        self.lr, self.total_steps = lr, 1
        self.model = model  # as it is, where `modules` may hold it wrapped
        self.stopwatch = Stopwatch()
        self.stage_metrics: dict[str, dict[str, float]] = {}  # by stage
        if checkpointer is not None:
            # With --debug each process has a temporary folder of its own now; all take the main one's.
            checkpointer.checkpoints_dir = ddp_broadcast(checkpointer.checkpoints_dir)
            checkpointer.add_recoverables({"stopwatch": self.stopwatch, "epoch_counter": hparams["epoch_counter"]})
            for name, part in model.recoverables().items():
                checkpointer.add_recoverable(name, part, type(part).load, type(part).save)

    def fit(
        self,
        epoch_counter: sb.utils.epoch_loop.EpochCounter,
        train_set: DynamicItemDataset,
        valid_set: DynamicItemDataset,
        train_loader_kwargs: dict[str, Any],
        valid_loader_kwargs: dict[str, Any],
        **named: object,
    ) -> None:
        """Trains; see `speechbrain.Brain.fit`. The schedule spans all steps of all epochs.

        Raises
        ------
        ConfigError
            A step takes more batches than an epoch has.
        """
        loader = self.make_dataloader(train_set, sb.Stage.TRAIN, **train_loader_kwargs)
        if not 1 <= self.grad_accumulation_factor <= len(loader):
            raise ConfigError(
                f"Steps of {self.grad_accumulation_factor} batches were asked for.",
                f"An epoch has {len(loader)}.",
                f"Write --grad_accumulation_factor=1, or up to {len(loader)}",
            )
        # SpeechBrain tells the epoch to samplers that it has made; a sampler of batches must know it too.
        if self.train_sampler is None:
            self.train_sampler = train_loader_kwargs.get("batch_sampler")
        self.total_steps = epoch_counter.limit * (len(loader) // self.grad_accumulation_factor)
        super().fit(epoch_counter, loader, valid_set, valid_loader_kwargs=valid_loader_kwargs, **named)

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        """Seeds the step."""
        rank = self.rank if self.distributed_launch else 0
        entropy = [self.hparams.seed, self.hparams.epoch_counter.current, self.step, rank]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)  # transformers draws the masks of wav2vec 2.0 with numpy
        random.seed(seed)

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Metrics of the stage that ends, as shares; they are logged in per cent and kept with the checkpoint."""

    def checkpoint_meta(self, metrics: dict[str, float]) -> dict[str, Any]:
        """What a checkpoint says of itself, the key `best_key` included, given the metrics of validation."""
        return dict(metrics)

    def check_loss_isfinite(self, loss: torch.Tensor) -> None:
        """Stops the run at a loss that is NaN or infinite, and names the clips."""
        if not torch.isfinite(loss):
            raise DataError(
                f"A finite loss was asked for, in epoch {self.hparams.epoch_counter.current}, step {self.step}.",
                f"Its loss is {loss.item()}, for the clips: {', '.join(self.batch_ids)}.",
                f"Listen to these clips, or write a lower --lr than {self.lr:g}",
            )

    def init_optimizers(self) -> None:
        """Makes the optimiser. Gradients are clipped before its steps; the method acts after them."""
        super().init_optimizers()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

        def before_step(*_: object) -> None:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.largest_norm)

        self.optimizer.register_step_pre_hook(before_step)
        self.optimizer.register_step_post_hook(lambda *_: self.after_step())

    def after_step(self) -> None:
        """Lets the method act after a step."""
        self.model.after_step(self.optimizer_step + 1, self.total_steps)

    def optimizers_step(self) -> None:
        """Sets the learning rates of this step, then steps."""
        factor = self.hparams.lr_schedule(self.optimizer_step, self.total_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        super().optimizers_step()

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time: float, steps_since_ckpt: int) -> bool:
        """Saves after whole steps only: no checkpoint holds gradients that wait for the rest of their batches."""
        if self.step % self.grad_accumulation_factor:
            return False
        return super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)

    def _wrap_distributed(self) -> None:
        """Wraps as SpeechBrain does, but keeps batch norms on the CPU, where torch cannot synchronise them."""
        self.find_unused_parameters = self.find_unused_parameters or self.model.may_leave_unused()
        if not self.distributed_launch or self.device_type != "cpu":
            return super()._wrap_distributed()
        self.modules["model"] = DistributedDataParallel(self.model, find_unused_parameters=self.find_unused_parameters)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs; after validation it saves too."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        self.stage_metrics[stage.name] = metrics = self.metrics()
        if stage == sb.Stage.TEST:
            return
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        valid = {"loss": stage_loss, **{name: 100 * share for name, share in metrics.items()}}
        log_epoch(self.hparams.train_loggers, epoch, rate, self.train_loss, valid)
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                {"epoch": epoch, **self.checkpoint_meta(metrics)},
                num_to_keep=CHECKPOINTS_TO_KEEP,
                max_keys=[self.best_key],
                importance_keys=[],
            )

    def test_epochs(self, test_set: DynamicItemDataset, chosen: str, test_loader_kwargs: Mapping[str, Any]) -> Tested:
        """Tests the best validation epoch and the last one; the model keeps the weights of `chosen`.

        Returns
        -------
        Tested
            By ``best`` and ``last``: ``epoch``, and of each metric ``valid_...`` and ``test_...``.
        """
        tested: Tested = {}
        for name in sorted(("last", "best"), key=lambda name: name == chosen):
            max_key = self.best_key if name == "best" else None
            self.evaluate(test_set, max_key=max_key, test_loader_kwargs=dict(test_loader_kwargs))
            tested[name] = {"epoch": self.tested.meta["epoch"]}
            for metric, share in self.stage_metrics["TEST"].items():
                tested[name] |= {f"valid_{metric}": self.tested.meta[metric], f"test_{metric}": share}
        return tested

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Loads the checkpoint to test: the last one with all its counts, of the best one the weights alone.

        Raises
        ------
        CheckpointError
            There is none.
        """
        self.tested = self.checkpointer.find_checkpoint(max_key=max_key, min_key=min_key)
        if self.tested is None:
            raise CheckpointError(
                "A test was asked for.",
                f"There is no checkpoint in {self.checkpointer.checkpoints_dir}.",
                "Train first: the same command without --test_only",
            )
        if max_key or min_key:
            load_delta(self.model, self.tested.paramfiles["model"])
        else:
            self.checkpointer.load_checkpoint(self.tested)


def _make_optimizer(
    entry: OptimizerEntry, model: AdaptedModel, lr: float, parameters: Iterable[Any]
) -> torch.optim.Optimizer:
    """Makes the optimiser; SpeechBrain gives the parameters, with `remove_vector_weight_decay` in two groups."""
    parameters = list(parameters)
    if entry.groups is not None and any(isinstance(group, dict) for group in parameters):
        raise ConfigError(
            "--remove_vector_weight_decay was asked for.",
            "This optimiser has groups of its own, with a decay for each.",
            "Leave it out",
        )
    return entry.build(model, lr, parameters)
