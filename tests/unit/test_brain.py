"""What ClassificationBrain adds to SpeechBrain's loop."""

import math
import random
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from brainplug.adapters.file import register_adapter
from brainplug.backbones import load_backbone
from brainplug.data.manifest import Clip
from brainplug.data.pipeline import make_datasets
from brainplug.errors import UsageError
from brainplug.methods.linear import LinearProbe
from brainplug.models.classifier import AudioClassifier
from brainplug.optim import FAM
from brainplug.optim.entry import OptimizerEntry
from brainplug.optim.schedules import cosine
from brainplug.training.brain import Stopwatch
from brainplug.training.checkpoints import SafeCheckpointer
from brainplug.training.classification import ClassificationBrain

LABELS = {"cat": 0, "dog": 1}
FRAMES, BANDS = 64, 32


def weights_and_biases(model: torch.nn.Module, lr: float) -> list[dict]:
    """Two groups, the second one with half of the learning rate."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "lr": lr},
        {"params": [parameter for parameter in trained if parameter.dim() == 1], "lr": lr / 2},
    ]


GROUPED = OptimizerEntry(FAM, groups=weights_and_biases)


@pytest.fixture
def make_brain(tiny_backbones: dict[str, str]) -> Callable[..., ClassificationBrain]:
    """Makes a brain with a linear probe on a small random AST."""

    def make(
        checkpointer: SafeCheckpointer | None = None,
        seed: int = 1,
        epochs: int = 2,
        optimizer: Callable = torch.optim.SGD,
        **options: object,
    ) -> ClassificationBrain:
        torch.manual_seed(0)
        model = AudioClassifier(load_backbone(tiny_backbones["ast"]), LinearProbe(), len(LABELS))
        hparams = {
            "seed": seed,
            "epoch_counter": sb.utils.epoch_loop.EpochCounter(epochs),
            "train_loggers": [SimpleNamespace(log_stats=lambda *stats: None)],
            "lr_schedule": cosine,
            "augment": [],
            "features_on_device": False,
        }
        run_opts = {"device": "cpu", "noprogressbar": True, **options}
        if checkpointer is not None:
            register_adapter(checkpointer, model)
        return ClassificationBrain(model, optimizer, 0.5, hparams, run_opts, checkpointer)

    return make


def datasets(train: int = 6) -> dict:
    """Random signals; the label of each clip is its number's parity."""
    clips = [
        Clip(f"{split}{number}", "", ["cat", "dog"][number % 2], split)
        for split, count in (("train", train), ("valid", 3), ("test", 3))
        for number in range(count)
    ]
    signals = {clip.id: torch.randn(FRAMES, BANDS) for clip in clips}
    return make_datasets(clips, LABELS, lambda clip: signals[clip.id])


def fit(brain: ClassificationBrain, sets: dict) -> None:
    brain.fit(brain.hparams.epoch_counter, sets["train"], sets["valid"], {"batch_size": 2}, {"batch_size": 2})


class TestSeeds:
    def draws(self, brain: ClassificationBrain, epoch: int, step: int) -> tuple:
        """What torch, numpy and Python draw in a step, whatever was drawn before."""
        for library in (torch.rand, np.random.rand):
            library(random.randrange(1, 9))
        brain.hparams.epoch_counter.current, brain.step = epoch, step
        brain.on_fit_batch_start(None, should_step=True)
        return torch.rand(1).item(), np.random.rand(), random.random()

    def test_a_step_draws_the_same_in_every_process(self, make_brain):
        brain, other = make_brain(), make_brain()
        first = self.draws(brain, 3, 5)
        self.draws(brain, 3, 6)
        assert self.draws(brain, 3, 5) == first
        assert self.draws(other, 3, 5) == first

    def test_every_seed_epoch_and_step_draws_its_own(self, make_brain):
        actual = [
            self.draws(make_brain(seed=seed), epoch, step) for seed in (1, 2) for epoch in (1, 2) for step in (1, 2)
        ]
        for drawn in zip(*actual, strict=True):
            assert len(set(drawn)) == len(actual)

    def test_every_process_of_a_run_draws_its_own(self, make_brain):
        brain = make_brain()
        alone = self.draws(brain, 1, 1)
        brain.distributed_launch, brain.rank = True, 1
        assert self.draws(brain, 1, 1) != alone


