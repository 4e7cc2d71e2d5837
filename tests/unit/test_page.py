"""The page of all runs: what it chooses, what it says, and that it needs nothing beside it."""

import base64
import builtins
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from brainplug.errors import UsageError
from brainplug.results.page import write_page
from brainplug.results.page.confusions import count_confusions, worst_pairs
from brainplug.results.page.markdown import read_markdown
from brainplug.results.page.runs import best_method, find_runs, with_most_clips
from brainplug.results.page.sections import few_shot_point
from brainplug.results.page.vectors import in_the_plane, shares_of_classes
from brainplug.results.run_files import learning_curve
from brainplug.results.schema import read_results
from brainplug.results.statistics import interval_of_mean
from brainplug.results.tables import results_table
from tests.made_runs import EPOCH, LABELS, make_recognition, make_run

pytestmark = pytest.mark.slow
STRANGE = ('<script>alert("1")</script>', "rain & <b>wind</b>", 'Müller\'s $5 "dog" $')
FOREIGN = ("src", "href", "srcset", "data", "action", "poster")  # attributes that load something, or lead somewhere


class Page(HTMLParser):
    """What stands in a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.links, self.pictures, self.texts = [], [], {}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        actual = dict(attributes)
        self.tags.append(tag)
        self.links += [actual[name] for name in FOREIGN if name in actual]
        if tag == "img":
            self.pictures[actual["title"]] = base64.b64decode(actual["src"].removeprefix("data:image/png;base64,"))

    def handle_data(self, data):
        self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(text for text in self.texts if text)


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two methods on two folds, one of them with few clips too."""
    for fold in (1, 2):
        make_run(tmp_path / f"lora{fold}", method="lora", fold=fold, test_accuracy=0.8, trainable_without_head=28000)
        make_run(tmp_path / f"soft{fold}", method="soft_moa", fold=fold, test_accuracy=0.6, trainable_without_head=9000)
        make_run(tmp_path / f"few{fold}", method="lora", fold=fold, test_accuracy=0.3, few_shot=2)
    return tmp_path


def table_of(folder: Path, cells: dict[str, tuple[str, str]]) -> None:
    """A table's own files, as if it had been run in another place."""
    described = [
        {"row": row, "column": column, "folder": f"elsewhere/{folder.name}/{position}", "state": "finished"}
        for position, (row, column) in cells.items()
    ]
    (folder / "table.json").write_text(json.dumps({"name": folder.name, "cells": described}))
    (folder / "table.md").write_text(
        "Accuracies.\n\n| method | difference | p |\n| --- | --: | --- |\n| <a> | +1 | 0.5 |\n"
    )


# The page


@pytest.mark.parametrize(
    ("table", "column", "data"), [("spoken", "spoken", "spoken"), ("paper", "spoken", "paper: spoken")]
)
def test_a_table_with_its_column_s_name_is_named_once(tmp_path, table, column, data):
    make_run(tmp_path / table / column / "lora" / "seed1", method="lora", dataset="spoken", fold=None)
    table_of(tmp_path / table, {f"{column}/lora/seed1": ("lora", column)})
    [run] = find_runs(str(tmp_path))
    assert run.data == data
    page = Page(write_page(str(tmp_path)))
    assert "spoken: spoken" not in page.text.replace("paper: spoken", "")


def test_every_picture_is_embedded_and_lies_beside(runs):
    page = Page(write_page(str(runs)))
    files = {path.name: path.read_bytes() for path in (runs / "pictures").iterdir()}
    assert page.pictures == files
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    kinds = {name.split("-1-")[0] for name in files}
    assert kinds == {
        "accuracy", "few_shot", "learning", "confusion", "vectors", "experts-combine", "experts-dispatch",
    }  # fmt: skip


