"""Fixtures for all tests."""

# isort: skip_file
import brainplug.compat.torchaudio  # noqa: F401  first of all: it lets torchaudio load beside any torch

import sys

import pytest
import speechbrain  # noqa: F401
import torch
from speechbrain.utils.importutils import LazyModule
from transformers import ASTConfig, ASTFeatureExtractor, AutoModel, Data2VecAudioConfig, HubertConfig
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, WavLMConfig, WhisperConfig, WhisperFeatureExtractor

from brainplug.backbones.echo import EchoConfig

# Hypothesis asks every loaded module for its file; SpeechBrain's lazy modules would then import what is not installed.
for module in list(sys.modules.values()):
    if isinstance(module, LazyModule):
        module.__file__ = None

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
AST_CONFIG = ASTConfig(**TINY, num_mel_bins=32, max_length=64, hidden_dropout_prob=0.1)
TINY_CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0}
WAV2VEC2_CONFIG = Wav2Vec2Config(**TINY, **TINY_CONVOLUTIONS, num_conv_pos_embeddings=16)
WHISPER_CONFIG = WhisperConfig(
    d_model=16,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=16,
    num_mel_bins=32,
    max_source_positions=32,
    vocab_size=8,
    **dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"], 0),
)
ECHO_CONFIG = EchoConfig(
    n_mels=32,
    n_audio_ctx=200,
    n_audio_state=16,
    n_audio_head=2,
    n_audio_layer=2,
    n_text_ctx=16,
    n_text_state=16,
    n_text_head=2,
    n_text_layer=1,
    vocab_size=8,
    max_rel_dist=4,
    checkpointing=False,
    **dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"], 0),
)
# A new backbone joins every contract test with one row here.
TINY_BACKBONES = {
    "ast": (AST_CONFIG, ASTFeatureExtractor(num_mel_bins=32, max_length=64)),
    "wav2vec2": (WAV2VEC2_CONFIG, Wav2Vec2FeatureExtractor()),
    "hubert": (HubertConfig(**TINY, **TINY_CONVOLUTIONS, num_conv_pos_embeddings=16), Wav2Vec2FeatureExtractor()),
    "data2vec": (Data2VecAudioConfig(**TINY, **TINY_CONVOLUTIONS), Wav2Vec2FeatureExtractor()),
    "wavlm": (WavLMConfig(**TINY, **TINY_CONVOLUTIONS, num_conv_pos_embeddings=16), Wav2Vec2FeatureExtractor()),
    "whisper": (WHISPER_CONFIG, WhisperFeatureExtractor(feature_size=32)),
    "echo": (ECHO_CONFIG, WhisperFeatureExtractor(feature_size=32)),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what starts whole runs as slow."""
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small random backbones as transformers saves them: name -> folder."""
    folders = {}
    for name, (config, extractor) in TINY_BACKBONES.items():
        folders[name] = str(tmp_path_factory.mktemp(f"tiny-{name}"))
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():  # positions and biases too, so that a test sees when they are lost
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folders[name])
        extractor.save_pretrained(folders[name])
    return folders
