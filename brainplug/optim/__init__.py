"""Optimisers and schedules. This room imports torch alone, so that anyone can use it."""

from brainplug.optim.fadam import FAdam

__all__ = ["FAdam"]