class TestSteps:
    def test_only_what_is_not_frozen_is_optimised(self, make_brain):
        brain = make_brain()
        brain.init_optimizers()
        optimised = {id(parameter) for group in brain.optimizer.param_groups for parameter in group["params"]}
        assert optimised == {id(parameter) for parameter in brain.model.parameters() if parameter.requires_grad}

    def test_vectors_may_have_a_group_of_their_own(self, make_brain):
        brain = make_brain(remove_vector_weight_decay=True)
        brain.init_optimizers()
        vectors, others = brain.optimizer.param_groups
        assert {parameter.dim() for parameter in vectors["params"]} == {1}
        assert {parameter.dim() for parameter in others["params"]} == {2}
        assert vectors["weight_decay"] == 0

    @pytest.mark.parametrize(("factor", "steps"), [(1, 6), (2, 2), (3, 2)])
    def test_the_schedule_spans_all_steps(self, factor, steps, make_brain, monkeypatch):
        brain = make_brain(grad_accumulation_factor=factor)
        rates = []
        step = sb.Brain.optimizers_step
        monkeypatch.setattr(
            sb.Brain, "optimizers_step", lambda self: (rates.append(self.optimizer.param_groups[0]["lr"]), step(self))
        )
        fit(brain, datasets())
        assert brain.total_steps == steps
        assert rates == [0.5 * cosine(number, steps) for number in range(steps)]

    def test_every_group_has_its_share_of_the_rate(self, make_brain, monkeypatch):
        brain, rates = make_brain(optimizer=GROUPED), []
        step = sb.Brain.optimizers_step
        monkeypatch.setattr(
            sb.Brain,
            "optimizers_step",
            lambda self: (rates.append([group["lr"] for group in self.optimizer.param_groups]), step(self)),
        )
        fit(brain, datasets())
        assert rates == [[0.5 * cosine(number, 6), 0.25 * cosine(number, 6)] for number in range(6)]

    def test_all_groups_are_clipped_together(self, make_brain):
        brain = make_brain(optimizer=GROUPED, max_grad_norm=2.0)
        brain.init_optimizers()
        trained = [parameter for group in brain.optimizer.param_groups for parameter in group["params"]]
        for parameter in trained:
            parameter.grad = torch.full_like(parameter, 100.0)
        steps = []
        brain.optimizer.register_step_pre_hook(lambda *call: steps.append([p.grad.clone() for p in trained]))
        brain.optimizers_step()
        assert torch.cat([gradient.flatten() for gradient in steps[0]]).norm().item() == pytest.approx(2.0)
        assert len({gradient.flatten()[0].item() for gradient in steps[0]}) == 1

    def test_groups_and_vectors_apart_are_refused(self, make_brain):
        brain = make_brain(optimizer=GROUPED, remove_vector_weight_decay=True)
        with pytest.raises(UsageError, match="--remove_vector_weight_decay .* has groups of its own"):
            brain.init_optimizers()

    @pytest.mark.parametrize("factor", [0, 4])
    def test_steps_longer_than_an_epoch_are_refused(self, factor, make_brain):
        with pytest.raises(UsageError, match=f"Steps of {factor} batches .* An epoch has 3"):
            fit(make_brain(grad_accumulation_factor=factor), datasets())

    def test_checkpoints_come_after_whole_steps(self, make_brain, tmp_path):
        brain = make_brain(SafeCheckpointer(tmp_path), grad_accumulation_factor=3, ckpt_interval_steps=1)
        saved = []
        for brain.step in range(1, 10):
            saved.append(brain._should_save_intra_epoch_ckpt(0, steps_since_ckpt=1))
        assert saved == [False, False, True] * 3

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_that_is_not_finite_names_its_clips(self, value, make_brain):
        brain = make_brain()
        brain.batch_ids, brain.step, brain.hparams.epoch_counter.current = ["a", "b"], 4, 2
        brain.check_loss_isfinite(torch.tensor(1.0))
        with pytest.raises(UsageError, match=rf"epoch 2, step 4\. Its loss is {value}, for the clips: a, b\."):
            brain.check_loss_isfinite(torch.tensor(value))

    @pytest.mark.parametrize(("option", "clipped"), [({}, True), ({"max_grad_norm": 0.0}, False)])
    def test_no_gradient_is_clipped_at_a_norm_of_zero(self, option, clipped, make_brain):
        brain = make_brain(**option)
        brain.init_optimizers()
        weight = brain.model.head.weight
        for parameter in brain.optimizer.param_groups[0]["params"]:
            parameter.grad = torch.full_like(parameter, 100.0)
        steps = []
        brain.optimizer.register_step_pre_hook(lambda *call: steps.append(weight.grad.clone()))
        brain.optimizers_step()
        assert torch.equal(steps[0], torch.full_like(weight, 100.0)) != clipped


