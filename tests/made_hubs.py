"""Adapters that tests make for a hub, with the classifier of each."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch

from brainplug.adapters.file import save_adapter
from brainplug.backbones import Backbone, load_backbone
from brainplug.inference import AdapterHub, Classifier
from brainplug.models.classifier import AudioClassifier
from tests.made_adapters import describe_classifier

WAVS = 0.1 * torch.randn(5, 6400, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([1.0, 0.6, 0.9, 0.3, 0.8])


@cache
def loaded(name: str, frames: int | None = 48) -> Backbone:
    return load_backbone(name, frames=frames)


def shuffle(model: AudioClassifier, classes: int, seed: int) -> None:
    """Changes all that an adapter holds, statistics of batch norms too."""
    generator = torch.Generator().manual_seed(seed)
    model.head = torch.nn.Linear(model.backbone.dim, classes)
    for name, tensor in model.delta().items():
        if tensor.is_floating_point():
            change = 0.1 * torch.randn(tensor.shape, generator=generator)
            tensor.add_(change.abs() if name.endswith("running_var") else change)
    model.head.weight.data.mul_(3)


class Made:
    """Adapters in files, and the classifier of each."""

    def __init__(self, folder: Path, backbone: Backbone):
        self.folder, self.backbone = folder, backbone
        self.classifiers: dict[str, Classifier] = {}

    def add(self, name: str, method: object, classes: int, seed: int = 0, **changes: object) -> Path:
        """Makes the adapter of a method."""
        model = AudioClassifier(copy.deepcopy(self.backbone), method, classes).eval()
        shuffle(model, classes, seed)
        return self.save(name, model, **changes)

    def save(self, name: str, model: AudioClassifier, **changes: object) -> Path:
        """Saves an adapter as a run does."""
        labels = [f"{name}-{number}" for number in range(len(model.head.bias))]
        description = describe_classifier(model, labels).model_copy(update=changes)
        (self.folder / name).mkdir()
        save_adapter(model, self.folder / name, description)
        self.classifiers[name] = Classifier(model, description)
        return self.folder / name

    def hub(self) -> AdapterHub:
        """A hub with all of them."""
        hub = AdapterHub(self.backbone)
        for name in self.classifiers:
            hub.load(name, self.folder / name)
        return hub

    def check(self, hub: AdapterHub, names: list[str | list[str]]) -> None:
        """Compares a batch with one adapter and one clip at a time."""
        results = hub.classify_batch(WAVS[: len(names)], LENGTHS[: len(names)], names)
        wanted = [[own] if isinstance(own, str) else own for own in names]
        assert [list(result) for result in results] == wanted
        for number, result in enumerate(results):
            for name, prediction in result.items():
                clip = WAVS[number : number + 1], LENGTHS[number : number + 1]
                probabilities, score, _, [label] = self.classifiers[name].classify_batch(*clip)
                assert list(prediction.probabilities) == hub.labels(name) == self.classifiers[name].labels
                actual = torch.tensor(list(prediction.probabilities.values()))
                torch.testing.assert_close(actual, probabilities[0], atol=1e-5, rtol=0)
                assert (prediction.label, prediction.probability) == (label, pytest.approx(score.item(), abs=1e-5))