def test_nothing_is_loaded_from_elsewhere(runs):
    page = Page(write_page(str(runs)))
    assert page.links
    assert [link for link in page.links if not link.startswith(("data:image/png;base64,", "#"))] == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    style = (runs / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert style and "url(" not in style and "@import" not in style


def test_names_are_escaped(tmp_path):
    make_run(tmp_path / "a & b" / "run", labels=STRANGE, dataset="own <i>birds</i>", method="<u>lora</u>")
    page = Page(write_page(str(tmp_path / "a & b")))
    assert not {"script", "b", "i", "u"} & set(page.tags)
    assert set(STRANGE) <= set(page.texts)
    assert "own <i>birds</i>" in page.text and "Results in a & b" in page.text


def test_what_is_missing_is_named_and_the_rest_is_drawn(tmp_path):
    make_run(tmp_path / "old", files=False)
    page = Page(write_page(str(tmp_path)))
    for name in ("train_log.txt", "predictions.csv", "observations.safetensors"):
        assert f"1 of 1 runs (esc50, 3 classes, nano-ast) have no {name}" in page.text
    assert [name.split("-1-")[0] for name in page.pictures] == ["accuracy"]
    make_run(tmp_path / "new", fold=2)
    page = Page(write_page(str(tmp_path)))
    assert "1 of 2 runs (esc50, 3 classes, nano-ast) have no predictions.csv" in page.text
    assert "confusion" in {name.split("-1-")[0] for name in page.pictures}


def test_nothing_is_said_to_be_missing_where_all_is_there(runs):
    assert "older ones" not in Page(write_page(str(runs))).text


def test_recognition_has_its_table_its_error_rates_and_its_learning_curves(runs):
    for seed in (1, 2):
        make_recognition(runs / f"ctc{seed}", seed=seed, test_wer=0.3)
    make_recognition(runs / "full", method="full", trainable=9000, test_wer=0.1)
    page = Page(write_page(str(runs)))
    assert {"WER against trained parameters", "WER, best validation epoch (%)", "30.0 ± 0.0"} <= set(page.texts)
    assert "spoken, hubert, greedy decoding: 2 methods, 3 runs." in page.text
    kinds = {name for name in page.pictures if "hubert" in name}
    assert kinds == {"wer-1-spoken_hubert_greedy_decoding.png", "learning-1-spoken_hubert_greedy_decoding.png"}
    assert "older ones" not in page.text


def test_a_page_of_recognition_alone(tmp_path):
    make_recognition(tmp_path / "run")
    page = Page(write_page(str(tmp_path)))
    assert sorted(name.partition("-")[0] for name in page.pictures) == ["learning", "wer"]


def test_of_several_metrics_the_first_one_is_read():
    line = "epoch: 3, lr: 1.00e-03 - train loss: 2.0 - valid loss: 1.0, valid WER: 20.0, valid CER: 5.0"
    assert learning_curve(f"{line}\n{line[:-8]}\n") == {3: (2.0, 1.0, 20.0)}


def test_the_method_with_the_fewest_validation_errors_is_the_best(tmp_path):
    make_recognition(tmp_path / "a", method="a", test_wer=0.1, valid_wer=0.5)
    make_recognition(tmp_path / "b", method="b", test_wer=0.4, valid_wer=0.3)
    assert [run.method for run in best_method(find_runs(str(tmp_path)))] == ["b"]


def test_a_run_that_predicted_nothing_has_no_confusions(tmp_path):
    make_run(tmp_path / "run", clips=0)
    assert [name.split("-1-")[0] for name in Page(write_page(str(tmp_path))).pictures] == ["accuracy", "learning"]


def test_vectors_that_say_nothing_are_left_out(tmp_path):
    make_run(tmp_path / "tiny", clips=1)
    page = Page(write_page(str(tmp_path)))
    assert "too few or all alike" in page.text
    assert not any(name.startswith("vectors") for name in page.pictures)


def test_the_same_runs_give_the_same_page(runs):
    first = write_page(str(runs)).read_bytes()
    assert write_page(str(runs)).read_bytes() == first


def test_the_results_stand_in_the_page(runs):
    page = Page(write_page(str(runs)))
    [table] = read_markdown(results_table(read_results(str(runs))))
    assert {cell for row in table.rows for cell in row} <= set(page.texts)


def test_a_table_gives_its_own_names_and_columns(tmp_path):
    folder = tmp_path / "kernels"
    for size in (3, 31):
        make_run(folder / "esc" / f"kernel_{size}" / "fold1-seed1", method="conformer", test_accuracy=size / 40)
    make_run(tmp_path / "other", method="lora")
    cells = {f"esc/kernel_{size}/fold1-seed1": (f"kernel {size}", "ESC") for size in (31, 3)}
    table_of(folder, cells)
    actual = [(run.method, run.data) for run in find_runs(str(tmp_path))]
    assert actual == [
        ("kernel 31", "kernels: ESC"), ("kernel 3", "kernels: ESC"), ("lora", "esc50, 3 classes, nano-ast"),
    ]  # fmt: skip
    page = Page(write_page(str(tmp_path)))
    assert {"Table kernels", "difference", "p", "<a>", "Other runs"} <= set(page.texts)
    alone = Page(write_page(str(folder)))
    assert "Other runs" not in alone.texts and "difference" in alone.texts


def test_names_that_differ_in_signs_alone_have_pictures_of_their_own(tmp_path):
    for name in ("own a b", "own a_b"):
        make_run(tmp_path / name, dataset=name)
    pictures = Page(write_page(str(tmp_path))).pictures
    assert sum(name.startswith("confusion") for name in pictures) == 2


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_before_the_work(package, runs, monkeypatch):
    imported = builtins.__import__

    def refuse(name, *others):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *others)

    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=rf"{package} is missing.*pip install 'brainplug\[plot\]'"):
        write_page(str(runs))
    assert not (runs / "report.html").exists() and not (runs / "pictures").exists()


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no results\.json"):
        write_page(str(tmp_path))


