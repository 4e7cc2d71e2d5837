"""The experiment whether optimisers help: which runs it does, what it reads of them, and what it shows."""

from pathlib import Path

import pytest

import train
from benchmarks import optimizer_accuracy
from benchmarks.optimizer_accuracy import (
    CORPORA,
    MARKS,
    METHODS,
    OPTIMIZERS,
    RATES,
    SEEDS,
    Comparison,
    Run,
    draw_curves,
    draw_rates,
    read_outcome,
)
from brainplug.config.arguments import parse_arguments
from brainplug.errors import UsageError
from brainplug.files import write_json
from brainplug.tasks import load_recipe
from brainplug.tasks.base import choose_optimizer

ROOT = Path(__file__).parents[2]
CELL = "spoken", "lora", "FAdam"
CELLS = [(corpus, method, name) for corpus in CORPORA for method in METHODS for name in OPTIMIZERS]
LINE = "epoch: {}, lr: 1.0e-03 - train loss: 1.5 - valid loss: {}, valid accuracy: {:.2f}\n"


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """A comparison whose runs give, in no time, what `accuracy` says of them; `done` lists them."""
    comparison = Comparison(tmp_path, "esc10", jobs=1)
    comparison.done, comparison.accuracy = [], lambda run: 50.0

    def complete(runs):
        for run in runs:
            if comparison.outcome(run) is None:
                comparison.done.append(run)
                finish(run.folder(tmp_path), comparison.accuracy(run))

    monkeypatch.setattr(comparison, "complete", complete)
    return comparison


def finish(folder: Path, accuracy: float, loss: float = 1.0) -> None:
    """Leaves what a finished run leaves."""
    folder.mkdir(parents=True)
    (folder / "train_log.txt").write_text(LINE.format(1, 2.0, accuracy / 2) + LINE.format(2, loss, accuracy))
    write_json({"test_accuracy": accuracy / 100}, folder / "results.json")


class TestSearch:
    def test_every_optimiser_gets_the_same_rates_and_the_best_one_the_other_seeds(self, comparison):
        comparison.accuracy = lambda run: 80 - abs(run.rate - 3)
        cells = [("spoken", "lora", name) for name in OPTIMIZERS]
        comparison.run_all(cells)
        assert {(run.optimizer, run.rate) for run in comparison.done} == {
            (name, rate) for name in OPTIMIZERS for rate in RATES
        }
        assert {(run.rate, run.seed) for run in comparison.done if run.seed != SEEDS[0]} == {(3, 2), (3, 3)}
        assert len(comparison.done) == len(OPTIMIZERS) * (len(RATES) + 2)

    @pytest.mark.parametrize("best", [-2, 0, 4, 6])
    def test_beyond_the_edge_the_search_goes_on(self, best, comparison):
        comparison.accuracy = lambda run: 80 - abs(run.rate - best)
        comparison.run_all([CELL])
        assert comparison.best_rate(CELL) == best

    def test_the_lower_loss_decides_between_equals(self, comparison):
        for rate, loss in ((0, 0.5), (1, 0.3), (2, 0.4)):
            finish(Run(*CELL, rate, SEEDS[0]).folder(comparison.results), 60.0, loss)
        assert comparison.best_rate(CELL) == 1

    def test_a_second_call_repeats_nothing(self, comparison):
        comparison.run_all([CELL])
        comparison.done.clear()
        comparison.run_all([CELL])
        assert comparison.done == []


class TestRuns:
    @pytest.mark.parametrize("cell", CELLS)
    def test_the_command_line_is_one_that_the_main_job_takes(self, cell, tmp_path, monkeypatch):
        monkeypatch.chdir(ROOT)
        run = Run(*cell, 2, 3)
        file, run_opts, overrides = parse_arguments(run.arguments(tmp_path, "esc10"))
        settings = load_recipe(file, overrides, run_opts, inspect=True).settings
        assert (settings.method, settings.lr, settings.seed) == (run.method, 0.025, 3)
        assert Path(settings.output_folder) == run.folder(tmp_path)
        optimizer = choose_optimizer(settings).create
        start = optimizer.keywords.get("fam_start_step")
        assert start == {"FAM": 30, "FAM, frequency part off": 1000000}.get(run.optimizer)

    def test_folders_are_apart(self, tmp_path):
        runs = [Run(*cell, rate, seed) for cell in CELLS for rate in RATES for seed in SEEDS]
        assert len({run.folder(tmp_path) for run in runs}) == len(runs)

    def test_a_run_that_is_not_finished_is_none(self, tmp_path):
        assert read_outcome(tmp_path) is None

    def test_of_an_epoch_that_was_done_twice_the_second_counts(self, tmp_path):
        finish(tmp_path / "run", 40.0)
        with (tmp_path / "run" / "train_log.txt").open("a") as log:
            log.write(LINE.format(2, 0.5, 44.0))
        outcome = read_outcome(tmp_path / "run")
        assert (outcome.valid, outcome.losses, outcome.test) == ([20.0, 44.0], [2.0, 0.5], 0.4)

    def test_a_run_that_diverges_counts_as_the_worst(self, tmp_path, monkeypatch):
        def diverge(arguments):
            raise UsageError(
                "A finite loss was asked for, in epoch 1, step 2.", "Its loss is nan.", "Write a lower --lr"
            )

        monkeypatch.setattr(train, "main", diverge)
        run = Run(*CELL, 4, 1)
        optimizer_accuracy.train(run, tmp_path, "esc10")
        outcome = read_outcome(run.folder(tmp_path))
        assert outcome.test == 0
        finish(tmp_path / "poor", 0.0)
        assert outcome.merit <= read_outcome(tmp_path / "poor").merit

    def test_a_run_that_is_refused_stops_the_comparison(self, tmp_path, monkeypatch):
        def refuse(arguments):
            raise UsageError("The folder esc10 was asked for.", "There is none.", "Write another")

        monkeypatch.setattr(train, "main", refuse)
        with pytest.raises(UsageError, match="esc10"):
            optimizer_accuracy.train(Run(*CELL, 4, 1), tmp_path, "esc10")


class TestShown:
    def test_the_table_compares_with_the_first_optimiser(self, comparison):
        comparison.accuracy = lambda run: (60 if run.optimizer == "FAdam" else 50) - abs(run.rate - 2) + run.seed
        comparison.run_all(CELLS)
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in comparison.table(CELLS).splitlines()[2:]]
        assert len(rows) == len(CELLS) + len(OPTIMIZERS)
        assert rows[4] == ["FAdam", "0.025", "61.0", "62.0 ± 1.0", "+10.0", "conformer, spoken"]
        assert rows[0] == ["AdamW", "0.025", "51.0", "52.0 ± 1.0", "+0.0", "conformer, spoken"]
        assert rows[-1] == ["FAdam", "", "", "", "+10.0 ± 0.0", "all 18 runs"]

    def test_the_pictures_are_drawn(self, comparison, tmp_path):
        pytest.importorskip("matplotlib")
        comparison.accuracy = lambda run: 50.0 + run.rate
        comparison.run_all(CELLS)
        for draw in (draw_curves, draw_rates):
            draw(comparison, tmp_path / "picture.png")
            assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
            (tmp_path / "picture.png").unlink()

    def test_the_document_of_the_project_has_the_marks(self):
        text = (ROOT / "docs" / "optimizers.md").read_text()
        assert all(mark in text.splitlines() for mark in MARKS)
