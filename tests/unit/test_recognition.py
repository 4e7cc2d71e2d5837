"""Recognition: characters, masks, what is frozen, the loss, decoding, error rates, and adapters read back."""

import itertools
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.dataio.batch import PaddedBatch
from transformers import HubertConfig

from brainplug.adapters.file import register_adapter
from brainplug.backbones import load_backbone, random_backbone
from brainplug.data.augment import Speed
from brainplug.data.characters import Characters, choose_characters, normal_text
from brainplug.data.manifest import Clip
from brainplug.data.transcripts import list_transcribed, make_transcribed_datasets, usable_clips
from brainplug.errors import UsageError
from brainplug.methods import choose_method, method_settings, restore_method
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.models.ctc import CTCModel
from brainplug.models.decoding import make_decoder
from brainplug.models.span_masks import SpanMasks
from brainplug.optim.entry import as_entry
from brainplug.optim.schedules import constant
from brainplug.tasks import load_recipe, task_of
from brainplug.training.checkpoints import SafeCheckpointer
from brainplug.training.ctc import CTCBrain
from tests.conftest import TINY, TINY_CONVOLUTIONS
from tests.integration.running import SETTINGS

REPOSITORY = Path(__file__).parents[2]
METHODS = load_hyperpyyaml((REPOSITORY / "hparams" / "methods.yaml").read_text())
OPTIMIZERS = load_hyperpyyaml((REPOSITORY / "hparams" / "optimizers.yaml").read_text())
FAMILY = ("wav2vec2", "hubert", "data2vec", "wavlm")
LETTERS = Characters("ab ")
MASKS = SpanMasks(time=0.5, time_length=3, channels=0.3, channel_length=2)


def clip(name: str, text: str, split: str = "train", seconds: float = 0.5) -> Clip:
    return Clip(name, f"{name}.wav", "speech", split, duration=seconds, text=text)


class TestCharacters:
    @given(st.text(alphabet=LETTERS.symbols))
    def test_a_text_that_was_numbered_can_be_read_again(self, text):
        numbers = LETTERS.encode(text)
        assert LETTERS.decode(numbers) == text
        assert 0 not in numbers  # the blank

    @given(st.text())
    def test_a_normal_text_is_normal_already(self, text):
        assert normal_text(normal_text(text)) == normal_text(text)

    def test_characters_that_are_missing_are_named_with_their_clips(self):
        clips = [clip("a", "abba"), clip("b", "aé"), clip("c", "b7", "test")]
        with pytest.raises(UsageError, match="'7' in 1, first 'c'; 'é' in 1, first 'b'"):
            choose_characters("ab ", clips)

    def test_a_character_that_no_training_transcript_has_is_refused(self):
        with pytest.raises(UsageError, match="'c' in 1, first 'z'"):
            choose_characters(None, [clip("a", "ab"), clip("z", "abc", "valid")])

    @pytest.mark.parametrize("symbols", ["", "aba"])
    def test_a_vocabulary_has_each_character_once(self, symbols):
        with pytest.raises(UsageError, match="Write each character once"):
            Characters(symbols)


