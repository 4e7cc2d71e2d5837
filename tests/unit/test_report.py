"""Results files become tables, and tables stand in documents between their marks."""

import json
import os
import re
from pathlib import Path

import pytest

from brainplug.errors import UsageError
from brainplug.results.report import (
    RESULTS_MARKS,
    markdown_table,
    read_results,
    recognition_table,
    results_table,
    table_marks,
    tables_of,
    write_table,
)  # fmt: skip
from brainplug.tasks import find_task

RUN = {
    "dataset": "esc50",
    "n_classes": 10,
    "backbone": "nano-ast",
    "method": "linear",
    "fold": 1,
    "seed": 1,
    "few_shot": None,
    "paper_code": False,
    "epochs": 3,
    "best_epoch": 2,
    "n_test": 8,
    "valid_accuracy": 0.75,
    "trainable": 2000,
    "total": 10000,
    "peak_memory_bytes": 10**9,
    "test_accuracy": 0.5,
    "test_accuracy_best_epoch": 0.5,
    "test_accuracy_last_epoch": 0.25,
    "trainable_without_head": 1384,
    "seconds": 90.0,
}


def best(accuracy: float) -> dict[str, float]:
    return {"test_accuracy": accuracy, "test_accuracy_best_epoch": accuracy}


def test_runs_are_found_below_a_folder(tmp_path):
    for fold in (1, 2):
        folder = tmp_path / f"fold{fold}" / "1234"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({**RUN, "fold": fold}))
    assert [run["fold"] for run in read_results(str(tmp_path))] == [1, 2]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no results\.json"):
        read_results(str(tmp_path))


def test_runs_that_train_meanwhile_do_not_stop_the_report(tmp_path, monkeypatch):
    for folder in ("finished", "training/save"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "finished" / "results.json").write_text(json.dumps(RUN))
    scandir, removed = os.scandir, []

    def scandir_too_late(folder):
        if Path(folder).name == "save":  # a checkpoint that goes after its folder was listed
            Path(folder).rmdir()
            removed.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir_too_late)
    assert read_results(str(tmp_path)) == [RUN]
    assert removed


def test_rows_are_means_over_folds_best_method_first():
    runs = [{**RUN, **best(accuracy), "fold": fold} for fold, accuracy in enumerate((0.4, 0.6))]
    table = results_table([*runs, {**RUN, **best(0.9), "method": "full"}])
    first, second = table.splitlines()[2:]
    assert "| full |" in first
    assert "| 90.0 |" in first  # one run has no deviation
    assert "| linear | 1,384 | 3 | 2 | 50.0 ± 14.1 | 25.0 ± 0.0 | 1.5 |" in second


def test_runs_of_another_kind_have_rows_of_their_own():
    kinds = [{}, {"paper_code": True}, {"few_shot": 8}, {"few_shot": 8, "paper_code": True}]
    rows = results_table([{**RUN, **kind} for kind in kinds]).splitlines()[2:]
    assert sorted((row.split(" | ")[2], row.split(" | ")[4]) for row in rows) == [
        ("8", "published"),
        ("8", "repaired"),
        ("all", "published"),
        ("all", "repaired"),
    ]


def test_runs_with_another_optimiser_have_a_row_of_their_own():
    table = results_table([{**RUN, "optimizer": "adamw"}, {**RUN, "optimizer": "fam"}, {**RUN, "optimizer": "fam"}])
    assert [(row.split(" | ")[5], row.split(" | ")[8]) for row in table.splitlines()[2:]] == [
        ("linear", "1"),
        ("linear, fam", "2"),
    ]


def test_runs_of_another_length_have_a_row_of_their_own():
    of_classes = results_table([{**RUN, "epochs": 3}, {**RUN, "epochs": 50}])
    of_words = recognition_table([{**RECOGNITION, "epochs": 3}, {**RECOGNITION, "epochs": 50}])
    for table, column in ((of_classes, 7), (of_words, 5)):
        assert sorted(row.split(" | ")[column] for row in table.splitlines()[2:]) == ["3", "50"]


