"""The contract of every method: settings that attach themselves to a backbone."""

import importlib
import inspect
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from peft import AdaLoraConfig, PeftConfig

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError, nearest


@dataclass(frozen=True)
class Method(ABC):
    """A way to adapt a frozen transformer.

    A method is a dataclass of settings. `attach` puts its modules into the model and marks what it trains beside them;
    everything else stays frozen. The head, and the final layer norm where the backbone has one, are the model's.

    Arguments
    ---------
    paper_code : bool
        Computes what the published code computes, instead of the right thing; see docs/reproduction.md.
    """

    paper_code: bool = field(default=False, kw_only=True)

    trains_final_norm: ClassVar[bool] = True  # False: the method itself says what of it is trained
    prompts: ClassVar[int] = 0  # tokens that it puts between the special ones and the clip's own

    @abstractmethod
    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Adapts a model in place.

        Arguments
        ---------
        model : torch.nn.Module
            A frozen transformer.
        spec : BackboneSpec
            Where it keeps its parts.

        Raises
        ------
        UsageError
            The settings do not suit this model.
        """

    def training_modules(self, model: torch.nn.Module, spec: BackboneSpec) -> Iterable[torch.nn.Module]:
        """Modules of the backbone that change to training mode (dropout, layer drop) with the method's own.

        Arguments
        ---------
        model : torch.nn.Module
            The transformer, before the method is attached.
        spec : BackboneSpec
            Where it keeps its parts.

        Returns
        -------
        Iterable[torch.nn.Module]
            None of them, unless the method trains the backbone itself.
        """
        return []

    def special_tokens(self, spec: BackboneSpec) -> int:
        """How many of the backbone's special tokens are left.

        Arguments
        ---------
        spec : BackboneSpec
            Of the backbone.

        Returns
        -------
        int
            All of them, unless the method drops one.
        """
        return spec.special_tokens

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | float:
        """What is added to the loss of a training step.

        Arguments
        ---------
        model : torch.nn.Module
            Adapted by this method.

        Returns
        -------
        torch.Tensor | float
            Nothing, unless the method says so.
        """
        return 0.0

    def may_leave_unused(self, model: torch.nn.Module) -> bool:
        """Whether a step may leave trainable weights without a gradient, which torch has to know of many processes.

        Arguments
        ---------
        model : torch.nn.Module
            Adapted by this method.

        Returns
        -------
        bool
            With the published code, which trains modules whose output it throws away.
        """
        return self.paper_code

    def after_step(self, model: torch.nn.Module, step: int, total_steps: int) -> None:  # noqa: B027  most do nothing
        """Does what the method wants after a step of the optimiser, while the gradients are still there.

        Arguments
        ---------
        model : torch.nn.Module
            Adapted by this method.
        step, total_steps : int
            Steps that are done, and those of the whole run.
        """

    def recoverables(self, model: torch.nn.Module) -> dict[str, object]:
        """What a checkpoint has to keep beside the weights, for a run to go on.

        Arguments
        ---------
        model : torch.nn.Module
            Adapted by this method.

        Returns
        -------
        dict[str, object]
            Name -> object with SpeechBrain's hooks for checkpoints.
        """
        return {}

    def merge(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Computes what was trained into the backbone's own weights, so that nothing is added any more.

        Arguments
        ---------
        model : torch.nn.Module
            Adapted by this method; changed in place.
        spec : BackboneSpec
            Where it keeps its parts.

        Raises
        ------
        UsageError
            The method's modules are no linear change of the backbone's weights.
        """
        raise UsageError(
            f"Merging {type(self).__name__} into the backbone was asked for.",
            "What it adds is not linear, or stands beside the weights: there is nothing to merge it into.",
            "Keep the adapter file beside the backbone; LoRA, BitFit and fine-tuned weights can be merged",
        )


