"""A recipe: a HyperPyYAML file with overrides, checked against the schema of its task, and never changed afterwards."""

import io
import re
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import ruamel.yaml
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.error import YAMLError  # of resolve_references, which reads more strictly than PyYAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from speechbrain.utils.distributed import ddp_broadcast, infer_device
from speechbrain.utils.run_opts import RunOptions

from brainplug.config.extension import EXTEND, asks_to_extend
from brainplug.config.schema import S, Settings, Tagged, faults_of, text_keys
from brainplug.config.trust import TRUST, check_trusted
from brainplug.errors import ConfigError, UsageError, nearest

# HyperPyYAML tries whether a text with a reference is arithmetic, and Python warns of a folder named 2in1.
warnings.filterwarnings("ignore", r"invalid \w+ literal", SyntaxWarning, "<unknown>")
PATHS = ("data_folder", "manifest", "output_folder")
# Built when a run begins: they write files, count epochs, or seed the random numbers.
RUN_OBJECTS = ("__set_seed", "epoch_counter", "train_logger", "checkpointer")
NOT_IN_A_NAME = r"[^\w.-]+"  # characters that a folder's name leaves out, since they would mean something in YAML
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LONGEST_NAME = 120  # characters of a backbone in a folder's name: file systems allow 255 bytes in all
LOADING_ERRORS = (OSError, ImportError, AttributeError, TypeError, ValueError, yaml.YAMLError, YAMLError)

T = TypeVar("T")


class RecipeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """PyYAML's safe loader, in C where it has been built, which also reads 1e-3 as a number, as YAML 1.2 does."""


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d{1,3}$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Recipe(Generic[S]):
    """A checked recipe: file, SpeechBrain's run options, overrides by key, the YAML with references resolved.

    `settings` are the values, typed, with the objects that HyperPyYAML built. `extend`: a run may get more epochs.
    """

    file: str
    run_opts: RunOptions
    overrides: Mapping[str, object]
    resolved: str
    settings: S
    extend: bool = False

    @classmethod
    def load(
        cls,
        file: str,
        overrides: Mapping[str, object] | None = None,
        run_opts: RunOptions | None = None,
        schema: type[S] = Settings,  # type: ignore[assignment]  # a default for a type variable
        inspect: bool = False,
    ) -> "Recipe[S]":
        """Loads a recipe, and names all its faults in one `ConfigError`.

        Arguments
        ---------
        overrides : Mapping[str, object], optional
            Values that take the place of the file's. A nested mapping changes single entries of a block. ``trust``
            lets a stranger's recipe run what it names; see `check_trusted`.
        run_opts : RunOptions, optional
            SpeechBrain's run options. With ``debug`` the output folder is a temporary one.
        schema : type[Settings]
            The keys, their types and ranges.
        inspect : bool
            Leaves out the objects of a run (`RUN_OBJECTS`): no folder is made and no random number is drawn. Names that
            choose what does not exist are no faults then.
        """
        run_opts, overrides = run_opts or RunOptions(), dict(overrides or {})
        if not Path(file).is_file():
            raise ConfigError(
                f"The recipe {file!r} was asked for.", "There is no such file.", "Write: train.py hparams/train.yaml"
            )
        check_trusted(file, overrides)
        extend = asks_to_extend(overrides)
        overrides = {key: value for key, value in overrides.items() if key not in (TRUST, EXTEND)}
        check_device(run_opts.device or infer_device(), run_opts.precision, run_opts.eval_precision)
        if run_opts.debug and not run_opts.debug_persistently and not inspect:
            # The same folder for all processes of a run.
            overrides["output_folder"] = ddp_broadcast(tempfile.mkdtemp(prefix="brainplug-debug-"))
        try:
            return replace(cls._load(file, overrides, run_opts, schema, inspect), extend=extend)
        except UsageError:
            raise
        except LOADING_ERRORS as error:
            raise ConfigError(
                f"The recipe {file!r} was asked for, with {_shown(overrides)}.",
                f"It cannot be loaded: {' '.join(str(error).split())}.",
                "Write keys and values as hparams/train.yaml does",
            ) from error

    @classmethod
    def _load(
        cls, file: str, overrides: dict[str, object], run_opts: RunOptions, schema: type[S], inspect: bool
    ) -> "Recipe[S]":
        nodes = recipe_nodes(file)
        overrides |= _own_data_set(overrides)
        overrides |= _quoted(overrides, text_keys_of(nodes, overrides, [schema]))
        values = _plain_values(file, nodes, overrides)
        faults = _faults(schema, nodes, overrides, values)
        if faults or not inspect:  # whoever inspects a recipe examines the names one by one
            faults += schema.choice_faults(values)
        _refuse_faults(file, overrides, faults)
        if "experiment" in nodes and "experiment" not in overrides:
            defaults = {key: _plain(node) for key, node in nodes.items()}
            suffix = schema.model_construct(**cast(Any, values)).name_suffix(overrides, defaults)
            # No colon, which not every file system and tool takes in a path.
            name = _with_folder_as_name(str(values["experiment"]), values).replace(":", "-") + suffix
            if name != values["experiment"]:
                overrides["experiment"] = name
        ignored = {key: None for key in RUN_OBJECTS if inspect and key in nodes}
        objects, resolved = _build(file, {**overrides, **ignored})
        _refuse_faults(file, overrides, faults_of(schema, {**objects, **_not_built(ignored)}))
        settings = schema.model_construct(**objects)
        settings, run_opts = settings.finalised(run_opts)
        return cls(file, run_opts, overrides, resolved, settings)

    def overrides_text(self) -> str:
        """The overrides as YAML, as SpeechBrain writes them into ``hyperparams.yaml``."""
        stream = io.StringIO()
        ruamel.yaml.YAML().dump(dict(self.overrides), stream)
        return stream.getvalue() if self.overrides else ""


