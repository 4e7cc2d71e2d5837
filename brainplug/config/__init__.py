"""Recipes: files, overrides, schemas, output folders."""

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio
