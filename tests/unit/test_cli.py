"""The command brainplug finds its commands, imports the chosen one alone, and completes a command line."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import brainplug
from brainplug import cli, files
from brainplug.cli.train import with_recipe
from brainplug.config.arguments import parse_arguments
from brainplug.tasks import load_recipe

REPOSITORY = Path(__file__).parents[2]
OWN = ["--dataset=own"]


def run_python(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: brainplug {name}")


def test_every_module_is_a_command_or_is_used_by_one():
    modules = {path.stem for path in (REPOSITORY / "brainplug" / "cli").glob("*.py")}
    assert modules - {cli.module_of(name).rpartition(".")[2] for name in cli.COMMANDS} == {
        "__init__",
        "rows",
        "windows",
    }


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["--seed=1"]])
def test_without_a_command_they_are_listed(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: brainplug COMMAND" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == brainplug.__version__


def test_a_command_gets_what_it_does_not_know_and_its_exit_code_is_returned(monkeypatch):
    module, received = import_module(cli.module_of("doctor")), []

    def run(options):
        received.extend([options.overrides, options.full])
        return 7

    monkeypatch.setattr(module, "run", run)
    assert cli.main(["doctor", "train.yaml", "--seed", "2", "--full", "--fullness=1"]) == 7
    assert received == [["train.yaml", "--seed", "2", "--fullness=1"], True]


def test_help_and_the_package_alone_import_no_large_package():
    code = """
import sys, brainplug, brainplug.cli
try:
    brainplug.cli.main(["--help"])
except SystemExit:
    print({"torch", "transformers", "speechbrain", "numpy"} & set(sys.modules))
"""
    assert run_python("-c", code).splitlines()[-1] == "set()"


def test_all_that_is_public_can_be_imported():
    assert len(brainplug.__all__) <= 10
    for name in brainplug.__all__:
        assert getattr(brainplug, name).__name__ == name
        assert name in dir(brainplug)


def test_what_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'classifier'"):
        brainplug.classifier  # noqa: B018


# The recipe of brainplug train


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        ([], []),
        (["--method=lora"], []),
        (["--data_folder=clips"], OWN),
        (["--data_folder", "clips", "--method=lora"], OWN),
        (["--manifest=clips.csv", "--data_folder=clips"], []),
        (["--dataset=spoken", "--data_folder=here"], []),
    ],
)
def test_without_a_recipe_the_packaged_one_is_taken(arguments, added):
    assert with_recipe(arguments) == [str(REPOSITORY / "hparams" / "train.yaml"), *arguments, *added]


def test_a_recipe_that_is_named_is_taken():
    assert with_recipe(["mine.yaml", "--data_folder=clips"]) == ["mine.yaml", "--data_folder=clips"]


def test_a_data_folder_alone_is_data_of_ones_own(tmp_path):
    file, run_opts, overrides = parse_arguments(with_recipe([f"--data_folder={tmp_path}"]))
    settings = load_recipe(file, overrides, run_opts, inspect=True).settings
    assert (settings.dataset, settings.data_folder) == ("own", str(tmp_path))
    assert tmp_path.name in settings.output_folder


# Recipes of the package


@pytest.mark.parametrize("name", ["hparams/train.yaml", "recipes/ESC50/hparams/train.yaml", "recipes/ESC50/README.md"])
def test_a_file_that_is_not_here_is_that_of_the_package(name, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert files.find_recipe(name) == str(REPOSITORY / name)
    assert f"There is no {name} here; {REPOSITORY / name} is used." in caplog.text


def test_a_file_that_is_here_is_taken(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    own = Path("hparams", "train.yaml")
    own.parent.mkdir()
    own.touch()
    assert files.find_recipe(str(own)) == str(own)
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["", "train.yaml", "hparams", "hparams/nowhere.yaml", "nowhere/hparams/train.yaml"])
def test_other_names_stay_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.find_recipe(name) == name


def test_an_installed_package_has_its_recipes_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "brainplug"
    (package / "hparams").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    assert files.hparams_folder() == package / "hparams"
