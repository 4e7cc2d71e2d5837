"""Echo as a whole: reads the audio, is saved whole, generates, and refuses what does not fit."""

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSpeechSeq2Seq
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from brainplug.backbones.echo import Echo, EchoConfig
from brainplug.backbones.echo.decoder import EchoDecoder
from brainplug.backbones.echo.encoder import EchoEncoder, FrontEnd
from brainplug.backbones.echo.rotary import RotaryPositions
from brainplug.backbones.echo_encoder import EchoBackbone
from brainplug.errors import UsageError

PAD, START, END = 0, 1, 2
TINY = {
    "n_mels": 8, "n_audio_ctx": 40, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 2, "n_text_ctx": 12,
    "n_text_state": 24, "n_text_head": 3, "n_text_layer": 3, "vocab_size": 11, "max_rel_dist": 3, "window_size": 4,
    "checkpointing": False, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END,
    "decoder_start_token_id": START,
}  # fmt: skip
VARIANTS = {
    "combined": {},
    "plain": {"rotation": "plain"},
    "givens": {"rotation": "givens", "n_rotations": 9},
    "trained R": {"train_orthogonal": True},
    "hybrid": {"use_hybrid_attention": True},
    "convolution": {"use_convolution": True},
    "adaptive": {"adaptive_base": True, "base_interval": 1},
    "card": {"card_parity": True},
    "without bias": {"max_rel_dist": 0},
    "all": {"use_hybrid_attention": True, "use_convolution": True, "adaptive_base": True, "train_orthogonal": True},
}


def make(trained: bool = True, **changes: object) -> Echo:
    torch.manual_seed(0)
    model = Echo(EchoConfig(**{**TINY, **changes}))
    if trained:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            mean = float("norm.weight" in name)
            torch.nn.init.normal_(parameter, mean, std=0.1 if "norm" in name else 0.4, generator=generator)
    return model.eval()


def clips(batch: int = 2, frames: int = 30) -> torch.Tensor:
    return torch.randn(batch, frames, 8, generator=torch.Generator().manual_seed(2))


