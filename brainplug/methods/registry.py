"""Methods by name: from the entries of ``methods.yaml``, and from the settings in an adapter file."""

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypedDict

from peft import AdaLoraConfig, PeftConfig

from brainplug.errors import CheckpointError, ConfigError, UsageError, nearest
from brainplug.methods.adalora import AdaLoRA
from brainplug.methods.base import Method
from brainplug.methods.peft_method import PeftMethod

Settings = Mapping[str, Any]  # JSON or YAML values
Variants = Mapping[type[Method], type[Method]]  # class -> the class to use in its place


class MethodEntry(TypedDict):
    """An entry of ``methods.yaml``: a class, with settings or without, and the learning rate that suits it."""

    settings: Callable[..., Method | PeftConfig]
    lr: float


def choose_method(
    name: str,
    methods: Mapping[str, MethodEntry],
    *changes: Mapping[str, Settings | None] | None,
    variants: Variants | None = None,
) -> tuple[Method, float]:
    """Makes the method of an entry of ``methods.yaml``, and returns it with its learning rate.

    Arguments
    ---------
    *changes : Mapping[str, Settings], optional
        By method, what a backbone and a recipe change in its entry, ``lr`` included; the last one wins.
    variants : Variants, optional
        Classes to use in place of others, such as `brainplug.compat.petl_ast.methods.PUBLISHED`.

    Example
    -------
    >>> from brainplug.methods.conformer import ConformerAdapter
    >>> methods = {"conformer": {"settings": partial(ConformerAdapter, reduction_rate=96), "lr": 0.005}}
    >>> method, lr = choose_method("conformer", methods, {"conformer": {"kernel_size": 8}})
    >>> method.reduction_rate, method.kernel_size, lr
    (96, 8, 0.005)
    """
    if name not in methods:
        raise ConfigError(
            f"The method {name!r} was asked for.",
            "No entry of hparams/methods.yaml has this name.",
            f"Write --method= one of: {nearest(name, methods)}",
        )
    settings: dict[str, Any] = {}
    for change in changes:
        settings |= (change or {}).get(name) or {}
    lr = settings.pop("lr", methods[name]["lr"])
    try:
        made = _with_variant(methods[name]["settings"], variants or {})(**settings)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:  # ValueError: peft's own checks
        raise ConfigError(
            f"The method {name!r} was asked for with {settings}.",
            f"It does not take them: {str(error).rstrip('.')}.",
            "Write settings that hparams/methods.yaml shows for it",
        ) from error
    return _from_peft(made) if isinstance(made, PeftConfig) else made, lr


def _with_variant(make: Callable[..., Method | PeftConfig], variants: Variants) -> Callable[..., Method | PeftConfig]:
    """Replaces the class that an entry makes by its variant."""
    if isinstance(make, partial):
        return partial(_with_variant(make.func, variants), *make.args, **make.keywords)
    return variants.get(make, make)  # type: ignore[call-overload]


def _from_peft(config: PeftConfig) -> Method:
    return AdaLoRA(config) if isinstance(config, AdaLoraConfig) else PeftMethod(config)


def method_settings(method: Method) -> dict[str, Any]:
    """A method's class and settings as JSON values, from which `restore_method` makes it again.

    Example
    -------
    >>> from brainplug.methods.prefix import PrefixTuning
    >>> method_settings(PrefixTuning(length=8))
    {'class': 'PrefixTuning', 'length': 8}
    """
    settings = method.config.to_dict() if isinstance(method, PeftMethod) else asdict(method)
    return json.loads(json.dumps({"class": type(method).__name__, **settings}, default=_as_json))


def _as_json(value: object) -> list[Any] | str:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def restore_method(settings: Settings, variants: Variants | None = None) -> Method:
    """Makes a method of its settings in an adapter file, as `method_settings` returned them.

    Older files name the plain class of a variant and have ``paper_code: True``. An unknown class, and settings that it
    does not take, raise a `CheckpointError`.

    Example
    -------
    >>> restore_method({"class": "LoRA", "rank": 4, "reduction_rate": None}).rank
    4
    """
    options, variants = dict(settings), variants or {}
    name, paper_code = options.pop("class", None), options.pop("paper_code", False)
    try:
        if "peft_type" in options:
            return _from_peft(PeftConfig.from_peft_type(**options))
        classes = method_classes() | {variant.__name__: variant for variant in variants.values()}
        method_class = variants[classes[name]] if paper_code else classes[name]
        return method_class(**options)
    except UsageError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"A method with the settings {settings} was asked for.",
            f"It cannot be made: {type(error).__name__}: {error}.",
            "Use the version of brainplug that wrote the adapter file",
        ) from error


def method_classes() -> dict[str, type[Method]]:
    """Name -> class of every method in the folder ``brainplug/methods``."""
    package = importlib.import_module("brainplug.methods")
    names = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    values = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return {value.__name__: value for value in values if isinstance(value, type) and issubclass(value, Method)}
