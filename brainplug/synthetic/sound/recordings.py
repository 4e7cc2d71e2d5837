"""Free recordings on this machine: their files, and labels from their folders and names.

Debian packages install game sounds, drum kits, spoken prompts and the like below ``/usr/share``; `packages.yaml` lists
those that are known, with their licences. Packages that are not installed are left out and named.
"""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from brainplug.data.audio import read_audio
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.synthetic.sound.events import SAMPLE_RATE

logger = logging.getLogger(__name__)

SECONDS = 4.0  # of a clip
MOST_PIECES = 6  # clips that are cut from one recording

AUDIO_SUFFIXES = {".wav", ".ogg", ".oga", ".flac", ".mp3"}
FEWEST_FILES = 8  # a word of a path becomes a label when that many files carry it
EMPTY_WORDS = {"data", "sounds", "sound", "share", "usr", "desc", "default", "the", "and", "games", "audio", "samples"}
# A spoken file says its language in its folder (asterisk, klettres, ktuberling) or its name (tuxpaint).
LANGUAGE_FOLDER = re.compile(r"/(?:klettres|ktuberling/sounds|asterisk/sounds|voice)/([a-z]{2,3})(?:[_@][A-Za-z]+)*/")
LANGUAGE_NAME = re.compile(r"/tuxpaint/.*_desc(?:_([a-z]{2})(?:_[a-z]{2})?)?\.(?:ogg|wav)$")


def known_packages() -> dict[str, dict[str, Any]]:
    """The Debian packages of `packages.yaml`: name -> ``folder``, ``licence`` and maybe ``leave_out``.

    Example
    -------
    >>> known_packages()["sonic-pi-samples"]["licence"]
    'CC0'
    """
    return yaml.safe_load(Path(__file__).with_name("packages.yaml").read_text())


def find_recordings(folder: str, packages: dict[str, dict[str, Any]]) -> tuple[list[Path], list[str]]:
    """The audio files of the packages installed below a folder, sorted, and the names of the missing packages.

    `packages` is as `known_packages` returns it.
    """
    files, missing = [], []
    for name, package in packages.items():
        of_package = [
            path
            for path in Path(folder, package["folder"]).rglob("*")
            if path.suffix.lower() in AUDIO_SUFFIXES and path.name not in package.get("leave_out", ())
        ]
        files.extend(of_package)
        if not of_package:
            missing.append(name)
    return sorted(path for path in files if path.is_file()), missing


def path_words(path: Path) -> set[str]:
    """Labels that a path suggests: a language for speech, else the words of its last folders and its name.

    Example
    -------
    >>> sorted(path_words(Path("/usr/share/klettres/de/alpha/a.ogg")))
    ['language de', 'speech']
    >>> sorted(path_words(Path("/usr/share/games/wesnoth/sounds/wolfHowl-2.ogg")))
    ['howl', 'wesnoth', 'wolf']
    """
    spoken = LANGUAGE_FOLDER.search(str(path)) or LANGUAGE_NAME.search(str(path))
    if spoken:
        return {"speech", f"language {spoken[1] or 'en'}"}
    text = " ".join([*path.parts[-4:-1], path.stem])
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return {word for word in re.findall(r"[a-z]{3,}", text.lower()) if word not in EMPTY_WORDS}


def label_recordings(files: list[Path]) -> dict[Path, set[str]]:
    """Labels each file with those of its words that several files share; files without any are left out."""
    words = {path: path_words(path) for path in files}
    counts = Counter(word for of_path in words.values() for word in of_path)
    common = {word for word, count in counts.items() if count >= FEWEST_FILES}
    return {path: of_path & common for path, of_path in words.items() if of_path & common}


def read_recording(path: str, start: float = 0.0, seconds: float = SECONDS, rate: int = SAMPLE_RATE) -> torch.Tensor:
    """Reads a part of a recording, mono, in seconds: samples ``[time]``, none if the file cannot be read."""
    try:
        return read_audio(Clip(path, path, label="", start=start, stop=start + seconds), rate)
    except UsageError as error:
        logger.warning("left out, unreadable: %s (%s)", path, error.__cause__)
        return torch.zeros(0)
