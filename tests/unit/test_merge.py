"""A merged model is saved, loaded by transformers alone, and computes the same tokens."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    PreTrainedModel,
    WhisperConfig,
)

from brainplug.backbones import Backbone, load_backbone, random_backbone
from brainplug.backbones.echo.encoder import EchoEncoder
from brainplug.errors import ConfigError
from tests.conftest import TINY_BACKBONES, WHISPER_CONFIG
from tests.contract.test_methods import batch, build, train

MERGEABLE = ("full", "bitfit", "lora", "dora", "ia3")
# The classes that load each family; the others are loaded by AutoModel.
LOADERS = {"whisper": AutoModelForAudioClassification, "echo": EchoEncoder}


def load_plain(folder: Path, family: str) -> PreTrainedModel:
    """Loads a saved model as a user of transformers does, and asserts that each weight has its place."""
    model, report = LOADERS.get(family, AutoModel).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model.eval()


def plain_tokens(model: PreTrainedModel, signal: torch.Tensor, family: str) -> torch.Tensor:
    encoder, signal = (model.encoder, signal.transpose(1, 2)) if family == "whisper" else (model, signal)
    assert type(encoder).__module__.startswith("brainplug.backbones.echo" if family == "echo" else "transformers.")
    return encoder(signal).last_hidden_state


@torch.no_grad()
def tokens(backbone: Backbone, signal: torch.Tensor) -> torch.Tensor:
    return backbone(signal, torch.ones(len(signal)))[0]


@pytest.mark.parametrize("method", MERGEABLE)
@pytest.mark.parametrize("family", TINY_BACKBONES)
def test_transformers_loads_a_merged_model_that_computes_the_same(family, method, tiny_backbones, tmp_path):
    model = build(tiny_backbones[family], method)
    signal, _ = batch(model)
    before = tokens(model.backbone, signal)
    train(model)
    adapted = tokens(model.backbone, signal)
    assert (adapted - before).abs().max() > 1e-3
    model.merge()
    with pytest.raises(ConfigError, match="It has no method any more"):
        model.merge()
    model.backbone.save_pretrained(tmp_path)
    with torch.no_grad():
        merged = plain_tokens(load_plain(tmp_path, family), signal, family)
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    loaded = load_backbone(str(tmp_path))
    torch.testing.assert_close(tokens(loaded, signal), adapted, atol=1e-5, rtol=0)
    assert loaded.signal_settings == model.backbone.signal_settings


@pytest.mark.parametrize("family", TINY_BACKBONES)
def test_the_plain_model_has_no_module_of_ours_and_shares_no_weight(family):
    backbone = random_backbone(TINY_BACKBONES[family][0])
    plain = backbone.plain_model()
    packages = {type(module).__module__.partition(".")[0] for module in plain.modules()}
    assert packages <= ({"torch", "transformers", "brainplug"} if family == "echo" else {"torch", "transformers"})
    assert not any(module._forward_pre_hooks for module in plain.modules())
    pointers = {parameter.data_ptr() for parameter in backbone.parameters()}
    assert pointers.isdisjoint(parameter.data_ptr() for parameter in plain.parameters())


def test_the_plain_model_draws_no_random_numbers():
    backbone = random_backbone(WHISPER_CONFIG)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    backbone.plain_model()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("method", ["lora", "bottleneck", "dora"])
@pytest.mark.parametrize("family", ["ast", "whisper"])
def test_an_adapted_backbone_has_no_plain_model(family, method, tiny_backbones):
    model = build(tiny_backbones[family], method)
    with pytest.raises(ConfigError, match=r"has added modules.*model\.merge\(\)"):
        model.backbone.plain_model()


@pytest.mark.parametrize("family", ["ast", "whisper"])
@pytest.mark.parametrize("frames", [44, 64])
def test_the_length_of_clips_is_saved(family, frames, tiny_backbones, tmp_path):
    backbone = load_backbone(tiny_backbones[family], frames=frames)
    backbone.save_pretrained(tmp_path)
    signal = torch.randn(2, frames, 32)
    assert load_backbone(str(tmp_path)).frames == frames
    with torch.no_grad():
        plain = plain_tokens(load_plain(tmp_path, family), signal, family)
    torch.testing.assert_close(plain, tokens(backbone, signal), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", TINY_BACKBONES)
def test_the_saved_extractor_reads_clips_as_the_backbone_does(family, tmp_path):
    config, extractor = TINY_BACKBONES[family]
    if family == "whisper":  # its extractor counts whole seconds
        config = WhisperConfig(**{**config.to_diff_dict(), "max_source_positions": 50})
    backbone = type(random_backbone(config)).from_config(config, extractor=extractor)
    backbone.save_pretrained(tmp_path)
    clip = torch.randn(16000, generator=torch.Generator().manual_seed(1))
    saved = AutoFeatureExtractor.from_pretrained(tmp_path)
    settings = {"padding": False, "truncation": False} if family == "echo" else {}
    read = saved(clip.numpy(), sampling_rate=16000, return_tensors="pt", **settings)
    [signal] = next(iter(read.values()))
    expected = backbone.extract(clip)
    torch.testing.assert_close(signal.T if family in ("whisper", "echo") else signal, expected, atol=1e-4, rtol=0)


def test_a_merged_whisper_classifies_with_a_new_head(tmp_path):
    config = WhisperConfig(**{**WHISPER_CONFIG.to_diff_dict(), "max_source_positions": 50})
    random_backbone(config).save_pretrained(tmp_path)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    read = AutoFeatureExtractor.from_pretrained(tmp_path)(
        torch.randn(16000).numpy(), sampling_rate=16000, return_tensors="pt"
    )
    loss = model(**read, labels=torch.tensor([2])).loss
    loss.backward()
    assert model.classifier.weight.grad.abs().max() > 0