def text_keys_of(
    nodes: Mapping[str, yaml.Node], given: Mapping[str, object], schemas: Sequence[type[Settings]]
) -> set[str]:
    """The keys of a recipe whose values are text, given what the command line changes."""
    values = {key: _plain(nodes[key]) for key in ("dataset", "datasets") if key in nodes}
    values |= {key: value for key, value in given.items() if key == "dataset"}
    return {*PATHS, *(key for schema in schemas for key in text_keys(schema, values))}


def _quoted(overrides: Mapping[str, object], keys: set[str]) -> dict[str, str]:
    """Text that PyYAML would read as something else, such as no or 012: HyperPyYAML writes it down in quotes."""
    texts = {key: value for key, value in overrides.items() if key in keys and isinstance(value, str)}
    return {key: DoubleQuotedScalarString(text) for key, text in texts.items() if not _is_plain_text(text)}


def _is_plain_text(text: str) -> bool:
    return RecipeLoader("").resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"


def check_device(device: str, *precisions: str) -> None:
    """Refuses a device that torch cannot use, an unknown precision, and half precision (fp16) on the CPU."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device {device!r} was asked for.", f"torch cannot use it: {error}.", "Write --device=cpu"
        ) from error
    if unknown := [precision for precision in precisions if precision not in PRECISIONS]:
        raise ConfigError(
            f"The precision {unknown[0]!r} was asked for.",
            "There is no such precision.",
            f"Write one of {', '.join(PRECISIONS)}",
        )
    if torch.device(device).type == "cpu" and "fp16" in precisions:
        raise ConfigError(
            "The precision fp16 was asked for, on the CPU.", "It needs a GPU.", "Write --precision=bf16, or fp32"
        )


def choose(kind: str, name: str, block: Mapping[str, T]) -> T:
    """Picks the entry of a block that a key names: ``optimizer: adamw`` from ``optimizers``."""
    if name not in block:
        raise ConfigError(
            f"The {kind} {name!r} was asked for.",
            f"The recipe's block {kind}s has no such entry.",
            f"Write --{kind}= one of: {nearest(name, block)}",
        )
    return block[name]


def recipe_nodes(file: str) -> dict[str, yaml.Node]:
    """The YAML nodes at the top of a file, by key."""
    tree = yaml.compose(Path(file).read_text(), Loader=RecipeLoader)
    nodes: dict[str, yaml.Node] = {}
    for key, node in tree.value if tree else []:
        if key.value in nodes:
            raise ValueError(f"the key {key.value} occurs twice")
        nodes[key.value] = node
    return nodes


def _plain(node: yaml.Node) -> object:
    """A node's value, in which `Tagged` takes the place of what HyperPyYAML builds."""
    if node.tag.startswith("!"):
        return Tagged(node.tag, node.value if isinstance(node, yaml.ScalarNode) else "")
    if isinstance(node, yaml.MappingNode) and _has_tag(node):
        return {key.value: _plain(value) for key, value in node.value}
    return Tagged("") if _has_tag(node) else RecipeLoader("").construct_document(node)


def _has_tag(node: yaml.Node) -> bool:
    if node.tag.startswith("!"):
        return True
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    return isinstance(node, yaml.CollectionNode) and any(map(_has_tag, children))


def _plain_values(file: str, nodes: Mapping[str, yaml.Node], overrides: Mapping[str, object]) -> dict[str, object]:
    """The resolved values of a recipe before objects are built."""
    with open(file) as stream:
        left_out = {**_unused_blocks(file, nodes, overrides), **dict.fromkeys(_without_value(nodes, overrides))}
        text = resolve_references(stream, {**overrides, **left_out}).getvalue()
    tree = yaml.compose(text, Loader=RecipeLoader)
    pairs = tree.value if tree else []
    values = {key.value: _plain(node) for key, node in pairs if not key.value.startswith("__")}
    return {**values, **{key: _names_in(file, node) for key, node in _included(nodes, overrides).items()}}


