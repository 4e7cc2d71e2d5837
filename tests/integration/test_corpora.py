"""Every official layout prepares and trains through the real train.py, on small made trees."""

from pathlib import Path

import pytest

from tests.integration.conftest import make_esc50
from tests.integration.running import REPOSITORY, run_train
from tests.made_corpora import make_fsc, make_gsc, make_iemocap, make_us8k

# A new corpus joins with one row: its recipe, how its tree is made, what the run reports of its data, and flags.
CORPORA = {
    "ESC-50": ("ESC50", make_esc50, "esc50, fold 1: 8 test clips, 2 classes", []),
    "ESC-10": ("ESC50", make_esc50, "esc50, fold 1: 8 test clips, 2 classes", ["--subset=esc10"]),
    "FSC": ("FSC", make_fsc, "fsc: 4 test clips, 2 classes", []),
    "GSC": ("GSC", make_gsc, "gsc: 8 test clips, 4 classes", []),
    "GSC, 12 classes": ("GSC", make_gsc, "gsc: 6 test clips, 4 classes", ["--classes=12"]),
    "US8K": ("US8K", make_us8k, "us8k, fold 10: 6 test clips, 2 classes", ["--fold=10"]),
    "US8K, published": ("US8K", make_us8k, "us8k, fold 1: 6 test clips, 2 classes", ["--paper_code=True"]),
    "IEMOCAP": ("IEMOCAP", make_iemocap, "iemocap, fold 4: 4 test clips, 4 classes", ["--fold=4"]),
    "IEMOCAP, excited": (
        "IEMOCAP",
        make_iemocap,
        "iemocap-excited, fold 1: 5 test clips, 4 classes",
        ["--excited=True"],
    ),
}
SMALL = ["--frames=64", "--batch_size=4", "--number_of_epochs=1", "--device=cpu", "--noprogressbar", "--debug"]


@pytest.mark.parametrize("corpus", CORPORA)
def test_made_tree_prepares_and_trains(corpus: str, tmp_path: Path):
    recipe, make, data, flags = CORPORA[corpus]
    folder = make(tmp_path / "data")
    file = str(REPOSITORY / "recipes" / recipe / "hparams" / "train.yaml")
    run = run_train([file, f"--data_folder={folder}", *SMALL, *flags], tmp_path)
    assert run.code == 0, run.output
    assert "test accuracy" in run.output
    assert data in run.output
    assert "smallest and largest class" in run.output
