"""What is logged: ``train_log.txt``, and TensorBoard or Weights & Biases, imported only when a recipe names them."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.train_logger import FileTrainLogger, TensorboardLogger, TrainLogger, WandBLogger

from brainplug.config.recipe import choose
from brainplug.errors import ConfigError
from brainplug.files import atomic_file

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # that an entry of the block `loggers` needs
EPOCH = re.compile(r"epoch: (\d+),")  # how a line of train_log.txt begins
LoggerBlock = Mapping[str, Callable[[], TrainLogger] | None]
Stats = dict[str, Any]


class EpochsInTensorboard(TensorboardLogger):
    """SpeechBrain's logger with epochs along the axis: SpeechBrain counts calls, and starts anew in a resumed run."""

    def __init__(self, folder: str):
        # Not super's, which opens a file before it is known from which epoch a run goes on.
        self.save_dir, self.writer = folder, cast(Any, None)  # a SummaryWriter

    @main_process_only
    def log_stats(
        self,
        stats_meta: Stats,
        train_stats: Stats | None = None,
        valid_stats: Stats | None = None,
        test_stats: Stats | None = None,
        verbose: bool = False,
    ) -> None:
        """See `speechbrain.utils.train_logger.TrainLogger.log_stats`; ``stats_meta`` needs ``epoch``."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            # An epoch that was logged, but broke off before its checkpoint, is done again: its numbers go.
            self.writer = SummaryWriter(self.save_dir, purge_step=stats_meta["epoch"])
        before = stats_meta["epoch"] - 1
        stats = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        self.global_step = {name: dict.fromkeys(values or {}, before) for name, values in stats.items()}
        self.global_step["meta"] = before
        super().log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)
        self.writer.flush()  # before the checkpoint, after which the epoch is not done again


def log_epoch(
    loggers: Sequence[TrainLogger], epoch: int | None, lr: float, train_loss: float, valid_stats: Stats
) -> None:
    """Has all loggers write an epoch; ``train_log.txt`` has one line for each, however often a run broke off."""
    for logger in loggers:
        if isinstance(logger, FileTrainLogger) and epoch is not None:
            _forget_epochs(logger.save_file, epoch)
        logger.log_stats({"epoch": epoch, "lr": lr}, {"loss": train_loss}, valid_stats)


@main_process_only
def _forget_epochs(path: str, first: int) -> None:
    """Removes the lines from an epoch on: it was logged, broke off before its checkpoint, and is done again."""
    log = Path(path)
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    earlier = [line for line in lines if not (match := EPOCH.match(line)) or int(match[1]) < first]
    if earlier != lines:
        with atomic_file(path) as file:
            file.writelines(earlier)


def tensorboard(folder: str) -> TrainLogger:
    """Logs for TensorBoard."""
    return EpochsInTensorboard(folder)


def weights_and_biases(folder: str, project: str) -> TrainLogger:
    """Logs for Weights & Biases, in a run named after its output folder; a resumed run goes on there too."""
    import wandb

    name = re.sub(r"[^\w.-]+", "-", str(Path(folder)))
    return WandBLogger(wandb.init, project=project, dir=folder, name=name, id=name, resume="allow")


def check_logger(name: str, loggers: LoggerBlock) -> None:
    """Refuses a logger that the block lacks, or whose package is not installed."""
    choose("logger", name, loggers)
    package = PACKAGES.get(name)
    if package and find_spec(package) is None:
        raise ConfigError(
            f"--logger={name} was asked for.",
            f"The package {package} is not installed.",
            f"Write: pip install {package}",
        )


def make_loggers(train_logger: TrainLogger, name: str, loggers: LoggerBlock) -> list[TrainLogger]:
    """The logger of ``train_log.txt``, which is always there, and the one that the recipe names."""
    other = choose("logger", name, loggers)
    return [train_logger, *([other()] if other else [])]
