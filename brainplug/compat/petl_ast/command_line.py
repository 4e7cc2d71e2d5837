"""The published command line of the PETL papers on AST: how it is read there, and which command does the same here.

See `brainplug.compat.petl_ast.flags` for the words that say what a model is. What a recipe of ours
may have otherwise (rates, epochs, batches, augmentation) is set to what those runs had: Cappellazzo et al., 2024,
https://arxiv.org/abs/2312.03694
"""

import argparse
import dataclasses
import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from brainplug.backbones.loading import HUB_NAMES
from brainplug.compat.petl_ast.flags import FLAGS, METHODS, ON_WAVEFORM, Flags, translate
from brainplug.errors import ConfigError, nearest
from brainplug.methods import Method
from brainplug.methods.bitfit import BitFit
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.methods.conformer import ConformerAdapter
from brainplug.methods.convpass import ConvpassAdapter
from brainplug.methods.dense_moa import DenseMoA
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.methods.prefix import PrefixTuning
from brainplug.methods.prompt import PromptTuning
from brainplug.methods.soft_moa import SoftMoA

# Every flag that says nothing of a model, with its default there.
RUN_FLAGS: Flags = {
    "data_path": "",
    "dataset_name": "",
    "method": "",
    "seed": 10,
    "device": "",
    "num_workers": 4,
    "model_ckpt_AST": HUB_NAMES["ast"],
    "model_ckpt_wav": HUB_NAMES["wav2vec2"],
    "max_len_audio": 128000,
    "save_best_ckpt": False,
    "output_path": "",
    "is_AST": False,
    "is_few_shot_exp": False,
    "few_shot_samples": 64,
    "use_wandb": False,
    "project_name": "",
    "exp_name": "",
    "entity": "",
}
WITHOUT_COUNTERPART = (
    "max_len_audio", "save_best_ckpt", "output_path", "use_wandb", "project_name", "exp_name", "entity",
)  # fmt: skip
RATES = {
    "full-FT": 0.00005, "linear": 0.001, "BitFit": 0.005, "LoRA": 0.005, "prompt-tuning": 0.01, "prefix-tuning": 0.01,
    "adapter": 0.005, "Dense-MoA": 0.005, "Soft-MoA": 0.005,
}  # fmt: skip
ENTRIES = {
    BitFit: "bitfit",
    BottleneckAdapter: "bottleneck",
    ConformerAdapter: "conformer",
    ConvpassAdapter: "convpass",
    DenseMoA: "dense_moa",
    FullFineTuning: "full",
    LinearProbe: "linear",
    LoRA: "lora",
    PrefixTuning: "prefix",
    SoftMoA: "soft_moa",
}
SPEC_AUGMENT = "[!new:brainplug.data.augment.SpecAugment {frequency_width: 24, time_width: 80, value: 0.0}]"


@dataclass(frozen=True)
class Protocol:
    """How the papers train on a data set.

    Arguments
    ---------
    folder : str
        Of the recipe here.
    frames : int
        Length of the clips, 10 ms each.
    epochs : int
        With AST.
    epochs_on_waveform : int
        With wav2vec 2.0.
    batch_size : int
        Clips a step.
    folds : int
        How many splits a run goes through; 1 where they are given.
    augments : bool
        Whether SpecAugment masks the training clips of AST.
    """

    folder: str
    frames: int
    epochs: int
    epochs_on_waveform: int
    batch_size: int = 32
    folds: int = 1
    augments: bool = False


PROTOCOLS = {
    "FSC": Protocol("FSC", 400, 75, 50),
    "ESC-50": Protocol("ESC50", 500, 50, 50, folds=5, augments=True),
    "urbansound8k": Protocol("US8K", 400, 30, 30, folds=10, augments=True),
    "GSC": Protocol("GSC", 100, 75, 50, batch_size=128),
    "IEMOCAP": Protocol("IEMOCAP", 800, 20, 20, folds=10),
}


class _Parser(argparse.ArgumentParser):
    """Raises what a user can mend."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            "A published command line was asked for.", f"It cannot be read: {message}.", "Write --flag VALUE, as there"
        )


@dataclass(frozen=True)
class PublishedCommand:
    """The flags of a published command line as the published code reads them, and warnings where it misreads.

    Example
    -------
    >>> PublishedCommand({"method": "LoRA"}).value("seed")
    10
    """

    given: Flags
    warnings: tuple[str, ...] = ()

    def value(self, name: str) -> Any:
        """A flag's value as it was given, else its default there."""
        return self.given.get(name, (RUN_FLAGS | FLAGS)[name])

    @property
    def model_flags(self) -> Flags:
        """Those that `translate` takes."""
        return {name: value for name, value in self.given.items() if name in FLAGS}


