"""Imports point one way, read from the syntax trees: a lower room does not know who uses it."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

BASE = ("errors", "files", "config")
# What each room of brainplug may import beside itself. A new room joins by a row.
ROOMS = {
    "errors": (),
    "files": ("errors",),
    "config": ("errors", "files"),
    "optim": (),
    "data": BASE,
    "synthetic": (*BASE, "data"),
    "backbones": (*BASE, "data", "optim"),
    "methods": (*BASE, "backbones"),
    "models": (*BASE, "data", "optim", "backbones", "methods"),
    "adapters": (*BASE, "data", "backbones", "methods", "models", "compat"),
    "training": (*BASE, "data", "optim", "backbones", "methods", "models", "adapters"),
    "results": BASE,
    "compat": (*BASE, "data", "backbones", "methods", "models"),
    "tasks": (
        *(*BASE, "data", "synthetic", "optim", "backbones", "methods", "models", "adapters", "training", "results"),
        "compat",
    ),
    "pretrain": (*BASE, "data", "synthetic", "optim", "backbones", "training"),
    "inference": (*BASE, "data", "backbones", "methods", "models", "adapters", "tasks", "results"),
    "service": (*BASE, "data", "backbones", "adapters", "inference"),
    "sweep": (*BASE, "data", "backbones", "results", "tasks"),
    "doctor": (*BASE, "data", "synthetic", "backbones", "methods", "models", "training", "tasks", "results"),
}
ABOVE = ("cli", "__main__", "__init__")  # import what they like
FORBIDDEN_FOR_ALL = ("train", "recipes", "tests", "benchmarks")
TORCHAUDIO = "compat.torchaudio"  # imports no room, and comes before what imports torchaudio
IMPORT_TORCHAUDIO = {"peft", "speechbrain", "torchaudio", "transformers"}


def is_below(module: str, parents: list[str]) -> bool:
    """Whether a module is one of the parents or lies in one."""
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


def imported_modules(source: str, module: str) -> set[str]:
    """Lists what a module's source imports, inside functions too; ``from a import b`` gives both ``a`` and ``a.b``."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            modules.add(base)
            modules.update(f"{base}.{alias.name}" for alias in node.names)
    return modules


def package_imports() -> dict[str, set[str]]:
    """What every module of brainplug imports."""
    paths = sorted(REPOSITORY.glob("brainplug/**/*.py"))
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths]
    return {name: imported_modules(path.read_text(), name) for name, path in zip(names, paths, strict=True)}


IMPORTS = package_imports()


def room_of(module: str) -> str:
    """The first part of a module's name below brainplug; that of brainplug itself is ``__init__``."""
    return module.split(".")[1] if "." in module else "__init__"


def violations(imports: dict[str, set[str]], room: str) -> list[str]:
    """Lists the imports of a room that its row does not allow."""
    allowed = [f"brainplug.{name}" for name in (room, *ROOMS[room], TORCHAUDIO)]
    return [
        f"{module} imports {imported}"
        for module in sorted(imports)
        if room_of(module) == room
        for imported in sorted(imports[module])
        if is_below(imported, list(FORBIDDEN_FOR_ALL))
        or (is_below(imported, ["brainplug"]) and imported != "brainplug" and not is_below(imported, allowed))
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import brainplug.errors", {"brainplug.errors"}),
        ("import brainplug.errors as errors", {"brainplug.errors"}),
        ("from brainplug import errors", {"brainplug", "brainplug.errors"}),
        ("from brainplug.errors import UsageError", {"brainplug.errors", "brainplug.errors.UsageError"}),
        ("from .. import errors", {"brainplug", "brainplug.errors"}),
        ("from .base import Method", {"brainplug.methods.base", "brainplug.methods.base.Method"}),
        ("def build():\n    import train", {"train"}),
    ],
)
def test_every_way_to_import_is_seen(line, expected):
    assert imported_modules(line, "brainplug.methods.lora") == expected


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("brainplug.methods.lora", "brainplug.models.adapted"),
        ("brainplug.optim.fam", "brainplug.errors"),
        ("brainplug.data.corpora.esc50", "brainplug.training.brain"),
        ("brainplug.results.tables", "brainplug.models"),
        ("brainplug.tasks.ctc", "train"),
    ],
)
def test_forbidden_import_is_reported(module, imported):
    assert violations({module: {imported}}, room_of(module)) == [f"{module} imports {imported}"]


def test_every_room_has_a_row():
    assert {room_of(module) for module in IMPORTS} - set(ABOVE) == set(ROOMS)


def test_rows_make_no_circle():
    order: list[str] = []
    while len(order) < len(ROOMS):
        ready = [room for room, allowed in ROOMS.items() if room not in order and set(allowed) <= set(order)]
        assert ready, f"a circle among {set(ROOMS) - set(order)}"
        order += ready


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    assert violations(IMPORTS, room) == []


def test_modules_make_no_circle():
    graph = {
        module: {name for name in (*imported, *(f"{name}.__init__" for name in imported)) if name in IMPORTS} - {module}
        for module, imported in IMPORTS.items()
    }
    del graph["brainplug.__init__"]  # which imports a name when it is used
    while free := [module for module, imported in graph.items() if not imported & graph.keys()]:
        for module in free:
            del graph[module]
    assert sorted(graph) == []


@pytest.mark.parametrize("module", IMPORTS)
def test_torchaudio_is_made_to_load_before_it_is_imported(module):
    """The room's __init__ does it, which runs before all its modules, or the module itself (ruff puts it first)."""
    packages = {name.partition(".")[0] for name in IMPORTS[module]}
    if room_of(module) != "compat" and packages & IMPORT_TORCHAUDIO:
        before = IMPORTS[module] | IMPORTS[f"brainplug.{room_of(module)}.__init__"]
        assert f"brainplug.{TORCHAUDIO}" in before


def test_optimisers_import_torch_alone():
    imported = set().union(*(names for module, names in IMPORTS.items() if room_of(module) == "optim"))
    others = {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) - {"brainplug"}
    assert others <= {"torch"}


def test_imported_packages_are_declared():
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    extras = config["options.extras_require"]
    chosen = ("audio", "demo", "onnx", "plot", "ray", "serve", "tensorboard", "wandb")
    requirements = "\n".join([config["options"]["install_requires"], *(extras[name] for name in chosen)])
    declared = {distribution_name(name) for name in re.findall(r"^[\w.-]+", requirements, re.MULTILINE)}
    packages = {name.partition(".")[0] for names in IMPORTS.values() for name in names}
    others = packages - set(sys.stdlib_module_names) - {"brainplug"}
    installed = packages_distributions()
    assert {distribution_name(installed.get(package, [package])[0]) for package in others} - declared == set()


def distribution_name(name: str) -> str:
    """A distribution's name in the one spelling that stands for all."""
    return name.lower().replace("_", "-")
