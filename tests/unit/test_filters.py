"""The filters from which the first convolution of a small model begins."""

import math

import pytest
import torch
from transformers import Data2VecAudioConfig, HubertConfig, HubertModel

from brainplug.backbones import backbone_without_weights, random_backbone
from brainplug.backbones.filters import PHASES, SAMPLE_RATE, begin_with_mel_filters, mel_filters

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "num_conv_pos_embedding_groups": 4, "feat_extract_norm": "layer", "conv_dim": [40, 8],
    "conv_kernel": [240, 2], "conv_stride": [160, 2],
}  # fmt: skip


def test_bands_are_centred_where_a_mel_scale_puts_them():
    filters = mel_filters(bands=30, length=800)
    spectra = torch.fft.rfft(filters[:30], 16000).abs()  # a bin for each hertz
    centres = spectra.argmax(1)
    mels = 2595 * torch.log10(1 + centres / 700)
    assert centres[-1] == pytest.approx(7600, abs=5)
    assert (mels.diff() / mels.diff().mean()).sub(1).abs().max() < 0.25  # of low ones, a hertz is much


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 4000.0])
def test_rectified_phases_tell_the_amplitude_whatever_the_phase_of_the_sound(frequency):
    filters = mel_filters(bands=20, length=240)
    seconds = torch.arange(240) / SAMPLE_RATE
    phases = torch.linspace(0, 2 * math.pi, 50)[:, None]
    sound = torch.sin(2 * math.pi * frequency * seconds + phases)  # [50, length]
    bands = (sound @ filters.t()).relu().unflatten(1, (PHASES, 20)).sum(1)  # [50, bands]
    loudest = bands[:, bands.mean(0).argmax()]
    assert (loudest.max() - loudest.min()) / loudest.mean() < 0.5  # sqrt(2) - 1 of two rectified quadratures
    assert ((2 * sound) @ filters.t()).relu().sum() == pytest.approx(2 * bands.sum().item(), rel=1e-4)


@pytest.mark.parametrize("config_class", [HubertConfig, Data2VecAudioConfig])
def test_random_backbones_begin_as_their_pretraining_did(config_class):
    plain = random_backbone(config_class(**SMALL)).model.feature_extractor.conv_layers[0].conv.weight
    begun = random_backbone(config_class(**SMALL, mel_filters=True)).model.feature_extractor.conv_layers[0].conv.weight
    wanted = mel_filters(10, 240)[:, None]
    assert torch.equal(begun, wanted)
    assert not torch.allclose(plain, wanted)


def test_a_model_that_says_nothing_of_filters_is_left_as_it_is():
    model = HubertModel(HubertConfig(**SMALL))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    begin_with_mel_filters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_of_shapes_alone_can_be_made_with_filters():
    backbone = backbone_without_weights(HubertConfig(**SMALL, mel_filters=True))
    assert {parameter.device.type for parameter in backbone.parameters()} == {"meta"}
