"""Adapted models and their heads."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
