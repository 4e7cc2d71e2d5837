"""Sequence-to-sequence recognition: labels, texts, the model of encoder, method and decoder, and its saving."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brainplug.backbones.echo import EchoConfig
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.methods.base import Method
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.prefix import PrefixTuning
from brainplug.methods.prompt import PromptTuning
from brainplug.models.echo_recognizer import (
    EchoRecognizer,
    check_texts_fit,
    load_echo,
    save_echo,
    special_tokens,
    texts_of,
    why_too_long,
)
from brainplug.training.seq2seq import decoder_labels

CHARACTERS = Characters(" abcd")
METHODS = {
    "linear": LinearProbe(),
    "full": FullFineTuning(),
    "bottleneck": BottleneckAdapter(reduction_rate=4),
    "prompt": PromptTuning(prompts=3, deep=True),
    "prefix": PrefixTuning(length=4),
}


def tiny(**changes: object) -> EchoConfig:
    sizes = {
        "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2, "n_text_state": 16, "n_text_head": 2,
        "n_text_layer": 1, "n_audio_ctx": 100, "n_text_ctx": 12, "max_rel_dist": 3, "checkpointing": False,
    }  # fmt: skip
    return EchoConfig(**{**sizes, **changes})


def make(method: Method, seed: int = 0, **changes: object) -> EchoRecognizer:
    """An Echo that counts as trained, unless its seed is not 0."""
    torch.manual_seed(seed)
    echo, backbone = load_echo("new", None, tiny(**changes), CHARACTERS)
    backbone.name = "trained" if seed == 0 else "new"
    torch.manual_seed(1)
    return EchoRecognizer(backbone, method, echo, CHARACTERS)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = decoder_labels(torch.tensor([[2, 3, 1], [4, 0, 0]]), torch.tensor([3, 1]), end=len(CHARACTERS))
    return torch.randn(2, 40, 80, generator=generator), torch.tensor([1.0, 0.5]), labels


def train(model: EchoRecognizer, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        labels = batch()[2]
        loss = torch.nn.functional.cross_entropy(model(*batch()).transpose(1, 2), labels)
        loss.backward()
        optimizer.step()
        model.adapt_base(loss)
    model.eval()


@given(st.lists(st.text(" abcd", max_size=8), min_size=1, max_size=5))
def test_labels_can_be_read_again(texts):
    longest = max(map(len, texts))
    numbers = torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in zip(numbers, texts, strict=True):
        row[: len(text)] = torch.tensor(CHARACTERS.encode(text), dtype=torch.long)
    end = special_tokens(CHARACTERS)["eos_token_id"]
    labels = decoder_labels(numbers, torch.tensor([len(text) for text in texts]), end)
    assert labels.shape == (len(texts), longest + 1)
    assert texts_of(labels.masked_fill(labels == -100, 0), CHARACTERS, end) == [" ".join(t.split()) for t in texts]
    assert (labels == end).sum(1).tolist() == [1] * len(texts)


@pytest.mark.parametrize("name", list(METHODS))
class TestMethods:
    def test_trains_the_decoder_and_what_the_method_says(self, name):
        model = make(METHODS[name], adaptive_base=True, base_interval=1)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        train(model)
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert any(key.startswith("head.") for key in moved)
        of_encoder = {key for key in moved if key.startswith("backbone.")} - {
            "backbone.model.norm.weight",
            "backbone.model.norm.bias",
        }
        assert bool(of_encoder) == (name != "linear")
        assert any(key.endswith("positions.base") for key in of_encoder) == (name == "full")  # frozen means frozen

    def test_the_delta_restores_it_under_another_seed_of_the_decoder(self, name):
        model = make(METHODS[name], adaptive_base=True, base_interval=1)
        train(model)
        other = make(METHODS[name], adaptive_base=True, base_interval=1)
        torch.manual_seed(5)
        other.echo.decoder.apply_initialization()
        other.load_delta(model.delta())
        other.eval()
        assert torch.equal(other(*batch()), model(*batch()))
        assert other.echo.adaptive_base.base == model.echo.adaptive_base.base
        assert (model.echo.adaptive_base.base != 10000) == (name == "full")

    def test_adapts_an_encoder_with_all_parts(self, name):
        model = make(METHODS[name], card_parity=True, use_hybrid_attention=True, use_convolution=True)
        before = model(*batch())
        train(model, steps=1)
        assert not torch.allclose(model(*batch()), before)

    def test_a_clip_s_text_does_not_depend_on_its_batch(self, name):
        model = make(METHODS[name])
        train(model)
        signal, lengths, _ = batch()
        signal[1, 20:] = 7.0
        alone = model.generate(model.encode(signal[1:, :20], torch.ones(1)))
        assert model.generate(model.encode(signal, lengths))[1] == alone[0]


def test_writing_is_silent(caplog, capsys):
    model = make(FullFineTuning())
    model.eval().generate(model.encode(*batch()[:2]))
    assert not caplog.records
    assert capsys.readouterr().err == ""


def test_the_delta_of_a_new_one_is_all_of_it():
    model, other = (
        make(FullFineTuning(), seed=1, adaptive_base=True),
        make(FullFineTuning(), seed=2, adaptive_base=True),
    )
    train(model)
    other.load_delta(model.delta())
    assert torch.equal(other.eval()(*batch()), model(*batch()))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "full"])
def test_a_new_encoder_that_would_not_be_trained_is_refused(name):
    with pytest.raises(UsageError, match=r"would stay as it was drawn\. Write --method=full"):
        make(METHODS[name], seed=1)


def test_clips_longer_than_the_encoder_reads():
    backbone = make(FullFineTuning()).backbone
    for seconds, expected in [(2.0, None), (2.02, "has 101 tokens, the encoder reads 100")]:
        assert why_too_long(backbone, Clip("a", "", "", duration=seconds)) == expected
    assert backbone.count_tokens(16123) == backbone(backbone.extract(torch.randn(16123))[None], torch.ones(1))[1].sum()


def test_it_learns_to_write_what_it_hears(tmp_path):
    """Two clips with two texts: both are written, so that the text comes from the audio."""
    model = make(FullFineTuning())
    train(model, steps=60)
    signal, lengths, _ = batch()
    assert model.generate(model.encode(signal, lengths)) == ["ab", "c"]
    assert model.generate(model.encode(signal.flip(0), lengths.flip(0))) == ["c", "ab"]
    assert model.generate(model.encode(signal, lengths), beam_size=3) == ["ab", "c"]

    save_echo(model, str(tmp_path))
    echo, backbone = load_echo(str(tmp_path), None, None, CHARACTERS)
    assert backbone.revision.startswith("sha256-")
    again = EchoRecognizer(backbone, LinearProbe(), echo, CHARACTERS).eval()
    torch.testing.assert_close(again(*batch()), model(*batch()))
    with pytest.raises(UsageError, match=r"with the characters 'ab' was asked for\. Its characters are ' abcd'\."):
        load_echo(str(tmp_path), None, None, Characters("ab"))


def test_fields_that_no_echo_has():
    with pytest.raises(UsageError, match=r"n_audio_layers was asked for\. .* Write one of: n_audio_layer"):
        load_echo("new", None, tiny(n_audio_layers=6), CHARACTERS)


def test_what_is_no_change_of_weights_is_not_saved_whole(tmp_path):
    save_echo(make(METHODS["prompt"]), str(tmp_path / "echo"))
    assert not Path(tmp_path, "echo").exists()


def test_longer_texts_than_the_decoder_writes():
    with pytest.raises(UsageError, match=r"up to 12 characters .* generates at most 11\. Write n_text_ctx: 13"):
        check_texts_fit(["a", 12 * "a"], 12)
