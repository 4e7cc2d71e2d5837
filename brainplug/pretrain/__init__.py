"""Pre-training small backbones without labels: HuBERT and data2vec."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
