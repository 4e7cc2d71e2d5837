"""What an adapter file says of itself: all that is needed to build the model again, but for the trained weights."""

import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, PositiveInt, ValidationError

from brainplug.data.audio import Channel
from brainplug.errors import CheckpointError, nearest

FORMAT = 3
HIGHEST_NUMBER = 65_536  # in settings: more would only take memory
PLAIN = re.compile(r"[\w.,:/<> -]{0,1000}")  # words in settings; peft takes others for patterns, which can take hours
PACKAGES = ("brainplug", "torch", "transformers", "peft")  # on which the output of an adapted model depends
COPY_AGAIN = "Copy the file again from the run that wrote it"


def _moderate(value: JsonValue) -> JsonValue:
    """Refuses settings with which making a model would take hours or all memory, at any depth."""
    if isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _moderate(inner)
    elif isinstance(value, str) and not PLAIN.fullmatch(value):
        raise ValueError(f"{value[:40]!r} is no plain word")
    elif isinstance(value, int | float) and not abs(value) <= HIGHEST_NUMBER:
        raise ValueError(f"{value} is not a number up to {HIGHEST_NUMBER:,}")
    return value


Moderate = Annotated[dict[str, JsonValue], AfterValidator(_moderate)]


class AdapterDescription(BaseModel):
    """The part of the description that all tasks share; each task adds its own in a subclass.

    Arguments
    ---------
    format : int
        The version of the file's format.
    task : str
        The task of the run, a key of `DESCRIPTIONS`.
    backbone, backbone_revision : str
        The backbone's name as in the recipe, and its exact weights (`Backbone.revision`).
    signal : dict
        How the backbone reads a clip (`Backbone.signal_settings`).
    channel, longest_clip : Channel, float
        Which channel of a file is read, and the most seconds of it; None: any length.
    method : str
        The entry of ``methods.yaml``.
    method_settings : dict
        The method's class and settings, as `restore_method` takes them.
    paper_code : bool
        Whether the model computes what the published code does.
    positions : str, optional
        How position embeddings were fitted to the length of the clips.
    versions : dict[str, str]
        Those of `PACKAGES` that wrote the file; empty in files of format 1.
    backbone_sha256 : str, optional
        Of the backbone's weights (`Backbone.fingerprint`); None in older files, and where all of them are trained.
    dataset, licence : str, optional
        What the adapter was trained on, and under which licence it may be used.
    training : dict
        How it was trained and what it reached, as in results.json.
    probe_sha256, weights_sha256 : str, optional
        Of ``probe.safetensors``, and of ``adapter_model.safetensors``, whose own header cannot have it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[3] = 3
    task: str
    backbone: str
    backbone_revision: str
    backbone_sha256: str | None = None
    signal: Moderate
    channel: Channel = "mix"
    longest_clip: float | None = None
    method: str
    method_settings: Moderate
    paper_code: bool
    positions: str | None = None
    dataset: str | None = None
    licence: str | None = None
    training: dict[str, JsonValue] = {}
    versions: dict[str, str]
    probe_sha256: str | None = None
    weights_sha256: str | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON values of the file; what is not known is left out."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"format": self.format, "task": self.task}

    @property
    def without_checksum(self) -> "AdapterDescription":
        """The description as the header of ``adapter_model.safetensors`` has it."""
        return self.model_copy(update={"weights_sha256": None})


def _distinct(labels: list[str]) -> list[str]:
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"{', '.join(map(repr, repeated))} occurs more than once")
    return labels


class ClassifierDescription(AdapterDescription):
    """Describes the adapter of a classifier: its labels, in the order of the head's outputs, and its pooling.

    `head_norm` is the epsilon of a layer norm in the head, which transformers' AST has.
    """

    task: Literal["classification"] = "classification"
    pooling: str
    head_norm: float | None = None
    labels: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


class RecognizerDescription(AdapterDescription):
    """Describes the adapter of a speech recogniser: its characters, and how texts are decoded."""

    task: Literal["ctc", "seq2seq"]
    characters: Annotated[str, Field(min_length=1)]
    decoding: str
    beam_size: PositiveInt
    echo: Moderate | None = None  # the configuration of an Echo that was trained from nothing


# A new task adds its row here, or from its own file.
DESCRIPTIONS: dict[str, type[AdapterDescription]] = {
    "classification": ClassifierDescription,
    "ctc": RecognizerDescription,
    "seq2seq": RecognizerDescription,
}


def parse_json(text: str, source: str) -> dict[str, JsonValue]:
    """Reads a JSON object; any other text raises a `CheckpointError`. `source` is the file's path, for errors."""
    asked = f"The adapter's description {source} was asked for."
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(asked, f"It is cut short or is no JSON: {error}.", COPY_AGAIN) from error
    if not isinstance(values, dict):
        raise CheckpointError(asked, f"It holds a {type(values).__name__}, no JSON object.", COPY_AGAIN)
    return values


