"""Results files become tables, and tables are put into documents between their marks."""

import json
import os
import re
from pathlib import Path

import pytest

from brainplug.errors import DataError, UsageError
from brainplug.results.documents import RESULTS_MARKS, table_marks, write_between_marks
from brainplug.results.schema import ClassificationResults, RecognitionResults, RunResults, parse_results, read_results
from brainplug.results.tables import markdown_table, results_table, tables_of
from brainplug.tasks import find_task
from tests.made_runs import RECOGNITION, RESULTS

RUN = {
    **RESULTS,
    "n_classes": 10,
    "n_test": 8,
    "total": 10000,
    "trainable": 2000,
    "trainable_without_head": 1384,
    "valid_accuracy": 0.75,
    "test_accuracy_last_epoch": 0.25,
    "seconds": 90.0,
}


def best(accuracy: float) -> dict[str, float]:
    return {"test_accuracy": accuracy, "test_accuracy_best_epoch": accuracy}


def table(*runs: dict) -> str:
    return results_table([parse_results(run) for run in runs])


def write(folder: Path, content: object) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(content if isinstance(content, str) else json.dumps(content))


class TestReading:
    def test_runs_are_found_below_a_folder(self, tmp_path):
        for fold in (1, 2):
            write(tmp_path / f"fold{fold}" / "1234", {**RUN, "fold": fold})
        assert [run.fold for run in read_results(str(tmp_path))] == [1, 2]

    def test_a_folder_without_runs_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"no results\.json"):
            read_results(str(tmp_path))

    def test_runs_that_train_meanwhile_do_not_stop_the_report(self, tmp_path, monkeypatch):
        write(tmp_path / "finished", RUN)
        (tmp_path / "training/save").mkdir(parents=True)
        scandir, removed = os.scandir, []

        def scandir_too_late(folder):
            if Path(folder).name == "save":  # a checkpoint that goes after its folder was listed
                Path(folder).rmdir()
                removed.append(folder)
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", scandir_too_late)
        assert read_results(str(tmp_path)) == [parse_results(RUN)]
        assert removed

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"test_acc', r"run were asked for.*cannot be read.*Remove this file"),
            ([1, 2], "cannot be read"),
            ({**RUN, "format": 3}, r"its format is 3, and this brainplug reads formats up to 2"),
            ({**RUN, "format": "new"}, "its format is 'new'"),
            ({key: value for key, value in RUN.items() if key not in ("epochs", "seed")}, "seed: Field.*epochs: Field"),
            ({**RUN, "test_accuracy": "high"}, "test_accuracy: Input should be a valid number"),
            ({"task": "tagging", **{key: RUN[key] for key in RunResults.model_fields if key in RUN}}, "no metric"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, content, message, tmp_path):
        write(tmp_path / "run", content)
        with pytest.raises(DataError, match=message):
            read_results(str(tmp_path))

    @pytest.mark.parametrize(
        ("values", "model"),
        [
            (RUN, ClassificationResults),
            (RECOGNITION, RecognitionResults),
            ({**RUN, "format": 2, "task": "classification"}, ClassificationResults),
            ({**RECOGNITION, "format": 2, "task": "seq2seq"}, RecognitionResults),
            ({**RUN, "format": 2, "task": "tagging", "test_map": 0.5}, RunResults),
        ],
    )
    def test_the_task_decides_what_is_checked(self, values, model):
        assert type(parse_results(values)) is model

    def test_older_runs_have_one_accuracy_and_one_optimiser(self):
        newer = ("test_accuracy_best_epoch", "optimizer", "method_settings", "paper_code", "few_shot")
        run = parse_results({key: value for key, value in RUN.items() if key not in newer})
        assert (run.score(), run.score(epoch="best"), run.score(epoch="last")) == (50, 50, 25)
        assert run.identity == parse_results(RUN).identity


