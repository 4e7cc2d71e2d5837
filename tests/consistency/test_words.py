"""The project speaks the field's language: words of a private dialect are neither names nor prose."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(REPOSITORY.glob("brainplug/**/*.py"))
FOLDERS = (".github", "benchmarks", "brainplug", "docs", "hparams", "recipes", "tests")
TEXTS = sorted(
    path
    for path in (*REPOSITORY.glob("*.*"), *(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.*")))
    if path.suffix in (".cfg", ".md", ".py", ".yaml", ".yml")
)


# Names that another word of the field replaced.
NAMES = set(
    "Parts choose_parts claim_output_folder keep_delta hold_backbone kept that_keep tried reckon middle inside "
    "each_its_own up_bias hear measures answers deviation largest_share places found place some each there told "
    "heard".split()
)
# The second argument of every error is named after what the check found.
ALLOWED = {"brainplug/errors.py": {"found"}}
PROSE = re.compile(
    r"\b(hears?|heard|repaired|is to be known|are to be known|that keep|reckons?|of which)\b|"
    r"each its own\b",
    re.IGNORECASE,
)
LONGEST_FILE, LONGEST_FUNCTION = 400, 50  # lines
DATA_TABLES = {"brainplug/synthetic/spoken_phrases.py"}


def names_in(source: str) -> set[str]:
    """The names that a module defines: functions, classes, arguments, variables, attributes."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def long_functions(source: str) -> Iterator[tuple[str, int]]:
    """Functions over the limit, and their lines without the docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            if lines > LONGEST_FUNCTION:
                yield node.name, lines


def test_a_name_of_the_dialect_is_found():
    source = "class Parts:\n    def kept(self, told):\n        self.middle = [each for each in told]\n"
    assert names_in(source) & NAMES == {"Parts", "kept", "told", "middle", "each"}


@pytest.mark.parametrize("path", [path for path in TEXTS if path.suffix == ".py"], ids=relative)
def test_names_are_the_field_s(path):
    assert names_in(path.read_text()) & NAMES - ALLOWED.get(relative(path), set()) == set()


def test_prose_is_plain():
    texts = [path for path in TEXTS if relative(path) not in DATA_TABLES and path != Path(__file__)]
    assert len(texts) > len(MODULES)
    lines = {relative(path): path.read_text().splitlines() for path in texts}
    assert [
        f"{name}:{number}: {line.strip()}"
        for name, of_file in lines.items()
        for number, line in enumerate(of_file, 1)
        if PROSE.search(line)
    ] == []


def test_a_long_function_is_found():
    assert list(long_functions("def f():\n    '''Doc.'''\n" + "    pass\n" * 51)) == [("f", 51)]


def test_files_and_functions_are_short():
    sizes = {relative(path): path.read_text().count("\n") for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > LONGEST_FILE and name not in DATA_TABLES} == {}
    assert {
        relative(path): functions for path in MODULES if (functions := list(long_functions(path.read_text())))
    } == {}
