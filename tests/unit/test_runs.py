"""Which runs a command stands for, and what is said of them together."""

import statistics

import pytest
from speechbrain.utils.run_opts import RunOptions

from brainplug.config.arguments import parse_arguments
from brainplug.config.recipe import Recipe
from brainplug.data.corpora import esc50, fsc, own
from brainplug.errors import UsageError
from brainplug.results.statistics import interval_of_mean
from brainplug.tasks.classification import ClassificationSettings
from brainplug.tasks.runs import separate_runs, summary_of_runs


def separated(overrides: dict | None = None, **settings: object) -> list[dict]:
    datasets = {"esc50": esc50.list_clips, "fsc": fsc.list_clips, "own": own.list_clips}
    usual = {
        "dataset": "esc50",
        "datasets": datasets,
        "manifest": None,
        "fold": 1,
        "folds": 5,
        "seed": 7,
        "few_shot": None,
        "few_shot_draws": 1,
    }
    recipe = Recipe(
        "recipe.yaml", RunOptions(), {}, "", ClassificationSettings.model_construct(**{**usual, **settings})
    )
    return separate_runs(recipe, {"method": "lora"} if overrides is None else overrides)


def test_one_run_stays_as_it_is():
    assert separated({"fold": 3, "seed": 9}, fold=3) == [{"fold": 3, "seed": 9}]


def test_all_folds():
    runs = separated({"method": "lora", "fold": "all"}, fold="all")
    assert runs == [{"method": "lora", "fold": fold, "seed": 7} for fold in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("table", ["a,dog,0\nb,dog,2\nc,cat,1\n", "a, dog, 0\nb, dog, 2\nc, cat, 1\n"])
def test_all_folds_of_a_list_of_ones_own(table, tmp_path):
    (tmp_path / "clips.csv").write_text(f"path,label,fold\n{table}")
    runs = separated({"fold": "all"}, fold="all", dataset="own", manifest=str(tmp_path / "clips.csv"))
    assert [run["fold"] for run in runs] == [0, 1, 2]


def test_a_name_of_one_s_own_says_the_fold_or_there_is_one_fold():
    reference = parse_arguments(["recipe.yaml", "--experiment=!ref mine-<fold>"])[2]
    assert len(separated(reference, fold="all")) == 5
    assert len(separated({"experiment": "mine"}, few_shot=4, few_shot_draws=2)) == 2


def test_draws_have_seeds_of_their_own():
    overrides = {"few_shot": 4, "few_shot_draws": 3, "seed": 20}
    runs = separated(overrides, fold=None, seed=20, few_shot=4, few_shot_draws=3)
    assert runs == [{"few_shot": 4, "fold": None, "seed": seed} for seed in (20, 21, 22)]


def test_every_draw_goes_over_all_folds():
    runs = separated({"few_shot": 4}, fold="all", folds=2, few_shot=4, few_shot_draws=2)
    assert [(run["seed"], run["fold"]) for run in runs] == [(7, 1), (7, 2), (8, 1), (8, 2)]


@pytest.mark.parametrize(
    ("settings", "overrides", "message"),
    [
        ({"fold": "all", "dataset": "fsc"}, {}, "fold 'all'.*fsc has given splits, and no folds.*Leave --fold out"),
        ({"fold": 3, "dataset": "fsc"}, {}, "fold 3 .*no folds"),
        ({"few_shot_draws": 3}, {}, "3 draws.*nothing to draw.*--few_shot=8"),
        ({"fold": "all"}, {"output_folder": "here"}, "5 runs.*: here.*one output folder.*Leave it out"),
        ({"fold": "all"}, {"experiment": "mine"}, "5 runs.*experiment: mine.*--experiment='!ref NAME-<fold>'"),
    ],
)
def test_what_cannot_be(settings, overrides, message):
    with pytest.raises(UsageError, match=message):
        separated(overrides, **settings)


def results(*accuracies: tuple[int, int | None, float]) -> list[dict]:
    return [
        {"seed": seed, "fold": fold, "test_accuracy": accuracy, "best_epoch": 2} for seed, fold, accuracy in accuracies
    ]


def test_folds_have_no_interval():
    lines = summary_of_runs(results((1, 1, 0.5), (1, 2, 0.7))).splitlines()
    assert lines[-1] == "test accuracy: 60.0 ± 14.1 % (mean and standard deviation over 2 runs)"
    assert lines[2].split() == "| 1 | 1 | 50.00% | 2 |".split()


def test_the_interval_is_over_draws():
    runs = results((1, 1, 0.5), (1, 2, 0.7), (2, 1, 0.6), (2, 2, 0.7), (3, 1, 0.4), (3, 2, 0.6))
    low, high = interval_of_mean([60.0, 65.0, 50.0])
    assert summary_of_runs(runs).splitlines()[-1] == f"95 % interval of the mean: {low:.1f} to {high:.1f} % (3 draws)"


def test_the_interval_covers_a_mean_95_times_in_100():
    """Against the table of Student's t: 2.776 for 5 values."""
    values = [3.0, 5.0, 4.0, 8.0, 1.0]
    low, high = interval_of_mean(values)
    assert (low + high) / 2 == pytest.approx(statistics.mean(values))
    assert (high - low) / 2 == pytest.approx(2.776 * statistics.stdev(values) / 5**0.5, rel=1e-3)