def read_command(text: str) -> PublishedCommand:
    """Reads published flags, as a shell takes them, with or without the program before them.

    Any text after a switch turns it on, as in the published code.

    Example
    -------
    >>> command = read_command("python3 main.py --method adapter --apply_residual False")
    >>> command.value("apply_residual"), len(command.warnings)
    (True, 1)
    """
    defaults = RUN_FLAGS | FLAGS
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=str if isinstance(default, bool) else type(default))
    try:
        words = shlex.split(text)
    except ValueError as error:
        parser.error(str(error))
    known, unknown = parser.parse_known_args(list(itertools.dropwhile(lambda word: not word.startswith("-"), words)))
    if unknown:
        raise ConfigError(
            f"The published flag {unknown[0]!r} was asked for.",
            "The published command line has no such flag.",
            f"Write one of: {nearest(unknown[0].lstrip('-'), defaults)}",
        )
    given = vars(known)
    switches = {name: text for name, text in given.items() if isinstance(defaults[name], bool)}
    return PublishedCommand(
        given | {name: bool(text) for name, text in switches.items()},
        tuple(
            f"--{name} {text}: the published code reads this as True, and so does this translation"
            for name, text in switches.items()
            if text.lower() in ("false", "0", "no", "none") and name not in WITHOUT_COUNTERPART
        ),
    )


def chosen_method(command: PublishedCommand) -> Method:
    """The published method that a command line asks for.

    Example
    -------
    >>> chosen_method(read_command("--method LoRA --is_AST True --reduction_rate_lora 128")).reduction_rate
    128
    """
    method, is_ast = command.value("method"), command.value("is_AST")
    if method in METHODS and method not in ON_WAVEFORM and not is_ast:
        raise ConfigError(
            f"The published method {method!r} was asked for without --is_AST.",
            "That is wav2vec 2.0, for which the published code does not have it.",
            "Write --is_AST True too",
        )
    return translate(method, command.model_flags, is_AST=is_ast)


def entry_of(method: Method) -> str:
    """Names the entry of hparams/methods.yaml that a method belongs to.

    Example
    -------
    >>> entry_of(PromptTuning(deep=False))
    'prompt_shallow'
    """
    if isinstance(method, PromptTuning):
        return "prompt_deep" if method.deep else "prompt_shallow"
    return next(entry for kind, entry in ENTRIES.items() if isinstance(method, kind))


def new_command(command: PublishedCommand, pooling: str = "ALL") -> str:
    """Writes the command that computes here what a published one computed: lines for a shell, comments first.

    `pooling` is the published YAML's ``final_output``, which is no flag there.

    Example
    -------
    >>> print(new_command(read_command("--dataset_name GSC --method linear --seed 3")).splitlines()[-1][:80])
    python train.py recipes/GSC/hparams/train.yaml --paper_code=True --backbone=wav2
    """
    name = command.value("dataset_name")
    if name not in PROTOCOLS:
        raise ConfigError(
            f"The published data set {name!r} was asked for.",
            "The published code does not have it.",
            f"Write --dataset_name, and one of: {nearest(name, PROTOCOLS)}",
        )
    protocol, is_ast, method = PROTOCOLS[name], command.value("is_AST"), chosen_method(command)
    recipe = f"recipes/{protocol.folder}/hparams/train.yaml"
    options = {
        "paper_code": True,
        "backbone": _backbone(command.value("model_ckpt_AST" if is_ast else "model_ckpt_wav")),
        "method": entry_of(method),
        "method_settings": _flow({entry_of(method): _settings(method)}),
        "lr": f"{RATES[command.value('method')]:f}".rstrip("0"),
        "pooling": pooling,
        "seed": command.value("seed"),
        "number_of_epochs": protocol.epochs if is_ast else protocol.epochs_on_waveform,
        "batch_size": protocol.batch_size,
        "frames": protocol.frames,
        "augment": SPEC_AUGMENT if is_ast and protocol.augments else "[]",
        "few_shot": command.value("few_shot_samples") if command.value("is_few_shot_exp") else None,
        "data_folder": command.given.get("data_path"),
        "device": command.given.get("device"),
        "num_workers": command.given.get("num_workers"),
    }
    words = [f"--{key}={shlex.quote(str(value))}" for key, value in options.items() if value is not None]
    return "\n".join([*_remarks(command, protocol, recipe), f"python train.py {recipe} {' '.join(words)}"])


def _backbone(checkpoint: str) -> str:
    short = {hub_id: name for name, hub_id in HUB_NAMES.items()}
    return short.get(checkpoint, checkpoint)


def _settings(method: Method) -> dict[str, Any]:
    """All settings, since a recipe may have others than the defaults; those of one method are put together."""
    settings = dataclasses.asdict(method)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _flow(value: dict[str, Any]) -> str:
    """YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf")).strip()


def _remarks(command: PublishedCommand, protocol: Protocol, recipe: str) -> list[str]:
    remarks = []
    if not Path(recipe).is_file():
        remarks.append(f"# There is no {recipe} here: write one after recipes/ESC50/hparams/train.yaml.")
    if protocol.folds > 1:
        remarks.append(f"# The published run goes through {protocol.folds} folds: add --fold=1, then the others.")
    dropped = [f"--{name}" for name in WITHOUT_COUNTERPART if name in command.given]
    if dropped:
        remarks.append(f"# Without a counterpart here: {', '.join(dropped)}.")
    return remarks