def _included(nodes: Mapping[str, yaml.Node], overrides: Mapping[str, object]) -> dict[str, yaml.Node]:
    return {key: node for key, node in nodes.items() if node.tag.startswith("!include:") and key not in overrides}


def _names_in(file: str, node: yaml.Node) -> dict[str, Tagged]:
    """The names at the top of a file that a recipe includes, which is built later."""
    included = Path(file).parent / node.tag.removeprefix("!include:")
    return dict.fromkeys(recipe_nodes(str(included)), Tagged("")) if included.is_file() else {}


def _without_value(nodes: Mapping[str, yaml.Node], overrides: Mapping[str, object]) -> list[str]:
    return [key for key, node in nodes.items() if node.tag == "!PLACEHOLDER" and key not in overrides]


def _unused_blocks(file: str, nodes: Mapping[str, yaml.Node], overrides: Mapping[str, object]) -> dict[str, None]:
    """What a recipe includes and its text does not refer to: reading that takes most of the time."""
    text = Path(file).read_text() + str(overrides)
    return {key: None for key in _included(nodes, overrides) if f"<{key}" not in text}


def _faults(
    schema: type[Settings],
    nodes: Mapping[str, yaml.Node],
    overrides: Mapping[str, object],
    values: Mapping[str, object],
) -> list[str]:
    """Faults of the command line, then those of the values."""
    unknown = [key for key in overrides if key not in nodes]
    faults = [
        f"It has no key {key}, and SpeechBrain no option --{key}; the nearest are: {nearest(key, nodes)}."
        for key in unknown
    ]
    missing = _without_value(nodes, overrides)
    faults += [f"Its key {key} has no value; write --{key}=..." for key in missing]
    looked_at = {key: value for key, value in values.items() if key not in (*unknown, *missing)}
    return faults + faults_of(schema, {**looked_at, **{key: Tagged("") for key in missing}})


def _not_built(keys: Iterable[str]) -> dict[str, Tagged]:
    return {key: Tagged("") for key in keys if not key.startswith("__")}


def _refuse_faults(file: str, overrides: Mapping[str, object], faults: Sequence[str]) -> None:
    if faults:
        asked = f"The recipe {file!r} was asked for" + (f", with {_shown(overrides)}." if overrides else ".")
        listed = faults[0] if len(faults) == 1 else "\n".join([f"It has {len(faults)} faults:", *faults])
        raise ConfigError(asked, listed, "Correct the recipe or the command line; hparams/train.yaml explains its keys")


def _shown(overrides: Mapping[str, object]) -> str:
    return " ".join(f"--{key}={value}" for key, value in overrides.items()) or "no option"


def _build(file: str, overrides: Mapping[str, object]) -> tuple[dict[str, Any], str]:
    """The loaded recipe, and what HyperPyYAML makes of its text before: resolving references twice takes as long."""
    resolved = ""

    class Loader(RecipeLoader):
        def __init__(self, stream: io.StringIO) -> None:
            nonlocal resolved
            resolved = stream.getvalue()
            super().__init__(stream)

    with open(file) as stream:
        values = load_hyperpyyaml(stream, dict(overrides), overrides_must_match=False, loader=Loader)
    return {key: value for key, value in values.items() if not key.startswith("__")}, resolved


def load_entries(file: str) -> dict[str, Any]:
    """Loads the entries of a file that recipes include, such as ``methods.yaml``."""

    class Loader(RecipeLoader):
        """HyperPyYAML adds to it."""

    with open(file) as stream:
        entries: dict[str, Any] = load_hyperpyyaml(stream, loader=Loader)
    return entries


def _own_data_set(overrides: Mapping[str, object]) -> dict[str, object]:
    """A list of clips is data of one's own, without saying so."""
    manifest, dataset = overrides.get("manifest"), overrides.get("dataset")
    if manifest is None:
        return {}
    if dataset not in (None, "own"):
        clash = f"It lists clips of your own; --dataset={dataset} was given too."
        raise ConfigError(f"The manifest {manifest!r} was asked for.", clash, "Leave one of them out")
    return {"dataset": "own"}


def _with_folder_as_name(experiment: str, values: Mapping[str, object]) -> str:
    """The experiment's name where the backbone is a folder, whose path would lead somewhere else."""
    # The prefix is backbones.loading.RANDOM, which is not imported: with it comes all of transformers.
    backbone = str(values.get("backbone") or "").removeprefix("random:")
    if not backbone or not Path(backbone).is_dir():
        return experiment
    parts = [part for part in Path(backbone).parts if part not in (Path(backbone).anchor, "..")]
    name = re.sub(NOT_IN_A_NAME, "_", "-".join(parts or [Path(backbone).resolve().name]))
    return experiment.replace(backbone, name[-LONGEST_NAME:].lstrip("-"))
