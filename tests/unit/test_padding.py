"""A clip's tokens and logits do not depend on the clips that stand in its batch."""

import copy

import pytest
import torch
from transformers import AutoModel, HubertConfig, PreTrainedConfig

from brainplug.backbones import Backbone, random_backbone
from brainplug.backbones.padding import ClipNorm
from brainplug.backbones.spec import TokenMask
from brainplug.methods.linear import LinearProbe
from brainplug.models.classifier import AudioClassifier
from tests.conftest import TINY, TINY_BACKBONES, TINY_CONVOLUTIONS

SECONDS = (0.03, 0.1, 0.25, 0.5, 1.0)
WAVEFORM_FAMILIES = ("wav2vec2", "hubert", "data2vec", "wavlm")
# Each with both norms of its convolutions, and with the norms of its layers before and behind.
KINDS = {
    f"{family}-{norm}{'-stable' if stable else ''}": (
        family,
        {"feat_extract_norm": norm, "do_stable_layer_norm": stable},
    )
    for family in WAVEFORM_FAMILIES
    for norm in ("group", "layer")
    for stable in (False, True)
}
KINDS["hubert-batch-norm"] = ("hubert", {"conv_pos_batch_norm": True})


def config_of(kind: str) -> PreTrainedConfig:
    family, settings = KINDS.get(kind, (kind, {}))
    config = TINY_BACKBONES[family][0]
    return type(config)(**{**config.to_dict(), **settings})


def loud_backbone(kind: str) -> Backbone:
    """A backbone with large weights, biases and statistics, so that a leak is seen."""
    torch.manual_seed(0)
    backbone = random_backbone(config_of(kind))
    for name, tensor in backbone.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(0.3 * torch.randn_like(tensor))
            tensor.copy_(tensor.abs() + 0.5 if "running_var" in name else tensor)
    return backbone


def clips() -> list[torch.Tensor]:
    """Tones in noise, one higher than the other."""
    generator = torch.Generator().manual_seed(1)
    times = [torch.arange(round(16000 * seconds)) / 16000 for seconds in SECONDS]
    tones = [torch.sin(2 * torch.pi * 200 * 2**octave * time) for octave, time in enumerate(times)]
    return [tone + 0.2 + 0.1 * torch.randn(len(tone), generator=generator) for tone in tones]


def padded(signals: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    together = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    return together, torch.tensor([len(signal) / together.shape[1] for signal in signals])


@pytest.mark.parametrize("kind", [*KINDS, "ast", "whisper"])
def test_a_clip_s_logits_do_not_depend_on_its_batch(kind):
    backbone = loud_backbone(kind)
    model = AudioClassifier(backbone, LinearProbe(), n_classes=3).eval()
    torch.nn.init.normal_(model.head.weight)
    signals = [backbone.extract(clip) for clip in clips()]
    with torch.no_grad():
        together = model(*padded(signals))
        alone = torch.cat([model(signal[None], torch.ones(1)) for signal in signals])
    assert together.std(0).max() > 1e-3  # the clips are told apart
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["wav2vec2-group", "data2vec-layer", "hubert-batch-norm"])
def test_transformers_alone_hears_the_padding(kind):
    """So that the test above can fail."""
    backbone = loud_backbone(kind)
    model = AutoModel.from_config(config_of(kind)).eval()
    model.load_state_dict(backbone.model.state_dict())
    clip = clips()[1]
    padding = torch.nn.functional.pad(clip, (0, 12000))
    mask = (torch.arange(len(padding)) < len(clip)).long()
    with torch.no_grad():
        alone = model(clip[None]).last_hidden_state[0]
        together = model(padding[None], attention_mask=mask[None]).last_hidden_state[0]
    assert (together[: len(alone)] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_padding_gets_the_tokens_of_transformers(kind):
    backbone = loud_backbone(kind)
    model = AutoModel.from_config(config_of(kind)).eval()
    model.load_state_dict(backbone.model.state_dict())
    signal = torch.stack([clips()[-1], clips()[-1].flip(0)])
    with torch.no_grad():
        expected = model(signal).last_hidden_state
        torch.testing.assert_close(backbone(signal, torch.ones(2))[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["wav2vec2-group", "data2vec-layer"])
def test_the_model_can_be_used_by_itself_afterwards(kind):
    backbone = loud_backbone(kind)
    signal = clips()[-1][None]
    with torch.no_grad():
        before = backbone.model(signal).last_hidden_state
        backbone(*padded(clips()))
        assert torch.equal(backbone.model(signal).last_hidden_state, before)


def test_a_copy_has_masks_of_its_own():
    backbone = loud_backbone("data2vec-layer")
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        other.model.encoder.layers[0].register_forward_hook(lambda *_: backbone(*padded(clips()[:2])) and None)
        batch = padded(clips())
        torch.testing.assert_close(other(*batch)[0], backbone(*batch)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_clips_in_half_precision(dtype):
    """A sum over a minute of frames is larger than the largest number of float16."""
    mask = TokenMask(torch.ones(1, 192_000, dtype=torch.bool))
    norm = ClipNorm(torch.nn.GroupNorm(2, 2), mask).to(dtype)
    frames = 3 + torch.randn(1, 2, 192_000, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        actual = norm(frames)
    expected = torch.nn.functional.group_norm(frames.float(), 2)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, atol=0.05, rtol=0)


def test_weights_have_the_names_of_transformers():
    config = HubertConfig(**TINY, **TINY_CONVOLUTIONS, num_conv_pos_embeddings=16)
    assert random_backbone(config).model.state_dict().keys() == AutoModel.from_config(config).state_dict().keys()
