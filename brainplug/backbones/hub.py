"""Files of pretrained models: in a folder, in the hub's cache, or on the hub."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of the hub's own library
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers.utils import logging as transformers_logging

from brainplug.errors import CheckpointError, ConfigError
from brainplug.files import read_json

NETWORK_PATIENCE = 5.0  # seconds until the hub counts as out of reach
# Weights that a checkpoint may lack, because no backbone uses them: the embedding of masked frames.
MAY_BE_MISSING = {"masked_spec_embed"}


def hub_cache() -> str:
    """The folder of the hub's cache."""
    return huggingface_hub.constants.HF_HUB_CACHE


def find_config(source: str, revision: str | None = None) -> Path | None:
    """The config.json of a folder or a hub id, if it is on this machine."""
    if Path(source).is_dir():
        return Path(source, "config.json")
    try:
        return Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def fetch_config(source: str, revision: str | None) -> dict[str, Any]:
    """The values of the config.json of a folder or a hub id; it is downloaded if it is not on this machine.

    A `CheckpointError` is raised if it does not exist or cannot be read, or the hub does not answer within seconds.
    """
    with as_checkpoint_error(source):
        path = find_config(source, revision) or _download_config(source, revision)
        return read_json(path)


def _download_config(source: str, revision: str | None) -> Path:
    try:
        # This asks once. The download alone asks six times: half a minute, where the hub is out of reach.
        url = huggingface_hub.hf_hub_url(source, "config.json", revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=NETWORK_PATIENCE)
        return Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision))
    except (OSError, HTTPError, HFValidationError) as error:  # the hub's own errors are the first two
        is_absent = isinstance(error, (RepositoryNotFoundError, EntryNotFoundError))
        is_absent = is_absent and not isinstance(error, LocalEntryNotFoundError)
        problem = "The hub has no such model." if is_absent else "The hub cannot be reached, or has no such model."
        raise CheckpointError(
            f"The backbone {source!r}, revision {revision or 'main'}, was asked for.",
            f"It is not in the cache {hub_cache()}. {problem}",
            "Write --backbone=nano-ast for one that is bundled, or --backbone=FOLDER for a downloaded one",
        ) from error


def load_model(kind: type[Any], source: str, revision: str | None) -> Any:
    """Loads a model of transformers in float32, without drawing random numbers.

    A `CheckpointError` is raised if the files cannot be read, or lack weights.
    """
    with as_checkpoint_error(source), _quiet_transformers(), torch.random.fork_rng(devices=[]):
        model, report = kind.from_pretrained(source, revision=revision, dtype=torch.float32, output_loading_info=True)
    if missing := sorted(set(report["missing_keys"]) - MAY_BE_MISSING):
        raise CheckpointError(
            f"The backbone {source!r} was asked for.",
            f"Its file lacks {len(missing)} weights, such as {', '.join(missing[:3])}.",
            "Name a complete checkpoint of a supported family",
        )
    return model


def load_tensors(kind: type[Any], source: str, revision: str | None, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Those of a model's tensors that its files have, by name; `kind` is a class of transformers."""
    with as_checkpoint_error(source), _quiet_transformers(), torch.random.fork_rng(devices=[]):
        model, report = kind.from_pretrained(source, revision=revision, dtype=torch.float32, output_loading_info=True)
    state = model.state_dict()
    return {name: state[name] for name in names if name in state.keys() - report["missing_keys"]}


def load_extractor(kind: type[Any], source: str, revision: str | None) -> Any:
    """Loads a feature extractor of transformers; raises a `CheckpointError` if its file cannot be read."""
    with as_checkpoint_error(source):
        return kind.from_pretrained(source, revision=revision)


@contextlib.contextmanager
def as_checkpoint_error(source: str) -> Iterator[None]:
    """Raises errors of reading a model's files as a `CheckpointError`.

    A damaged file can raise anything in the libraries that read it: from a division by zero to pickle's errors.
    """
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"The backbone {source!r} was asked for.", f"Its files cannot be loaded: {reason}.", "Download it again"
        ) from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silences transformers' table of unused weights, such as those of a classifier's head."""
    level, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def hash_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """The SHA-256 of tensors in float32, whatever their order.

    Example
    -------
    >>> one, two = torch.ones(2), torch.zeros(3)
    >>> hash_tensors([one, two]) == hash_tensors([two, one]) != hash_tensors([one])
    True
    """
    hashes = []
    for tensor in tensors:
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        hashes.append(hashlib.sha256(str(values.shape).encode() + b" " + values.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def weights_revision(source: str, commit: str | None) -> str:
    """Names weights exactly: the hub's commit, else a hash of the files in a folder."""
    if commit or not Path(source).is_dir():
        return commit or "unknown"
    digest = hashlib.sha256()
    for path in sorted([*Path(source).glob("*.safetensors"), *Path(source).glob("pytorch_model*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256-{digest.hexdigest()[:16]}"
