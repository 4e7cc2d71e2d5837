"""Adapts pretrained audio transformers with few parameters, in SpeechBrain's manner."""

from importlib import import_module

from brainplug.compat.torchaudio import import_torchaudio

import_torchaudio()

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The classes that use a trained model, imported when they are asked for."""
    if name not in ("Classifier", "SpeechRecognizer", "load_run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("brainplug.inference"), name)
