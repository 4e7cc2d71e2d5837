"""Imports point one way, read from the syntax trees: a lower room never knows who uses it."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

DOORS = [
    "brainplug.__main__",
    "brainplug.brain",
    "brainplug.sweep",
    "brainplug.report",
    "brainplug.recognition",
    "brainplug.inference",
    "brainplug.doctor",
    "brainplug.page",
    "brainplug.pictures",
]
TOP_MODULES = [  # all that stands above the rooms: the doors, the model, and what is added beside them
    f"brainplug.{path.stem}"
    for path in sorted(REPOSITORY.glob("brainplug/*.py"))
    if path.stem not in ("__init__", "errors", "files")
]
# Who must not import what. A name stands for the module and all below it.
FORBIDDEN = {
    "brainplug": ["train", "recipes", "tests"],
    "brainplug.errors": ["brainplug"],
    "brainplug.files": ["brainplug"],
    "brainplug.compat": [name for name in TOP_MODULES if name != "brainplug.model"],
    "brainplug.compat.torchaudio": ["brainplug"],
    "brainplug.data": [*TOP_MODULES, *DOORS, "brainplug.methods", "brainplug.backbones"],
    "brainplug.backbones": [*TOP_MODULES, *DOORS, "brainplug.methods"],
    "brainplug.methods": [*TOP_MODULES, *DOORS, "brainplug.backbones"],
    "brainplug.optim": [*TOP_MODULES, *DOORS, "brainplug"],
    "brainplug.pretrain": [*TOP_MODULES, *DOORS],
    "brainplug.model": DOORS,
    "brainplug.recognition": [
        *("brainplug.__main__", "brainplug.inference", "brainplug.sweep", "brainplug.doctor", "brainplug.page"),
    ],
    "brainplug.pictures": ["brainplug"],
}
ALLOWED = {
    "brainplug.files": ["brainplug.errors"],
    "brainplug.methods": ["brainplug.backbones.spec"],
    "brainplug.optim": ["brainplug.optim"],
    "brainplug.pictures": ["brainplug.pictures", "brainplug.errors", "brainplug.files"],
}


def is_below(module: str, parents: list[str]) -> bool:
    """Whether a module is one of the parents or lies in one."""
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


def imported_modules(source: str, module: str) -> set[str]:
    """Lists what a module's source imports, inside functions too; ``from a import b`` gives both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def package_imports() -> dict[str, set[str]]:
    """What every module of brainplug imports."""
    paths = sorted(REPOSITORY.glob("brainplug/**/*.py"))
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths]
    return {name: imported_modules(path.read_text(), name) for name, path in zip(names, paths, strict=True)}


IMPORTS = package_imports()


def violations(imports: dict[str, set[str]], room: str) -> list[str]:
    """Lists the imports of a room that its row forbids."""
    return [
        f"{module} imports {imported}"
        for module in sorted(imports)
        if is_below(module, [room])
        for imported in sorted(imports[module])
        if is_below(imported, FORBIDDEN[room]) and not is_below(imported, ALLOWED.get(room, []))
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import brainplug.model", {"brainplug.model"}),
        ("import brainplug.model as model", {"brainplug.model"}),
        ("from brainplug import model", {"brainplug", "brainplug.model"}),
        ("from brainplug.model import AudioClassifier", {"brainplug.model", "brainplug.model.AudioClassifier"}),
        ("from .. import model", {"brainplug", "brainplug.model"}),
        ("from .base import Method", {"brainplug.methods.base", "brainplug.methods.base.Method"}),
        ("def build():\n    import train", {"train"}),
    ],
)
def test_every_way_to_import_is_seen(line, expected):
    assert imported_modules(line, "brainplug.methods.lora") == expected


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("brainplug.methods.lora", "brainplug.backbones.audio_spectrogram"),
        ("brainplug.optim.fam", "brainplug.errors"),
        ("brainplug.data.esc50", "brainplug.brain"),
        ("brainplug.model", "brainplug.inference.AudioTagger"),
        ("brainplug.report", "train"),
    ],
)
def test_forbidden_import_is_reported(module, imported):
    reported = [line for room in FORBIDDEN for line in violations({module: {imported}}, room)]
    assert f"{module} imports {imported}" in reported


def test_modules_are_found():
    assert {"brainplug.errors", "brainplug.methods.base", "brainplug.backbones.spec"} <= set(IMPORTS)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    assert violations(IMPORTS, room) == []


def test_optimisers_import_torch_alone():
    imported = set().union(*(names for module, names in IMPORTS.items() if is_below(module, ["brainplug.optim"])))
    others = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) - {"brainplug"}
    assert others <= {"torch"}


def test_imported_packages_are_declared():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    extras = config["options.extras_require"]
    chosen = ("demo", "plot", "ray", "tensorboard", "wandb")
    requirements = "\n".join([config["options"]["install_requires"], *(extras[name] for name in chosen)])
    declared = {distribution_name(name) for name in re.findall(r"^[\w.-]+", requirements, re.MULTILINE)}
    packages = {name.partition(".")[0] for names in IMPORTS.values() for name in names}
    others = packages - set(sys.stdlib_module_names) - {"brainplug"}
    installed = packages_distributions()
    assert {distribution_name(installed.get(package, [package])[0]) for package in others} - declared == set()


def distribution_name(name: str) -> str:
    """A distribution's name in the one spelling that stands for all."""
    return name.lower().replace("_", "-")
