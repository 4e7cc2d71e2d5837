"""Where other packages need a hand: torchaudio's optional extension, and files of other projects."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
