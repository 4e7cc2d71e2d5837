"""Adapts pretrained audio transformers with few parameters, in SpeechBrain's manner."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brainplug.backbones import load_backbone
    from brainplug.config.recipe import Recipe
    from brainplug.errors import UsageError
    from brainplug.inference import AdapterHub, Classifier, SpeechRecognizer, load_run
    from brainplug.tasks import load_recipe

__version__ = "0.1.0"
__all__ = [
    "AdapterHub",
    "Classifier",
    "Recipe",
    "SpeechRecognizer",
    "UsageError",
    "load_backbone",
    "load_recipe",
    "load_run",
]

# Where each name is, so that `import brainplug` itself takes no time.
_MODULES = {
    "AdapterHub": "brainplug.inference",
    "Classifier": "brainplug.inference",
    "Recipe": "brainplug.config.recipe",
    "SpeechRecognizer": "brainplug.inference",
    "UsageError": "brainplug.errors",
    "load_backbone": "brainplug.backbones",
    "load_recipe": "brainplug.tasks",
    "load_run": "brainplug.inference",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is used for the first time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
