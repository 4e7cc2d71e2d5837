"""A recipe names objects, and loading it runs them: whose recipes may do that unasked."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

import yaml

from brainplug.errors import ConfigError
from brainplug.files import packaged_folder

TRUSTED = ("brainplug", "speechbrain", "torch", "peft")  # packages
# Parts of theirs that run code out of files, or out of text.
RUNS_FILES = (
    "torch.load", "torch.serialization", "torch.hub", "torch.jit", "torch.ops", "torch.classes", "torch.package",
    "torch.utils.cpp_extension", "speechbrain.utils.importutils", "speechbrain.inference.interfaces",
    "speechbrain.dataio.dataio.load_pickle", "brainplug.config.recipe", "brainplug.sweep",
)  # fmt: skip
SHOWN = 3  # names in a message
TRUST = "trust"  # the key, which is no recipe's: --trust
DISTRUST = ("false", "no", "0")


def check_trusted(file: str, overrides: Mapping[str, object] = MappingProxyType({})) -> None:
    """Refuses a recipe that names objects of other packages, which run when it is loaded, unless the user trusts it.

    The recipes that come with brainplug are trusted. `overrides` are what the command line changes, ``--trust`` among
    them. This keeps strangers' recipes from running what they bring along or find installed; it does not make them
    harmless: they still write files, for example.
    """
    if str(overrides.get(TRUST, False)).lower() not in DISTRUST or _is_packaged(Path(file)):
        return
    try:
        foreign = sorted({name for name in _names(Path(file), set()) if is_foreign(name)})
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"The recipe {file!r} was asked for.",
            f"It cannot be loaded: {' '.join(str(error).split())}.",
            "Write keys and values as hparams/train.yaml does",
        ) from error
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise ConfigError(
            f"The recipe {file!r} was asked for.",
            f"Loading it would run {', '.join(foreign[:SHOWN])}{more}, which belong to none of {', '.join(TRUSTED)}.",
            "Read the recipe; to go on with it, write --trust",
        )


def is_foreign(name: str) -> bool:
    """Whether an object belongs to none of the packages in `TRUSTED`, or is one of theirs that runs others' files.

    Example
    -------
    >>> is_foreign("torch.optim.AdamW"), is_foreign("os.system"), is_foreign("brainplug.files.os.system")
    (False, True, True)
    """
    parts = name.split(".")
    if parts[0] not in TRUSTED or _runs_files(name):
        return True
    value: object = import_module(parts[0])
    for position, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            try:
                import_module(".".join(parts[:position]))
            except ImportError:
                return False  # there is no such object, which loading says
        value = getattr(value, part, None)
        owner = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", None) or parts[0])
        if owner.partition(".")[0] not in (*TRUSTED, "builtins"):
            return True
        if _runs_files(f"{owner}.{getattr(value, '__qualname__', '')}"):
            return True
    return False


def _runs_files(name: str) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in RUNS_FILES)


def _is_packaged(file: Path) -> bool:
    return any(file.resolve().is_relative_to(packaged_folder(name).resolve()) for name in ("hparams", "recipes"))


def _names(file: Path, seen: set[Path]) -> Iterator[str]:
    """The objects that the tags of a recipe name, and those of the files that it includes."""
    if file.resolve() in seen or _is_packaged(file) or not file.is_file():
        return
    seen.add(file.resolve())
    for event in yaml.parse(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        kind, colon, name = (getattr(event, "tag", None) or "").partition(":")
        if kind == "!include":
            yield from _names(file.parent / name, seen)
        elif kind.startswith("!") and colon:
            yield name