def parse_description(values: JsonValue, source: str) -> AdapterDescription:
    """Checks the JSON values of a description, of this format or an older one; `source` is the path, for errors.

    Values that are no description, a newer format and an unknown task raise a `CheckpointError` that names all faults.
    """
    asked = f"The adapter's description {source} was asked for."
    if not isinstance(values, dict):
        raise CheckpointError(asked, f"It holds a {type(values).__name__}, no JSON object.", COPY_AGAIN)
    if "format" not in values:
        values = from_format_1(values)
    if values["format"] == 2:
        values = {**values, "format": FORMAT}  # which had fewer keys
    if type(values["format"]) is int and values["format"] > FORMAT:
        problem = f"It has format {values['format']}; this brainplug reads formats up to {FORMAT}."
        raise CheckpointError(asked, problem, "Update brainplug: pip install --upgrade brainplug")
    task = values.get("task")
    if not isinstance(task, str) or task not in DESCRIPTIONS:
        problem = f"Its task is {task!r}; the known tasks are {', '.join(DESCRIPTIONS)}."
        raise CheckpointError(asked, problem, "Update brainplug, or import the module that adds the task")
    kind = DESCRIPTIONS[task]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise CheckpointError(asked, f"It has faults: {_list_faults(error, kind)}.", COPY_AGAIN) from error


def _list_faults(error: ValidationError, kind: type[AdapterDescription]) -> str:
    faults = []
    for fault in error.errors(include_url=False):
        key, message = ".".join(map(str, fault["loc"])), fault["msg"]
        if fault["type"] == "extra_forbidden":
            message = f"unknown key, the nearest is {nearest(key, kind.model_fields)}"
        faults.append(f"{key}: {message}")
    return "; ".join(faults)


def from_format_1(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Converts a description of the first format, which named neither a format nor a task.

    Faults stay in: they are reported with the faults of the current format.
    """
    values = dict(values)
    is_echo = values.pop("recogniser", None) == "echo"
    values["task"] = "seq2seq" if is_echo else "ctc" if "characters" in values else "classification"
    labels = values.get("labels")
    if isinstance(labels, dict):
        indices = {index: label for label, index in labels.items() if isinstance(index, int)}
        if indices.keys() == set(range(len(labels))):
            values["labels"] = [indices[index] for index in range(len(labels))]
    return {**values, "format": 2, "versions": {}}


# Patterns of tensors' names in older files, and the names of today. Whisper's feed-forward block was at `fc1`.
RENAMED = (
    (r"\.up_bias$", ".expert_bias"),
    (r"(\.layers\.\d+)\.fc1\.linear_in\.", r"\1.fc1."),
    (r"(\.layers\.\d+)\.fc1\.linear_out\.", r"\1.fc2."),
    (r"(\.layers\.\d+)\.fc1\.adapter\.", r"\1.feed_forward.adapter."),
)


def current_name(tensor: str) -> str:
    """The name that a tensor of an older file has today."""
    for pattern, name in RENAMED:
        tensor = re.sub(pattern, name, tensor)
    return tensor