def texts(batch: int = 2, tokens: int = 6) -> torch.Tensor:
    return torch.randint(3, 11, (batch, tokens), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> Echo:
    return make(**VARIANTS[request.param])


class TestEveryVariant:
    def test_no_token_sees_a_later_one(self, model):
        tokens = texts()
        before = model(clips(), decoder_input_ids=tokens).logits
        changed = tokens.clone()
        changed[:, 3] = (changed[:, 3] - 2) % 8 + 3
        after = model(clips(), decoder_input_ids=changed).logits
        torch.testing.assert_close(after[:, :3], before[:, :3], atol=1e-5, rtol=1e-5)
        assert (after - before)[:, 3:].abs().max() > 1e-2

    def test_other_audio_gives_other_scores_at_every_place(self, model):
        tokens, audio = texts(), clips()
        before = model(audio, decoder_input_ids=tokens).logits
        for frame in (0, 15, 29):
            other = audio.clone()
            other[:, frame] += 3
            changed = (model(other, decoder_input_ids=tokens).logits - before).abs().amax(2)
            assert changed.min() > 1e-4

    def test_step_by_step_equals_all_at_once(self, model):
        tokens, audio = texts(), clips()
        expected = model(audio, decoder_input_ids=tokens).logits
        encoded, cache, made = model.encoder(audio), None, []
        for position in range(tokens.shape[1]):
            step = model(
                encoder_outputs=encoded,
                decoder_input_ids=tokens[:, position : position + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = step.past_key_values
            made.append(step.logits)
        torch.testing.assert_close(torch.cat(made, dim=1), expected, atol=1e-4, rtol=1e-4)

    def test_a_padded_batch_equals_its_clips(self, model):
        audio, tokens, lengths = clips(3), texts(3), [30, 17, 24]
        audio[1, 17:], audio[2, 24:] = 9.0, -9.0  # what is there must not matter
        mask = (torch.arange(30) < torch.tensor(lengths)[:, None]).long()
        together = model(audio, mask, decoder_input_ids=tokens).logits
        for clip, length in enumerate(lengths):
            alone = model(audio[clip : clip + 1, :length], decoder_input_ids=tokens[clip : clip + 1]).logits
            torch.testing.assert_close(together[clip : clip + 1], alone, atol=1e-4, rtol=1e-4)
        order = torch.tensor([2, 0, 1])
        again = model(audio[order], mask[order], decoder_input_ids=tokens[order]).logits
        torch.testing.assert_close(again, together[order], atol=1e-5, rtol=1e-5)

    def test_saves_all_of_it(self, model, tmp_path):
        if model.adaptive_base is not None:
            model.train().adapt(torch.tensor(1.0))
            model.eval()
            assert model.encoder.rotary.positions.base != model.config.base or model.config.base_interval > 1
        model.save_pretrained(tmp_path)
        torch.manual_seed(9)
        loaded = Echo.from_pretrained(tmp_path)
        tokens = texts()
        assert torch.equal(
            loaded(clips(), decoder_input_ids=tokens).logits, model(clips(), decoder_input_ids=tokens).logits
        )
        states = model.state_dict()
        assert all(torch.equal(value, states[name]) for name, value in loaded.state_dict().items())
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["current_base"] == model.encoder.rotary.positions.base.item()
        assert {name for name in TINY if saved[name] != getattr(model.config, name)} == set()

    def test_every_weight_has_a_gradient(self, model):
        model.train()
        model(clips(), labels=texts()).loss.backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []

    def test_recomputing_layers_changes_nothing(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        recomputing = Echo.from_pretrained(tmp_path, checkpointing=True)
        assert all(layer.gradient_checkpointing for layer in [*recomputing.encoder.layers, *recomputing.decoder.layers])
        gradients = []
        for entry in (model, recomputing):
            entry.train()
            loss = entry(clips(), labels=texts()).loss
            loss.backward()
            gradients.append([loss.detach(), *(parameter.grad for parameter in entry.parameters())])
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)

    def test_folding_changes_nothing_and_is_saved(self, model, tmp_path):
        tokens = texts()
        before = model(clips(), decoder_input_ids=tokens).logits
        model.fold()
        torch.testing.assert_close(model(clips(), decoder_input_ids=tokens).logits, before, atol=1e-4, rtol=0)
        assert not [name for name, _ in model.named_parameters() if "attention.rotary.givens" in name]
        model.save_pretrained(tmp_path)
        loaded = Echo.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(clips(), decoder_input_ids=tokens).logits, before, atol=1e-4, rtol=1e-4)

    def test_generates_until_each_text_ends(self, model):
        """Greedy texts are those of a plain loop, and hold nothing but padding behind their end."""
        audio = 3 * clips(24)
        encoded, text = model.encoder(audio), torch.full((24, 1), START)
        while text.shape[1] < 9:
            best = model(encoder_outputs=encoded, decoder_input_ids=text).logits[:, -1].argmax(1)
            text = torch.cat([text, best[:, None]], dim=1)
        rows = text.tolist()
        locations = {token: {row.index(token, 1) if token in row[1:] else 8 for row in rows} for token in range(11)}
        end = max(locations, key=lambda token: len(locations[token]))  # ends texts at different places
        assert len(locations[end]) > 1
        made = model.generate(audio, max_new_tokens=8, do_sample=False, eos_token_id=end)
        for row, expected in zip(made.tolist(), rows, strict=True):
            stop = expected.index(end, 1) + 1 if end in expected[1:] else len(expected)
            assert row == (expected[:stop] + 8 * [PAD])[: len(row)]


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "lengths"), [("all", (20, 30))])
def test_compiles(variant, lengths):
    torch.compiler.reset()
    model = make(**VARIANTS[variant], n_audio_layer=1, n_text_layer=1)
    compiled = torch.compile(model, backend="aot_eager")
    for frames in lengths:  # nothing was computed without it before
        given = {"decoder_input_ids": texts(tokens=frames // 4), "use_cache": False}
        made = compiled(clips(frames=frames), **given).logits
        torch.testing.assert_close(made, model(clips(frames=frames), **given).logits, atol=1e-5, rtol=1e-5)


class TestPrecision:
    @pytest.mark.parametrize("variant", list(VARIANTS))
    def test_half_precision_is_near(self, variant, tmp_path):
        model, tokens = make(**VARIANTS[variant]), texts()
        model.save_pretrained(tmp_path)
        mask = (torch.arange(30) < torch.tensor([[30], [17]])).long()
        expected = model(clips(), mask, decoder_input_ids=tokens).logits.softmax(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(clips(), mask, decoder_input_ids=tokens).logits.softmax(2)
        half = Echo.from_pretrained(tmp_path, dtype=torch.bfloat16)
        cast = make(**VARIANTS[variant]).bfloat16()
        for entry in (half, cast):
            assert entry.encoder.rotary.positions.frequencies.dtype == torch.float32
            assert entry.encoder.layers[0].attention.q_proj.weight.dtype == torch.bfloat16
        halves = [entry(clips().bfloat16(), mask, decoder_input_ids=tokens).logits.softmax(2) for entry in (half, cast)]
        for made in (mixed, *halves):
            assert made.dtype == torch.float32
            torch.testing.assert_close(made, expected, atol=0.15, rtol=0)

    def test_orthogonal_stays_orthogonal(self):
        matrix = make().bfloat16().encoder.layers[0].attention.rotary.orthogonal()
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(8), atol=1e-5, rtol=0)


def test_from_the_meta_device():
    with torch.device("meta"):
        model = Echo(EchoConfig(**TINY, adaptive_base=True))
    model = model.to_empty(device="cpu")
    model.apply_initialization(torch.Generator().manual_seed(0))
    other = make(False, adaptive_base=True, base_interval=1)
    other.train().adapt(torch.tensor(1.0))
    other.eval().apply_initialization(torch.Generator().manual_seed(0))
    model.eval()
    assert torch.equal(
        model(clips(), decoder_input_ids=texts()).logits, other(clips(), decoder_input_ids=texts()).logits
    )
    assert other.adaptive_base.base == other.encoder.rotary.positions.base == 10000


def test_generates_in_training_as_in_evaluation():
    model = make(checkpointing=True, dropout=0.3)
    expected = model.generate(clips(), max_new_tokens=8, do_sample=False)
    assert torch.equal(model.train().generate(clips(), max_new_tokens=8, do_sample=False), expected)
    assert model.training


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_configuration_survives_saving(data, tmp_path_factory):
    changes = {
        "n_mels": data.draw(st.integers(1, 9)),
        "n_audio_head": data.draw(st.sampled_from([1, 2, 4])),
        "n_text_head": data.draw(st.sampled_from([1, 2, 3, 4, 6])),
        "n_audio_layer": data.draw(st.integers(1, 2)),
        "n_text_layer": data.draw(st.integers(1, 3)),
        "max_rel_dist": data.draw(st.integers(0, 5)),
        "rotation": data.draw(st.sampled_from(["plain", "givens", "combined"])),
        "window_size": data.draw(st.integers(1, 50)),
        **{
            name: data.draw(st.booleans())
            for name in ("use_hybrid_attention", "use_convolution", "adaptive_base", "card_parity", "train_orthogonal")
        },
    }
    model, folder = make(**changes), tmp_path_factory.mktemp("echo")
    model.save_pretrained(folder)
    audio = torch.randn(1, 12, changes["n_mels"])
    loaded = Echo.from_pretrained(folder)
    expected = model(audio, decoder_input_ids=texts(1)).logits
    assert torch.equal(loaded(audio, decoder_input_ids=texts(1)).logits, expected)


def test_generating_with_padding_and_with_beams():
    model, audio = make(), clips()
    audio[1, 17:] = 0
    mask = (torch.arange(30) < torch.tensor([[30], [17]])).long()
    made = model.generate(audio, attention_mask=mask, max_new_tokens=6, do_sample=False)
    alone = model.generate(audio[1:, :17], max_new_tokens=6, do_sample=False)
    assert made[1, : alone.shape[1]].tolist() == alone[0].tolist()
    assert model.generate(audio, num_beams=3, max_new_tokens=6).shape[0] == 2


class TestAsTransformersHasIt:
    def test_a_cache_is_filled_in_place(self):
        model, tokens = make(), texts()
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        steps = [
            model(clips(), decoder_input_ids=several, past_key_values=cache, use_cache=True)
            for several in tokens.split(4, 1)
        ]
        assert cache.get_seq_length() == 6
        whole = model(clips(), decoder_input_ids=tokens).logits
        torch.testing.assert_close(torch.cat([step.logits for step in steps], dim=1), whole, atol=1e-4, rtol=1e-4)

    def test_texts_may_be_as_long_as_the_decoder_writes(self):
        assert make(n_text_ctx=30).generate(clips(), eos_token_id=None).shape == (2, 30)

    def test_generating_leaves_modules_in_their_modes(self):
        model = make().train()
        model.encoder.eval()
        model.generate(clips(), max_new_tokens=2)
        assert not any(module.training for module in model.encoder.modules())
        assert all(module.training for module in model.decoder.modules())

    def test_states_and_attentions_of_every_layer(self):
        model = make(attn_implementation="eager")
        asked = {"decoder_input_ids": texts(), "output_hidden_states": True, "output_attentions": True}
        made = model(clips(), **asked)
        assert [len(states) for states in (made.encoder_hidden_states, made.decoder_hidden_states)] == [3, 4]
        assert [len(several) for several in (made.encoder_attentions, made.decoder_attentions)] == [2, 3]
        for weights in (*made.encoder_attentions, *made.decoder_attentions, *made.cross_attentions):
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert made.cross_attentions[0].shape == (2, 3, 6, 15)
        assert torch.equal(model(clips(), decoder_input_ids=texts(), return_dict=False)[0], made.logits)

    def test_padding_of_the_text_is_not_read(self):
        model = make()
        tokens, mask = texts(), torch.ones(2, 6, dtype=torch.long)
        mask[1, 2:4] = 0
        before = model(clips(), decoder_input_ids=tokens, decoder_attention_mask=mask).logits
        tokens[1, 2:4] = PAD
        after = model(clips(), decoder_input_ids=tokens, decoder_attention_mask=mask).logits
        torch.testing.assert_close(after[1, 4:], before[1, 4:])
        assert not torch.allclose(model(clips(), decoder_input_ids=tokens).logits[1, 4:], before[1, 4:])

    @pytest.mark.parametrize("variant", list(VARIANTS))
    def test_beginnings_of_several_lengths(self, variant):
        """Padded in front, each is read as if it were alone, at once and step by step, and goes on in the same way."""
        model, tokens, mask = make(**VARIANTS[variant]), texts(), torch.ones(2, 6, dtype=torch.long)
        tokens[0, 0] = tokens[1, 2] = START
        tokens[1, :2], mask[1, :2] = PAD, 0
        together = model(clips(), decoder_input_ids=tokens, decoder_attention_mask=mask).logits
        alone = model(clips()[1:], decoder_input_ids=tokens[1:, 2:]).logits
        torch.testing.assert_close(together[1:, 2:], alone, atol=1e-4, rtol=1e-4)
        first, steps, cache = 0, [], None
        for last in (4, 5, 6):
            step = model(
                clips(),
                decoder_input_ids=tokens[:, first:last],
                decoder_attention_mask=mask[:, :last],
                past_key_values=cache,
                use_cache=True,
            )
            first, cache = last, step.past_key_values
            steps.append(step.logits)
        torch.testing.assert_close(torch.cat(steps, dim=1)[mask > 0], together[mask > 0], atol=1e-4, rtol=1e-4)
        ended = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        made = model.generate(clips(), decoder_input_ids=tokens, decoder_attention_mask=mask, **ended)
        expected = model.generate(clips()[1:], decoder_input_ids=tokens[1:, 2:], **ended)
        assert made[1, 2:].tolist() == expected[0].tolist()

    def test_its_trainer_divides_the_loss_itself(self):
        """The loss is a mean over a batch, not over all batches of a step."""
        assert Echo.accepts_loss_kwargs is False
        assert torch.equal(make().prepare_decoder_input_ids_from_labels(texts())[:, 1:], texts()[:, :-1])

    def test_folding_leaves_the_configuration_of_others_alone(self):
        config = EchoConfig(**TINY)
        Echo(config).fold()
        assert Echo(config).encoder.layers[0].attention.rotary.givens is not None

    def test_double_precision(self, tmp_path):
        model = make(train_orthogonal=True)
        model.save_pretrained(tmp_path)
        double = Echo.from_pretrained(tmp_path, dtype=torch.float64)
        made = double(clips().double(), decoder_input_ids=texts()).logits
        torch.testing.assert_close(made.float(), model(clips(), decoder_input_ids=texts()).logits)
        double.fold()

    def test_the_description_s_own_layers(self):
        """`card_parity` gives the encoder a second self-attention, and turns queries and keys of cross-attention."""
        model = make(card_parity=True)
        expected = model(clips(), decoder_input_ids=texts()).logits
        for layer in model.encoder.layers:
            torch.nn.init.zeros_(layer.second_attention.out_proj.weight)
        assert not torch.allclose(model(clips(), decoder_input_ids=texts()).logits, expected)
        assert all(layer.cross_attention.rotary is not None for layer in model.decoder.layers)


def test_queries_and_keys_are_scaled():
    attention, tokens = make().encoder.layers[0].attention, torch.randn(1, 5, 16)
    before = attention.read(tokens, None, 0)
    torch.nn.init.constant_(attention.positional_scaling, 3 * attention.positional_scaling.item())
    query, key, value = attention.read(tokens, None, 0)
    torch.testing.assert_close((query, key, value), (3 * before[0], 3 * before[1], before[2]))


def test_angles_that_are_zero_learn():
    model = make(trained=False)
    model(clips(), labels=texts()).loss.backward()
    for layer in (*model.encoder.layers, *model.decoder.layers):
        assert layer.attention.rotary.givens.thetas.grad.abs().max() > 0


def test_adaptive_base_reaches_every_rotation_but_not_in_evaluation():
    model = make(adaptive_base=True, base_interval=1)
    optimizer = torch.optim.AdamW(model.parameters())
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    model.adapt(torch.tensor(1.0))
    rotations = [module for module in model.modules() if isinstance(module, RotaryPositions)]
    assert {module.base.item() for module in rotations} == {10000.0}
    model.train().adapt(torch.tensor(1.0))
    expected = torch.tensor(10025.0)
    for module in rotations:
        width = len(module.frequencies)
        torch.testing.assert_close(module.frequencies, expected ** (-torch.arange(width) / width))
    assert {id(parameter) for parameter in model.parameters()} == known
    assert len(rotations) == 2 + 2 + 3  # both inputs, and every self-attention


class TestInitialization:
    def test_is_what_it_says(self):
        model = make(False, n_audio_state=96, n_text_state=96, vocab_size=400)
        model.apply_initialization(torch.Generator().manual_seed(0))
        assert model.decoder.embed_tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                expected = (2 / sum(module.weight.shape)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
                assert module.bias is None or module.bias.abs().max() == 0
        first, second = model.encoder.front_end.first.weight, model.encoder.front_end.second.weight
        assert first.std().item() == pytest.approx((2 / (3 * (8 + 96))) ** 0.5, rel=0.05)
        assert second.std().item() == pytest.approx((2 / (3 * 96)) ** 0.5, rel=0.05)
        attention = model.encoder.layers[0].attention
        assert attention.rotary.givens.thetas.abs().max() == attention.bias.table.abs().max() == 0
        start = attention.rotary.orthogonal.start
        torch.testing.assert_close(start @ start.T, torch.eye(48), atol=1e-5, rtol=0)

    def test_comes_from_its_generator(self):
        models = [make(False) for _ in range(3)]
        for model, seed in zip(models, (4, 4, 5), strict=True):
            model.apply_initialization(torch.Generator().manual_seed(seed))
        first, second, third = ({**model.state_dict()} for model in models)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["decoder.embed_tokens.weight"], third["decoder.embed_tokens.weight"])


class TestSizes:
    def test_the_description_s_medium_model(self):
        with torch.device("meta"):
            model = Echo(EchoConfig())
        width, heads, head_dim = 1024, 16, 64
        rotary = head_dim // 2 + 1  # angles and their scale
        norm, bias = 2 * width, (2 * 15 - 1) * heads
        attention = 4 * width**2 + 3 * width
        self_attention = attention + rotary + bias + 1
        feed_forward = 8 * width**2 + 5 * width
        encoder_layer = self_attention + feed_forward + 2 * norm
        decoder_layer = self_attention + attention + feed_forward + 3 * norm
        front_end = 3 * 80 * width + 3 * width**2 + 2 * width
        encoder = front_end + rotary + 1500 * width + 24 * encoder_layer + norm
        decoder = 51865 * width + 448 * width + rotary + 20 * decoder_layer + norm
        assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder == 696_701_402
        buffers = {name.rsplit(".", 1)[-1] for name, _ in model.named_buffers()}
        assert buffers == {"pairs", "start", "base", "frequencies"}

    def test_one_step_at_its_width(self):
        model = Echo(EchoConfig(n_audio_layer=1, n_text_layer=1, vocab_size=51865)).train()
        assert model.encoder.layers[0].gradient_checkpointing
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        labels = torch.tensor([[50, 51, 52, -100]])
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = model(torch.randn(1, 40, 80, generator=torch.Generator().manual_seed(0)), labels=labels).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] < losses[0]

    def test_loads_as_transformers_do(self, tmp_path):
        make().save_pretrained(tmp_path)
        for kind in (AutoModel, AutoModelForSpeechSeq2Seq):
            assert isinstance(kind.from_pretrained(tmp_path), Echo)

    def test_scores_come_from_the_embedding_of_tokens(self, tmp_path):
        make().save_pretrained(tmp_path)
        model = Echo.from_pretrained(tmp_path)
        with torch.no_grad():
            model.get_input_embeddings().weight[7] = 0
        assert model(clips(), decoder_input_ids=texts()).logits[:, :, 7].abs().max() == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_audio_state": 15}, r"n_audio_state: 15 with n_audio_head: 2 .* Write an even n_audio_state"),
            ({"n_audio_state": 18, "n_audio_head": 6}, r"3 values.* Write n_audio_head: (3|9)"),
            ({"n_text_state": 24, "n_text_head": 5}, r"4\.8 values.* Write n_text_head: (4|6)"),
            ({"window_size": 0}, r"window_size: 0 was asked for\. .* Write window_size: 64"),
            ({"convolution_kernel": 4}, r"convolution_kernel: 4 .* odd"),
            ({"rotation": "given"}, r"rotation: 'given' .* Write one of: givens"),
            ({"base": 10.0, "base_min": 20.0}, r"base: 10 between base_min: 20 .* not between"),
            ({"n_audio_head": 0}, r"n_audio_head: 0 was asked for\. It is no whole number from 1 on"),
            ({"n_audio_head": "2"}, r"n_audio_head: '2' was asked for"),
            ({"n_text_state": 0}, r"n_text_state: 0 was asked for"),
            ({"n_audio_state": -16}, r"n_audio_state: -16 was asked for"),
            ({"max_rel_dist": 2.5}, r"max_rel_dist: 2\.5 was asked for\. It is no whole number from 0 on"),
            ({"base_factor": float("nan")}, r"base_factor: nan"),
            ({"max_rel_dist": -1}, r"max_rel_dist: -1 .* Write max_rel_dist: 15"),
            ({"cross_attention": False}, r"not depend on the audio.* Write cross_attention: True"),
            ({"convolution_kernel": -1}, r"convolution_kernel: -1"),
            ({"window_size": 2.5}, r"window_size: 2\.5"),
            ({"n_audio_layer": 0}, r"n_audio_layer: 0"),
            ({"base": 0.0}, r"base: 0 .* above 0"),
            ({"base_interval": 0}, r"base_interval: 0"),
            ({"base_factor": -1.0}, r"base_factor: -1"),
        ],
    )
    def test_configurations_that_make_no_model(self, changes, message):
        with pytest.raises(UsageError, match=message):
            EchoConfig(**{**TINY, **changes})

    def test_a_field_that_is_changed_while_loading(self, tmp_path):
        make().save_pretrained(tmp_path)
        with pytest.raises(UsageError, match=r"window_size: 0 was asked for"):
            Echo.from_pretrained(tmp_path, window_size=0)

    @pytest.mark.parametrize(
        ("changes", "token"),
        [
            ({"decoder_start_token_id": 50258}, "decoder_start_token_id: 50258"),
            ({"pad_token_id": None}, "pad_token_id: None"),
            ({"eos_token_id": 11}, "eos_token_id: 11"),
            ({"eos_token_id": [2, -1]}, "eos_token_id: -1"),
        ],
    )
    def test_special_tokens_out_of_the_vocabulary(self, changes, token):
        with pytest.raises(UsageError, match=f"{token} with vocab_size: 11"):
            make(**changes)

    def test_a_mask_of_tokens_an_empty_clip_and_an_empty_text(self):
        with pytest.raises(UsageError, match=r"shape \[2, 15\] was given\. There are \[2, 30\] frames"):
            make()(clips(), torch.ones(2, 15), decoder_input_ids=texts())
        with pytest.raises(UsageError, match=r"shape \[2, 0, 8\]"):
            make()(clips(frames=0), decoder_input_ids=texts())
        with pytest.raises(UsageError, match=r"The text has no token"):
            make()(clips(), decoder_input_ids=texts(tokens=0))

    def test_masks_of_another_length(self):
        model, tokens = make(), texts()
        encoded = model.encoder(clips())
        with pytest.raises(
            UsageError, match=r"mask of the shape \[2, 15\] .*has \[2, 15\] tokens, .*of frames and not"
        ):
            model(encoder_outputs=encoded, attention_mask=torch.ones(2, 15), decoder_input_ids=tokens)
        with pytest.raises(UsageError, match=r"mask of 5 tokens of the text was given\. There are 6 so far"):
            model(clips(), decoder_input_ids=tokens, decoder_attention_mask=torch.ones(2, 5))

    def test_a_cache_of_another_kind(self):
        with pytest.raises(
            UsageError, match=r"It is StaticCache; .* Leave past_key_values and cache_implementation out"
        ):
            make().generate(clips(), cache_implementation="static", max_new_tokens=3)
        with pytest.raises(UsageError, match=r"It is DynamicCache; .* text and audio in a DynamicCache each"):
            make()(clips(), decoder_input_ids=texts(), past_key_values=DynamicCache(), use_cache=True)

    def test_a_decoder_without_audio(self):
        with pytest.raises(UsageError, match=r"There is no audio to it\. Give encoder_hidden_states"):
            EchoDecoder(EchoConfig(**TINY))(texts())

    def test_parts_and_bases_that_are_not_in_the_file(self, tmp_path):
        make().save_pretrained(tmp_path)
        make(adaptive_base=True).save_pretrained(tmp_path / "adaptive")
        with pytest.raises(UsageError, match=r"not those of its configuration"):
            EchoEncoder.from_pretrained(tmp_path)
        with pytest.raises(UsageError, match=r"The base is 10000 in the file, 500 in the configuration"):
            Echo.from_pretrained(tmp_path, base=500.0)
        with pytest.raises(UsageError, match=r"The base is 10000 in the file, from 50 to 5000 in the conf"):
            Echo.from_pretrained(tmp_path / "adaptive", base=500.0)

    @pytest.mark.parametrize("layer", [0, 1])
    @pytest.mark.parametrize("name", ["q_proj", "k_proj"])
    def test_folding_what_a_method_has_changed(self, layer, name):
        model = make()
        attention, before = model.encoder.layers[layer].attention, model.state_dict().keys()
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        projection = getattr(attention, name)
        setattr(attention, name, torch.nn.Sequential(projection))
        with pytest.raises(UsageError, match=r"is a Sequential: a method has changed it\. Merge"):
            model.fold()
        setattr(attention, name, projection)
        assert model.state_dict().keys() == before
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())

    def test_nothing_to_hear_or_to_write(self):
        with pytest.raises(UsageError, match=r"No audio was given"):
            make()(decoder_input_ids=texts())
        with pytest.raises(UsageError, match=r"No text was given"):
            make()(clips())

    def test_other_mel_bands(self):
        with pytest.raises(UsageError, match=r"shape \[2, 30, 80\] were given\. This model takes 8 mel bands\."):
            make()(torch.randn(2, 30, 80), decoder_input_ids=texts())

    def test_longer_than_the_context(self):
        with pytest.raises(UsageError, match=r"Clips of 81 frames were given\. This model takes 80 at most"):
            make()(clips(frames=81), decoder_input_ids=texts())
        with pytest.raises(UsageError, match=r"positions 0 to 12 were asked for\. The table has 12"):
            make()(clips(), decoder_input_ids=texts(tokens=13))

    @pytest.mark.parametrize("token", [-1, 11])
    def test_tokens_out_of_the_vocabulary(self, token):
        tokens = texts()
        tokens[1, 2] = token
        for name in ("decoder_input_ids", "labels"):
            with pytest.raises(
                UsageError, match=rf"The token {token} was given\. The vocabulary has the tokens 0 to 10"
            ):
                make()(clips(), **{name: tokens})

    def test_labels_that_are_all_ignored(self):
        with pytest.raises(UsageError, match=r"All of them are -100, which has no loss\. Give a text"):
            make()(clips(), labels=torch.full((2, 4), -100))

    def test_ignored_labels_have_no_loss(self):
        model, labels = make(), texts()
        labels[0, 3:] = -100
        expected = torch.nn.functional.cross_entropy(
            torch.cat([model(clips(), labels=labels).logits[0, :3], model(clips(), labels=labels).logits[1]]),
            torch.cat([labels[0, :3], labels[1]]),
        )
        torch.testing.assert_close(model(clips(), labels=labels).loss, expected)

    def test_weights_of_another_configuration(self, tmp_path):
        make().save_pretrained(tmp_path)
        for changes in ({"n_audio_layer": 1}, {"n_audio_layer": 3}, {"n_text_state": 12}, {"rotation": "plain"}):
            with pytest.raises(UsageError, match=r"not those of its configuration.* Leave config out"):
                Echo.from_pretrained(tmp_path, config=EchoConfig(**{**TINY, **changes}))

    def test_a_file_that_lacks_weights(self, tmp_path):
        make().save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        weights.pop("encoder.layers.0.attention.rotary.givens.pairs")
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UsageError, match=r"Missing: encoder\.layers\.0\.attention\.rotary\.givens\.pairs"):
            Echo.from_pretrained(tmp_path)


