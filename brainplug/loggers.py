"""Where a run's numbers go beside ``train_log.txt``: TensorBoard or Weights & Biases, imported only when asked for."""

import re
from pathlib import Path

from speechbrain.utils.train_logger import TensorboardLogger, TrainLogger, WandBLogger

from brainplug.errors import UsageError
from brainplug.experiment import choose


class EpochsInTensorboard(TensorboardLogger):
    """SpeechBrain's logger, with epochs along the axis: it counts its calls, and would start anew in a resumed run."""

    def log_stats(
        self,
        stats_meta: dict,
        train_stats: dict | None = None,
        valid_stats: dict | None = None,
        test_stats: dict | None = None,
        verbose: bool = False,
    ) -> None:
        """See `speechbrain.utils.train_logger.TrainLogger.log_stats`; ``stats_meta`` needs ``epoch``."""
        before = stats_meta["epoch"] - 1
        stats = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        self.global_step = {name: dict.fromkeys(some or {}, before) for name, some in stats.items()}
        self.global_step["meta"] = before
        super().log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)


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

    Raises
    ------
    UsageError
        TensorBoard is not installed.
    """
    try:
        return EpochsInTensorboard(folder)
    except ImportError as error:
        raise _not_installed("tensorboard", error) from error


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

    Raises
    ------
    UsageError
        The package is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise _not_installed("wandb", error) from error
    name = re.sub(r"[^\w.-]+", "-", str(Path(folder)))
    return WandBLogger(wandb.init, project=project, dir=folder, name=name, id=name, resume="allow")


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

    Raises
    ------
    UsageError
        There is no such logger, or its package is missing.
    """
    other = choose("logger", hparams)
    return [hparams["train_logger"], *([other()] if other else [])]


def _not_installed(package: str, error: ImportError) -> UsageError:
    return UsageError(
        f"--logger={package} was asked for.", f"It is not installed: {error}.", f"Write: pip install {package}"
    )
