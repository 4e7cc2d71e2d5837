"""Where a run's numbers go beside ``train_log.txt``: TensorBoard or Weights & Biases, imported only when asked for."""

import re
from importlib.util import find_spec
from pathlib import Path

from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.train_logger import TensorboardLogger, TrainLogger, WandBLogger

from brainplug.config.recipe import choose
from brainplug.errors import UsageError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # that an entry of the block `loggers` needs


class EpochsInTensorboard(TensorboardLogger):
    """SpeechBrain's logger, with epochs along the axis: it counts its calls, and would start anew in a resumed run.

    Arguments
    ---------
    folder : str
        Where its files go; they are made at the end of the first epoch.
    """

    def __init__(self, folder: str):
        # Not super's, which opens a file before it is known from which epoch a run goes on.
        self.save_dir, self.writer = folder, None

    @main_process_only
    def log_stats(
        self,
        stats_meta: dict,
        train_stats: dict | None = None,
        valid_stats: dict | None = None,
        test_stats: dict | None = None,
        verbose: bool = False,
    ) -> None:
        """See `speechbrain.utils.train_logger.TrainLogger.log_stats`; ``stats_meta`` needs ``epoch``."""
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None:
            # An epoch that was written, but then broke off before its checkpoint, is done again: its numbers go.
            self.writer = SummaryWriter(self.save_dir, purge_step=stats_meta["epoch"])
        before = stats_meta["epoch"] - 1
        stats = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        self.global_step = {name: dict.fromkeys(some or {}, before) for name, some in stats.items()}
        self.global_step["meta"] = before
        super().log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)
        self.writer.flush()  # before the checkpoint, after which the epoch is not done again


def tensorboard(folder: str) -> TrainLogger:
    """Logs for TensorBoard.

    Arguments
    ---------
    folder : str
        Where its files go.

    Returns
    -------
    TrainLogger
        SpeechBrain's.
    """
    return EpochsInTensorboard(folder)


def weights_and_biases(folder: str, project: str) -> TrainLogger:
    """Logs for Weights & Biases; a resumed run goes on there too.

    Arguments
    ---------
    folder : str
        The run's output folder, which names the run.
    project : str
        As it is called there.

    Returns
    -------
    TrainLogger
        SpeechBrain's.
    """
    import wandb

    name = re.sub(r"[^\w.-]+", "-", str(Path(folder)))
    return WandBLogger(wandb.init, project=project, dir=folder, name=name, id=name, resume="allow")


def check_logger(hparams: dict) -> None:
    """Makes sure that a run can log as it wants to.

    Arguments
    ---------
    hparams : dict
        The loaded recipe.

    Raises
    ------
    UsageError
        There is no such logger, or its package is missing.

    Example
    -------
    >>> check_logger({"logger": "file", "loggers": {"file": None}})
    """
    choose("logger", hparams)
    package = PACKAGES.get(hparams["logger"])
    if package and find_spec(package) is None:
        raise UsageError(
            f"--logger={hparams['logger']} was asked for.",
            f"The package {package} is not installed.",
            f"Write: pip install {package}",
        )


def make_loggers(hparams: dict) -> list[TrainLogger]:
    """All loggers of a run.

    Arguments
    ---------
    hparams : dict
        The loaded recipe: ``train_logger``, which is always there, and the one that ``logger`` names.

    Returns
    -------
    list[TrainLogger]
        One or two.
    """
    other = choose("logger", hparams)
    return [hparams["train_logger"], *([other()] if other else [])]
