"""The contract of every method: settings that attach themselves to a backbone."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from peft import PeftConfig

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError, nearest


class Method(ABC):
    """A way to adapt a frozen transformer.

    A method is a dataclass of settings. `attach` puts its modules into the model and marks what it trains beside them;
    everything else stays frozen. The head, and the final layer norm where the backbone has one, are the model's.
    """

    trains_backbone: ClassVar[bool] = False  # True: the backbone's dropout and norms are in training mode as well

    @abstractmethod
    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        """Adapts a model in place.

        Arguments
        ---------
        model : torch.nn.Module
            A frozen transformer.
        spec : BackboneSpec
            Where it keeps its parts.
        """


def choose_method(name: str, methods: dict[str, dict], *changes: dict[str, dict] | None) -> tuple[Method, float]:
    """Picks a method from the entries of ``methods.yaml``.

    Arguments
    ---------
    name : str
        Name of an entry.
    methods : dict[str, dict]
        Entries: ``settings``, a class with its settings that is not called yet, and ``lr``.
    *changes : dict[str, dict], optional
        By method, what a backbone and a recipe change in its entry, ``lr`` included; the later one wins.

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
    try:
        made = entry["settings"](**settings)
    except TypeError as error:
        raise UsageError(
            f"The method {name!r} was asked for with {settings}.",
            f"It does not take them: {error}.",
            "Write settings that hparams/methods.yaml shows for it",
        ) from error
    if isinstance(made, PeftConfig):
        from brainplug.methods.peft_method import PeftMethod

        return PeftMethod(made), lr
    return made, lr
