"""What a run leaves for pictures: pooled vectors, the use of experts, predictions."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import speechbrain as sb
import torch

from brainplug.backbones import load_backbone
from brainplug.data.manifest import Clip
from brainplug.data.pipeline import make_datasets
from brainplug.methods.bottleneck import BottleneckBlock
from brainplug.methods.dense_moa import DenseMixture, DenseMoA
from brainplug.methods.linear import LinearProbe
from brainplug.methods.soft_moa import SoftMixture, SoftMoA
from brainplug.models.classifier import AudioClassifier
from brainplug.optim.schedules import cosine
from brainplug.results.run_files import read_observations, read_predictions
from brainplug.training import diagnostics
from brainplug.training.classification import ClassificationBrain

DIM, EXPERTS, TOKENS = 8, 4, 6
LABELS = {"cat": 0, "dog": 1}


def block() -> BottleneckBlock:
    return BottleneckBlock(dim=DIM, width=2, experts=EXPERTS)


def dense() -> DenseMixture:
    return DenseMixture(DIM, block())


def soft(slots: int = 1) -> SoftMixture:
    return SoftMixture(DIM, block(), slots, normalize=False)


class TestShares:
    @pytest.fixture(autouse=True)
    def without_gradients(self):
        with torch.no_grad():
            yield

    @pytest.mark.parametrize(("mixture", "name"), [(dense(), "router"), (soft(), "combine"), (soft(3), "combine")])
    def test_all_of_a_clip_sum_to_one(self, mixture, name):
        shares = mixture.shares(torch.randn(3, TOKENS, DIM))[name]
        assert shares.shape == (3, EXPERTS)
        torch.testing.assert_close(shares.sum(1), torch.ones(3))
        assert (shares >= 0).all()

    def test_a_router_of_zeros_uses_all_alike(self):
        mixture = dense()
        for parameter in mixture.router.parameters():
            parameter.zero_()
        shares = mixture.shares(torch.randn(2, TOKENS, DIM))["router"]
        torch.testing.assert_close(shares, torch.full((2, EXPERTS), 1 / EXPERTS))

    def test_a_router_s_shares_are_the_tokens_mean(self):
        mixture = dense()
        mixture.router.weight.zero_()
        mixture.router.weight[:, 0] = torch.tensor([100.0, -100.0, 0.0, 0.0])  # the first or the second, by the sign
        mixture.router.bias.zero_()
        tokens = torch.zeros(1, 4, DIM)
        tokens[0, :, 0] = torch.tensor([1.0, 1.0, 1.0, -1.0])
        torch.testing.assert_close(mixture.shares(tokens)["router"], torch.tensor([[0.75, 0.25, 0.0, 0.0]]))

    @pytest.mark.parametrize("slots", [1, 3])
    def test_slots_of_zeros_gather_all_tokens_alike(self, slots):
        mixture = soft(slots)
        mixture.slots.zero_()
        shares = mixture.shares(torch.randn(2, TOKENS, DIM))
        torch.testing.assert_close(shares["combine"], torch.full((2, EXPERTS), 1 / EXPERTS))
        torch.testing.assert_close(shares["dispatch"], torch.ones(2, EXPERTS))

    def test_a_slot_that_gathers_one_token_gathers_one_of_all(self):
        mixture = soft()
        mixture.slots.zero_()
        mixture.slots[0, 2] = 100.0  # of the third expert
        tokens = torch.zeros(1, TOKENS, DIM)
        tokens[0, 3, 0] = 1.0
        expected = torch.tensor([[1.0, 1.0, 1 / TOKENS, 1.0]])
        torch.testing.assert_close(mixture.shares(tokens)["dispatch"], expected)

    @pytest.mark.parametrize("mixture", [dense(), soft(), soft(2)])
    def test_padding_counts_nowhere(self, mixture):
        tokens, longer = torch.randn(2, TOKENS, DIM), 9
        padded = torch.cat([tokens, 50 * torch.randn(2, longer - TOKENS, DIM)], dim=1)
        alone = mixture.shares(tokens)
        mixture.experts.token_mask.tokens = (torch.arange(longer) < TOKENS).expand(2, longer)
        for name, shares in mixture.shares(padded).items():
            torch.testing.assert_close(shares, alone[name])


@pytest.fixture
def make_brain(tiny_backbones):
    """Makes a brain of a small random AST."""

    def make(method: object) -> ClassificationBrain:
        torch.manual_seed(0)
        model = AudioClassifier(load_backbone(tiny_backbones["ast"]), method, len(LABELS))
        for parameter in model.parameters():  # experts too: they add nothing at the start
            torch.nn.init.normal_(parameter, std=0.1)
        hparams = {
            "seed": 1,
            "epoch_counter": sb.utils.epoch_loop.EpochCounter(1),
            "train_loggers": [],
            "lr_schedule": cosine,
            "augment": [],
            "features_on_device": False,
        }
        return ClassificationBrain(model, torch.optim.SGD, 0.5, hparams, {"device": "cpu", "noprogressbar": True})

    return make


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [Clip(f"clip{number}", f"{number}.wav", ["cat", "dog"][number % 2], "test") for number in range(7)]


@pytest.fixture(scope="module")
def test_set(clips) -> object:
    signals = {clip.id: torch.randn(64, 32) for clip in clips}
    return make_datasets(clips, LABELS, lambda clip: signals[clip.id])["test"]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class TestObserve:
    @pytest.mark.parametrize(
        ("method", "names"),
        [
            (LinearProbe(), set()),
            (DenseMoA(experts=3, reduction_rate=8), {"router"}),
            (SoftMoA(experts=3, reduction_rate=8, location="houlsby"), {"combine", "dispatch"}),
        ],
        ids=["linear", "dense_moa", "soft_moa"],
    )
    def test_vectors_are_what_the_head_reads(self, method, names, make_brain, test_set):
        brain = make_brain(method)
        before = hooks(brain.model)
        seen = diagnostics.observe(brain, test_set, {"batch_size": 3})
        assert hooks(brain.model) == before
        assert set(seen) == {"targets", "vectors", *names}
        assert seen["targets"].tolist() == [number % 2 for number in range(7)]
        signals = torch.stack([test_set[position]["signal"] for position in range(7)])
        with torch.no_grad():
            logits = brain.model.eval()(signals, torch.ones(7))
            torch.testing.assert_close(brain.model.head(seen["vectors"]), logits)
        mixtures = 4 if "combine" in names else 2  # layers, with two mixtures in each
        for name in names:
            assert seen[name].shape == (7, mixtures, 3)

    def test_of_many_clips_some_are_seen_evenly(self, make_brain, test_set, monkeypatch):
        monkeypatch.setattr(diagnostics, "MOST_CLIPS", 3)
        seen = diagnostics.observe(make_brain(LinearProbe()), test_set, {"batch_size": 2})
        assert seen["targets"].tolist() == [0, 1, 0]  # the clips 0, 3 and 6

    def test_hooks_go_where_a_clip_cannot_be_read(self, make_brain, clips):
        def unreadable(clip: Clip) -> torch.Tensor:
            raise OSError(clip.path)

        brain = make_brain(LinearProbe())
        broken = make_datasets(clips, LABELS, unreadable)["test"]
        with pytest.raises(OSError, match=r"0\.wav"):
            diagnostics.observe(brain, broken, {"batch_size": 2})
        assert hooks(brain.model) == 0

    def test_what_is_written_is_read_again(self, tmp_path):
        seen = {"targets": torch.tensor([1, 0]), "vectors": torch.rand(2, 5), "router": torch.rand(2, 3, 4)}
        earlier = {"targets": seen["targets"], "vectors": torch.rand(2, 5)}
        diagnostics.write_observations(earlier, seen, ["é", "dog"], str(tmp_path))
        actual, labels = read_observations(str(tmp_path))
        assert labels == ["é", "dog"]
        assert set(actual) == {"targets", "vectors", "vectors_before", "router"}
        assert actual["targets"].tolist() == [1, 0]
        for name, wanted in (("vectors", seen["vectors"]), ("vectors_before", earlier["vectors"])):
            np.testing.assert_allclose(actual[name], wanted.numpy(), atol=1e-3)
            assert actual[name].dtype == np.float32

    def test_a_run_without_any_has_none(self, tmp_path):
        assert read_observations(str(tmp_path)) is None


def test_predictions_name_every_test_clip_once(clips, tmp_path: Path):
    predictions = [(clip.id, position % 2, 0.5 + position / 7) for position, clip in enumerate(clips[:3])]
    brain = SimpleNamespace(predictions=lambda: iter(predictions))
    diagnostics.write_predictions(brain, clips, LABELS, str(tmp_path))
    actual = read_predictions(str(tmp_path))
    assert [row["id"] for row in actual] == ["clip0", "clip1", "clip2"]
    assert [row["predicted"] for row in actual] == ["cat", "dog", "cat"]
    assert [float(row["probability"]) for row in actual] == pytest.approx([0.5, 0.5 + 1 / 7, 0.5 + 2 / 7], abs=1e-7)
    with open(tmp_path / "predictions.csv", newline="") as file:
        assert next(csv.reader(file)) == ["id", "path", "label", "predicted", "probability"]


def test_a_run_without_predictions_has_none(tmp_path):
    assert read_predictions(tmp_path) == []
