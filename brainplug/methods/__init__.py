"""Ways to adapt a frozen transformer: one file a method, listed with their settings in ``hparams/methods.yaml``."""

from brainplug.methods.base import Method, choose_method, method_settings, restore_method

__all__ = ["Method", "choose_method", "method_settings", "restore_method"]
