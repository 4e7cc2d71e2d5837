"""What the keys of a recipe may be: a pydantic model for each kind of recipe, and all faults in one message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict
from speechbrain.utils.run_opts import RunOptions

from brainplug.errors import nearest

S = TypeVar("S", bound="Settings")
TYPE_NAMES = ("int", "float", "str", "bool", "none", "constrained-int", "constrained-float")  # in pydantic's places


@dataclass(frozen=True)
class Tagged:
    """The value of a key that HyperPyYAML builds, such as ``!name:torch.optim.AdamW``; a scalar has a text."""

    tag: str
    text: str = ""


def is_built(value: object) -> bool:
    """Whether HyperPyYAML builds a value or a part of it."""
    return isinstance(value, Tagged) or (isinstance(value, dict) and any(map(is_built, value.values())))


class Settings(BaseModel):
    """The keys of a recipe. A subclass declares them; their values are checked before and after objects are built."""

    model_config = ConfigDict(
        extra="allow", frozen=True, strict=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    @classmethod
    def data_set_keys(cls, values: Mapping[str, object]) -> Mapping[str, Any]:
        """Keys that the chosen data set adds: name -> type.

        Arguments
        ---------
        values : Mapping[str, object]
            The recipe's values before objects are built; those to be built are `Tagged`.
        """
        return {}

    @classmethod
    def choice_faults(cls, values: Mapping[str, object]) -> list[str]:
        """What is wrong with names that choose an entry of a block, one sentence for each; `values` as above."""
        return []

    def name_suffix(self, given: Mapping[str, object], defaults: Mapping[str, object]) -> str:
        """What the name of the output folder gets, so that different runs have different folders.

        Arguments
        ---------
        given, defaults : Mapping[str, object]
            Values that the command line changes, and those of the file.
        """
        return ""

    def finalised(self, run_opts: RunOptions) -> tuple[Self, RunOptions]:
        """The settings and SpeechBrain's options, with what follows from their combination.

        Checkpoints by steps replace those by minutes: SpeechBrain takes one of the two.
        """
        changes = {"ckpt_interval_minutes": 0} if run_opts.ckpt_interval_steps > 0 else {}
        return self.model_copy(update=changes), run_opts


def text_keys(schema: type[Settings], values: Mapping[str, object]) -> set[str]:
    """The keys whose values are text and nothing else, given the recipe's values as in `Settings.data_set_keys`."""
    kinds: dict[str, Any] = {key: field.annotation for key, field in schema.model_fields.items()}
    return {
        key for key, kind in {**kinds, **schema.data_set_keys(values)}.items() if _parts_of(kind) - {NoneType} == {str}
    }


def _parts_of(kind: Any) -> set[Any]:
    """The types of a union; those of a Literal's values."""
    if get_origin(kind) is Literal:
        return set(map(type, get_args(kind)))
    if get_origin(kind) is Annotated:
        return _parts_of(get_args(kind)[0])
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return {inner for part in parts for inner in _parts_of(part)} or {kind}


def faults_of(schema: type[Settings], values: Mapping[str, object]) -> list[str]:
    """Names everything that is wrong with a recipe's values, one sentence for each fault.

    Values that HyperPyYAML builds may be `Tagged`, and are not checked then.
    """
    if schema is Settings:  # a recipe without a schema
        return []
    data_set_keys = schema.data_set_keys(values)
    known = [*schema.model_fields, *data_set_keys]
    faults = [f"It has no key {key}; the nearest are: {nearest(key, known)}." for key in values if key not in known]
    plain = {key: value for key, value in values.items() if not is_built(value)}
    faults += _type_faults(schema, plain, skip=values.keys() - plain.keys())
    fields: dict[str, Any] = {key: (kind, ...) for key, kind in data_set_keys.items() if key in plain}
    chosen = pydantic.create_model("DataSetKeys", __base__=Settings, **fields)
    return faults + _type_faults(chosen, {key: plain[key] for key in fields})


def _type_faults(
    schema: type[BaseModel], values: Mapping[str, object], skip: Sequence[str] | set[str] = ()
) -> list[str]:
    try:
        schema.model_validate(values)
    except pydantic.ValidationError as error:
        errors = [fault for fault in error.errors() if not fault["loc"] or fault["loc"][0] not in skip]
        missing = [str(fault["loc"][0]) for fault in errors if fault["type"] == "missing"]
        lacking = [f"It lacks the keys of its task: {', '.join(missing)}."] if missing else []
        others = [fault for fault in errors if fault["type"] != "missing"]
        # One sentence for a value that fits none of several types.
        return [
            *lacking,
            *map(_sentence, {(fault["loc"][:1], repr(fault["input"])): fault for fault in others}.values()),
        ]
    return []


def _sentence(fault: Any) -> str:  # pydantic_core.ErrorDetails
    if not fault["loc"]:  # of several keys together
        return f"{fault['msg'].removeprefix('Value error, ')}."
    key, *inner = fault["loc"]
    within = "".join(f"[{part}]" for part in inner if not str(part).endswith("]") and str(part) not in TYPE_NAMES)
    return f"{key}{within} is {fault['input']!r}. {fault['msg'].replace('Input', 'It')}."