def test_a_folder_that_cannot_be_written_is_refused(runs):
    (runs / "pictures").write_text("a file where the folder should be")
    with pytest.raises(UsageError, match="cannot be made"):
        write_page(str(runs))


# What is chosen


def test_pictures_are_of_the_runs_with_all_clips(runs):
    assert {run.few_shot for run in with_most_clips(find_runs(str(runs)))} == {float("inf")}


def test_the_best_method_is_chosen_without_the_test_clips(tmp_path):
    make_run(tmp_path / "a", method="a", test_accuracy=0.9, valid_accuracy=0.5)
    make_run(tmp_path / "b", method="b", test_accuracy=0.4, valid_accuracy=0.6)
    assert [run.method for run in best_method(find_runs(str(tmp_path)))] == ["b"]


def test_intervals_are_over_draws_and_of_one_draw_over_folds(tmp_path):
    accuracies = {(1, 1): 0.5, (1, 2): 0.7, (2, 1): 0.6, (2, 2): 0.7, (3, 1): 0.4, (3, 2): 0.6}
    for (seed, fold), accuracy in accuracies.items():
        make_run(tmp_path / f"{seed}{fold}", seed=seed, fold=fold, test_accuracy=accuracy, few_shot=4, files=False)
    runs = find_runs(str(tmp_path))
    point = few_shot_point(runs, 24)
    assert (point.low, point.high) == pytest.approx(interval_of_mean([60, 65, 50]))
    assert point.accuracy == pytest.approx(100 * mean(accuracies.values()))
    point = few_shot_point(runs[:2], 24)
    assert (point.low, point.high) == pytest.approx(interval_of_mean([50, 70]))
    point = few_shot_point(runs[:1], 24)
    assert (point.low, point.accuracy, point.high, point.clips) == (50, 50, 50, 4)


def test_columns_that_differ_in_other_settings_are_no_one_curve(tmp_path):
    folder, cells = tmp_path / "two", {}
    for column in ("slow", "fast"):
        for shots in (1, 2):
            position = f"{column}_{shots}/lora/fold1-seed1"
            make_run(folder / position, files=False, few_shot=shots, method="lora")
            cells[position] = ("lora", f"{column} {shots}")
    table_of(folder, cells)
    assert not any(name.startswith("few_shot") for name in Page(write_page(str(folder))).pictures)


