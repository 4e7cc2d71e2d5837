"""What a run keeps for pictures: its answers to the test clips, pooled vectors, and how mixtures use their experts."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice

import safetensors.torch
import torch
from speechbrain import Stage
from speechbrain.dataio.dataset import DynamicItemDataset, FilteredSortedDynamicItemDataset

from brainplug.data.manifest import Clip
from brainplug.files import OBSERVATIONS, PREDICTIONS, atomic_file
from brainplug.methods.mixture import Mixture
from brainplug.training.classification import ClassificationBrain

MOST_CLIPS = 500  # that are looked at, evenly over the test clips: a picture shows no more


@torch.no_grad()
def observe(brain: ClassificationBrain, dataset: DynamicItemDataset, loader_kwargs: dict) -> dict[str, torch.Tensor]:
    """Looks inside the model while it classifies, at most `MOST_CLIPS` clips of those that there are.

    Arguments
    ---------
    brain : ClassificationBrain
        Its model is observed, as it is at this moment.
    dataset : DynamicItemDataset
        Clips.
    loader_kwargs : dict
        As in `ClassificationBrain.evaluate`.

    Returns
    -------
    dict[str, torch.Tensor]
        ``targets`` ``[clips]``; ``vectors``, what the head reads, ``[clips, dim]``; and where there are mixtures of
        adapters, what `Mixture.shares` names, ``[clips, mixtures, experts]``.
    """
    every = -(-len(dataset) // MOST_CLIPS)
    subset = FilteredSortedDynamicItemDataset(dataset, dataset.data_ids[::every])
    loader = brain.make_dataloader(subset, Stage.TEST, **loader_kwargs)
    mixtures = [module for module in brain.model.modules() if isinstance(module, Mixture)]
    seen, shares = defaultdict(list), defaultdict(list)

    def see_mixture(mixture: Mixture, inputs: tuple, output: torch.Tensor) -> None:
        for name, share in mixture.shares(*inputs).items():
            shares[name].append(share.float())  # [batch, experts]

    def see_vectors(head: torch.nn.Module, inputs: tuple) -> None:
        seen["vectors"].append(inputs[0].float())

    hooks = [brain.model.head.register_forward_pre_hook(see_vectors)]
    hooks += [mixture.register_forward_hook(see_mixture) for mixture in mixtures]
    brain.modules.eval()
    try:
        for batch in islice(loader, brain.debug_batches if brain.debug else None):
            with brain.evaluation_ctx:
                brain.compute_forward(batch, Stage.TEST)
            seen["targets"].append(brain.targets)
            for name, of_mixtures in shares.items():
                seen[name].append(torch.stack(of_mixtures, dim=1))  # [batch, mixtures, experts]
            shares.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(batches).cpu() for name, batches in seen.items()}


def write_observations(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], labels: Iterable[str], folder: str
) -> None:
    """Writes what was seen before training and after it.

    Arguments
    ---------
    before, after : dict[str, torch.Tensor]
        As `observe` returns them, of the same clips.
    labels : Iterable[str]
        In the order of their indices.
    folder : str
        The run's output folder.
    """
    tensors = {**after, "vectors_before": before["vectors"]}
    tensors = {name: tensor if name == "targets" else tensor.half() for name, tensor in tensors.items()}
    with atomic_file(f"{folder}/{OBSERVATIONS}", "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"labels": json.dumps(list(labels))}))


def write_predictions(brain: ClassificationBrain, clips: Iterable[Clip], labels: dict[str, int], folder: str) -> None:
    """Writes ``predictions.csv``: the predicted class of each clip of the last test, and its probability.

    Arguments
    ---------
    brain : ClassificationBrain
        After the test.
    clips : Iterable[Clip]
        All clips of the run.
    labels : dict[str, int]
        Label -> index.
    folder : str
        The run's output folder.
    """
    names = {index: label for label, index in labels.items()}
    predictions = {clip_id: (names[index], f"{probability:.7f}") for clip_id, index, probability in brain.predictions()}
    with atomic_file(f"{folder}/{PREDICTIONS}", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "path", "label", "predicted", "probability"))
        for clip in clips:
            if clip.id in predictions:
                writer.writerow((clip.id, clip.path, clip.label, *predictions[clip.id]))
