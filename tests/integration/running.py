"""Runs train.py as a user does, in a process of its own, and kills it where a test wants."""

import functools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from brainplug.cli import COMMANDS, module_of
from tests.processes import LONGEST

REPOSITORY = Path(__file__).parents[2]
ESC50_RECIPE = str(REPOSITORY / "recipes" / "ESC50" / "hparams" / "train.yaml")
KILLED = -signal.SIGKILL
# What the rates of methods.yaml leave of a width of 16 is nothing, so the small backbones have their own.
SETTINGS = {
    "lora": {"reduction_rate": 4},
    "bottleneck": {"reduction_rate": 4},
    "conformer": {"reduction_rate": 4, "kernel_size": 4},
    "convpass": {"reduction_rate": 4},
    "dense_moa": {"reduction_rate": 8, "experts": 3},
    "soft_moa": {"reduction_rate": 8, "experts": 3},
    "vera": {"r": 4},
}
FAMILIES = ("audio_spectrogram_transformer", "wav2vec2", "hubert")


@dataclass(frozen=True)
class Run:
    """How a process ended, and what it wrote to standard output and standard error."""

    code: int
    output: str


def start_server() -> None:
    """Starts a process that has imported everything; each run is forked from it, which saves the seconds of imports.

    It also knows what pip has installed, which SpeechBrain otherwise asks in each run.
    """
    models = [f"transformers.models.{name}.modeling_{name}" for name in FAMILIES]  # transformers imports them late
    commands = ["train", *map(module_of, COMMANDS), "brainplug.pretrain.run"]
    multiprocessing.set_forkserver_preload([*commands, *models, __name__, "tests.integration.server"])
    multiprocessing.get_context("forkserver").Process(target=int).start()


def run_train(
    arguments: list[str], folder: Path, sabotage: Callable[[], None] | None = None, main: str = "train:main"
) -> Run:
    """Runs ``python train.py ARGUMENTS`` in a folder; `sabotage` is called before, in the same process.

    `main` names the command, where it is another one: a function, or a script that has a `main`.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as output:
        process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(arguments, str(folder), output.name, sabotage, main)
        )
        process.start()
        process.join(LONGEST)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{arguments} did not end:\n{output.read()}")
        return Run(process.exitcode, output.read())


def run_in_two(arguments: list[str], folder: Path, main: str = "train:main") -> Run:
    """Runs a command in two processes that share the work, in the environment that torchrun makes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as output:
        processes = [
            multiprocessing.get_context("forkserver").Process(
                target=_run, args=(arguments, str(folder), output.name, functools.partial(_join, rank, port), main)
            )
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(LONGEST)
            if process.exitcode is None:
                process.kill()
                process.join()
        return Run(max(abs(process.exitcode) for process in processes), output.read())


def _join(rank: int, port: int) -> None:
    """Says to torch which of two processes this one is."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )  # fmt: skip


def start_table(arguments: list[str], folder: Path, output: Path) -> multiprocessing.Process:
    """Starts ``python -m brainplug table ARGUMENTS`` in a folder; what it prints goes to a file."""
    output.touch()
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(["table", *arguments], str(folder), str(output), None, "brainplug.cli:main")
    )
    process.start()
    return process


def run_recipe(script: str, arguments: list[str], folder: Path, sabotage: Callable[[], None] | None = None) -> Run:
    """Runs ``python recipes/SCRIPT ARGUMENTS`` as `run_train` runs train.py."""
    return run_train(arguments, folder, sabotage, str(REPOSITORY / "recipes" / script))


def _run(arguments: list[str], folder: str, output: str, sabotage: Callable[[], None] | None, main: str) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    for number, handler in {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}.items():
        signal.signal(number, handler)  # tests may run where they are ignored: in the background, under nohup
    multiprocessing.set_start_method("fork", force=True)  # for data loaders, as in a process that a shell starts
    from brainplug.errors import run_command

    if sabotage:
        sabotage()
    command = runpy.run_path(main)["main"] if main.endswith(".py") else resolve_name(main)
    sys.exit(run_command(command, arguments))


def kill(position: str, count: int = 1, when: str = "before", stage: str = "") -> None:
    """Arranges that this process dies at the `count`-th call of a function, as by ``kill -9``.

    `place` names the function, such as ``brainplug.training.classification:ClassificationBrain.fit_batch``. With
    `stage`, only calls with this stage among the arguments are counted.
    """
    owner_name, _, name = position.replace(":", ".").rpartition(".")
    owner = resolve_name(owner_name)
    original, calls = getattr(owner, name), 0

    @functools.wraps(original)
    def deadly(*arguments: object, **named: object) -> object:
        nonlocal calls
        counted = not stage or stage in [getattr(value, "name", "") for value in (*arguments, *named.values())]
        calls += counted
        last = counted and calls == count
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
