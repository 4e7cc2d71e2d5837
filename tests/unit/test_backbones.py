"""Positions, masks, and which weights a backbone has."""

import copy
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants as hub_constants
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    AutoModel,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    BertConfig,
    Data2VecAudioConfig,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from brainplug.backbones import Backbone, known_config, load_backbone, random_backbone, whisper
from brainplug.backbones.audio_spectrogram import SPECIAL_TOKENS, resize_positions
from brainplug.backbones.hub import weights_revision
from brainplug.backbones.loading import CHECKPOINTS, HUB_NAMES, find_source
from brainplug.backbones.spec import find_module
from brainplug.errors import CheckpointError, ConfigError, UsageError
from tests.conftest import AST_CONFIG, TINY, TINY_BACKBONES, TINY_CONVOLUTIONS, WAV2VEC2_CONFIG, WHISPER_CONFIG

REPOSITORY = Path(__file__).parents[2]
BANDS, TIMES = 2, 5  # patches of 16 by 16 every 10, of 32 bands and 64 frames


def find_parameter(backbone: Backbone, path: str) -> torch.Tensor:
    return dict(backbone.model.named_parameters())[path]


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

    @pytest.mark.parametrize("mode", ["crop", "interpolate", "published"])
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

    @pytest.mark.parametrize(
        ("mode", "frames", "times"),
        [("zero", 64, 5), ("zero", 44, 3), ("zero", 114, 10), ("published", 44, 3), ("published", 114, 10)],
    )
    def test_zero_sets_all_to_zero(self, mode, frames, times):
        model = make_ast()
        resize_positions(model, frames, mode)
        assert model.embeddings.position_embeddings.shape == (1, SPECIAL_TOKENS + BANDS * times, 16)
        assert not model.embeddings.position_embeddings.any()

    @pytest.mark.parametrize("mode", ["crop", "interpolate", "zero", "published"])
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

    @pytest.mark.parametrize("samples", [400, 719, 720, 4000, 16001])
    @pytest.mark.parametrize("add_adapter", [False, True])
    def test_the_mask_has_a_place_for_each_token(self, samples, add_adapter):
        settings = {**WAV2VEC2_CONFIG.to_diff_dict(), **TINY, "add_adapter": add_adapter}
        backbone = random_backbone(Wav2Vec2Config(**settings))
        tokens, mask = backbone(torch.zeros(2, samples), torch.tensor([1.0, 400 / samples]))
        assert mask.shape == tokens.shape[:2]
        assert mask.sum(1).tolist() == [tokens.shape[1], 1]

    @pytest.mark.parametrize("name", ["wav2vec2", "wavlm"])
    def test_tokens_of_a_method_do_not_change_the_mask(self, name):
        def put_three_first(encoder, inputs, output):
            output.last_hidden_state = torch.nn.functional.pad(output.last_hidden_state, (0, 0, 3, 0))

        backbone, lengths = random_backbone(TINY_BACKBONES[name][0]), torch.tensor([1.0, 0.5])
        plain, mask = backbone(torch.zeros(2, 4000), lengths)
        backbone.model.encoder.register_forward_hook(put_three_first)
        longer, same_mask = backbone(torch.zeros(2, 4000), lengths)
        assert longer.shape[1] == plain.shape[1] + 3
        assert torch.equal(same_mask, mask)


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

    @pytest.mark.parametrize("name", ["wav2vec2", "hubert", "data2vec", "wavlm", "whisper"])
    def test_a_recogniser_s_checkpoint_is_a_backbone_too(self, name, tmp_path):
        """As the hub's checkpoints are: a head, or a decoder, is left out."""
        config, extractor = TINY_BACKBONES[name]
        kind = AutoModelForSpeechSeq2Seq if name == "whisper" else AutoModelForCTC
        whole = kind.from_config(config).eval()
        whole.save_pretrained(tmp_path)
        extractor.save_pretrained(tmp_path)
        encoder = whole.model.encoder if name == "whisper" else whole.base_model
        signal = torch.randn((1, 64, 32) if name == "whisper" else (1, 4000))
        tokens, _ = load_backbone(str(tmp_path))(signal, torch.ones(1))
        wanted = encoder(signal.transpose(1, 2) if name == "whisper" else signal).last_hidden_state
        assert torch.allclose(tokens, wanted, atol=1e-5)

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
        supported = "audio-spectrogram-transformer, wav2vec2, hubert, data2vec-audio, wavlm, whisper"
        with pytest.raises(UsageError, match=f"family 'bert'.*{supported}"):
            load_backbone(str(folder))
        with pytest.raises(UsageError, match=f"family 'bert'.*{supported}"):
            random_backbone(BertConfig())

    def test_weights_are_loaded_in_float32(self, folder):
        change_weights(folder, lambda weights: weights.update({name: w.half() for name, w in weights.items()}))
        assert {parameter.dtype for parameter in load_backbone(str(folder)).parameters()} == {torch.float32}

    @pytest.mark.parametrize("name", TINY_BACKBONES)
    def test_torch_s_random_numbers_are_left_alone(self, name, tiny_backbones):
        """Otherwise a method's first weights would depend on how its backbone was loaded."""
        torch.manual_seed(1)
        wanted = torch.rand(1)
        torch.manual_seed(1)
        load_backbone(tiny_backbones[name], frames=44)
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


