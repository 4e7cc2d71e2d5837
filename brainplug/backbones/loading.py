"""Finds pretrained weights: bundled, in a folder, in the hub's cache, or on the hub."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import huggingface_hub
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.utils import logging as transformers_logging

from brainplug.errors import UsageError, nearest

BUNDLED_FOLDER = Path(__file__).parent / "nano"
HUB_NAMES = {
    "ast": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "wav2vec2": "facebook/wav2vec2-base-960h",
}
NETWORK_PATIENCE = 5.0  # seconds until the hub counts as out of reach
# Never used by a classifier, so a checkpoint may lack it: the embedding of masked frames.
MAY_BE_MISSING = {"masked_spec_embed"}

Loaded = TypeVar("Loaded", bound=PreTrainedModel | FeatureExtractionMixin)


def bundled_names() -> list[str]:
    """The backbones that come with the package.

    Returns
    -------
    list[str]
        Their names.

    Example
    -------
    >>> "nano-ast" in bundled_names()
    True
    """
    return sorted(path.parent.name for path in BUNDLED_FOLDER.glob("*/config.json"))


def find_source(name: str) -> str:
    """Turns a backbone's name into what transformers can load.

    Arguments
    ---------
    name : str
        ``nano-ast``, ``ast``, ``wav2vec2``, a folder, or a hub id such as ``facebook/hubert-base-ls960``.

    Returns
    -------
    str
        A folder or a hub id.

    Raises
    ------
    UsageError
        The name is none of these.

    Example
    -------
    >>> find_source("ast")
    'MIT/ast-finetuned-audioset-10-10-0.4593'
    """
    if name in bundled_names():
        return str(BUNDLED_FOLDER / name)
    if name in HUB_NAMES:
        return HUB_NAMES[name]
    if Path(name, "config.json").is_file():
        return name
    if name.count("/") == 1 and not name.startswith((".", "/")) and not Path(name).exists():
        return name
    raise UsageError(
        f"The backbone {name!r} was asked for.",
        f"No bundled backbone has this name, and no folder {name!r} holds a config.json.",
        f"Write --backbone= one of {nearest(name, [*bundled_names(), *HUB_NAMES])}, a folder, or a hub id OWNER/NAME",
    )


def fetch_config(source: str, revision: str | None) -> Path:
    """Finds a backbone's config.json, on this machine if it is there, else on the hub.

    Arguments
    ---------
    source : str
        A folder or a hub id.
    revision : str, optional
        The hub's revision.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        It is neither here nor within reach; within seconds, naming where it was looked for.
    """
    if Path(source).is_dir():
        return Path(source, "config.json")
    try:
        return Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        # This asks once. The download alone would ask six times, for half a minute, where the hub is out of reach.
        url = huggingface_hub.hf_hub_url(source, "config.json", revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=NETWORK_PATIENCE)
        return Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision))
    except (OSError, HTTPError) as error:  # the hub's own errors are both
        absent = isinstance(error, (RepositoryNotFoundError, EntryNotFoundError)) and not isinstance(
            error, LocalEntryNotFoundError
        )
        found = "The hub has no such model." if absent else "The model hub cannot be reached, or has no such model."
        raise UsageError(
            f"The backbone {source!r}, revision {revision or 'main'}, was asked for.",
            f"It is not in the cache {HF_HUB_CACHE}. {found}",
            f"Write --backbone={bundled_names()[0]} for one that is bundled, or --backbone=FOLDER for a downloaded one",
        ) from error


def load_pretrained(kind: type[Loaded], source: str, revision: str | None) -> Loaded:
    """Loads a model or a feature extractor, and makes sure that no weight was left to chance.

    Arguments
    ---------
    kind : type[Loaded]
        A class of transformers with `from_pretrained`.
    source : str
        A folder or a hub id.
    revision : str, optional
        The hub's revision.

    Returns
    -------
    Loaded
        In float32.

    Raises
    ------
    UsageError
        The files cannot be read, or lack weights.
    """
    try:
        if isinstance(kind, type) and issubclass(kind, FeatureExtractionMixin):
            return kind.from_pretrained(source, revision=revision)
        with _quiet_transformers():
            model, report = kind.from_pretrained(
                source, revision=revision, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"The backbone {source!r} was asked for.", f"Its files cannot be loaded: {error}", "Download it anew"
        ) from error
    missing = sorted(set(report["missing_keys"]) - MAY_BE_MISSING)
    if missing:
        raise UsageError(
            f"The backbone {source!r} was asked for.",
            f"Its file lacks {len(missing)} weights, such as {', '.join(missing[:3])}.",
            "Name a checkpoint of a supported family that is whole",
        )
    return model


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silences transformers' table of unused weights (a classifier's head, for one) while a model loads."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
