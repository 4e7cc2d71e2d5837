"""Adapters that tests make for a hub, with what a classifier computes with each of them alone."""

import copy
import os
from functools import cache
from pathlib import Path

import pytest
import torch

from brainplug.adapters.file import save_adapter
from brainplug.backbones import Backbone, load_backbone
from brainplug.inference import AdapterHub, Classifier
from brainplug.models.classifier import AudioClassifier
from tests.made_adapters import describe_classifier

WAVS = 0.1 * torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([1.0, 0.6, 0.9])


@cache
def loaded(name: str, frames: int | None = 48) -> Backbone:
    return load_backbone(name, frames=frames)


@cache
def fingerprint(backbone: Backbone) -> str:
    return backbone.fingerprint()


def shuffle(model: AudioClassifier, classes: int, seed: int) -> None:
    """Changes all that an adapter holds, statistics of batch norms too."""
    generator = torch.Generator().manual_seed(seed)
    model.head = torch.nn.Linear(model.backbone.dim, classes)
    for name, tensor in model.delta().items():
        if tensor.is_floating_point():
            change = 0.5 * torch.randn(tensor.shape, generator=generator)
            tensor.add_(change.abs() if name.endswith("running_var") else change)
    model.head.weight.data.mul_(3)


class Made:
    """Adapters in files, and of each: its labels, the probabilities of each clip alone, the first clip's vector."""

    def __init__(self, folder: Path, backbone: Backbone):
        self.folder, self.backbone = folder, backbone
        self.labels: dict[str, list[str]] = {}
        self.expected: dict[str, list[torch.Tensor]] = {}
        self.vectors: dict[str, torch.Tensor] = {}

    def add(self, name: str, method: object, classes: int = 3, seed: int = 0, **changes: object) -> Path:
        """Makes the adapter of a method."""
        model = AudioClassifier(copy.deepcopy(self.backbone), method, classes).eval()
        shuffle(model, classes, seed)
        return self.save(name, model, **changes)

    def save(self, name: str, model: AudioClassifier, **changes: object) -> Path:
        """Saves an adapter as a run does; `changes` are made in its description."""
        linear = model.head[1] if isinstance(model.head, torch.nn.Sequential) else model.head
        self.labels[name] = [f"{name}-{number}" for number in range(len(linear.bias))]
        hashed = {"backbone_sha256": fingerprint(self.backbone)}
        description = describe_classifier(model, self.labels[name]).model_copy(update=hashed | changes)
        with pytest.MonkeyPatch.context() as patch:  # nobody has to read these files after a power cut
            patch.setattr(os, "fsync", lambda descriptor: None)
            save_adapter(model, self.folder / name, description)
        classifier = Classifier(model, description)
        clips = zip(WAVS.split(1), LENGTHS.split(1), strict=True)
        self.expected[name] = [classifier.classify_batch(*clip)[0][0] for clip in clips]
        self.vectors[name] = classifier.embed_batch(WAVS[0])
        return self.folder / name

    def hub(self, **settings: object) -> AdapterHub:
        """A hub with all of them."""
        hub = AdapterHub(self.backbone, **settings)
        for name in self.labels:
            hub.load(name, self.folder / name)
        return hub

    def check(self, hub: AdapterHub, names: list[str | list[str]]) -> None:
        """Compares a batch with one adapter and one clip at a time."""
        results = hub.classify_batch(WAVS[: len(names)], LENGTHS[: len(names)], names)
        assert [list(result) for result in results] == [[own] if isinstance(own, str) else own for own in names]
        for number, result in enumerate(results):
            for name, prediction in result.items():
                expected = self.expected[name][number]
                assert list(prediction.probabilities) == hub.labels(name) == self.labels[name]
                actual = torch.tensor(list(prediction.probabilities.values()))
                torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
                assert prediction.label == self.labels[name][expected.argmax()]
                assert prediction.probability == pytest.approx(expected.max().item(), abs=1e-5)
