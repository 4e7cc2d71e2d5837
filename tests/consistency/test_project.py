"""What holds for the tree as a whole. Every test starts from the files and fails where it finds none."""

import ast
import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MAX_BYTES = 8_500_000  # the bundled backbone is the largest file
MACHINE_PATH = re.compile(rb"/(work|root|farm)/")
INCLUDE = re.compile(r"!include:(\S+)")


@functools.cache
def project_files() -> list[Path]:
    """The files that are in the repository, or would be with the next commit."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    files = [REPOSITORY / name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]
    assert files, "git lists no file"
    return files


def matching(pattern: str) -> list[Path]:
    """The files that match a pattern, at least one."""
    paths = sorted(REPOSITORY.glob(pattern))
    assert paths, f"no file matches {pattern}"
    return paths


def relative(path: Path) -> str:
    """A path as it is written from the top of the repository."""
    return str(path.relative_to(REPOSITORY))


def test_no_machine_paths():
    assert [relative(path) for path in project_files() if MACHINE_PATH.search(path.read_bytes())] == []


def test_no_large_files():
    assert [relative(path) for path in project_files() if path.stat().st_size > MAX_BYTES] == []


# YAML


def yaml_files() -> list[Path]:
    """Every YAML file of the configurations and the recipes."""
    return matching("hparams/**/*.yaml") + matching("recipes/**/*.yaml")


def configurations() -> list[Path]:
    """The YAML files that are run, so not the ones that another file pulls in."""
    included = {(path.parent / name).resolve() for path in yaml_files() for name in INCLUDE.findall(path.read_text())}
    return [
        path
        for path in yaml_files()
        if "hparams" in path.relative_to(REPOSITORY).parts and path.resolve() not in included
    ]


def test_included_yaml_files_exist():
    for path in yaml_files():
        for name in INCLUDE.findall(path.read_text()):
            assert (path.parent / name).is_file(), f"{relative(path)} includes {name}"


def test_every_yaml_file_starts_with_a_banner():
    assert [relative(path) for path in yaml_files() if not path.read_text().startswith("# ")] == []


def test_every_configuration_starts_with_the_seed():
    first_keys = {relative(path): first_key(path.read_text()) for path in configurations()}
    assert "hparams/train.yaml" in first_keys
    assert {path: key for path, key in first_keys.items() if key != "seed"} == {}


def first_key(text: str) -> str | None:
    """The first key at the top of a YAML text."""
    key = re.search(r"^([\w-]+):", text, re.MULTILINE)
    return key and key[1]


def test_first_key_skips_comments_and_nested_keys():
    assert first_key("# lr: 1\n\nseed: 1000\nlr: 2\n") == "seed"
    assert first_key("# nothing\n") is None


# README commands


def commands(text: str) -> list[list[str]]:
    """Words of every command line that a Markdown text shows, in a code block or within a sentence."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    start = re.compile(r"(\$ )?(\w+=\S* )*(\.venv/bin/)?(python3?|torchrun|make|pytest|brainplug) ")
    return [shlex.split(line.strip(), comments=True) for line in lines + spans if start.match(line.strip())]


# A run makes `results`; names in capitals, and lists without a folder, stand for the reader's own.
FILE = re.compile(r"(?!results/|[A-Z]+\.)([\w./-]+\.(py|yaml)|[\w.-]+/[\w./-]+\.(txt|csv))")


def missing_files(words: list[str]) -> list[str]:
    """The parts of a command that name files, modules or make targets which do not exist."""
    missing = [word for word in words if FILE.fullmatch(word) and not (REPOSITORY / word).exists()]
    if "-m" in words and (module := words[words.index("-m") + 1]).startswith("brainplug"):
        path = REPOSITORY / module.replace(".", "/")
        missing += [] if path.with_suffix(".py").is_file() or (path / "__main__.py").is_file() else [module]
    if "make" in words:
        [targets] = re.findall(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        missing += [
            word for word in words[words.index("make") + 1 :] if "=" not in word and word not in targets.split()
        ]
    return missing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```bash\npython train.py \\\n    nowhere.yaml --lr=1\n```\n", ["train.py", "nowhere.yaml"]),
        ("Run `make nothing` first.", ["nothing"]),
        ("```\n$ torchrun --nproc_per_node=2 nowhere.py hparams/nowhere.yaml\n```\n", ["nowhere.py"]),
        ("```\nHF_HUB_OFFLINE=1 .venv/bin/python -m brainplug.nowhere methods\n```\n", ["brainplug.nowhere"]),
    ],
)
def test_command_that_names_no_file_is_found(text, expected):
    [words] = commands(text)
    assert set(missing_files(words)) >= set(expected) - {"train.py"}


def test_commands_of_documents_name_files_that_exist():
    pages = [path for path in matching("docs/*.md") if path.name != "extending.md"]  # which a test of its own performs
    readmes = [*matching("README.md"), *matching("recipes/**/README.md"), *pages]
    actual = {relative(path): commands(path.read_text()) for path in readmes}
    assert actual["README.md"], "the README shows no command"
    wrong = {path: [words for words in lines if missing_files(words)] for path, lines in actual.items()}
    assert {path: lines for path, lines in wrong.items() if lines} == {}


# Python


def undocumented(tree: ast.AST, name: str) -> list[str]:
    """The public functions and classes of a module or class that have no docstring, the module or class too."""
    names = [] if ast.get_docstring(tree) else [name]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            names += [f"{name}.{node.name}"] if ast.get_docstring(node) is None else []
            names += undocumented(node, f"{name}.{node.name}") if isinstance(node, ast.ClassDef) else []
    return names


def test_undocumented_names_are_found():
    source = (
        '"""A module."""\nclass A:\n    """A class."""\n    def b(self): pass\n    def _c(self): pass\ndef d(): pass'
    )
    assert undocumented(ast.parse(source), "m") == ["m.A.b", "m.d"]


def test_public_functions_and_classes_have_docstrings():
    trees = {relative(path): ast.parse(path.read_text()) for path in matching("brainplug/**/*.py")}
    assert [name for path, tree in trees.items() for name in undocumented(tree, path)] == []