STABLE = {**TINY, **TINY_CONVOLUTIONS, "do_stable_layer_norm": True}
CONFIGS = {
    **{name: config for name, (config, _) in TINY_BACKBONES.items()},
    "wav2vec2-stable": Wav2Vec2Config(**STABLE),
    "hubert-stable": HubertConfig(**STABLE),
    "wavlm-stable": WavLMConfig(**STABLE),
}


@pytest.fixture(params=CONFIGS)
def small(request):
    """A small random backbone of each kind, with a batch of two for it."""
    torch.manual_seed(0)
    backbone = random_backbone(CONFIGS[request.param])
    return backbone, torch.randn((2, 64, 32) if backbone.spec.signal == "log_mel" else (2, 4000))


class TestSpecs:
    """What a backbone says of itself is so."""

    def test_every_path_leads_to_a_module(self, small):
        spec, model = small[0].spec, small[0].model
        for layer in spec.layers_of(model):
            maps = [spec.query, spec.key, spec.value, spec.output, spec.feed_forward_in, spec.feed_forward_out]
            assert {type(find_module(layer, path)) for path in maps} == {torch.nn.Linear}
            assert {type(find_module(layer, path)) for path in spec.norms} == {torch.nn.LayerNorm}
        assert spec.mask_embedding is None  # the small ones have none

    def test_a_sub_layer_reads_the_norm_before_it(self, small):
        (backbone, signal), seen = small, {}
        layer, spec = backbone.spec.layers_of(backbone.model)[1], backbone.spec

        def note_output(name):
            return lambda module, inputs, output: seen.update({name: output})

        def note_input(name):
            return lambda module, inputs, named: seen.update({name: [*inputs, *named.values()][0]})

        for norm in spec.norms:
            find_module(layer, norm).register_forward_hook(note_output(norm))
        for path in (spec.attention, spec.feed_forward, spec.feed_forward_in, ""):
            find_module(layer, path).register_forward_pre_hook(note_input(path), with_kwargs=True)
        backbone(signal, torch.ones(2))
        assert seen[spec.feed_forward_in] is seen[spec.feed_forward]
        if spec.norm_before_attention:
            assert seen[spec.attention] is seen[spec.norm_before_attention]
            assert seen[spec.feed_forward] is seen[spec.norm_before_feed_forward]
        else:
            assert seen[spec.attention] is seen[""]

    def test_the_tokens_come_from_the_final_norm(self, small):
        (backbone, signal), outputs = small, []
        if backbone.spec.final_norm:
            norm = find_module(backbone.model, backbone.spec.final_norm)
            norm.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        tokens, _ = backbone(signal, torch.ones(2))
        assert all(output is tokens for output in outputs)

    def test_pre_norm_is_told_from_post_norm(self):
        pre_norm = [name for name, config in CONFIGS.items() if random_backbone(config).spec.final_norm]
        assert pre_norm == ["ast", "whisper", "echo", "wav2vec2-stable", "hubert-stable", "wavlm-stable"]
        assert random_backbone(WAV2VEC2_CONFIG).spec.final_norm is None

    def test_the_mask_embedding_is_named_where_there_is_one(self):
        config = Data2VecAudioConfig(**{**TINY, **TINY_CONVOLUTIONS, "mask_time_prob": 0.1})
        backbone = random_backbone(config)
        assert getattr(backbone.model, backbone.spec.mask_embedding).shape == (16,)

    def test_what_stands_in_a_projection_s_place_is_called(self, small):
        backbone, signal = small
        for path in (backbone.spec.query, backbone.spec.key, backbone.spec.value, backbone.spec.output):
            plain, _ = backbone(signal, torch.ones(2))
            layer = backbone.spec.layers_of(backbone.model)[0]
            layer.set_submodule(path, torch.nn.Sequential(find_module(layer, path), torch.nn.Tanh()))
            assert not torch.equal(backbone(signal, torch.ones(2))[0], plain)

    def test_gradients_reach_every_projection(self, small):
        backbone, signal = small
        backbone(signal, torch.ones(2))[0].square().sum().backward()
        for layer in backbone.spec.layers_of(backbone.model):
            for path in (backbone.spec.query, backbone.spec.key, backbone.spec.value, backbone.spec.output):
                assert find_module(layer, path).weight.grad.any()


