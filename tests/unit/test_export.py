"""ONNX files give what the classifier gives, for any batch and length; what cannot be exported is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor

from brainplug.adapters.file import save_adapter
from brainplug.backbones import load_backbone
from brainplug.cli import main
from brainplug.data.characters import Characters
from brainplug.errors import CheckpointError, ConfigError
from brainplug.inference import Classifier
from brainplug.inference.export import Exported, check_packages, export_onnx
from brainplug.methods.linear import LinearProbe
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from tests.conftest import TINY, TINY_CONVOLUTIONS
from tests.contract.test_methods import METHODS, SETTINGS
from tests.contract.test_methods import chosen as choose
from tests.made_adapters import describe_classifier, describe_recognizer

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'brainplug[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'brainplug[onnx]'")

LABELS = ["cat", "dog", "fox"]
SAMPLES = [(400,), (160,), (40000, 400, 16000, 399, 22050)]  # of the clips of each batch
BACKBONES = ("nano-ast", "nano-hubert", "wav2vec2", "layer_norm", "whisper")


@pytest.fixture(scope="module")
def folders(tiny_backbones, tmp_path_factory) -> dict[str, str]:
    """Small backbones, with a wav2vec 2.0 whose convolutions have layer norms, and norms come before sub-layers."""
    folder = str(tmp_path_factory.mktemp("layer_norm"))
    settings = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_conv_pos_embeddings": 16}
    torch.manual_seed(0)
    model = AutoModel.from_config(Wav2Vec2Config(**TINY, **TINY_CONVOLUTIONS, **settings))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return {**tiny_backbones, "layer_norm": folder}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Trained weights and statistics that differ from those at the start."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.delta().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator) * 0.1
            tensor.copy_(0.5 + values.abs() if name.endswith("running_var") else tensor + values)
    return model.eval()


@torch.no_grad()
def make_run(folder: Path, backbone: str, method: str = "lora", pooling: str = "ALL") -> Classifier:
    """Saves the adapter of a classifier as a run does, and loads it."""
    settings = {} if backbone.startswith("nano") else SETTINGS.get(method, {})
    frames = 48 if backbone == "nano-ast" else None
    torch.manual_seed(0)
    model = AudioClassifier(load_backbone(backbone, frames=frames), choose(method, **settings), len(LABELS), pooling)
    if "nano" not in backbone:  # the vectors of small random backbones hardly differ
        model.head.weight.mul_(300)
    save_adapter(randomised(model), folder, describe_classifier(model, LABELS, method))
    return Classifier.from_run(folder)


def clips_of(counts: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(counts))
    return [torch.randn(count, generator=generator) * torch.linspace(0.3, 0.01, count) for count in counts]


def open_file(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def check_file(path: Path, classifier: Classifier, waveform: bool) -> None:
    """Compares the file's logits with those of the classifier, for every batch of `SAMPLES`."""
    session, spread = open_file(path), []
    for counts in SAMPLES:
        clips = clips_of(counts)
        signals = clips if waveform else [classifier.model.backbone.extract(clip) for clip in clips]
        lengths = torch.tensor([len(signal) for signal in signals])
        inputs = {"waveform" if waveform else "signal": pad_sequence(signals, batch_first=True, padding_value=0.7)}
        if waveform or classifier.model.backbone.frames is None:
            inputs["lengths"] = lengths
        outputs = session.run(["logits", "probabilities"], {name: value.numpy() for name, value in inputs.items()})
        logits, probabilities = map(torch.from_numpy, outputs)
        wavs = pad_sequence(clips, batch_first=True)
        signals_and_lengths = classifier.signals_of(wavs, torch.tensor(counts) / wavs.shape[1])
        expected = classifier.model(*signals_and_lengths)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(probabilities, expected.softmax(1), atol=1e-4, rtol=0)
        spread.append(expected.max(0).values - expected.min(0).values)
    assert torch.cat(spread).max() > 0.01  # far more than the tolerance


@pytest.mark.parametrize("method", ["lora", "conformer", "soft_moa"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_file_that_takes_waveforms_gives_what_the_run_gives(backbone, method, folders, tmp_path):
    classifier = make_run(tmp_path, folders.get(backbone, backbone), method)
    exported = export_onnx(classifier, tmp_path / "model.onnx", waveform=True)
    assert exported.inputs == {"waveform": ["batch", "samples"], "lengths": ["batch"]}
    assert exported.logits < 1e-4
    check_file(exported.path, classifier, waveform=True)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_file_that_takes_signals_gives_what_the_run_gives(backbone, folders, tmp_path):
    classifier = make_run(tmp_path, folders.get(backbone, backbone), "conformer")
    exported = export_onnx(classifier, tmp_path / "model.onnx")
    assert ("lengths" in exported.inputs) == (classifier.model.backbone.frames is None)
    check_file(exported.path, classifier, waveform=False)