class TestTranscripts:
    def test_texts_are_normalised_when_they_are_listed(self):
        listed = list_transcribed(lambda **_: [clip("a", " AB  ba")], "ab ")
        assert [one.text for one in listed] == ["ab ba"]

    def test_clips_without_any_text_are_refused(self):
        with pytest.raises(UsageError, match="None of the 1 clips has a text.*column text"):
            list_transcribed(lambda **_: [clip("a", "")], None)

    @pytest.mark.parametrize(("text", "tokens"), [("ab", 2), ("aa", 3), ("aabb", 6), ("a", 1)])
    def test_a_training_clip_needs_a_token_for_each_character_and_repeat(self, text, tokens):
        remaining = [clip(split, "a", split) for split in ("train", "valid", "test")]
        for exists, skips in ((tokens, []), (tokens - 1, [f"needs {tokens} tokens, has {tokens - 1}"])):
            clips = [*remaining, clip("long", text, seconds=1.0), clip("tested", text, "test", seconds=1.0)]
            count_tokens = lambda samples, exists=exists: exists if samples == 16000 else 9  # noqa: E731
            usable, skipped = usable_clips(clips, LETTERS, count_tokens, 16000)
            assert [(one.id, reason) for one, reason in skipped] == [("long", reason) for reason in skips]
            assert len(usable) + len(skipped) == len(clips)

    def test_empty_transcripts_are_set_aside_in_every_split(self):
        splits = ("train", "valid", "test")
        clips = [clip(split, "a", split) for split in splits] + [clip(f"{split} empty", "", split) for split in splits]
        _, skipped = usable_clips(clips, LETTERS, lambda samples: 9, 16000)
        assert [one.id for one, _ in skipped] == [f"{split} empty" for split in splits]

    def test_a_split_with_nothing_left_is_refused(self):
        clips = [clip("a", "abab"), clip("b", "a", "valid"), clip("c", "a", "test")]
        with pytest.raises(UsageError, match="split train .* 'a' needs 4 tokens, has 3"):
            usable_clips(clips, LETTERS, lambda samples: 3, 16000)

    @pytest.mark.parametrize("name", FAMILY)
    def test_tokens_are_counted_as_the_backbone_makes_them(self, name, tiny_backbones):
        backbone = load_backbone(tiny_backbones[name]).eval()
        for samples in (10, 400, 719, 720, 5000):
            signal = backbone.extract(torch.randn(samples))
            with torch.no_grad():
                tokens, _ = backbone(signal[None], torch.ones(1))
            assert backbone.count_tokens(samples) == tokens.shape[1]


