"""Ways to adapt a frozen transformer: one file per method, listed with their settings in ``hparams/methods.yaml``."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from brainplug.methods.base import Method
from brainplug.methods.registry import choose_method, method_settings, restore_method

__all__ = ["Method", "choose_method", "method_settings", "restore_method"]
