"""SpeechBrain's training loop for adapted models; AudioBrain trains classifiers."""

import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.checkpoints import mark_as_loader, mark_as_saver, register_checkpoint_hooks
from speechbrain.utils.distributed import ddp_broadcast
from torch.nn.parallel import DistributedDataParallel

from brainplug.adapters.file import load_delta
from brainplug.errors import UsageError
from brainplug.methods import Method
from brainplug.models.adapted import AdaptedModel
from brainplug.optim.entry import OptimizerEntry, as_entry

CHECKPOINTS_TO_KEEP = 2  # the newest two, so that one may be torn, and the best two


@register_checkpoint_hooks
class Stopwatch:
    """Counts the seconds of a run over all of its resumptions.

    Example
    -------
    >>> Stopwatch().seconds >= 0
    True
    """

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
        """Goes on from the seconds that were written."""
        with open(path) as file:
            self.before, self.started = float(file.read()), time.monotonic()


class AdaptationBrain(sb.Brain, ABC):
    """Trains and tests an adapted model; a subclass says what it computes and what it measures.

    Both the best validation epoch and the last one are tested; test data selects nothing. Every step draws its random
    numbers from the run's seed, the epoch and the step, so that a resumed run repeats what an uninterrupted one does.

    Arguments
    ---------
    model : AdaptedModel
        What is trained.
    method : Method
        How it was adapted.
    optimizer : Callable
        Called with the trainable parameters and ``lr``; or an `OptimizerEntry`.
    lr : float
        Highest learning rate.
    hparams : dict
        Needs ``seed``, ``epoch_counter``, ``train_loggers`` and ``lr_schedule``.
    run_opts : dict, optional
        SpeechBrain's run options.
    checkpointer : Checkpointer, optional
        Where checkpoints go. What must be recovered is added to it.

    Note
    ----
    The run option ``max_grad_norm`` 0 clips no gradient.
    """

    best_key: ClassVar[str]  # of a checkpoint's meta data: the best epoch has the largest

    def __init__(
        self,
        model: AdaptedModel,
        method: Method,
        optimizer: Callable,
        lr: float,
        hparams: dict,
        run_opts: dict | None = None,
        checkpointer: sb.utils.checkpoints.Checkpointer | None = None,
    ):
        entry = as_entry(optimizer)
        super().__init__({"model": model}, partial(_make_optimizer, entry, model, lr), hparams, run_opts, checkpointer)
        # SpeechBrain would clip the first group alone, and with 0 set every gradient to zero; `init_optimizers` clips.
        self.largest_norm, self.max_grad_norm = self.max_grad_norm or math.inf, math.inf
        self.lr, self.total_steps = lr, 1
        self.method = method
        self.model = model  # as it is, where `modules` may hold it wrapped
        self.stopwatch = Stopwatch()
        self.measured: dict[str, dict[str, float]] = {}  # by stage
        if checkpointer is not None:
            # With --debug each process has a temporary folder of its own now; all take the main one's.
            checkpointer.checkpoints_dir = ddp_broadcast(checkpointer.checkpoints_dir)
            checkpointer.add_recoverables({"stopwatch": self.stopwatch, "epoch_counter": hparams["epoch_counter"]})
            checkpointer.add_recoverables(model.recoverables())

    def fit(
        self,
        epoch_counter: sb.utils.epoch_loop.EpochCounter,
        train_set: DynamicItemDataset,
        valid_set: DynamicItemDataset,
        train_loader_kwargs: dict,
        valid_loader_kwargs: dict,
        **named: object,
    ) -> None:
        """Trains; see `speechbrain.Brain.fit`. The schedule spans all steps of all epochs.

        Raises
        ------
        UsageError
            A step takes more batches than an epoch has.
        """
        loader = self.make_dataloader(train_set, sb.Stage.TRAIN, **train_loader_kwargs)
        if not 1 <= self.grad_accumulation_factor <= len(loader):
            raise UsageError(
                f"Steps of {self.grad_accumulation_factor} batches were asked for.",
                f"An epoch has {len(loader)}.",
                f"Write --grad_accumulation_factor=1, or up to {len(loader)}",
            )
        # SpeechBrain tells the epoch to samplers that it has made; one of batches has to know it too.
        if self.train_sampler is None:
            self.train_sampler = train_loader_kwargs.get("batch_sampler")
        self.total_steps = epoch_counter.limit * (len(loader) // self.grad_accumulation_factor)
        super().fit(epoch_counter, loader, valid_set, valid_loader_kwargs=valid_loader_kwargs, **named)

    def on_fit_batch_start(self, batch: PaddedBatch, should_step: bool) -> None:
        """Seeds the step."""
        rank = self.rank if self.distributed_launch else 0
        place = [self.hparams.seed, self.hparams.epoch_counter.current, self.step, rank]
        seed = int(np.random.SeedSequence(place).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)  # transformers draws the masks of wav2vec 2.0 with numpy
        random.seed(seed)

    @abstractmethod
    def measures(self) -> dict[str, float]:
        """What the stage that ends measured, as shares; it is logged in per cent and kept with the checkpoint.

        Returns
        -------
        dict[str, float]
            Name -> share.
        """

    def meta(self, measured: dict[str, float]) -> dict:
        """What a checkpoint says of itself.

        Arguments
        ---------
        measured : dict[str, float]
            In validation.

        Returns
        -------
        dict
            It has the key `best_key`.
        """
        return measured

    def check_loss_isfinite(self, loss: torch.Tensor) -> None:
        """Stops the run at a loss that is not finite, and names the clips.

        Raises
        ------
        UsageError
            The loss is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise UsageError(
                f"A finite loss was asked for, in epoch {self.hparams.epoch_counter.current}, step {self.step}.",
                f"Its loss is {loss.item()}, for the clips: {', '.join(self.batch_ids)}.",
                f"Listen to these clips, or write a lower --lr than {self.lr:g}",
            )

    def init_optimizers(self) -> None:
        """Makes the optimiser; gradients are clipped before its steps, the method does what it wants after them."""
        super().init_optimizers()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

        def before_step(*_: object) -> None:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.largest_norm)

        self.optimizer.register_step_pre_hook(before_step)
        self.optimizer.register_step_post_hook(lambda *_: self.after_step())

    def after_step(self) -> None:
        """Has the method do what it wants after a step."""
        self.model.after_step(self.optimizer_step + 1, self.total_steps)

    def optimizers_step(self) -> None:
        """Sets the learning rates of this step, then steps."""
        factor = self.hparams.lr_schedule(self.optimizer_step, self.total_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        super().optimizers_step()

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time: float, steps_since_ckpt: int) -> bool:
        """Saves after whole steps only: gradients that wait for the rest of their batches are in no checkpoint."""
        if self.step % self.grad_accumulation_factor:
            return False
        return super()._should_save_intra_epoch_ckpt(last_ckpt_time, steps_since_ckpt)

    def _wrap_distributed(self) -> None:
        """Wraps as SpeechBrain does, but keeps batch norms on the CPU, where torch cannot synchronise them."""
        unused = self.model.may_leave_unused()
        self.find_unused_parameters = self.find_unused_parameters or unused
        if not self.distributed_launch or self.device_type != "cpu":
            return super()._wrap_distributed()
        self.modules["model"] = DistributedDataParallel(self.model, find_unused_parameters=self.find_unused_parameters)

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Logs; after validation it saves too."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = stage_loss
            return
        self.measured[stage.name] = measured = self.measures()
        if stage == sb.Stage.TEST:
            return
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        for logger in self.hparams.train_loggers:
            logger.log_stats(
                {"epoch": epoch, "lr": rate},
                {"loss": self.train_loss},
                {"loss": stage_loss, **{name: 100 * share for name, share in measured.items()}},
            )
        if self.checkpointer is not None:
            self.checkpointer.save_and_keep_only(
                {"epoch": epoch, **self.meta(measured)},
                num_to_keep=CHECKPOINTS_TO_KEEP,
                max_keys=[self.best_key],
                importance_keys=[],
            )

    def test_epochs(
        self, test_set: DynamicItemDataset, chosen: str, test_loader_kwargs: dict
    ) -> dict[str, dict[str, float]]:
        """Tests the best validation epoch and the last one; the model is left with the weights of the chosen one.

        Arguments
        ---------
        test_set : DynamicItemDataset
            Test clips.
        chosen : str
            ``best`` or ``last``.
        test_loader_kwargs : dict
            As in `evaluate`.

        Returns
        -------
        dict[str, dict[str, float]]
            By ``best`` and ``last``: ``epoch``, and of what was measured ``valid_...`` and ``test_...``.
        """
        tested = {}
        for name in sorted(("last", "best"), key=lambda name: name == chosen):
            max_key = self.best_key if name == "best" else None
            self.evaluate(test_set, max_key=max_key, test_loader_kwargs=dict(test_loader_kwargs))
            tested[name] = {"epoch": self.tested.meta["epoch"]}
            for measure, share in self.measured["TEST"].items():
                tested[name] |= {f"valid_{measure}": self.tested.meta[measure], f"test_{measure}": share}
        return tested

    def on_evaluate_start(self, max_key: str | None = None, min_key: str | None = None) -> None:
        """Loads the checkpoint to test: the last one with all its counts, of the best one the weights alone.

        Raises
        ------
        UsageError
            There is none.
        """
        self.tested = self.checkpointer.find_checkpoint(max_key=max_key, min_key=min_key)
        if self.tested is None:
            raise UsageError(
                "A test was asked for.",
                f"There is no checkpoint in {self.checkpointer.checkpoints_dir}.",
                "Train first: the same command without --test_only",
            )
        if max_key or min_key:
            load_delta(self.model, self.tested.paramfiles["model"])
        else:
            self.checkpointer.load_checkpoint(self.tested)


class AudioBrain(AdaptationBrain):
    """Trains and tests an `AudioClassifier`.

    Arguments
    ---------
    As in `AdaptationBrain`; ``hparams`` needs ``augment`` and ``features_on_device`` too.
    """

    best_key = "accuracy"

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Classifies a batch; returns logits ``[batch, n_classes]``."""
        batch = batch.to(self.device)
        self.batch_ids = batch.id
        signal, lengths = batch.signal
        self.targets = batch.target.data[:, 0]  # [batch]
        augment = []
        if stage == sb.Stage.TRAIN:
            self.targets = torch.nn.functional.one_hot(self.targets, self.model.head.out_features).float()
            augment = self.hparams.augment
        if self.hparams.features_on_device:
            of_waveforms = [each for each in augment if getattr(each, "signal", "") == "waveform"]
            signal = self._augment(of_waveforms, signal, lengths)
            signal, lengths = self.model.backbone.extract_batch(signal, lengths), torch.ones_like(lengths)
            augment = [each for each in augment if each not in of_waveforms]
        return self.modules.model(self._augment(augment, signal, lengths), lengths)

    def _augment(self, augment: Iterable[Callable], signal: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        for each in augment:
            signal, self.targets = each(signal, lengths, self.targets)
        return signal

    def compute_objectives(self, logits: torch.Tensor, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Cross-entropy; counts the right answers where they are measured."""
        loss = torch.nn.functional.cross_entropy(logits.float(), self.targets)
        if stage == sb.Stage.TRAIN:
            loss = loss + self.model.penalty()
        else:
            self.check_loss_isfinite(loss)
            predicted = logits.argmax(1)
            probabilities = logits.float().softmax(1).gather(1, predicted[:, None])[:, 0]
            self.right = self.right + (predicted == self.targets).sum()
            self.seen += len(self.targets)
            self.predicted.append((batch.id, predicted, probabilities))
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Forgets the counts of the last stage."""
        self.right, self.seen = torch.zeros((), dtype=torch.long, device=self.device), 0
        self.predicted: list[tuple[list[str], torch.Tensor, torch.Tensor]] = []

    def measures(self) -> dict[str, float]:
        """The share of right answers."""
        return {"accuracy": self.right.item() / max(1, self.seen)}

    def predictions(self) -> Iterator[tuple[str, int, float]]:
        """Yields, for each clip of the last measured stage, its id, the index of its class and the probability."""
        for ids, indices, probabilities in self.predicted:
            yield from zip(ids, indices.tolist(), probabilities.tolist(), strict=True)


def _make_optimizer(
    entry: OptimizerEntry, model: AdaptedModel, lr: float, parameters: Iterable
) -> torch.optim.Optimizer:
    """Makes the optimiser; SpeechBrain gives the parameters, with `remove_vector_weight_decay` in two groups."""
    parameters = list(parameters)
    if entry.groups is not None and any(isinstance(some, dict) for some in parameters):
        raise UsageError(
            "--remove_vector_weight_decay was asked for.",
            "This optimiser has groups of its own, with a decay for each.",
            "Leave it out",
        )
    return entry.build(model, lr, parameters)