class TestEncoderAlone:
    def test_frames_between_convolutions(self):
        """Padding is silence for both convolutions, not what the first one makes of silence."""
        front_end, frames = FrontEnd(8, 16), clips(1, 11)
        padded = torch.nn.functional.pad(frames, (0, 0, 0, 9), value=5.0)
        made, present = front_end(padded, torch.arange(20)[None] < 11)
        alone, _ = front_end(frames, None)
        assert present.sum() == alone.shape[1] == 6
        torch.testing.assert_close(made[:, :6], alone)

    def test_backbone_of_a_saved_model(self, tmp_path):
        config = EchoConfig(**{**TINY, "n_mels": 32, "n_audio_ctx": 100})
        backbone = EchoBackbone.from_config(config)
        Echo(config).save_pretrained(tmp_path)
        loaded = EchoBackbone.load(str(tmp_path), "echo", None)
        assert isinstance(loaded.model, EchoEncoder)
        assert loaded.extract(torch.randn(16000)).shape == (100, 32)
        assert loaded.extract(torch.randn(10)).shape[0] > 0
        assert loaded.signal_settings == backbone.signal_settings

    def test_parts_can_be_built_alone(self):
        config = EchoConfig(**TINY)
        encoded = EchoEncoder(config).eval()(clips()).last_hidden_state
        read = EchoDecoder(config).eval()(texts(), encoder_hidden_states=encoded)
        assert read.last_hidden_state.shape == (2, 6, 24)
        assert read.past_key_values.get_seq_length() == 6


def test_dropout_is_of_training_alone():
    model = make(dropout=0.5)
    same = [model(clips(), labels=texts()).loss for _ in range(2)]
    model.train()
    other = [model(clips(), labels=texts()).loss for _ in range(2)]
    assert same[0] == same[1]
    assert len({loss.item() for loss in itertools.chain(same, other)}) == 3
