"""Adapts pretrained audio transformers with few parameters, in SpeechBrain's manner."""

from brainplug.compat.torchaudio import import_torchaudio

import_torchaudio()

__version__ = "0.1.0"
