"""Made data: a spoken corpus and sound to pre-train on."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
