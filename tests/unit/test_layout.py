"""What the official corpora share: tables that name files."""

import pytest

from brainplug.data import esc50, fsc, gsc, us8k
from brainplug.errors import UsageError
from tests.integration.conftest import make_esc50
from tests.made_corpora import make_fsc, make_gsc, make_us8k

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
