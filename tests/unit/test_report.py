"""Results files become tables, and tables stand in documents between their marks."""

import json

import pytest

from brainplug.errors import UsageError
from brainplug.report import RESULTS_MARKS, markdown_table, read_results, results_table, table_marks, write_table

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
