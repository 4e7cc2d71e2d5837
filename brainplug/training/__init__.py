"""SpeechBrain's training loop for adapted models."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
