"""Adds the folders hparams and recipes to the package; everything else is in setup.cfg."""

from setuptools import find_packages, setup

RECIPES = {"brainplug.hparams": "hparams", "brainplug.recipes": "recipes"}

setup(packages=[*find_packages(include=["brainplug*"]), *RECIPES], package_dir=RECIPES)