def choose_method(
    name: str, methods: dict[str, dict], *changes: dict[str, dict] | None, paper_code: bool = False
) -> tuple[Method, float]:
    """Picks a method from the entries of ``methods.yaml``.

    Arguments
    ---------
    name : str
        Name of an entry.
    methods : dict[str, dict]
        Entries: ``settings``, a class with its settings that is not called yet, and ``lr``.
    *changes : dict[str, dict], optional
        By method, what a backbone and a recipe change in its entry, ``lr`` included; the later one wins.
    paper_code : bool
        Has it compute what the published code computes.

    Returns
    -------
    tuple[Method, float]
        The method, and the learning rate that suits it.

    Raises
    ------
    UsageError
        No such entry, or no such setting.

    Example
    -------
    >>> from functools import partial
    >>> from brainplug.methods.conformer import ConformerAdapter
    >>> methods = {"conformer": {"settings": partial(ConformerAdapter, reduction_rate=96), "lr": 0.005}}
    >>> method, lr = choose_method("conformer", methods, {"conformer": {"kernel_size": 8}})
    >>> method.reduction_rate, method.kernel_size, lr
    (96, 8, 0.005)
    """
    if name not in methods:
        raise UsageError(
            f"The method {name!r} was asked for.",
            "No entry of hparams/methods.yaml has this name.",
            f"Write --method= one of: {nearest(name, methods)}",
        )
    entry, settings = methods[name], {}
    for change in changes:
        settings |= (change or {}).get(name) or {}
    lr = settings.pop("lr", entry["lr"])
    is_ours = "paper_code" in inspect.signature(entry["settings"]).parameters  # peft's know nothing of it
    try:
        made = entry["settings"](**settings, **({"paper_code": paper_code} if is_ours else {}))
    except TypeError as error:
        raise UsageError(
            f"The method {name!r} was asked for with {settings}.",
            f"It does not take them: {error}.",
            "Write settings that hparams/methods.yaml shows for it",
        ) from error
    return _of_peft(made, paper_code) if isinstance(made, PeftConfig) else made, lr


def _of_peft(config: PeftConfig, paper_code: bool) -> Method:
    from brainplug.methods.adalora import AdaLoRA
    from brainplug.methods.peft_method import PeftMethod

    wrapper = AdaLoRA if isinstance(config, AdaLoraConfig) else PeftMethod
    return wrapper(config, paper_code=paper_code)


def restore_method(settings: dict) -> Method:
    """Makes a method of its settings as an adapter file has them.

    Arguments
    ---------
    settings : dict
        JSON values, as `brainplug.methods.method_settings` returns them: the class, and what it takes.

    Returns
    -------
    Method
        The method.

    Raises
    ------
    UsageError
        There is no such class, or it does not take its settings.

    Example
    -------
    >>> restore_method({"class": "LoRA", "rank": 4, "reduction_rate": None}).rank
    4
    """
    taken = {name: value for name, value in settings.items() if name != "class"}
    try:
        if "peft_type" in taken:
            return _of_peft(PeftConfig.from_peft_type(**taken), paper_code=False)
        return _method_classes()[settings["class"]](**taken)
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"A method with the settings {settings} was asked for.",
            f"It cannot be made: {error}.",
            "Use the version of brainplug that wrote the adapter file",
        ) from error


def _method_classes() -> dict[str, type[Method]]:
    """All classes of this room that are methods, by name."""
    folder = importlib.import_module("brainplug.methods")
    modules = [
        importlib.import_module(f"{folder.__name__}.{each.name}") for each in pkgutil.iter_modules(folder.__path__)
    ]
    found = [value for module in modules for value in vars(module).values() if inspect.isclass(value)]
    return {each.__name__: each for each in found if issubclass(each, Method)}


def method_settings(method: Method) -> dict:
    """A method's class and settings as JSON values, from which `restore_method` makes it again."""
    from brainplug.methods.peft_method import PeftMethod

    settings = method.config.to_dict() if isinstance(method, PeftMethod) else asdict(method)
    return json.loads(json.dumps({"class": type(method).__name__, **settings}, default=_as_json))


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
