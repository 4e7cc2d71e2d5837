"""Where an adapter is, in a folder or on the hub, and how one gets there."""

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from brainplug.adapters.description import COPY_AGAIN
from brainplug.adapters.layout import CARD_NAME, DESCRIPTION_NAME, LAYOUTS, PROBE_NAME, WEIGHTS_NAME, Layout
from brainplug.errors import CheckpointError, ConfigError

FILES = [DESCRIPTION_NAME, WEIGHTS_NAME, PROBE_NAME, CARD_NAME]
HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"
HUB_ID = re.compile(HUB_NAME + r"(@[\w./-]+)?")
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
        adapter = folder / layout.folder
        if (adapter / layout.description).is_file():
            if not (adapter / layout.weights).is_file():
                raise _incomplete(adapter, layout.weights)
            return adapter, layout
    raise _incomplete(folder, f"{DESCRIPTION_NAME} and {WEIGHTS_NAME}")


def _download(source: str, revision: str | None) -> Path:
    repo, _, after = source.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision or after or None, allow_patterns=FILES))
    except (OSError, ValueError, HTTPError) as error:  # the hub's own errors are all of these
        raise CheckpointError(
            f"The adapter {source} was asked for.",
            f"There is no such folder, and the hub does not give it: {_reason(error)}.",
            "Name the output folder of a finished run, a copy of its folder adapter, or a hub id: OWNER/NAME@REVISION",
        ) from error


def push_adapter(source: str | Path, repo: str, private: bool = False, branch: str | None = None) -> str:
    """Uploads the files of an adapter as one commit; returns the id of the commit.

    The repository and the branch are made if they do not exist. The token is the hub's own: ``HF_TOKEN``, or that of
    ``hf auth login``.

    Arguments
    ---------
    source : str | Path
        As for `find_adapter`; adapters of older formats are refused.
    repo : str
        ``OWNER/NAME``.
    private : bool
        Whether a new repository can be read by its owner alone.
    branch : str, optional
        None: the main one.
    """
    asked = f"The adapter {source} was to be pushed to {repo}."
    if not re.fullmatch(HUB_NAME, repo):
        raise ConfigError(asked, f"{repo!r} is no name of a repository.", "Write --repo=OWNER/NAME")
    folder, layout = find_adapter(source)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        old = layout.key is None
        problem = "It has an older format." if old else f"It lacks {', '.join(missing)}."
        raise CheckpointError(asked, problem, "Train it again with this version" if old else COPY_AGAIN)
    api = huggingface_hub.HfApi(library_name="brainplug")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        message = "Upload an adapter with brainplug"
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=FILES, revision=branch, commit_message=message
        )
    except (OSError, ValueError, HTTPError) as error:
        write = "Check the network and the token: hf auth login, or HF_TOKEN; it has to be one that may write"
        raise CheckpointError(asked, f"The hub does not take it: {_reason(error)}.", write) from error
    return str(commit.oid)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")


def _incomplete(folder: Path, missing: str) -> CheckpointError:
    problem, write = f"It lacks {missing}.", "Name the output folder of a finished run"
    if not folder.is_dir():
        problem = "There is no such folder."
    elif any((folder / name).exists() for name in MADE_BY_RUNS):
        problem = f"Its run has not finished: {missing} is missing."
        write = "Give the run's command again: it goes on where it stopped, and writes the adapter at its end"
    return CheckpointError(f"The adapter in {folder} was asked for.", problem, write)
