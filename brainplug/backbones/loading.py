"""Finds pretrained weights: bundled, in a folder, in the hub's cache, or on the hub."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import huggingface_hub
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    ASTConfig,
    AutoConfig,
    Data2VecAudioConfig,
    FeatureExtractionMixin,
    HubertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
)
from transformers.utils import logging as transformers_logging

from brainplug.errors import UsageError, nearest

BUNDLED_FOLDER = Path(__file__).parent / "nano"
HUB_NAMES = {
    "ast": "MIT/ast-finetuned-audioset-10-10-0.4593",
    "wav2vec2": "facebook/wav2vec2-base-960h",
    "hubert": "facebook/hubert-base-ls960",
    "data2vec": "facebook/data2vec-audio-base-960h",
    "wavlm": "microsoft/wavlm-base",
    "whisper": "openai/whisper-base",
}
# What these are made of: all sizes, though not every rate of dropout. Most are what transformers' configurations say
# without arguments.
ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "ast": ASTConfig,
    "wav2vec2": Wav2Vec2Config,
    "hubert": HubertConfig,
    "data2vec": Data2VecAudioConfig,
    "wavlm": WavLMConfig,
    "whisper": lambda: WhisperConfig(
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_layers=6,
        decoder_attention_heads=8,
        decoder_ffn_dim=2048,
    ),
}
RANDOM = "random:"  # before a name: that backbone, but with random weights
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


def base_name(name: str) -> str:
    """What a backbone with random weights is made after.

    Arguments
    ---------
    name : str
        As in `find_source`.

    Returns
    -------
    str
        The name behind ``random:``; any other name as it is.

    Example
    -------
    >>> base_name("random:nano-ast"), base_name("ast")
    ('nano-ast', 'ast')
    """
    return name.removeprefix(RANDOM)


def find_source(name: str) -> str:
    """Turns a backbone's name into what transformers can load.

    Arguments
    ---------
    name : str
        ``nano-ast``, a short name (``ast``, ``wav2vec2``, ``hubert``, ``data2vec``, ``wavlm``, ``whisper``), a folder,
        or a hub id such as ``facebook/hubert-large-ll60k``; ``random:`` may stand before each of them.

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
    base = base_name(name)
    if base in bundled_names():
        return str(BUNDLED_FOLDER / base)
    if base in HUB_NAMES:
        return HUB_NAMES[base]
    if Path(base, "config.json").is_file():
        return base
    if base.count("/") == 1 and not base.startswith((".", "/")) and not Path(base).exists():
        return base
    before = RANDOM if name.startswith(RANDOM) else ""
    candidates = [before + known for known in (*bundled_names(), *HUB_NAMES)]
    raise UsageError(
        f"The backbone {name!r} was asked for.",
        f"No bundled backbone has this name, and no folder {base!r} holds a config.json.",
        f"Write --backbone= one of {nearest(name, candidates)}, {before}FOLDER, or a hub id {before}OWNER/NAME",
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
    if here := _config_on_this_machine(source, revision):
        return here
    try:
        # This asks once. The download alone would ask six times, for half a minute, where the hub is out of reach.
        url = huggingface_hub.hf_hub_url(source, "config.json", revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=NETWORK_PATIENCE)
        return Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision))
    except (OSError, HTTPError, HFValidationError) as error:  # the hub's own errors are the first two
        absent = isinstance(error, (RepositoryNotFoundError, EntryNotFoundError)) and not isinstance(
            error, LocalEntryNotFoundError
        )
        found = "The hub has no such model." if absent else "The model hub cannot be reached, or has no such model."
        raise UsageError(
            f"The backbone {source!r}, revision {revision or 'main'}, was asked for.",
            f"It is not in the cache {HF_HUB_CACHE}. {found}",
            f"Write --backbone={bundled_names()[0]} for one that is bundled, or --backbone=FOLDER for a downloaded one",
        ) from error


def known_config(name: str) -> PreTrainedConfig:
    """A backbone's configuration as far as it is known here, at once: no network is asked, no weight is read.

    Arguments
    ---------
    name : str
        As in `find_source`. A short name is known even where its checkpoint is not on this machine.

    Returns
    -------
    PreTrainedConfig
        From the checkpoint's file; else, for a short name or its hub id, the published architecture.

    Raises
    ------
    UsageError
        The name is unknown, or its configuration is not on this machine or cannot be read.

    Example
    -------
    >>> known_config("whisper").encoder_layers
    6
    """
    source = find_source(name)
    path = _config_on_this_machine(source, revision=None)
    if path is None:
        for short, hub_id in HUB_NAMES.items():
            if source == hub_id:
                return ARCHITECTURES[short]()
        raise UsageError(
            f"The configuration of the backbone {name!r} was asked for.",
            f"It is not in the cache {HF_HUB_CACHE}.",
            f"Write one of {', '.join([*bundled_names(), *HUB_NAMES])}, a folder, or a hub id that was loaded before",
        )
    try:
        return AutoConfig.from_pretrained(path.parent)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The configuration of the backbone {name!r} was asked for.",
            f"{path} cannot be read: {error}",
            "Name a checkpoint of a supported family that is whole",
        ) from error


def _config_on_this_machine(source: str, revision: str | None) -> Path | None:
    """A backbone's config.json in its folder or in the hub's cache; None where it is in neither."""
    if Path(source).is_dir():
        return Path(source, "config.json")
    try:
        return Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


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
        # Some models draw random weights before those of the file take their place.
        with _quiet_transformers(), torch.random.fork_rng(devices=[]):
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
