"""Optimisers and schedules. Modules of this room import torch alone, so that anyone can use it."""

from brainplug.optim.fadam import FAdam
from brainplug.optim.fam import FAM, SimpleFAM
from brainplug.optim.fam_groups import fam_parameter_groups
from brainplug.optim.fam_scheduler import FAMScheduler

__all__ = ["FAM", "FAMScheduler", "FAdam", "SimpleFAM", "fam_parameter_groups"]
