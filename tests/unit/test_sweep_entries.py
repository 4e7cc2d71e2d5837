"""Which cells are picked, what they will take, and what the finished ones say together."""

import argparse
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich.console
from scipy import stats

from brainplug.errors import DataError, UsageError
from brainplug.results.statistics import p_value
from brainplug.results.tables import NOT_RUN
from brainplug.sweep import command
from brainplug.sweep.cell import CELL_NAME, FAILURE_NAME
from brainplug.sweep.document import as_markdown, write_documents
from brainplug.sweep.entries import Entry, make_entries
from brainplug.sweep.executors import Event
from brainplug.sweep.plan import Plan, Protocol, make_plan
from brainplug.sweep.schema import Column
from brainplug.sweep.selection import describe, estimate, select
from brainplug.sweep.table import Cell, Table, read_table
from brainplug.sweep.view import filled, progress
from tests.made_runs import RECOGNITION, write_results

ROWS = {"linear": {"method": "linear"}, "lora, rank 6": {"method": "lora", "lr": 0.1}, "adapter": {"method": "adapter"}}
COLUMNS = {"ESC-50": Column(recipe="a.yaml"), "8 a class": Column(recipe="a.yaml", settings={"few_shot": 8})}
FOLDS, SEEDS = (1, 2, 3), (1, 2)
ESC50 = Path(__file__).parents[2] / "recipes" / "ESC50" / "hparams" / "train.yaml"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three rows, two columns, three folds and two seeds; no cell was run."""
    table = Table(
        name="small",
        rows=ROWS,
        columns=COLUMNS,
        seeds=list(SEEDS),
        published={"linear": {"ESC-50": 70.5}},
        compare_with="linear",
        note="A note.",
    )
    cells, protocols = [], {}
    for row, column in table.locations():
        settings = table.settings(row, column)
        protocols[row, column] = Protocol(
            *("classification", settings["method"], "nano-ast", "adamw", 0.1, 2, 4, 64, ()),
            *(settings.get("few_shot"), 1234, "corrected", {}),
        )
        for fold in FOLDS:
            for seed in SEEDS:
                folder = tmp_path / column / row / f"fold{fold}-seed{seed}"
                cells.append(Cell(row, column, "train.yaml", settings, fold, seed, None, folder))
    return Plan(table, tuple(cells), protocols)


def finish(cell: Cell, accuracy: float, seconds: float = 60.0, memory: int = 10**9, last: float | None = None) -> None:
    last = accuracy if last is None else last
    costs = {"seconds": seconds, "peak_memory_bytes": memory}
    write_results(cell.folder, test_accuracy=accuracy, test_accuracy_last_epoch=last, **costs)


def break_(cell: Cell, reason: str) -> None:
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / FAILURE_NAME).write_text(json.dumps({"exit_code": 1, "reason": reason}))


def at(plan: Plan, row: str, column: str = "ESC-50") -> list[Cell]:
    return [cell for cell in plan.cells if (cell.row, cell.column) == (row, column)]


def entry(plan: Plan, row: str, column: str = "ESC-50") -> Entry:
    return next(entry for entry in make_entries(plan) if (entry.row, entry.column) == (row, column))


class TestSelection:
    @pytest.mark.parametrize(
        ("only", "count"),
        [
            ("", 36),
            ("fold=1", 12),
            ("method=lora,linear fold=1", 8),
            ("row='lora, rank 6'", 12),
            ("row=linear,adapter column='8 a class' seed=2", 6),
            ('column="8 a class" fold=1,3', 12),
            ("backbone=nano-ast", 36),
            ("few_shot=8", 18),
            ("few_shot=None", 18),
            ("lr=0.1 fold=2", 4),
        ],
    )
    def test_conditions(self, only, count, plan):
        cells = select(plan, only)
        assert len(cells) == count
        assert cells == [cell for cell in plan.cells if cell in cells]

    @pytest.mark.parametrize(
        ("only", "message"),
        [
            ("fold", "'fold' is no condition"),
            ("fold=1 lora", "'lora' is no condition"),
            ("foldd=1", "Cells have no 'foldd'. Write one of: fold"),
            ("row='linear", "No closing quotation"),
            ("fold=9", "fold is one of: 1, 2, 3"),
            ("method=loar fold=1", "method is one of: adapter, linear, lora"),
        ],
    )
    def test_what_picks_nothing(self, only, message, plan):
        with pytest.raises(UsageError, match=re.escape(message)):
            select(plan, only)


class TestEstimate:
    def estimate(self, plan: Plan, at_once: int = 1) -> str:
        left = [cell for cell in plan.cells if not (cell.folder / "results.json").exists()]
        return estimate(plan, left, at_once)

    def test_nothing_was_measured(self, plan):
        assert self.estimate(plan) == "no cell was measured yet, so the time is unknown"

    def test_nothing_is_left(self, plan):
        for cell in plan.cells:
            finish(cell, 0.5)
        assert self.estimate(plan) == "nothing is left to do"

    def test_a_cell_takes_what_others_of_its_location_took_or_else_of_its_column(self, plan):
        first, *_ = at(plan, "linear")
        finish(first, 0.5, seconds=120)
        finish(at(plan, "adapter")[0], 0.5, seconds=240)
        # 5 of 2 minutes, 5 of 4, 6 of another row with the mean 3, and 18 of another column with the mean 3.
        assert self.estimate(plan) == f"about {5 * 2 + 5 * 4 + 6 * 3 + 18 * 3} minutes"
        assert self.estimate(plan, at_once=3) == f"about {(5 * 2 + 5 * 4 + 6 * 3 + 18 * 3) // 3} minutes"

    def test_long_ones_are_in_hours(self, plan):
        finish(plan.cells[0], 0.5, seconds=3600)
        assert self.estimate(plan, at_once=2) == "about 17.5 hours"

    def test_the_listing_ends_with_the_count(self, plan):
        finish(plan.cells[0], 0.5)
        break_(plan.cells[1], "why")
        lines = describe(plan, plan.cells, 1)
        assert [lines[number].rpartition("; ")[2] for number in range(3)] == ["finished", "broken", "not run"]
        assert lines[-2] == "35 to run: about 35 minutes"
        assert lines[-1] == "36 cells"


class TestEntries:
    def test_of_nothing(self, plan):
        actual = entry(plan, "linear")
        assert (actual.runs, actual.planned, actual.broken, actual.pairs) == (0, 6, 0, 0)
        numbers = ("mean", "std", "best_epoch", "last_epoch", "gap", "difference", "p_value", "minutes")
        assert all(getattr(actual, name) is None for name in numbers)
        assert actual.published == 70.5

    def test_means_and_deviations_over_folds_and_seeds(self, plan):
        accuracies = np.array([0.5, 0.75, 0.625, 0.8, 0.55, 0.9])
        for cell, accuracy in zip(at(plan, "linear"), accuracies, strict=True):
            finish(cell, accuracy, seconds=600 * accuracy, memory=int(accuracy * 1e9), last=accuracy / 2)
        actual = entry(plan, "linear")
        assert actual.mean == pytest.approx(100 * np.mean(accuracies))
        assert actual.std == pytest.approx(100 * np.std(accuracies, ddof=1))
        assert (actual.best_epoch, actual.best_epoch_std) == (actual.mean, actual.std)
        assert actual.last_epoch == pytest.approx(50 * np.mean(accuracies))
        assert actual.last_epoch_std == pytest.approx(50 * np.std(accuracies, ddof=1))
        assert actual.gap == pytest.approx(100 * np.mean(accuracies) - 70.5)
        assert actual.minutes == pytest.approx(10 * np.mean(accuracies))
        assert actual.peak_memory_gb == pytest.approx(0.9)
        assert actual.trainable_without_head == 1234
        assert entry(plan, "adapter").published is None

    def test_the_difference_is_paired_over_what_both_have(self, plan):
        mine, reference = [0.5, 0.75, 0.625, 0.8, 0.55, 0.9], [0.45, 0.7, 0.65, 0.7, 0.5, 0.7]
        for row, accuracies in (("adapter", mine), ("linear", reference)):
            for cell, accuracy in zip(at(plan, row), accuracies, strict=True):
                if row == "adapter" or (cell.fold, cell.seed) != (1, 1):
                    finish(cell, accuracy)
        for cell in at(plan, "linear", "8 a class"):
            finish(cell, 0.1)  # of another column: no partner
        actual = entry(plan, "adapter")
        assert actual.pairs == 5
        assert actual.difference == pytest.approx(100 * np.mean(np.subtract(mine, reference)[1:]))
        assert actual.p_value == pytest.approx(stats.ttest_rel(mine[1:], reference[1:]).pvalue)
        assert (entry(plan, "linear").difference, entry(plan, "linear").p_value) == (None, None)
        assert entry(plan, "adapter", "8 a class").pairs == 0

    @pytest.mark.parametrize(
        ("differences", "expected"),
        [([], None), ([2.0], None), ([0.0, 0.0], 1.0), ([0.1 + 0.2, 0.3], 0.0), ([1e-13, 0.0], 1.0)],
    )
    def test_what_has_no_deviation(self, differences, expected):
        assert p_value(differences) == expected

    def test_broken_cells_are_counted_and_named(self, plan):
        break_(at(plan, "linear")[2], "no room")
        finish(at(plan, "linear")[0], 0.5)
        actual = entry(plan, "linear")
        assert (actual.runs, actual.broken, actual.std) == (1, 1, None)
        text = as_markdown(plan, make_entries(plan))
        assert "50.0 (1 of 6) (1 broken) [70.5]" in text
        assert "- linear / ESC-50, fold 2, seed 1: no room" in text

    def test_of_recognition_the_metric_is_the_error_rate(self, plan):
        for cell in plan.cells:
            if cell.column == "8 a class":
                cell.folder.mkdir(parents=True)
                (cell.folder / "results.json").write_text(json.dumps({**RECOGNITION, "test_wer": cell.fold / 10}))
        finish(at(plan, "linear")[0], 0.5)
        actual = entry(plan, "linear", "8 a class")
        assert (actual.metric, actual.mean, actual.last_epoch) == ("WER", pytest.approx(20), pytest.approx(40))
        text = re.sub(" +", " ", as_markdown(plan, make_entries(plan)))
        assert text.startswith("Test accuracy or WER in per cent")
        assert "| runs | metric | score (%) | best epoch |" in text
        assert "| 8 a class | linear | corrected | 1,234 | 6 of 6 | WER | 20.0 ± 8.9 |" in text

    def test_one_metric_is_in_the_header(self, plan):
        text = as_markdown(plan, make_entries(plan))
        assert text.startswith("Test accuracy in per cent")
        assert "accuracy (%)" in text and "metric" not in text

    def test_torn_results_are_refused(self, plan):
        finish(plan.cells[0], 0.5)
        (plan.cells[0].folder / "results.json").write_text('{"test_acc')
        with pytest.raises(DataError, match="fold1-seed1.*cannot be read.*Remove this file"):
            make_entries(plan)


class TestFiles:
    def test_all_three_say_the_same(self, plan, tmp_path):
        for cell in (*at(plan, "linear"), *at(plan, "adapter")[:1]):
            finish(cell, 0.5 + cell.fold / 10)
        write_documents(plan, tmp_path)
        described = json.loads((tmp_path / "table.json").read_text())
        assert [cell["state"] for cell in described["cells"]].count("finished") == 7
        assert (described["name"], described["compare_with"]) == ("small", "linear")
        with open(tmp_path / "table.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(described["entries"]) == 6
        for row, actual in zip(rows, described["entries"], strict=True):
            for key, value in actual.items():
                assert row[key] == str(value) if value is not None else row[key] in ("", NOT_RUN)
        text = (tmp_path / "table.md").read_text()
        assert "| linear | 70.0 ± 8.9 [70.5] | not run |" in re.sub(" +", " ", text)
        assert "A note." in text

    def test_only_what_is_still_to_come_is_not_run(self, plan, tmp_path):
        finish(at(plan, "linear")[0], 0.5)
        write_documents(plan, tmp_path)
        with open(tmp_path / "table.csv", newline="") as file:
            once, never = next(rows := csv.DictReader(file)), next(rows)
        assert (once["mean"], once["std"], once["p_value"]) == ("50.0", "", "")
        assert (never["mean"], never["std"], never["published"], never["gap"]) == (NOT_RUN, NOT_RUN, "", "")


class TestView:
    def shown(self, plan: Plan, *running: Cell) -> str:
        console = rich.console.Console(file=io.StringIO(), width=200)
        console.print(filled(plan, running))
        return console.file.getvalue()

    def test_names_and_numbers_stand_as_they_are(self, plan):
        rows = {"[bold]a[/bold]": {}, **ROWS}
        finish(at(plan, "linear")[0], 0.5)
        text = self.shown(replace(plan, table=plan.table.model_copy(update={"rows": rows})), *at(plan, "adapter")[:2])
        for shown in ("[bold]a[/bold]", "lora, rank 6", "50.0 (1 of 6) [70.5]", "not run … 2 running", "8 a class"):
            assert shown in text

    def test_without_a_terminal_each_end_is_a_line(self, plan, capsys):
        first, second, third, *_ = plan.cells
        finish(first, 0.5, seconds=90)
        break_(second, "why")
        with progress(plan) as show:
            show(first, Event("started", 0))
            show(first, Event("ended", 0))
            show(second, Event("ended", 1, "why"))
            show(third, Event("ended", 2, "it was ended by SIGTERM"))
        assert capsys.readouterr().out.splitlines() == [
            "linear / ESC-50, fold 1, seed 1: 50.0% after 1.5 minutes",
            "linear / ESC-50, fold 1, seed 2: broken: why",
            "linear / ESC-50, fold 2, seed 1: not finished: it was ended by SIGTERM",
        ]


class TestOptions:
    def chosen(self, *arguments: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        return parser.parse_args(["table.yaml", *arguments])

    @pytest.mark.parametrize("option", ["--jobs=0", "--limit=0", "--limit=-1", "--cell_cpus=-1.0", "--cell_gpus=-0.5"])
    def test_numbers_that_cannot_be(self, option):
        with pytest.raises(UsageError, match=re.escape(f"{option} was asked for")):
            command.run_table(self.chosen(option), [])

    def test_settings_need_an_equals_sign(self):
        with pytest.raises(UsageError, match="0.1 was asked for.*--key=value"):
            command.run_table(self.chosen(), ["--lr", "0.1"])


class TestExecutors:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--jobs=3"], ("run_here", 3)),
            (["--executor=ray", "--cell_cpus=2", "--cell_gpus=0.5"], ("run_on_cluster", "auto", 2.0, 0.5)),
            (["--executor=ray", "--address=10.0.0.1:6379"], ("run_on_cluster", "10.0.0.1:6379", 1, 0)),
        ],
    )
    def test_cells_go_where_they_were_asked_to_go(self, options, expected, plan, tmp_path, monkeypatch):
        called = []

        def noted(name: str):
            def run(jobs, *rest):
                called.append((name, *rest))
                yield from (Event("ended", number, f"reason {number}") for number in range(len(jobs)))

            return run

        for name in ("run_here", "run_on_cluster"):
            monkeypatch.setattr(command, name, noted(name))
        cells = [replace(cell, recipe=str(tmp_path / "train.yaml")) for cell in plan.cells[:2]]
        chosen = TestOptions().chosen(*options)
        assert command._run(plan, cells, tmp_path, chosen) == ["reason 0", "reason 1"]
        assert called == [expected]


class TestFinishedCells:
    """What a finished cell was run with is compared with what is asked for."""

    @pytest.fixture
    def planned(self, tmp_path):
        def plan_of(seeds=(1,), data_folder="here", **settings):
            rows = f"rows: {{linear: {{method: linear, {', '.join(f'{k}: {v}' for k, v in settings.items())}}}}}"
            columns = f"columns: {{ESC-50: {{recipe: {ESC50}, data_folder: ., folds: [1]}}}}"
            path = tmp_path / "table.yaml"
            path.write_text(f"{rows}\n{columns}\nseeds: {list(seeds)}\n")
            return make_plan(read_table(str(path), {}), str(path), data_folder, str(tmp_path / "out"))

        return plan_of

    def test_others_are_refused_but_not_moved_data_or_more_seeds(self, planned):
        plan = planned(frames=100)
        [cell] = plan.cells
        finish(cell, 0.5)
        (cell.folder / CELL_NAME).write_text(json.dumps(plan.job(cell).description))
        assert len(planned(frames=100, data_folder="/mnt/elsewhere").cells) == 1
        assert len(planned(frames=100, data_folder=".").cells) == 1
        assert len(planned(frames=100, data_folder="frames").cells) == 1
        assert len(planned(frames=100, seeds=(1, 2)).cells) == 2
        with pytest.raises(UsageError, match="was finished with 'frames: 100', and is asked for with 'frames: 99' now"):
            planned(frames=99)
        with pytest.raises(UsageError, match=r"was finished with .*--precision=fp32.* now"):
            planned(frames=100, precision="bf16")

    def test_an_unfinished_cell_may_be_another(self, planned):
        plan = planned(frames=100)
        [cell] = plan.cells
        cell.folder.mkdir(parents=True)
        (cell.folder / CELL_NAME).write_text(json.dumps(plan.job(cell).description))
        assert planned(frames=99).cells

    def test_a_job_s_command_is_the_cell_s(self, planned):
        plan = planned(frames=100)
        [cell] = plan.cells
        job = plan.job(replace(cell, folder=Path("relative")))
        assert job.folder == Path("relative").absolute()
        assert job.started_in == Path.cwd()
        assert job.command[4:] == (*replace(cell, folder=Path("relative")).arguments(), "--noprogressbar")
