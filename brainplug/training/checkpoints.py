"""Checkpoints that survive a kill at any moment."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

from speechbrain.utils.checkpoints import CKPT_PREFIX, Checkpoint, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from brainplug.errors import DataError
from brainplug.files import read_json, replace

logger = logging.getLogger(__name__)

CHECKSUMS_NAME = "checksums.json"
UNFINISHED_PREFIX = "unfinished-"


class SafeCheckpointer(Checkpointer):
    """SpeechBrain's checkpointer, which writes under another name and renames, and which skips torn checkpoints."""

    def save_checkpoint(self, *arguments: object, verbosity: int = logging.INFO, **named: object) -> Checkpoint | None:
        """Saves as SpeechBrain does; the checkpoint appears under its name when it is whole."""
        if if_main_process():
            for leftover in self.checkpoints_dir.glob(f"{UNFINISHED_PREFIX}*"):
                shutil.rmtree(leftover)
        saved = super().save_checkpoint(*arguments, verbosity=logging.DEBUG, **named)
        if saved is not None:
            saved = _finish(saved)
            logger.log(verbosity, "Saved the checkpoint %s", saved.path)
        ddp_barrier()  # the other processes list the checkpoints next
        return saved

    def _new_checkpoint_dirpath(self) -> Path:
        final = super()._new_checkpoint_dirpath()
        return final.with_name(UNFINISHED_PREFIX + final.name)

    def _custom_checkpoint_dirpath(self, name: str) -> Path:
        return self.checkpoints_dir / f"{UNFINISHED_PREFIX}{CKPT_PREFIX}+{name}"

    def _list_checkpoint_dirs(self) -> list[Path]:
        """The checkpoints that are whole; the others are reported and left alone."""
        return [path for path in super()._list_checkpoint_dirs() if self._is_whole(path)]

    def _is_whole(self, path: Path) -> bool:
        """Whether every file of a checkpoint is as it was written; checked once for each checkpoint and process."""
        if not hasattr(self, "_verdicts"):
            self._verdicts: dict[Path, bool] = {}
        if path not in self._verdicts:
            self._verdicts[path] = _checksums_hold(path)
            if not self._verdicts[path]:
                logger.warning("The checkpoint %s is torn; the one before it is used instead.", path)
        return self._verdicts[path]


def _finish(saved: Checkpoint) -> Checkpoint:
    """Adds the checksums and gives the checkpoint its own name."""
    checksums = {path.name: _checksum(path) for path in sorted(saved.path.iterdir())}
    (saved.path / CHECKSUMS_NAME).write_text(json.dumps(checksums))
    final = saved.path.with_name(saved.path.name.removeprefix(UNFINISHED_PREFIX))
    replace(saved.path, final)
    return Checkpoint(final, saved.meta, {name: final / path.name for name, path in saved.paramfiles.items()})


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksums_hold(path: Path) -> bool:
    try:
        return all(_checksum(path / name) == wanted for name, wanted in read_json(path / CHECKSUMS_NAME).items())
    except (OSError, DataError):
        return False
