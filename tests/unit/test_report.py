"""Results files become tables, and tables stand in documents between their marks."""

import json

import pytest

from brainplug.errors import UsageError
from brainplug.report import RESULTS_END, RESULTS_START, read_results, results_table, write_table

RUN = {
    "dataset": "esc50",
    "n_classes": 10,
    "backbone": "nano-ast",
    "method": "linear",
    "fold": 1,
    "seed": 1,
    "epochs": 3,
    "test_accuracy": 0.5,
    "test_accuracy_last_epoch": 0.25,
    "trainable_without_head": 1384,
    "seconds": 90.0,
}


def test_runs_are_found_below_a_folder(tmp_path):
    for fold in (1, 2):
        folder = tmp_path / f"fold{fold}" / "1234"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({**RUN, "fold": fold}))
    assert [run["fold"] for run in read_results(str(tmp_path))] == [1, 2]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no results\.json"):
        read_results(str(tmp_path))


def test_rows_are_means_over_folds_best_method_first():
    runs = [{**RUN, "test_accuracy": accuracy, "fold": fold} for fold, accuracy in enumerate((0.4, 0.6))]
    table = results_table([*runs, {**RUN, "method": "full", "test_accuracy": 0.9}])
    first, second = table.splitlines()[2:]
    assert "| full |" in first
    assert "| 90.0 |" in first  # one run has no deviation
    assert "| linear | 1,384 | 3 | 2 | 50.0 ± 14.1 | 25.0 ± 0.0 | 1.5 |" in second


def test_a_table_replaces_what_stood_between_the_marks(tmp_path):
    document = tmp_path / "README.md"
    document.write_text(f"before\n{RESULTS_START}\nold\n{RESULTS_END}\nafter\n")
    write_table("| new |", str(document))
    assert document.read_text() == f"before\n{RESULTS_START}\n| new |\n{RESULTS_END}\nafter\n"


def test_a_document_without_marks_is_left_alone(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("no marks")
    with pytest.raises(UsageError, match="lacks the marks"):
        write_table("| new |", str(document))
    assert document.read_text() == "no marks"