class TestFromConfig:
    @pytest.mark.parametrize("name", TINY_BACKBONES)
    def test_it_is_what_load_backbone_returns(self, name, tiny_backbones):
        loaded, made = load_backbone(tiny_backbones[name]), random_backbone(TINY_BACKBONES[name][0])
        assert type(made) is type(loaded)
        assert made.spec == loaded.spec
        assert made.signal_settings == loaded.signal_settings
        assert {n: p.shape for n, p in made.state_dict().items()} == {
            n: p.shape for n, p in loaded.state_dict().items()
        }
        assert made.model.training == loaded.model.training
        assert (made.name, made.revision) == ("random", "random")

    @pytest.mark.parametrize("name", TINY_BACKBONES)
    def test_the_configuration_is_left_as_it_is(self, name):
        config = TINY_BACKBONES[name][0]
        before = copy.deepcopy(config).to_dict()
        random_backbone(config, frames=44)
        assert config.to_dict() == before

    @pytest.mark.parametrize("positions", ["crop", "interpolate", "zero", "published"])
    @pytest.mark.parametrize("name", HUB_NAMES)
    def test_it_needs_no_memory(self, name, positions):
        with torch.device("meta"):
            backbone = random_backbone(known_config(name), frames=500, positions=positions)
        tensors = [*backbone.parameters(), *backbone.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert 19e6 < sum(parameter.numel() for parameter in backbone.parameters()) < 95e6


class TestRandomWeights:
    @pytest.mark.parametrize("name", TINY_BACKBONES)
    def test_they_are_those_of_the_seed(self, name, tiny_backbones):
        random_name = f"random:{tiny_backbones[name]}"
        torch.manual_seed(3)
        first = load_backbone(random_name, frames=44)
        torch.rand(5)  # what was drawn meanwhile changes nothing
        again = load_backbone(random_name, frames=44)
        torch.manual_seed(4)
        other = load_backbone(random_name, frames=44)
        named = load_backbone(first.name, first.revision, frames=44)  # as an adapter's file says
        assert (first.name, first.revision, other.revision) == (random_name, "seed-3", "seed-4")
        weights = [list(backbone.parameters()) for backbone in (first, again, named)]
        assert all(torch.equal(*pair) for others in weights[1:] for pair in zip(weights[0], others, strict=True))
        projection = f"{first.spec.layers}.0.{first.spec.query}.weight"
        assert not torch.equal(*(find_parameter(backbone, projection) for backbone in (first, other)))

    @pytest.mark.parametrize("name", TINY_BACKBONES)
    def test_all_else_is_as_in_the_pretrained_one(self, name, tiny_backbones):
        pretrained = load_backbone(tiny_backbones[name], frames=44)
        made = load_backbone(f"random:{tiny_backbones[name]}", frames=44)
        assert type(made) is type(pretrained)
        assert made.signal_settings == pretrained.signal_settings
        assert {n: p.shape for n, p in made.state_dict().items()} == {
            n: p.shape for n, p in pretrained.state_dict().items()
        }
        assert made.model.training == pretrained.model.training

    @pytest.mark.parametrize("normalize", [True, False])
    def test_clips_are_read_as_the_extractor_says(self, normalize, tiny_backbones, tmp_path):
        folder = shutil.copytree(tiny_backbones["hubert"], tmp_path / "hubert")
        Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
        assert load_backbone(f"random:{folder}").signal_settings["normalize"] == normalize

    def test_a_bundled_one_has_its_own_mean_and_deviation(self):
        settings = load_backbone("random:nano-ast").signal_settings
        assert settings == load_backbone("nano-ast").signal_settings
        assert settings["mean"] == -8.75

    def test_what_is_drawn_afterwards_does_not_depend_on_them(self):
        torch.manual_seed(3)
        without = torch.rand(5)
        torch.manual_seed(3)
        load_backbone("random:nano-ast")
        assert torch.equal(torch.rand(5), without)

    @pytest.mark.parametrize(
        ("name", "revision", "message"),
        [
            ("random:nano-asst", None, "Write --backbone= one of random:nano-ast"),
            ("random:", None, "random:ast"),
            ("random:nano-ast", "main", "--backbone_revision=seed-1"),
        ],
    )
    def test_what_cannot_be(self, name, revision, message):
        with pytest.raises(UsageError, match=message):
            load_backbone(name, revision)


class TestKnownConfigs:
    def test_bundled_and_in_a_folder(self, folder):
        assert known_config("nano-ast").hidden_size == 192
        assert known_config(str(folder)).hidden_size == 16

    def test_short_names_and_their_hub_ids(self):
        assert {name for name, checkpoint in CHECKPOINTS.items() if checkpoint.config} == HUB_NAMES.keys()
        for name, hub_id in HUB_NAMES.items():
            assert known_config(name).to_dict() == known_config(hub_id).to_dict()
            assert find_source(name) == hub_id

    def test_the_cache_goes_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
        repository, commit = tmp_path / "models--openai--whisper-base", "0" * 40
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        WHISPER_CONFIG.save_pretrained(repository / "snapshots" / commit)
        assert known_config("whisper").d_model == 16

    @pytest.mark.parametrize("name", ["atx", "owner/name", "a b/c", ""])
    def test_what_is_not_known(self, name, tmp_path, monkeypatch):
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(UsageError, match="Write .*ast"):
            known_config(name)

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("torn", CheckpointError, "cannot be loaded"),
            (
                '{"model_type": "audio-spectrogram-transformer", "hidden_size": "many"}',
                CheckpointError,
                "cannot be loaded",
            ),
            ('{"model_type": "nothing"}', ConfigError, "'nothing' is not supported.*wavlm, whisper, echo"),
        ],
    )
    def test_a_broken_file_is_refused(self, folder, text, error, message):
        (folder / "config.json").write_text(text)
        for load in (known_config, load_backbone):
            with pytest.raises(error, match=message):
                load(str(folder))


