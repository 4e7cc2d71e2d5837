"""The adapter file."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
