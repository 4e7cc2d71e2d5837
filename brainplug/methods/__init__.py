"""Ways to adapt a frozen transformer: one file a method, listed with their settings in ``hparams/methods.yaml``."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

from brainplug.methods.base import Method, choose_method, method_settings, restore_method

__all__ = ["Method", "choose_method", "method_settings", "restore_method"]
