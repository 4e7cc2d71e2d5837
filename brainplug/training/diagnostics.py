"""What a run saves for pictures: predictions for the test clips, pooled vectors, and how mixtures use experts."""

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

MOST_CLIPS = 500  # taken evenly from the test clips: a picture shows no more


@torch.no_grad()
def observe(
    brain: ClassificationBrain, dataset: DynamicItemDataset, loader_kwargs: dict[str, int]
) -> dict[str, torch.Tensor]:
    """Records what the model computes for at most `MOST_CLIPS` clips.

    ``targets`` are ``[clips]``; ``vectors``, the input of the head, ``[clips, dim]``; and with mixtures of adapters,
    what `Mixture.shares` names, ``[clips, mixtures, experts]``.
    """
    every = -(-len(dataset) // MOST_CLIPS)
    subset = FilteredSortedDynamicItemDataset(dataset, dataset.data_ids[::every])
    loader = brain.make_dataloader(subset, Stage.TEST, **loader_kwargs)
    mixtures = [module for module in brain.model.modules() if isinstance(module, Mixture)]
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)
    shares: dict[str, list[torch.Tensor]] = defaultdict(list)

    def see_mixture(mixture: Mixture, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        for name, share in mixture.shares(*inputs).items():
            shares[name].append(share.float())  # [batch, experts]

    def see_vectors(head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
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
    """Writes what `observe` returned before training and after it, for the same clips; labels are in index order."""
    tensors = {**after, "vectors_before": before["vectors"]}
    tensors = {name: tensor if name == "targets" else tensor.half() for name, tensor in tensors.items()}
    with atomic_file(f"{folder}/{OBSERVATIONS}", "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"labels": json.dumps(list(labels))}))


def write_predictions(brain: ClassificationBrain, clips: Iterable[Clip], labels: dict[str, int], folder: str) -> None:
    """Writes ``predictions.csv``: the predicted class of each clip of the last test, and its probability."""
    names = {index: label for label, index in labels.items()}
    predictions = {clip_id: (names[index], f"{probability:.7f}") for clip_id, index, probability in brain.predictions()}
    with atomic_file(f"{folder}/{PREDICTIONS}", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "path", "label", "predicted", "probability"))
        for clip in clips:
            if clip.id in predictions:
                writer.writerow((clip.id, clip.path, clip.label, *predictions[clip.id]))
