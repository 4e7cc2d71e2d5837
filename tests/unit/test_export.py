"""ONNX files give what the classifier gives, for any batch and length; what cannot be exported is refused."""

import json
import os
import sys
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
from brainplug.inference.export import ClassifierGraph, check_packages, export_onnx
from brainplug.methods.linear import LinearProbe
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from tests.conftest import TINY, TINY_CONVOLUTIONS
from tests.contract.test_methods import SETTINGS
from tests.contract.test_methods import chosen as choose
from tests.made_adapters import describe_classifier, describe_recognizer

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'brainplug[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'brainplug[onnx]'")

LABELS = ["cat", "dog", "fox"]
SAMPLES = [(400,), (160,), (30000, 400, 16000, 399, 22050)]  # of the clips of each batch
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
    randomised(model)
    logits = torch.cat([model(model.backbone.extract(clip)[None], torch.ones(1)) for clip in clips_of((16000, 3000))])
    model.head.weight.mul_(0.1 / (logits[0] - logits[1]).abs().max())  # vectors of random backbones hardly differ
    save_adapter(model, folder, describe_classifier(model, LABELS, method))
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


@pytest.mark.parametrize("backbone", ["nano-ast", "layer_norm", "whisper"])
def test_a_file_that_takes_signals_gives_what_the_run_gives(backbone, folders, tmp_path):
    classifier = make_run(tmp_path, folders.get(backbone, backbone), "conformer")
    exported = export_onnx(classifier, tmp_path / "model.onnx")
    assert ("lengths" in exported.inputs) == (classifier.model.backbone.frames is None)
    check_file(exported.path, classifier, waveform=False)


@pytest.mark.parametrize("method", ["prompt_deep", "prefix", "dense_moa"])
def test_what_a_method_adds_follows_the_batch(method, folders, tmp_path):
    """Prompts and prefixes have one size for all clips when they are trained, and that of the batch in a file."""
    pooling = "PROMPTS+SPEECH" if method == "prompt_deep" else "ALL"
    classifier = make_run(tmp_path, folders["wav2vec2"], method, pooling)
    check_file(export_onnx(classifier, tmp_path / "model.onnx", waveform=True).path, classifier, waveform=True)


@pytest.fixture(scope="module")
def classifier(folders, tmp_path_factory) -> Classifier:
    """A small one, whose errors do not depend on what it computes."""
    return make_run(tmp_path_factory.mktemp("run"), folders["ast"])


