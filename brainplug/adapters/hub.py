"""Where an adapter is: in a folder, or on the hub."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

from brainplug.adapters.layout import CARD_NAME, DESCRIPTION_NAME, LAYOUTS, PROBE_NAME, WEIGHTS_NAME, Layout
from brainplug.errors import CheckpointError

FILES = [DESCRIPTION_NAME, WEIGHTS_NAME, PROBE_NAME, CARD_NAME]
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
MADE_BY_RUNS = ("hyperparams.yaml", "save")  # from its first minute on


def find_adapter(source: str | Path, revision: str | None = None) -> tuple[Path, Layout]:
    """The folder with an adapter's files, and how they are named; an adapter on the hub is downloaded.

    A folder comes before a hub id. A `CheckpointError` says what is missing.
    """
    folder = Path(source)
    if not folder.exists() and HUB_ID.fullmatch(str(source)):
        folder = _download(str(source), revision)
    elif revision is not None:
        problem = "It is a folder." if folder.exists() else "It is no hub id, and no such folder exists."
        write = "Leave the revision out, or name a hub id: OWNER/NAME"
        raise CheckpointError(f"The adapter {source}, revision {revision}, was asked for.", problem, write)
    for layout in LAYOUTS:
        if (folder / layout.folder / layout.description).is_file():
            found = folder / layout.folder
            if not (found / layout.weights).is_file():
                raise _incomplete(found, layout.weights)
            return found, layout
    raise _incomplete(folder, f"{DESCRIPTION_NAME} and {WEIGHTS_NAME}")


def _download(source: str, revision: str | None) -> Path:
    repo, _, after = source.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision or after or None, allow_patterns=FILES))
    except (OSError, ValueError, HTTPError, HFValidationError) as error:  # the hub's own errors are the first two
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"The adapter {source} was asked for.",
            f"There is no such folder, and the hub does not give it: {reason.rstrip('.')}.",
            "Name the output folder of a finished run, a copy of its folder adapter, or a hub id: OWNER/NAME@REVISION",
        ) from error


def _incomplete(folder: Path, missing: str) -> CheckpointError:
    problem, write = f"It lacks {missing}.", "Name the output folder of a finished run"
    if not folder.is_dir():
        problem = "There is no such folder."
    elif any((folder / name).exists() for name in MADE_BY_RUNS):
        problem = f"Its run has not finished: {missing} is missing."
        write = "Give the run's command again: it goes on where it stopped, and writes the adapter at its end"
    return CheckpointError(f"The adapter in {folder} was asked for.", problem, write)