def signals(model: CTCModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips, the second one padded."""
    waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    waveforms[1, 5000:] = 0
    return waveforms, torch.tensor([1.0, 5000 / 8000])


def make_model(folder: str, method: object, masks: SpanMasks | None = None, **named: object) -> CTCModel:
    torch.manual_seed(0)
    return CTCModel(load_backbone(folder), method, len(LETTERS), masks, **named)


def masked_inputs(model: CTCModel) -> torch.Tensor:
    """What the transformer reads of two clips ``[batch, tokens, dim]``."""
    seen = []
    encoder = model.backbone.model.encoder
    hook = encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))  # changed in place later
    torch.manual_seed(3)
    with torch.no_grad():
        model(*signals(model))
    hook.remove()
    return seen[0]


class TestMasks:
    @pytest.mark.parametrize("name", FAMILY)
    @pytest.mark.parametrize("method", [FullFineTuning(), LoRA(rank=2, reduction_rate=None)], ids=["full", "lora"])
    @pytest.mark.parametrize("held", [False, True])
    def test_they_are_drawn_in_training_alone(self, name, method, held, tiny_backbones):
        plain = masked_inputs(make_model(tiny_backbones[name], method).eval())
        model = make_model(tiny_backbones[name], method, MASKS)
        model.freeze_backbone(held)
        assert torch.equal(masked_inputs(model.eval()), plain)
        masked = masked_inputs(model.train())
        present = torch.tensor([24, 15])
        for inputs, original, count in zip(masked, plain, present.tolist(), strict=True):
            frames = (inputs == 0).all(1)
            assert 0 < frames[:count].sum() < count
            assert not frames[count:].any()
            channels = (inputs == 0).all(0)
            assert 0 < channels.sum() < 16
            remaining = ~frames[:, None] & ~channels
            if not isinstance(method, FullFineTuning) or held:  # its dropout changes what is not masked
                assert torch.equal(inputs[remaining], original[remaining])

    def test_masked_frames_are_the_backbones_own_embedding(self):
        convolutions = {**TINY_CONVOLUTIONS, "mask_time_prob": 0.05}
        config = HubertConfig(**TINY, **convolutions, num_conv_pos_embeddings=16)
        model = CTCModel(random_backbone(config), LinearProbe(), 3, SpanMasks(time=0.5, time_length=3))
        inputs = masked_inputs(model.train())
        masked = (inputs == model.backbone.model.masked_spec_embed).all(2)
        assert 0 < masked[0].sum() < 24

    @pytest.mark.parametrize("length", [3, 4, 40])
    def test_a_clip_no_longer_than_a_span_is_not_masked(self, length):
        masks = SpanMasks(time=0.9, time_length=3)
        masked = masks(torch.ones(1, length, 2), torch.tensor([length]), torch.zeros(2))
        assert bool((masked == 0).any()) == (length > 3)

    def test_the_share_of_masked_frames_is_the_expected_one(self):
        torch.manual_seed(0)
        frames = torch.ones(64, 500, 1)
        masked = SpanMasks(time=0.65, time_length=10)(frames, torch.full([64], 500), torch.zeros(1))
        assert (masked == 0).float().mean().item() == pytest.approx(1 - (1 - 0.065) ** 10, rel=0.03)

    @pytest.mark.parametrize(
        "settings", [{"time": 1.0}, {"channels": -0.1}, {"time_length": 0}, {"channel_length": 1.5}]
    )
    def test_masks_that_cannot_be_are_refused(self, settings):
        with pytest.raises(UsageError, match="were asked for"):
            SpanMasks(**settings)

    def test_channel_masks_wider_than_the_backbone_are_refused(self, tiny_backbones):
        with pytest.raises(UsageError, match="64 channels .* 16 wide.*--mask_channel_length=1"):
            make_model(tiny_backbones["hubert"], LinearProbe(), SpanMasks(channels=0.5))


class TestDecoding:
    @staticmethod
    def best_text(log_probs: torch.Tensor) -> str:
        """The most probable text: the sum over every path."""
        probabilities: dict[str, float] = defaultdict(float)
        for path in itertools.product(range(len(LETTERS)), repeat=len(log_probs)):
            text = LETTERS.decode([number for number, _ in itertools.groupby(path) if number])
            probabilities[normal_text(text)] += math.exp(sum(log_probs[range(len(path)), path].tolist()))
        return max(probabilities, key=probabilities.get)

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ([1, 1, 0, 1, 2, 0], "aab"),
            ([0, 0, 0, 0, 0, 0], ""),
            ([3, 1, 3, 3, 2, 3], "a b"),
            ([1, 2, 2, 2, 2, 1], "aba"),
        ],
    )
    def test_greedy_is_the_best_path_without_repeats_and_blanks(self, path, text):
        scores = torch.nn.functional.one_hot(torch.tensor([path, path]), 4).float().log_softmax(2)
        assert make_decoder("greedy", LETTERS)(scores, torch.tensor([6, 6])) == [text, text]

    @pytest.mark.parametrize("decoding", ["greedy", "beam"])
    def test_padding_says_nothing(self, decoding):
        scores = 9.0 * torch.nn.functional.one_hot(torch.tensor([[1, 2, 1, 2, 1, 2, 1]]), 4)
        decode = make_decoder(decoding, LETTERS)
        written = [decode(scores.log_softmax(2), torch.tensor([count])) for count in range(1, 8)]
        assert written == [["abababa"[:count]] for count in range(1, 8)]

    def test_a_beam_finds_the_most_probable_text(self):
        draws = torch.Generator().manual_seed(0)
        scores = (2 * torch.randn(40, 5, 4, generator=draws)).log_softmax(2)
        counts = torch.full([40], 5)
        wanted = [self.best_text(one) for one in scores]
        assert make_decoder("beam", LETTERS, beam_size=50)(scores, counts) == wanted
        assert make_decoder("greedy", LETTERS)(scores, counts) != wanted  # so that the search matters

    def test_unknown_decoding(self):
        with pytest.raises(UsageError, match="'bean'.*--decoding= one of: beam"):
            make_decoder("bean", LETTERS)


def datasets(texts: tuple[str, ...] = ("ab", "b a", "aa", "a")) -> dict:
    """Clips of noise of half a second, the same in each split."""
    clips = [clip(f"{split}{n}", text, split) for split in ("train", "valid", "test") for n, text in enumerate(texts)]
    noise = {one.id: torch.randn(8000, generator=torch.Generator().manual_seed(int(one.id[-1]))) for one in clips}
    return make_transcribed_datasets(clips, LETTERS, lambda one: noise[one.id])


@pytest.fixture
def make_brain(tiny_backbones):
    def make(
        method: object,
        optimizer: object = torch.optim.SGD,
        frozen_updates: int = 0,
        checkpointer=None,
        **options: object,
    ) -> CTCBrain:
        model = make_model(tiny_backbones["hubert"], method, MASKS)
        hparams = {
            "seed": 1,
            "augment": [],
            "epoch_counter": sb.utils.epoch_loop.EpochCounter(2),
            "train_loggers": [SimpleNamespace(log_stats=lambda *stats: None)],
            "lr_schedule": constant,
            "frozen_updates": frozen_updates,
            "decoding": "greedy",
            "beam_size": 5,
        }
        if checkpointer is not None:
            register_adapter(checkpointer, model)
        lr = 0.05 * as_entry(optimizer).lr_scale
        return CTCBrain(LETTERS, model, optimizer, lr, hparams, {"noprogressbar": True}, checkpointer)

    return make


def fit(brain: CTCBrain) -> None:
    sets = datasets()
    brain.fit(brain.hparams.epoch_counter, sets["train"], sets["valid"], {"batch_size": 2}, {"batch_size": 2})


class TestTraining:
    def test_the_loss_is_the_mean_over_clips_of_minus_the_log_of_all_alignments(self, make_brain):
        brain = make_brain(LinearProbe())
        draws = torch.Generator().manual_seed(0)
        scores, counts = torch.randn(2, 5, 4, generator=draws).log_softmax(2), torch.tensor([5, 4])
        items = datasets()["train"]
        batch = PaddedBatch([items[0], items[1]])
        losses = []
        for one, count, text in zip(scores, counts.tolist(), ("ab", "b a"), strict=True):
            paths = itertools.product(range(4), repeat=count)
            said = [p for p in paths if [n for n, _ in itertools.groupby(p) if n] == LETTERS.encode(text)]
            total = sum(math.exp(one[range(count), path].sum().item()) for path in said)
            losses.append(-math.log(total))
        loss = brain.compute_objectives((scores, counts), batch, sb.Stage.TRAIN)
        assert loss.item() == pytest.approx(sum(losses) / 2, rel=1e-5)

    def test_clips_are_distorted_in_training_alone(self, make_brain, monkeypatch):
        brain = make_brain(LinearProbe())
        monkeypatch.setattr(brain.hparams, "augment", [Speed([50])])
        items = datasets()["train"]
        batch = PaddedBatch([items[0], items[1]])
        tokens = {stage: brain.compute_forward(batch, stage)[1].tolist() for stage in (sb.Stage.TRAIN, sb.Stage.VALID)}
        assert tokens == {sb.Stage.TRAIN: [49, 49], sb.Stage.VALID: [24, 24]}

    def test_a_clip_too_short_for_its_transcript_has_no_loss(self, make_brain):
        items = datasets(("aa", "ab"))["train"]
        scores = torch.randn(2, 2, 4).log_softmax(2)
        batch = PaddedBatch([items[0], items[1]])
        loss = make_brain(LinearProbe()).compute_objectives((scores, torch.tensor([2, 2])), batch, sb.Stage.TRAIN)
        assert loss.item() == pytest.approx(-(scores[1, 0, 1] + scores[1, 1, 2]).item() / 2, rel=1e-5)

    @pytest.mark.parametrize(
        ("method", "optimizer"),
        [("full", "adamw"), ("full", "fam"), ("full", "fadam"), ("conformer", "adamw"), ("adalora", "adamw")],
    )
    def test_only_the_head_moves_in_the_frozen_updates(self, method, optimizer, make_brain, monkeypatch):
        chosen, _ = choose_method(method, METHODS, SETTINGS)
        brain = make_brain(chosen, OPTIMIZERS[optimizer], frozen_updates=2)  # of 4
        states = []

        def note(*_: object) -> None:
            states.append({name: value.clone() for name, value in brain.model.state_dict().items()})

        note()
        monkeypatch.setattr(brain, "on_fit_batch_end", note)
        fit(brain)
        trained = {name for name, value in brain.model.named_parameters() if value.requires_grad}
        for before, after in itertools.pairwise(states[:3]):
            moved = {name for name in before if not torch.equal(before[name], after[name])}
            assert moved == {"head.weight", "head.bias"}
        moved = {name for name in states[2] if not torch.equal(states[2][name], states[4][name])}
        assert len(moved & trained) > 2
        convolutions = "backbone.model.feature_extractor"
        assert not any(name.startswith(convolutions) for name in moved | trained)

    def test_a_run_of_the_head_alone_is_refused(self, make_brain):
        with pytest.raises(UsageError, match="4 updates of the head alone.*The run has 4 in all"):
            fit(make_brain(LinearProbe(), frozen_updates=4))

    def test_the_best_epoch_has_the_fewest_word_errors_then_character_errors(self, make_brain, tmp_path, monkeypatch):
        brain = make_brain(LinearProbe(), checkpointer=SafeCheckpointer(tmp_path))
        brain.hparams.epoch_counter.limit = 4
        rates = iter([(0.5, 0.4), (0.5, 0.2), (0.5, 0.3), (0.6, 0.1), (0.7, 0.7), (0.8, 0.8)])
        monkeypatch.setattr(brain, "metrics", lambda: dict(zip(("WER", "CER"), next(rates), strict=True)))
        fit(brain)
        tested = brain.test_epochs(datasets()["test"], "best", {"batch_size": 2})
        assert tested["best"] == {"epoch": 2, "valid_WER": 0.5, "valid_CER": 0.2, "test_WER": 0.8, "test_CER": 0.8}
        assert tested["last"]["epoch"] == 4

    def test_error_rates_are_over_all_words_and_characters(self, make_brain, monkeypatch):
        brain = make_brain(LinearProbe())
        written = iter([["ab", "b b"], ["", "a"]])
        brain.decoders[sb.Stage.VALID] = lambda *_: next(written)
        brain.modules.eval()
        brain.on_stage_start(sb.Stage.VALID)
        for batch in brain.make_dataloader(datasets()["valid"], sb.Stage.VALID, batch_size=2):
            brain.evaluate_batch(batch, sb.Stage.VALID)
        # said: "ab", "b a", "aa", "a": 5 words, 8 characters
        assert brain.metrics() == pytest.approx({"WER": 2 / 5, "CER": 3 / 8})
        rows = list(brain.transcripts())
        assert [row[1:] for row in rows] == [("ab", "ab", 0.0), ("b a", "b b", 0.5), ("aa", "", 1.0), ("a", "a", 0.0)]


@pytest.mark.parametrize("weights", ["pretrained", "random", "meta"])
def test_backbones_that_read_no_waveforms_are_refused(weights):
    file = str(REPOSITORY / "recipes/spoken_ctc/hparams/train.yaml")
    recipe = load_recipe(file, {"backbone": "nano-ast"}, inspect=True)
    with pytest.raises(UsageError, match="reads log_mel, not waveforms"):
        task_of(recipe).build(recipe, weights)


def test_layers_are_dropped_only_where_it_is_asked_for(tiny_backbones):
    assert make_model(tiny_backbones["hubert"], LinearProbe()).backbone.model.config.layerdrop == 0
    assert make_model(tiny_backbones["hubert"], LinearProbe(), layerdrop=0.2).backbone.model.config.layerdrop == 0.2


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_is_rebuilt_from_its_settings_alone(name, tiny_backbones):
    method, _ = choose_method(name, METHODS, SETTINGS)
    trained = make_model(tiny_backbones["hubert"], method).eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * parameter.requires_grad * torch.randn_like(parameter)
    torch.manual_seed(9)
    rebuilt = CTCModel(
        load_backbone(tiny_backbones["hubert"]), restore_method(method_settings(method)), len(LETTERS)
    ).eval()
    rebuilt.load_delta(trained.delta())
    with torch.no_grad():
        (wanted, _), (actual, counts) = trained(*signals(trained)), rebuilt(*signals(trained))
    assert torch.equal(actual, wanted)
    assert counts.tolist() == [24, 15]


def test_settings_of_a_method_that_does_not_exist_are_refused():
    with pytest.raises(UsageError, match="'Forgotten'.*It cannot be made"):
        restore_method({"class": "Forgotten"})
