"""Corpora, manifests, features and the pipeline that carries a clip from its file to the backbone."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
