"""What a recipe is made of: all that can be refused at once, before anything is written or read."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from brainplug.backbones import Backbone, base_name, load_backbone
from brainplug.config.recipe import choose, choose_optimizer
from brainplug.data.augment import choose_augmentations, suitable
from brainplug.data.pipeline import check_batching
from brainplug.errors import UsageError
from brainplug.methods import Method, choose_method
from brainplug.models.adapted import classifier_without_weights
from brainplug.optim.entry import OptimizerEntry
from brainplug.training.loggers import check_logger

NEEDED = ("dataset", "datasets", "prepare", "backbone", "method", "methods", "optimizer", "frames", "batch_size")


@dataclass(frozen=True)
class Parts:
    """The parts of a run.

    Arguments
    ---------
    list_clips : Callable
        Lists the corpus.
    backbone : Backbone
        What is adapted.
    method : Method
        Adapts it.
    optimizer : OptimizerEntry
        Makes the optimiser.
    lr : float
        Highest learning rate.
    augment : list[Callable]
        Augmentations, in order.
    extract : Callable
        Makes of a waveform ``[samples]`` what a clip is read as.
    signal_settings : dict
        All that it depends on.
    trainable_without_head : int
        Parameters that the method trains.
    """

    list_clips: Callable
    backbone: Backbone
    method: Method
    optimizer: OptimizerEntry
    lr: float
    augment: list[Callable]
    extract: Callable[[torch.Tensor], torch.Tensor]
    signal_settings: dict
    trainable_without_head: int


def check_is_for_train(recipe_file: str, hparams: dict) -> None:
    """Makes sure that a recipe is one of train.py.

    Arguments
    ---------
    recipe_file : str
        Its name, for messages.
    hparams : dict
        The loaded recipe.

    Raises
    ------
    UsageError
        It lacks keys.
    """
    missing = [key for key in NEEDED if key not in hparams]
    if missing:
        raise UsageError(
            f"The recipe {recipe_file!r} was asked for.",
            f"It has no {', '.join(missing)}, so train.py does not run it.",
            "Name hparams/train.yaml, or another recipe of train.py",
        )


def choose_parts(hparams: dict, load: Callable[..., Backbone] = load_backbone) -> Parts:
    """Picks the parts that a recipe names.

    Arguments
    ---------
    hparams : dict
        The loaded recipe.
    load : Callable
        Loads the backbone; called as `load_backbone` is.

    Returns
    -------
    Parts
        All of them.

    Raises
    ------
    UsageError
        There is no such part, it does not take its settings, or one does not fit another.
    """
    list_clips, optimizer = choose("dataset", hparams), choose_optimizer(hparams)
    check_logger(hparams)
    augment = choose_augmentations(hparams["augment"], hparams["augmentations"], hparams["augment_settings"])
    check_batching(hparams["sorting"], hparams["batch_seconds"])
    of_backbone = hparams["backbones"].get(base_name(hparams["backbone"]))
    method, method_lr = choose_method(
        hparams["method"], hparams["methods"], of_backbone, hparams["method_settings"], paper_code=hparams["paper_code"]
    )
    backbone = load(
        hparams["backbone"], hparams["backbone_revision"], frames=hparams["frames"], positions=hparams["positions"]
    )
    model = classifier_without_weights(backbone.model.config, method, n_classes=2, pooling=hparams["pooling"])
    trained = model.count_parameters()["trainable_without_head"]
    extract, settings, signals = backbone.extract, backbone.signal_settings, [backbone.spec.signal]
    if hparams["features_on_device"]:
        backbone.extract_batch(torch.zeros(1, 1), torch.ones(1))  # it can
        extract, settings, signals = torch.nn.Identity(), {"signal": "waveform"}, ["waveform", *signals]
    lr = hparams["lr"] or method_lr * optimizer.lr_scale
    return Parts(list_clips, backbone, method, optimizer, lr, suitable(augment, signals), extract, settings, trained)
