"""Speech from text with espeak-ng, through its C interface.

The library and its voices come from the package ``espeakng-loader`` (extra ``demo``). espeak-ng is licensed under the
GPL, version 3; brainplug calls it to make audio and contains none of it.
"""

import ctypes
import functools
import importlib.util
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brainplug.errors import ConfigError

SYNCHRONOUS_OUTPUT = 2  # AUDIO_OUTPUT_SYNCHRONOUS: espeak_Synth returns when the phrase is spoken
UTF8_TEXT = 1  # espeakCHARS_UTF8
RATE_PARAMETER, PITCH_PARAMETER = 1, 3  # espeakRATE in words a minute, espeakPITCH from 0 to 100
PHONEME_EVENTS = 1  # espeakINITIALIZE_PHONEME_EVENTS: an event where each phone begins
LIST_END, PHONEME = 0, 7  # espeakEVENT_LIST_TERMINATED, espeakEVENT_PHONEME
MAX_SAMPLE = 32768.0  # 16-bit samples to [-1, 1)
T = TypeVar("T")


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: a voice variant, such as ``f3``, with an accent of English, an espeak-ng language.

    `pitch` is from 0 to 100, `rate` in words a minute.

    Example
    -------
    >>> Voice("f3").name
    'en-us+f3'
    """

    variant: str
    accent: str = "en-us"
    pitch: int = 50
    rate: int = 170

    @property
    def name(self) -> str:
        """espeak-ng's name of the voice."""
        return f"{self.accent}+{self.variant}"


class _Event(ctypes.Structure):
    """espeak_EVENT: what begins at which time of the phrase."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK_TYPE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@functools.cache
def _library() -> tuple[ctypes.CDLL, int]:
    """Loads and initialises espeak-ng once a process; returns it with its sample rate in Hz."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ConfigError(
            "Spoken audio was asked for.",
            "The package espeakng-loader, which carries espeak-ng, is not installed.",
            "Write: pip install 'brainplug[demo]'",
        )
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    sample_rate = library.espeak_Initialize(
        SYNCHRONOUS_OUTPUT, 0, espeakng_loader.get_data_path().encode(), PHONEME_EVENTS
    )
    if sample_rate <= 0:
        raise RuntimeError(f"espeak-ng did not start (code {sample_rate}); reinstall espeakng-loader.")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # the breath of some voices is noise, else seeded by the clock
    return library, sample_rate


@functools.cache
def voice_variants() -> frozenset[str]:
    """The names of espeak-ng's voice variants.

    Example
    -------
    >>> "f3" in voice_variants()
    True
    """
    import espeakng_loader

    return frozenset(path.name for path in Path(espeakng_loader.get_data_path(), "voices", "!v").iterdir())


def speak(text: str, voice: Voice) -> tuple[np.ndarray, int]:
    """Speaks a phrase: float32 samples ``[time]`` in [-1, 1), and their rate in Hz.

    Example
    -------
    >>> samples, sample_rate = speak("good morning", Voice("f3"))
    >>> bool(0.4 * sample_rate < len(samples) < 2 * sample_rate)
    True
    """
    samples, _, sample_rate = speak_with_phones(text, voice)
    return samples, sample_rate


def speak_with_phones(text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[float, str]], int]:
    """Speaks a phrase: samples as in `speak`, the start of each phone in seconds with its name, and the rate.

    Names of pauses begin with _. A voice that espeak-ng does not have raises a ValueError.

    Example
    -------
    >>> _, phones, _ = speak_with_phones("see", Voice("f3"))
    >>> [name for _, name in phones][:2]  # ' is stress
    ['s', "'i:"]
    """
    library, sample_rate = _library()
    pieces: list[np.ndarray] = []
    phones: list[tuple[float, str]] = []

    def collect(samples: Any, count: int, events: Any) -> int:
        if count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        at = 0
        while events[at].type != LIST_END:
            if events[at].type == PHONEME:
                phones.append((events[at].audio_position / 1000, events[at].name.decode(errors="replace")))
            at += 1
        return 0  # go on

    callback = _CALLBACK_TYPE(collect)  # has a name, so that it lives while espeak-ng calls it
    library.espeak_SetSynthCallback(callback)
    # espeak-ng itself takes an unknown variant for its default voice.
    if voice.variant not in voice_variants() or library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise ValueError(f"The voice {voice.name!r} was asked for. espeak-ng does not have it.")
    library.espeak_SetParameter(RATE_PARAMETER, voice.rate, 0)
    library.espeak_SetParameter(PITCH_PARAMETER, voice.pitch, 0)
    encoded = text.encode()
    library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, UTF8_TEXT, None, None)
    library.espeak_Synchronize()
    return np.concatenate(pieces).astype(np.float32) / MAX_SAMPLE, phones, sample_rate


def espeak_version() -> str:
    """The version of espeak-ng, such as 1.52.0.

    Example
    -------
    >>> espeak_version()[0].isdigit()
    True
    """
    library, _ = _library()
    library.espeak_Info.restype = ctypes.c_char_p
    return library.espeak_Info(None).decode()


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Runs a function, defined at the top of a module, in a new process.

    espeak-ng carries state from one phrase to the next, so that the samples of a phrase depend on all that was spoken
    before it. In a new process the same phrases in the same order give the same samples, bit for bit.

    Example
    -------
    >>> first, second = (in_fresh_process(speak, "good morning", Voice("f3"))[0] for _ in range(2))
    >>> bool((first == second).all())
    True
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