@pytest.fixture(scope="module")
def run(classifier, folders, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("saved")
    save_adapter(classifier.model, folder, describe_classifier(classifier.model, LABELS, "lora"))
    return str(folder)


def test_the_command_writes_a_file_that_describes_itself(run, tmp_path, capsys):
    path = tmp_path / "new" / "model.onnx"
    assert main(["export", run, f"--onnx={path}", "--waveform"]) == 0
    assert "inputs: waveform [batch, samples], lengths [batch]" in capsys.readouterr().out
    assert os.listdir(path.parent) == ["model.onnx"]
    assert path.stat().st_mode & 0o777 == Path(run, "adapter_config.json").stat().st_mode & 0o777
    session = open_file(path)
    assert [(item.name, item.shape) for item in session.get_outputs()] == [
        ("logits", ["batch", 3]),
        ("probabilities", ["batch", 3]),
    ]
    texts = session.get_modelmeta().custom_metadata_map
    described = json.loads(Path(run, "adapter_config.json").read_text())["brainplug"]
    assert json.loads(texts["brainplug.labels"]) == LABELS
    assert (texts["brainplug.sample_rate"], texts["brainplug.input"]) == ("16000", "waveform")
    assert texts["brainplug.adapter_sha256"] == described["weights_sha256"]
    assert texts["brainplug.backbone_revision"] == described["backbone_revision"]


def test_a_file_says_how_its_signal_is_made(classifier, tmp_path):
    exported = export_onnx(classifier, tmp_path / "model.onnx")
    assert exported.inputs == {"signal": ["batch", 64, 32]}
    texts = open_file(exported.path).get_modelmeta().custom_metadata_map
    assert json.loads(texts["brainplug.signal"]) == classifier.model.backbone.signal_settings


@pytest.mark.parametrize(
    ("name", "words"), [("model.pt", "It ends with '.pt'"), ("model", "It ends with ''"), ("folder.onnx", "a folder")]
)
def test_a_name_that_cannot_be_is_refused(name, words, run, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=f"{words}.*Write --onnx=FILE.onnx"):
        main(["export", run, f"--onnx={tmp_path / name}"])
    assert os.listdir(tmp_path) == ["folder.onnx"]


def test_a_file_that_differs_is_not_left(classifier, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_text("older")
    monkeypatch.setattr(ClassifierGraph, "forward", lambda graph, signal: (signal.mean(2)[:, :3], signal.sum(2)[:, :3]))
    with pytest.raises(CheckpointError, match="other results than the run: they differ by up to .*was removed"):
        export_onnx(classifier, path)
    assert (os.listdir(tmp_path), path.read_text()) == (["model.onnx"], "older")


def test_a_file_for_one_batch_alone_is_not_left(classifier, tmp_path, monkeypatch):
    forward = classifier.model.forward
    monkeypatch.setattr(classifier.model, "forward", lambda *inputs: forward(*inputs) + torch.zeros(2, 1))
    with pytest.raises(ConfigError, match="lora on .* was asked for. onnxruntime cannot run it: .*brainplug predict"):
        export_onnx(classifier, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_what_the_exporter_refuses_is_told(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier.model, "forward", lambda signal, lengths: torch.linalg.svd(signal)[1][:, :3])
    with pytest.raises(ConfigError, match="lora on .* was asked for. torch's exporter refuses it: .*svd"):
        export_onnx(classifier, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_recognisers_are_refused(folders, tmp_path):
    characters = Characters(" ab")
    model = CTCModel(load_backbone(folders["wav2vec2"]), LinearProbe(), len(characters))
    save_adapter(model, tmp_path, describe_recognizer(model, characters.symbols))
    with pytest.raises(CheckpointError, match="recognises speech.*Name a run of classification"):
        main(["export", str(tmp_path), f"--onnx={tmp_path / 'model.onnx'}"])


def test_classifiers_that_cannot_be_exported_are_refused(folders, classifier, tmp_path):
    with pytest.raises(ConfigError, match="Echo's encoder.*brainplug predict"):
        export_onnx(make_run(tmp_path, folders["echo"]), tmp_path / "model.onnx")
    half = Classifier(classifier.model, classifier.description, "bf16")
    with pytest.raises(ConfigError, match='on cpu in bf16. Load it with device="cpu" and precision="fp32"'):
        export_onnx(half, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_noise_of_a_feature_extractor_is_no_part_of_a_graph(folders):
    backbone = load_backbone(folders["whisper"])
    backbone.extractor.dither = 1e-4
    with pytest.raises(ConfigError, match="dither: 0.0001.*without --waveform"):
        backbone.front_end()
    with pytest.raises(ConfigError, match="no graph that does so"):
        load_backbone(folders["echo"]).front_end()


def test_a_merged_backbone_is_a_model_of_transformers(folders, tmp_path, capsys):
    classifier = make_run(tmp_path / "run", folders["wav2vec2"], "lora")
    command = ["export", str(tmp_path / "run"), f"--merged={tmp_path / 'merged'}"]
    assert main(command) == 0
    assert "AutoModel.from_pretrained" in capsys.readouterr().out
    signal = torch.randn(1, 4000)
    with torch.no_grad():
        merged = AutoModel.from_pretrained(tmp_path / "merged")(signal).last_hidden_state
        adapted, _ = classifier.model.backbone(signal, torch.ones(1))
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="exists"):
        main(command)
    with pytest.raises(ConfigError, match="No file is named"):
        main(["export", str(tmp_path / "run")])


def test_a_method_that_is_not_linear_is_not_merged(folders, tmp_path):
    make_run(tmp_path / "run", folders["ast"], "conformer")
    with pytest.raises(ConfigError, match="conformer|merged"):
        main(["export", str(tmp_path / "run"), f"--merged={tmp_path / 'merged'}"])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_told_with_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"package {package} cannot.*pip install 'brainplug.onnx.'"):
        check_packages()