class TestAccuracies:
    def test_every_clip_counts_once(self, make_brain, monkeypatch):
        brain, sets = make_brain(), datasets()
        brain.init_optimizers()
        brain.on_stage_end(sb.Stage.TRAIN, 0.0)
        # Says "dog" to every clip: right for one of the three clips 0, 1, 2, which come in batches of two and one.
        monkeypatch.setattr(brain, "compute_forward", lambda batch, stage: says_dog(brain, batch))
        brain._fit_valid(brain.make_dataloader(sets["valid"], sb.Stage.VALID, batch_size=2), 1, False)
        assert brain.stage_metrics == {"VALID": {"accuracy": 1 / 3}}
        ids, indices, probabilities = zip(*brain.predictions(), strict=True)
        assert (ids, indices) == (("valid0", "valid1", "valid2"), (1, 1, 1))
        assert probabilities == pytest.approx([math.e / (1 + math.e)] * 3)

    @pytest.mark.parametrize(("chosen", "epoch"), [("best", 2), ("last", 3)])
    def test_both_epochs_are_tested_and_the_chosen_one_stays(self, chosen, epoch, make_brain, tmp_path, monkeypatch):
        brain, sets = make_brain(SafeCheckpointer(tmp_path), epochs=3), datasets()
        accuracies, weights = iter([0.2, 0.9, 0.4]), {}
        save = brain.checkpointer.save_and_keep_only

        def save_with_accuracy(meta: dict, **named: object) -> None:
            weights[meta["epoch"]] = brain.model.head.weight.detach().clone()
            save({**meta, "accuracy": next(accuracies)}, **named)

        monkeypatch.setattr(brain.checkpointer, "save_and_keep_only", save_with_accuracy)
        fit(brain, sets)
        counts = brain.optimizer_step, brain.hparams.epoch_counter.current
        assert counts == (9, 3)
        tested = brain.test_epochs(sets["test"], chosen, {"batch_size": 2})
        assert {name: (actual["epoch"], actual["valid_accuracy"]) for name, actual in tested.items()} == {
            "best": (2, 0.9),
            "last": (3, 0.4),
        }
        assert tested[chosen]["test_accuracy"] == brain.stage_metrics["TEST"]["accuracy"]
        assert torch.equal(brain.model.head.weight, weights[epoch])
        assert not torch.equal(weights[2], weights[3])
        assert (brain.optimizer_step, brain.hparams.epoch_counter.current) == counts

    def test_checkpoints_hold_what_was_trained_and_nothing_else(self, make_brain, tmp_path):
        brain = make_brain(SafeCheckpointer(tmp_path))
        fit(brain, datasets())
        saved = safetensors.torch.load_file(brain.checkpointer.find_checkpoint().paramfiles["model"])
        assert saved.keys() == {name for name, parameter in brain.model.named_parameters() if parameter.requires_grad}

    def test_a_test_needs_a_checkpoint(self, make_brain, tmp_path):
        with pytest.raises(UsageError, match="There is no checkpoint in"):
            make_brain(SafeCheckpointer(tmp_path)).evaluate(datasets()["test"])


def says_dog(brain: ClassificationBrain, batch: object) -> torch.Tensor:
    brain.targets = batch.target.data[:, 0]
    return torch.tensor([[0.0, 1.0]]).expand(len(brain.targets), 2)


class TestStopwatch:
    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        """A clock that stands until a test moves it."""
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr(time, "monotonic", lambda: clock.now)
        return clock

    def test_counts_from_its_start(self, clock):
        stopwatch = Stopwatch()
        clock.now += 5
        assert stopwatch.seconds == 5

    def test_goes_on_where_it_was_saved(self, clock, tmp_path):
        first = Stopwatch()
        clock.now += 5
        first.save(tmp_path / "stopwatch")
        clock.now = 3.0  # another process, whose clock starts anew
        second = Stopwatch()
        clock.now += 1
        second.load(tmp_path / "stopwatch", end_of_epoch=True)
        clock.now += 2
        assert second.seconds == 7


class TestFeaturesOnTheDevice:
    def forward(
        self, brain: ClassificationBrain, read: Callable, augment: Sequence[Callable] = (), stage: object = None
    ) -> torch.Tensor:
        """Logits of three clips of half a second and less; a clip's id is its length."""
        clips = [Clip(f"{samples}", "", "cat", "test", duration=1.0) for samples in (8000, 500, 6001)]
        items = make_datasets(clips, LABELS, read)["test"]
        brain.hparams.augment = list(augment)
        torch.manual_seed(1)
        with torch.no_grad():
            return brain.compute_forward(PaddedBatch([items[n] for n in range(3)]), stage or sb.Stage.TEST)

    def waveform(self, clip: Clip) -> torch.Tensor:
        return 0.1 * torch.randn(int(clip.id), generator=torch.Generator().manual_seed(int(clip.id)))

    def test_they_are_those_of_the_workers(self, make_brain):
        brain = make_brain()
        brain.modules.eval()
        of_workers = self.forward(brain, lambda clip: brain.model.backbone.extract(self.waveform(clip)))
        brain.hparams.features_on_device = True
        torch.testing.assert_close(self.forward(brain, self.waveform), of_workers, atol=1e-4, rtol=0)

    def test_waveforms_are_augmented_before_and_log_mels_after(self, make_brain):
        brain, seen = make_brain(), []

        def note(signal: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> tuple:
            seen.append((signal.dim(), lengths.tolist()))
            return signal, targets

        def note_waveform(*of_batch: torch.Tensor) -> tuple:
            return note(*of_batch)

        note_waveform.signal = "waveform"
        brain.hparams.features_on_device = True
        self.forward(brain, self.waveform, [note, note_waveform], sb.Stage.TRAIN)
        assert [dimensions for dimensions, _ in seen] == [2, 3]
        assert seen[0][1] == pytest.approx([1.0, 500 / 8000, 6001 / 8000])
        assert seen[1][1] == [1.0] * 3
        seen.clear()
        self.forward(brain, self.waveform, [note, note_waveform], sb.Stage.TEST)
        assert seen == []