@pytest.mark.parametrize("paper_code", [False, True])
def test_the_summary_says_which_code_and_which_epoch(paper_code):
    lines = (
        find_task("classification").summary({**RUN, "paper_code": paper_code, "few_shot": 8}, "results").splitlines()
    )
    assert "8 training clips a class" in lines[0]
    assert lines[2] == f"code            {'published' if paper_code else 'repaired'}"
    accuracies = ["50.00 % (epoch 2, best in validation)", "25.00 % (epoch 3, the last)"]
    chosen, other = accuracies[::-1] if paper_code else accuracies
    assert lines[3:5] == [f"test accuracy   {chosen}", f"  beside it     {other}"]


def test_columns_of_one_letter_make_a_table_too():
    rule = markdown_table(("a", "p", "b"), [("x", "", "y"), ("x", "1", "y")]).splitlines()[1]
    assert re.fullmatch(r"\|( -+ | -+: )\|( -+ | -+: )\|( -+ )\|", rule)


def test_cells_stand_below_each_other():
    table = markdown_table(("name", "n", "note"), [("a", "1,000", "x"), ("longer", "1", "")])
    header, rule, *rows = table.splitlines()
    assert len({line.rindex("|", 0, -1) for line in (header, rule, *rows)}) == 1
    assert rows[1].split("|")[2] == "     1 "


def test_a_row_with_a_cell_too_few_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        markdown_table(("name", "n", "note"), [("a", "1")])


@pytest.mark.parametrize("marks", [RESULTS_MARKS, table_marks("numbers", "make numbers")])
def test_a_table_replaces_what_stood_between_the_marks(tmp_path, marks):
    document = tmp_path / "README.md"
    document.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    write_table("| new |", str(document), marks)
    assert document.read_text() == f"before\n{marks[0]}\n| new |\n{marks[1]}\nafter\n"


def test_tables_of_one_document_do_not_touch_each_other(tmp_path):
    document = tmp_path / "README.md"
    first, second = table_marks("first", "make first"), table_marks("second", "make second")
    document.write_text("\n".join([*first, *second]))
    write_table("| 1 |", str(document), first)
    write_table("| 2 |", str(document), second)
    assert document.read_text() == "\n".join([first[0], "| 1 |", first[1], second[0], "| 2 |", second[1]])


def test_a_document_without_marks_is_left_alone(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("no marks")
    with pytest.raises(UsageError, match="lacks the marks"):
        write_table("| new |", str(document), RESULTS_MARKS)
    assert document.read_text() == "no marks"


def test_a_document_that_is_missing_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        write_table("| new |", str(tmp_path / "README.md"), RESULTS_MARKS)


RECOGNITION = {
    "dataset": "spoken", "backbone": "hubert", "method": "lora", "decoding": "greedy", "epochs": 3, "seed": 1,
    "trainable": 2000, "test_wer": 0.5, "test_cer": 0.25, "test_wer_last_epoch": 0.4, "test_cer_last_epoch": 0.2,
    "seconds": 90.0,
}  # fmt: skip


def test_runs_of_recognition_have_a_table_of_their_own():
    runs = [{**RECOGNITION, "test_wer": wer} for wer in (0.5, 0.7)]
    full = {**RECOGNITION, "method": "full", "test_wer": 0.05}
    first, second = recognition_table([*runs, full]).splitlines()[2:]
    assert first == "| spoken | hubert | full | greedy | 2,000 | 3 | 1 | 5.0 | 25.0 | 40.0 | 20.0 | 1.5 |"
    assert "| lora | greedy | 2,000 | 3 | 2 | 60.0 ± 14.1 |" in second
    assert tables_of([RUN, full]) == f"{results_table([RUN])}\n\n{recognition_table([full])}"
    assert tables_of([full]) == recognition_table([full])
    assert tables_of([RUN]) == results_table([RUN])
