"""What the official corpora share: tables that name files, and what may not be read."""

import os
import tempfile
from pathlib import Path

import pytest

from brainplug.data.corpora import esc50, fsc, gsc, iemocap, us8k
from brainplug.errors import UsageError
from tests.integration.conftest import make_esc50
from tests.made_corpora import make_fsc, make_gsc, make_iemocap, make_us8k
from tests.unit.test_own import locked

# How the layout is made, the table that names files, and how one of them begins there.
CORPORA = {
    esc50: (make_esc50, "meta/esc50.csv", "1-0-A"),
    fsc: (make_fsc, "data/train_data.csv", "wavs/"),
    gsc: (make_gsc, "testing_list.txt", "bed/"),
    us8k: (make_us8k, "metadata/UrbanSound8K.csv", "100131-3"),
}


@pytest.mark.parametrize("above", ["../", "a/../../", "..\\"])
@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.__name__.rpartition(".")[2])
def test_a_path_that_climbs_out_is_refused(corpus, above, tmp_path):
    make, table, beginning = CORPORA[corpus]
    path = make(tmp_path / "data") / table
    path.write_text(path.read_text().replace(beginning, above + beginning, 1))
    with pytest.raises(UsageError, match="climbs out"):
        corpus.list_clips(str(tmp_path / "data"), fold=1)


@pytest.fixture
def readable_by_all():
    """A folder for a corpus, and the rights of a user who is not root, whom nothing is hidden from."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        user = os.geteuid()
        yield Path(name), lambda: user == 0 and os.seteuid(65534)
        os.seteuid(user)
        for path in Path(name).rglob("*"):
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("corpus", "make", "part"),
    [
        (gsc, make_gsc, ""),
        (gsc, make_gsc, "bed"),
        (gsc, make_gsc, "testing_list.txt"),
        (iemocap, make_iemocap, "Session2/dialog/EmoEvaluation"),
        (iemocap, make_iemocap, "Session2/dialog/EmoEvaluation/Ses02M_impro01.txt"),
        (esc50, make_esc50, "meta"),
        (us8k, make_us8k, "metadata/UrbanSound8K.csv"),
    ],
)
def test_what_may_not_be_read_is_refused(corpus, make, part, readable_by_all):
    folder, give_up_rights = readable_by_all
    folder = make(folder / "data")
    give_up_rights()
    with locked(folder / part), pytest.raises(UsageError, match="cannot be read: Permission denied"):
        corpus.list_clips(str(folder), fold=1)
