"""Versions of installed packages, which results and adapters name."""

from collections.abc import Sequence
from importlib import metadata

import brainplug


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Package -> version; a checkout of brainplug need not be installed.

    Example
    -------
    >>> list(package_versions(["brainplug", "torch"]))
    ['brainplug', 'torch']
    """
    installed = {name: metadata.version(name).split("+")[0] for name in names if name != "brainplug"}
    return {name: installed.get(name, brainplug.__version__) for name in names}