class TestTables:
    def test_rows_are_means_over_folds_best_method_first(self):
        runs = [{**RUN, **best(accuracy), "fold": fold} for fold, accuracy in enumerate((0.4, 0.6))]
        first, second = table(*runs, {**RUN, **best(0.9), "method": "full"}).splitlines()[2:]
        assert "| full |" in first
        assert "| 90.0 |" in first  # one run has no deviation
        assert "| linear | 1,384 | 3 | 2 | 50.0 ± 14.1 | 25.0 ± 0.0 | 1.5 |" in second

    def test_runs_of_another_kind_have_rows_of_their_own(self):
        kinds = [{}, {"paper_code": True}, {"few_shot": 8}, {"few_shot": 8, "paper_code": True}]
        rows = table(*({**RUN, **kind} for kind in kinds)).splitlines()[2:]
        assert sorted((row.split(" | ")[2], row.split(" | ")[4]) for row in rows) == [
            ("8", "as published"),
            ("8", "corrected"),
            ("all", "as published"),
            ("all", "corrected"),
        ]

    def test_runs_with_another_optimiser_have_a_row_of_their_own(self):
        rows = table(*({**RUN, "optimizer": name} for name in ("adamw", "fam", "fam"))).splitlines()[2:]
        assert [(row.split(" | ")[5], row.split(" | ")[8]) for row in rows] == [("linear", "1"), ("linear, fam", "2")]

    @pytest.mark.parametrize(("run", "column"), [(RUN, 7), (RECOGNITION, 5)])
    def test_runs_of_another_length_have_a_row_of_their_own(self, run, column):
        rows = table({**run, "epochs": 3}, {**run, "epochs": 50}).splitlines()[2:]
        assert sorted(row.split(" | ")[column] for row in rows) == ["3", "50"]

    def test_columns_of_classification(self):
        assert table(RUN).splitlines()[0] == (
            "| data | classes | clips a class | backbone | code | method | trainable without head | epochs | runs "
            "| test accuracy, best validation epoch (%) | last epoch (%) | minutes a run |"
        )

    def test_columns_of_recognition(self):
        assert table(RECOGNITION).splitlines()[0] == (
            "| data | backbone | method | decoding | trainable | epochs | runs "
            "| WER, best validation epoch (%) | CER (%) | WER, last epoch (%) | CER (%) | minutes a run |"
        )

    def test_runs_of_recognition_have_a_table_of_their_own_fewest_errors_first(self):
        runs = [{**RECOGNITION, "test_wer": wer} for wer in (0.5, 0.7)]
        full = {**RECOGNITION, "method": "full", "test_wer": 0.05}
        first, second = table(*runs, full).splitlines()[2:]
        assert first == "| spoken | hubert | full | greedy | 2,000 | 3 | 1 | 5.0 | 25.0 | 40.0 | 20.0 | 1.5 |"
        assert "| lora | greedy | 2,000 | 3 | 2 | 60.0 ± 14.1 |" in second
        assert tables_of([parse_results(full), parse_results(RUN)]) == f"{table(RUN)}\n\n{table(full)}"
        assert tables_of([parse_results(full)]) == table(full)
        assert tables_of([parse_results(RUN)]) == table(RUN)

    def test_a_task_without_a_schema_has_a_table_of_its_metrics(self):
        common = {key: RUN[key] for key in RunResults.model_fields if key in RUN}
        tagging = {**common, "task": "tagging", "test_map": 0.5, "test_map_last_epoch": 0.25, "test_auc": 0.75}
        header, _, row = table(tagging).splitlines()
        assert header == (
            "| data | backbone | method | trainable without head | epochs | runs | map, best validation epoch (%) "
            "| auc (%) | map, last epoch (%) | auc (%) | minutes a run |"
        )
        assert row == "| esc50 | nano-ast | linear | 1,384 | 3 | 1 | 50.0 | 75.0 | 25.0 | 75.0 | 1.5 |"
        assert tables_of([parse_results(tagging), parse_results(RUN)]) == f"{table(RUN)}\n\n{table(tagging)}"


@pytest.mark.parametrize("paper_code", [False, True])
def test_the_summary_says_which_code_and_which_epoch(paper_code):
    lines = (
        find_task("classification").summary({**RUN, "paper_code": paper_code, "few_shot": 8}, "results").splitlines()
    )
    assert "8 training clips a class" in lines[0]
    assert lines[2] == f"code            {'as published' if paper_code else 'corrected'}"
    accuracies = ["50.00 % (epoch 2, best in validation)", "25.00 % (epoch 3, the last)"]
    chosen, other = accuracies[::-1] if paper_code else accuracies
    assert lines[3:5] == [f"test accuracy   {chosen}", f"  beside it     {other}"]


class TestMarkdown:
    def test_columns_of_one_letter_make_a_table_too(self):
        rule = markdown_table(("a", "p", "b"), [("x", "", "y"), ("x", "1", "y")]).splitlines()[1]
        assert re.fullmatch(r"\|( -+ | -+: )\|( -+ | -+: )\|( -+ )\|", rule)

    def test_cells_are_aligned(self):
        header, rule, *rows = markdown_table(
            ("name", "n", "note"), [("a", "1,000", "x"), ("longer", "1", "")]
        ).splitlines()
        assert len({line.rindex("|", 0, -1) for line in (header, rule, *rows)}) == 1
        assert rows[1].split("|")[2] == "     1 "

    def test_a_row_with_a_cell_too_few_is_refused(self):
        with pytest.raises(ValueError, match="shorter"):
            markdown_table(("name", "n", "note"), [("a", "1")])


class TestDocuments:
    @pytest.fixture
    def document(self, tmp_path) -> Path:
        return tmp_path / "README.md"

    @pytest.mark.parametrize("marks", [RESULTS_MARKS, table_marks("numbers", "make numbers")])
    def test_a_table_replaces_what_was_between_the_marks(self, document, marks):
        document.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
        write_between_marks("| new |", str(document), marks)
        assert document.read_text() == f"before\n{marks[0]}\n| new |\n{marks[1]}\nafter\n"

    def test_tables_of_one_document_do_not_touch_each_other(self, document):
        first, second = table_marks("first", "make first"), table_marks("second", "make second")
        document.write_text("\n".join([*first, *second]))
        write_between_marks("| 1 |", str(document), first)
        write_between_marks("| 2 |", str(document), second)
        assert document.read_text() == "\n".join([first[0], "| 1 |", first[1], second[0], "| 2 |", second[1]])

    def test_a_document_without_marks_is_left_alone(self, document):
        document.write_text("no marks")
        with pytest.raises(UsageError, match="lacks the marks"):
            write_between_marks("| new |", str(document), RESULTS_MARKS)
        assert document.read_text() == "no marks"

    def test_a_missing_document_is_refused(self, document):
        with pytest.raises(UsageError, match="cannot be read"):
            write_between_marks("| new |", str(document), RESULTS_MARKS)