def wavlm_and_original(stable=False):
    """A small WavLM as a backbone, and as transformers has it; its biases differ from each other."""
    config = WavLMConfig(**{**STABLE, "do_stable_layer_norm": stable, "feat_extract_norm": "layer"})
    torch.manual_seed(0)
    original = AutoModel.from_config(config).eval()
    for parameter in original.encoder.layers.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    backbone = random_backbone(config)
    backbone.model.load_state_dict(original.state_dict())
    return backbone, original


class TestWavLM:
    @pytest.mark.parametrize("stable", [False, True])
    @pytest.mark.parametrize("lengths", [[1.0, 1.0, 1.0], [0.3, 1.0, 0.06]])
    def test_it_computes_what_transformers_does(self, lengths, stable):
        backbone, original = wavlm_and_original(stable)
        signal = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
        present = torch.arange(8000) < (torch.tensor(lengths) * 8000)[:, None]
        tokens, mask = backbone(signal, torch.tensor(lengths))
        wanted = original(signal, attention_mask=present.long()).last_hidden_state
        assert torch.allclose(tokens[mask], wanted[mask], atol=1e-5)
        assert torch.allclose(backbone.model(signal).last_hidden_state, original(signal).last_hidden_state, atol=1e-5)

    def test_the_position_bias_is_heard(self):
        """So that the test above can fail."""
        backbone, original = wavlm_and_original()
        torch.nn.init.zeros_(backbone.model.encoder.layers[0].attention.rel_attn_embed.weight)
        signal = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
        wanted = original(signal).last_hidden_state
        assert not torch.allclose(backbone(signal, torch.ones(1))[0], wanted, atol=1e-3)

    def test_a_row_of_padding_is_no_nan(self):
        attention = wavlm_and_original()[0].model.encoder.layers[0].attention
        tokens = attention(torch.randn(2, 5, 16), torch.tensor([[True] * 5, [False] * 5]))[0]
        assert tokens.isfinite().all()

    def test_half_precision(self):
        backbone, _ = wavlm_and_original()
        signal = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
        lengths = torch.tensor([1.0, 0.5])
        exact, mask = backbone(signal, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            rough, _ = backbone(signal, lengths)
        rough.sum().backward()
        assert rough.isfinite().all()
        assert (rough - exact)[mask].abs().mean() < 0.05 * exact[mask].abs().mean()


class TestWhisper:
    def test_it_computes_what_transformers_does(self, tiny_backbones):
        backbone = load_backbone(tiny_backbones["whisper"])
        original = AutoModel.from_pretrained(tiny_backbones["whisper"]).encoder
        signal = torch.randn(2, 64, 32)
        tokens, mask = backbone(signal, torch.ones(2))
        assert mask is None
        assert torch.equal(tokens, original(signal.transpose(1, 2)).last_hidden_state)

    def test_dropout_stays_where_it_was(self):
        config = copy.deepcopy(WHISPER_CONFIG)
        config.activation_dropout = 0.5
        original = WhisperEncoder(config)
        backbone = random_backbone(config)
        layer, gathered = original.layers[0], backbone.model.layers[0]
        gathered.load_state_dict(layer.state_dict())
        tokens = torch.randn(2, 9, 16)
        for training in (False, True):
            torch.manual_seed(1)
            wanted = layer.train(training)(tokens, None)
            torch.manual_seed(1)
            assert torch.equal(gathered.train(training)(tokens, None), wanted)

    @pytest.mark.parametrize("frames", [2, 40, 64])
    def test_crop_keeps_the_first_positions(self, frames, tiny_backbones):
        whole = load_backbone(tiny_backbones["whisper"]).model.embed_positions.weight
        backbone = load_backbone(tiny_backbones["whisper"], frames=frames)
        assert torch.equal(backbone.model.embed_positions.weight, whole[: frames // 2])
        tokens, _ = backbone(backbone.extract(torch.randn(16000))[None], torch.ones(1))
        assert tokens.shape == (1, frames // 2, 16)

    @pytest.mark.parametrize(
        ("mode", "frames", "remaining"),
        [("zero", 64, False), ("zero", 40, False), ("published", 64, True), ("published", 40, False)],
    )
    def test_zero_sets_all_to_zero(self, mode, frames, remaining, tiny_backbones):
        backbone = load_backbone(tiny_backbones["whisper"], frames=frames, positions=mode)
        assert backbone.model.embed_positions.weight.shape == (frames // 2, 16)
        assert bool(backbone.model.embed_positions.weight.any()) == remaining

    def test_interpolation_of_a_ramp_is_a_ramp(self):
        model = WhisperEncoder(copy.deepcopy(WHISPER_CONFIG))
        model.embed_positions.weight.data = torch.arange(32.0)[:, None].expand(32, 16).clone()
        whisper.resize_positions(model, 32, "interpolate")
        assert torch.allclose(model.embed_positions.weight[:, 0], 2 * torch.arange(16) + 0.5)

    def test_positions_are_not_trained(self):
        backbone = random_backbone(WHISPER_CONFIG).requires_grad_(True)
        assert "model.embed_positions.weight" not in dict(backbone.named_parameters())
        assert "model.embed_positions.weight" in backbone.state_dict()

    @pytest.mark.parametrize(
        ("frames", "mode", "message"),
        [
            (63, "crop", "63 frames.*even number of frames, 64 at most.*--frames=64"),
            (66, "interpolate", "64 at most"),
            (-2, "crop", "64 at most"),
            (64, "crp", "'crp'.*crop"),
        ],
    )
    def test_what_cannot_be(self, frames, mode, message):
        with pytest.raises(UsageError, match=message):
            random_backbone(WHISPER_CONFIG, frames=frames, positions=mode)

    @pytest.mark.parametrize("samples", [1, 3000, 5120, 20000])
    def test_log_mels_are_those_of_the_extractor(self, samples, tiny_backbones):
        waveform = torch.randn(samples, generator=torch.Generator().manual_seed(1))
        made = load_backbone(tiny_backbones["whisper"], frames=32).extract(waveform)
        fitted = torch.nn.functional.pad(waveform[:5120], (0, max(0, 5120 - samples)))
        wanted = WhisperFeatureExtractor(32)(
            fitted.numpy(), sampling_rate=16000, padding="do_not_pad", return_tensors="pt"
        ).input_features[0]
        assert made.shape == (32, 32)
        assert torch.equal(made, wanted.T)

    def test_the_cache_tells_clips_apart(self, tiny_backbones):
        whisper_settings = [
            load_backbone(tiny_backbones["whisper"], frames=frames).signal_settings for frames in (64, 40)
        ]
        ast_settings = load_backbone(tiny_backbones["ast"], frames=64).signal_settings
        assert whisper_settings[0] != whisper_settings[1]
        assert whisper_settings[0] != ast_settings


def test_an_ast_without_normalisation_gets_what_its_extractor_makes(tmp_path):
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=64, do_normalize=False)
    extractor.save_pretrained(tmp_path)
    ASTModel(AST_CONFIG).save_pretrained(tmp_path)
    waveform = torch.randn(9000, generator=torch.Generator().manual_seed(1))
    expected = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"][0]
    torch.testing.assert_close(load_backbone(str(tmp_path)).extract(waveform), expected, atol=1e-4, rtol=0)
