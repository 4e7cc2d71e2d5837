"""Adapters that peft trained on classifiers of transformers compute the same here."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import (
    ASTForAudioClassification,
    AutoModelForAudioClassification,
    HubertForSequenceClassification,
    Wav2Vec2ForSequenceClassification,
    WhisperForAudioClassification,
)

from brainplug.adapters.file import read_adapter
from brainplug.adapters.peft_import import import_peft
from brainplug.cli.import_peft import add_arguments, run
from brainplug.errors import CheckpointError, DataError
from brainplug.inference import Classifier
from tests.conftest import TINY_BACKBONES

KINDS = {
    "ast": ASTForAudioClassification,
    "wav2vec2": Wav2Vec2ForSequenceClassification,
    "hubert": HubertForSequenceClassification,
    "whisper": WhisperForAudioClassification,
}
HEADS = {"ast": ["classifier"]}
ATTENTION = ["q_proj", "v_proj"]
CONFIGS = {
    "lora": {"r": 3, "lora_alpha": 7, "target_modules": ATTENTION},
    "rslora": {
        "r": 2, "use_rslora": True, "target_modules": r".*layers\.\d\..*q_proj",
        "rank_pattern": {"1.attention.q_proj": 5},
    },
    "dora": {"r": 3, "use_dora": True, "target_modules": ATTENTION},
}  # fmt: skip


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random classifiers of transformers: family -> folder."""
    folders = {}
    for family, kind in KINDS.items():
        config, extractor = TINY_BACKBONES[family]
        config = type(config)(**{**config.to_dict(), "num_labels": 3, "classifier_proj_size": 12})
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        folders[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(folders[family])
        extractor.save_pretrained(folders[family])
    return folders


def train_with_peft(folder: Path, out: Path, config: Any) -> PeftModel:
    """An adapter of peft whose weights are all random, saved in a folder."""
    model = get_peft_model(AutoModelForAudioClassification.from_pretrained(folder), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)
    return model


def signal_of(family: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((2, 64, 32) if family in ("ast", "whisper") else (2, 4000), generator=generator)


def assert_same(imported: Any, original: Any, family: str) -> None:
    signal = signal_of(family)
    given = signal.transpose(1, 2) if family == "whisper" else signal
    with torch.no_grad():
        torch.testing.assert_close(imported(signal, torch.ones(2)), original(given).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", KINDS)
def test_peft_s_own_adapters_compute_the_same(family, name, classifiers, tmp_path):
    settings = dict(CONFIGS[name])
    if family == "whisper" and "rank_pattern" in settings:
        settings["rank_pattern"] = {"1.self_attn.q_proj": 5}
    config = LoraConfig(**settings, modules_to_save=["projector", "classifier"] if family != "ast" else ["classifier"])
    original = train_with_peft(classifiers[family], tmp_path / "peft", config)
    model, description = import_peft(tmp_path / "peft")
    assert_same(model, original, family)
    assert description.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_ia3_and_the_head_of_the_model(classifiers, tmp_path):
    settings = {"target_modules": ["k_proj", "output_dense"], "feedforward_modules": ["output_dense"]}
    original = train_with_peft(classifiers["hubert"], tmp_path / "peft", IA3Config(**settings))
    assert_same(import_peft(tmp_path / "peft")[0], original, "hubert")


OLD = {"layers.": "encoder.layer.", "q_proj": "attention.query", "v_proj": "attention.value"}


def test_names_of_older_versions(classifiers, tmp_path):
    config = LoraConfig(**CONFIGS["lora"], modules_to_save=["classifier"])
    original = train_with_peft(classifiers["ast"], tmp_path / "peft", config)
    path = tmp_path / "peft" / "adapter_model.safetensors"
    renamed = {}
    for name, tensor in safetensors.torch.load_file(path).items():
        for new, old in OLD.items():
            name = name.replace(new, old)
        renamed[name] = tensor
    assert any("encoder.layer.0.attention.attention.query.lora_A.weight" in name for name in renamed)
    safetensors.torch.save_file(renamed, path)
    values = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    values["target_modules"] = ["query", "value"]
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(values))
    assert_same(import_peft(tmp_path / "peft")[0], original, "ast")


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(words)))


def test_the_command_writes_an_adapter_that_loads_everywhere(classifiers, tmp_path, capsys):
    config = LoraConfig(**CONFIGS["lora"], modules_to_save=["classifier"])
    original = train_with_peft(classifiers["ast"], tmp_path / "peft", config)
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    assert command(str(tmp_path / "peft"), f"--out={tmp_path / 'out'}", f"--labels={tmp_path / 'labels.txt'}") == 0
    assert "3 classes" in capsys.readouterr().out
    loaded = Classifier.from_run(tmp_path / "out")
    assert_same(loaded.model, original, "ast")
    assert loaded.labels == ["cat", "dog", "owl"]
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(DataError, match="1 lines"):
        command(str(tmp_path / "peft"), f"--out={tmp_path / 'out'}", f"--labels={tmp_path / 'labels.txt'}")


def change(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rename(folder: Path, old: str, new: str) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {name.replace(old, new): tensor for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(tensors, path)


FAULTS = {
    "bias": (lambda folder: change(folder, bias="all"), "trains biases"),
    "pissa": (lambda folder: change(folder, init_lora_weights="pissa"), "other weights of the backbone"),
    "prompts": (lambda folder: change(folder, peft_type="TELEPATHY"), "adds no layers"),
    "huge": (lambda folder: change(folder, r=10**9), "settings are refused"),
    "no peft": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "no peft_type"),
    "pickle": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "runs code when it is read",
    ),
    "another model": (lambda folder: change(folder, base_model_name_or_path="nano-ast"), "Neither it nor nano-ast has"),
    "another kind": (lambda folder: rename(folder, "attention", "mixing"), "has no module"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_imported_is_told(fault, classifiers, tmp_path):
    config = LoraConfig(**CONFIGS["lora"], modules_to_save=["projector", "classifier"])
    train_with_peft(classifiers["wav2vec2"], tmp_path, config)
    FAULTS[fault][0](tmp_path)
    with pytest.raises(CheckpointError, match=FAULTS[fault][1]):
        import_peft(tmp_path)


def test_a_head_that_is_in_no_file_is_told(classifiers, tiny_backbones, tmp_path):
    """Peft saves the classifier of Wav2Vec2ForSequenceClassification, and not its random projector."""
    train_with_peft(classifiers["wav2vec2"], tmp_path, LoraConfig(**CONFIGS["lora"], modules_to_save=["classifier"]))
    shutil.copytree(tiny_backbones["wav2vec2"], tmp_path / "plain")
    with pytest.raises(CheckpointError, match=r"projector\.weight, projector\.bias: they were drawn at random"):
        import_peft(tmp_path, str(tmp_path / "plain"))


def test_a_folder_of_peft_names_the_command(classifiers, tmp_path):
    train_with_peft(classifiers["hubert"], tmp_path, LoraConfig(**CONFIGS["lora"]))
    with pytest.raises(CheckpointError, match="brainplug import-peft"):
        read_adapter(tmp_path)