# What is read


def test_an_epoch_that_was_trained_again_counts_once():
    lines = [EPOCH.format(*seen) for seen in ((1, 3.0, 2, 10), (2, 2.0, 2, 20), (3, 9.0, 9, 99), (2, 1.0, 1, 50))]
    assert learning_curve("\n".join(lines)) == {1: (3, 2, 10), 2: (1, 1, 50)}


def test_a_line_that_a_kill_tore_is_passed_over():
    lines = [EPOCH.format(1, 3.0, 2, 10), EPOCH.format(2, 7.0, 2, 20)[:-40] + EPOCH.format(2, 1.0, 2, 30)]
    assert learning_curve("\n".join(lines)) == {1: (3, 2, 10), 2: (1, 2, 30)}


def test_a_log_of_speechbrain_is_read(tmp_path):
    from speechbrain.utils.train_logger import FileTrainLogger

    logger = FileTrainLogger(str(tmp_path / "log.txt"))
    for epoch in (1, 2):
        logger.log_stats({"epoch": epoch, "lr": 1e-5}, {"loss": 0.0123}, {"loss": 2.0, "accuracy": 97.5})
    assert learning_curve((tmp_path / "log.txt").read_text()) == dict.fromkeys((1, 2), (0.0123, 2.0, 97.5))


def random_predictions(classes: int, clips: int, runs: int) -> list[dict[str, str]]:
    draws = np.random.default_rng(classes)
    return [
        {"id": f"{clip}", "path": f"{clip}.wav", "label": f"c{clip % classes}", "predicted": f"c{predicted}"}
        for _ in range(runs)
        for clip, predicted in enumerate(draws.integers(classes, size=clips))
    ]


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_the_worst_pairs_are_those_of_the_matrix(classes):
    predictions = random_predictions(classes, clips=150, runs=3)
    truth, predicted = ([row[key] for row in predictions] for key in ("label", "predicted"))
    counts, labels = count_confusions(predictions)
    expected = confusion_matrix(truth, predicted, labels=labels)
    assert counts.tolist() == expected.tolist()
    pairs = worst_pairs(predictions)
    off_diagonal = sorted(expected[~np.eye(classes, dtype=bool)].tolist(), reverse=True)
    assert [pair.count for pair in pairs] == off_diagonal[:10]
    at = {label: position for position, label in enumerate(labels)}
    for pair in pairs:
        assert pair.count == expected[at[pair.label], at[pair.predicted]]
        assert pair.total == expected[at[pair.label]].sum()
        wrong = [a["id"] for a in predictions if (a["label"], a["predicted"]) == (pair.label, pair.predicted)]
        assert {name: count for name, _, count in pair.clips} == {name: wrong.count(name) for name in wrong}


def test_classes_that_are_never_confused_make_no_pair():
    assert worst_pairs([{"id": "a", "path": "a.wav", "label": "dog", "predicted": "dog"}]) == []


def test_shares_are_means_over_the_clips_of_a_class(tmp_path):
    shares, targets = np.random.default_rng(0).random((12, 2, 3)), np.arange(12) % 4 + 1
    actual, classes = shares_of_classes(shares, targets)
    assert classes == [1, 2, 3, 4]
    assert actual[2] == pytest.approx(shares[[2, 6, 10]].mean(0))


def test_the_plane_is_the_same_every_time():
    vectors = np.random.default_rng(1).normal(size=(30, 6)).astype("float32")
    first, second = in_the_plane(vectors), in_the_plane(vectors)
    assert first.tolist() == second.tolist()
    assert in_the_plane(np.full((9, 4), np.nan)) is None


def test_labels_in_the_made_runs_are_those_that_are_drawn(runs):
    page = Page(write_page(str(runs)))
    assert set(LABELS) & set(page.texts)
