"""Positions, masks, and which weights a backbone has."""

import shutil

import pytest
import safetensors.torch
import torch
from transformers import ASTConfig, ASTModel, AutoModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor

from brainplug.backbones import load_backbone
from brainplug.backbones.audio_spectrogram import SPECIAL_TOKENS, resize_positions
from brainplug.backbones.base import weights_revision
from brainplug.backbones.loading import find_source
from brainplug.errors import UsageError
from tests.conftest import AST_CONFIG, TINY, WAV2VEC2_CONFIG

BANDS, TIMES = 2, 5  # patches of 16 by 16 every 10, of 32 bands and 64 frames


def make_ast() -> ASTModel:
    """A small random AST; its positions differ from each other."""
    model = ASTModel(ASTConfig(**AST_CONFIG.to_diff_dict()))
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_(generator=torch.Generator().manual_seed(1))
    return model


def positions(model: ASTModel, times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The special tokens' positions ``[2, dim]`` and those of the patches ``[bands, times, dim]``."""
    table = model.embeddings.position_embeddings.detach()[0]
    return table[:SPECIAL_TOKENS], table[SPECIAL_TOKENS:].view(BANDS, times, -1)


class TestPositions:
    @pytest.mark.parametrize(("frames", "times"), [(64, 5), (63, 5), (54, 4), (44, 3), (16, 1)])
    def test_crop_keeps_the_first_of_each_band(self, frames, times):
        model = make_ast()
        special, patches = positions(model, TIMES)
        resize_positions(model, frames, "crop")
        new_special, new_patches = positions(model, times)
        assert torch.equal(new_special, special)
        for band in range(BANDS):
            for time in range(times):
                assert torch.equal(new_patches[band, time], patches[band, time])

    @pytest.mark.parametrize("mode", ["crop", "interpolate"])
    def test_the_same_length_changes_nothing(self, mode):
        model = make_ast()
        before = model.embeddings.position_embeddings
        resize_positions(model, 63, mode)  # five patches, as 64 frames have
        assert model.embeddings.position_embeddings is before
        assert model.config.max_length == 63

    @pytest.mark.parametrize(
        ("mode", "frames", "times"), [("interpolate", 44, 3), ("interpolate", 114, 10), ("crop", 114, 10)]
    )
    def test_interpolation_of_a_ramp_is_a_ramp(self, mode, frames, times):
        model = make_ast()
        ramp = torch.arange(float(TIMES))[None, :, None].repeat(BANDS, 1, 16) + 100 * torch.arange(BANDS)[:, None, None]
        with torch.no_grad():
            model.embeddings.position_embeddings[0, SPECIAL_TOKENS:] = ramp.view(-1, 16)
        special, _ = positions(model, TIMES)
        resize_positions(model, frames, mode)
        new_special, new_patches = positions(model, times)
        # Centres of the new patches on the scale of the old ones, whose ends are held.
        centres = ((torch.arange(times) + 0.5) * TIMES / times - 0.5).clamp(0, TIMES - 1)
        assert torch.equal(new_special, special)
        for band in range(BANDS):
            assert torch.allclose(new_patches[band], (centres + 100 * band)[:, None].expand(-1, 16), atol=1e-4)

    @pytest.mark.parametrize(("frames", "times"), [(64, 5), (44, 3), (114, 10)])
    def test_zero_sets_all_to_zero(self, frames, times):
        model = make_ast()
        resize_positions(model, frames, "zero")
        assert model.embeddings.position_embeddings.shape == (1, SPECIAL_TOKENS + BANDS * times, 16)
        assert not model.embeddings.position_embeddings.any()

    @pytest.mark.parametrize("mode", ["crop", "interpolate", "zero"])
    @pytest.mark.parametrize(("frames", "times"), [(44, 3), (114, 10)])
    def test_the_model_takes_clips_of_the_new_length(self, mode, frames, times):
        model = make_ast()
        resize_positions(model, frames, mode)
        tokens = model(torch.zeros(1, frames, 32)).last_hidden_state
        assert tokens.shape == (1, SPECIAL_TOKENS + BANDS * times, 16)

    def test_a_cropped_model_hears_a_short_clip_at_the_old_positions(self):
        """A patch's embedding does not depend on how many patches follow."""
        whole, cropped = make_ast().eval(), make_ast().eval()
        cropped.load_state_dict(whole.state_dict())
        resize_positions(cropped, 44, "crop")
        clip = torch.randn(1, 64, 32)
        long = whole.embeddings(clip)[0, SPECIAL_TOKENS:].view(BANDS, TIMES, -1)
        short = cropped.embeddings(clip[:, :44])[0, SPECIAL_TOKENS:].view(BANDS, 3, -1)
        assert torch.allclose(long[:, :3], short, atol=1e-6)

    @pytest.mark.parametrize(
        ("frames", "mode", "message"), [(15, "crop", "16 frames long"), (64, "crp", "'crp'.*crop")]
    )
    def test_what_cannot_be(self, frames, mode, message):
        with pytest.raises(UsageError, match=message):
            resize_positions(make_ast(), frames, mode)


@pytest.fixture(scope="module")
def layer_norm_wav2vec2(tmp_path_factory):
    """A small wav2vec 2.0 whose convolutions are normalised frame by frame, as in the large ones."""
    folder = str(tmp_path_factory.mktemp("wav2vec2-layer"))
    torch.manual_seed(0)
    config = Wav2Vec2Config(**{**WAV2VEC2_CONFIG.to_diff_dict(), **TINY, "feat_extract_norm": "layer"})
    AutoModel.from_config(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


class TestMasks:
    @pytest.mark.parametrize("seconds", [0.1, 0.25, 0.5])
    def test_a_clip_does_not_hear_its_batch(self, seconds, layer_norm_wav2vec2):
        backbone = load_backbone(layer_norm_wav2vec2).eval()
        generator = torch.Generator().manual_seed(1)
        clip = torch.randn(int(seconds * 16000), generator=generator)
        long = torch.randn(2, 16000, generator=generator)
        padded = torch.stack([torch.nn.functional.pad(clip, (0, 16000 - len(clip))), *long])
        lengths = torch.tensor([len(clip) / 16000, 1.0, 1.0])
        with torch.no_grad():
            alone, mask_alone = backbone(clip[None], torch.ones(1))
            together, mask = backbone(padded, lengths)
        count = int(mask_alone.sum())
        assert mask.sum(1).tolist() == [count, mask.shape[1], mask.shape[1]]
        assert torch.allclose(together[0, :count], alone[0, :count], atol=1e-5)

    def test_padding_is_heard_without_a_mask(self, layer_norm_wav2vec2):
        """So that the test above can fail."""
        backbone = load_backbone(layer_norm_wav2vec2).eval()
        clip = torch.randn(4000, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            alone, mask = backbone(clip[None], torch.ones(1))
            together, _ = backbone(torch.nn.functional.pad(clip, (0, 12000))[None], torch.ones(1))
        assert not torch.allclose(together[0, : int(mask.sum())], alone[0], atol=1e-3)

    def test_every_clip_has_a_token(self, layer_norm_wav2vec2):
        backbone = load_backbone(layer_norm_wav2vec2)
        signal = backbone.extract(torch.zeros(10))
        _, mask = backbone(signal[None], torch.ones(1))
        assert mask.tolist() == [[True]]

    @pytest.mark.parametrize("samples", [400, 16000])
    def test_waveforms_are_normalised_as_the_extractor_does(self, samples, layer_norm_wav2vec2):
        waveform = 3 + 2 * torch.randn(samples, generator=torch.Generator().manual_seed(1))
        wanted = Wav2Vec2FeatureExtractor()(waveform.numpy(), sampling_rate=16000, return_tensors="pt").input_values[0]
        assert torch.allclose(load_backbone(layer_norm_wav2vec2).extract(waveform), wanted, atol=1e-5)


@pytest.fixture
def folder(tiny_backbones, tmp_path):
    """A backbone's folder that a test may change."""
    return shutil.copytree(tiny_backbones["ast"], tmp_path / "tiny-ast")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})


class TestWeights:
    def test_the_revision_follows_the_weights(self, folder, tiny_backbones):
        before = weights_revision(str(folder), None)
        assert before == load_backbone(str(folder)).revision == weights_revision(tiny_backbones["ast"], None)
        (folder / "notes.txt").write_text("no weights")
        assert weights_revision(str(folder), None) == before
        change_weights(folder, lambda weights: weights["layernorm.bias"].add_(1e-3))
        assert weights_revision(str(folder), None) != before

    def test_the_hub_s_commit_is_the_revision(self, folder):
        assert weights_revision("owner/name", "0123abc") == "0123abc"
        assert weights_revision("owner/name", None) == "unknown"

    @pytest.mark.parametrize("name", ["layernorm.bias", "embeddings.position_embeddings"])
    def test_a_file_that_lacks_weights_is_refused(self, name, folder):
        change_weights(folder, lambda weights: weights.pop(name))
        with pytest.raises(UsageError, match=f"lacks 1 weights, such as {name}"):
            load_backbone(str(folder))

    def test_a_broken_file_is_refused(self, folder):
        (folder / "model.safetensors").write_bytes(b"torn")
        with pytest.raises(UsageError, match="cannot be loaded"):
            load_backbone(str(folder))

    def test_a_folder_without_weights_is_refused(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(UsageError, match="cannot be loaded"):
            load_backbone(str(folder))

    def test_a_family_that_is_not_supported_is_refused(self, folder):
        (folder / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(UsageError, match="family 'bert'.*audio-spectrogram-transformer, wav2vec2"):
            load_backbone(str(folder))

    def test_weights_are_loaded_in_float32(self, folder):
        change_weights(folder, lambda weights: weights.update({name: w.half() for name, w in weights.items()}))
        assert {parameter.dtype for parameter in load_backbone(str(folder)).parameters()} == {torch.float32}

    def test_torch_s_random_numbers_are_left_alone(self, folder):
        """Otherwise a method's first weights would depend on how its backbone was loaded."""
        torch.manual_seed(1)
        wanted = torch.rand(1)
        torch.manual_seed(1)
        load_backbone(str(folder), frames=44)
        assert torch.equal(torch.rand(1), wanted)


class TestNames:
    def test_hub_names_and_ids(self):
        assert find_source("wav2vec2") == "facebook/wav2vec2-base-960h"
        assert find_source("facebook/hubert-base-ls960") == "facebook/hubert-base-ls960"

    def test_a_folder(self, folder):
        assert find_source(str(folder)) == str(folder)

    @pytest.mark.parametrize("name", ["atx", "/nowhere/model", "./nowhere", "a/b/c", ""])
    def test_what_is_nothing_of_this(self, name):
        with pytest.raises(UsageError, match="ast"):
            find_source(name)

    def test_a_folder_without_a_configuration(self, tmp_path):
        with pytest.raises(UsageError, match=r"holds a config\.json"):
            find_source(str(tmp_path))
