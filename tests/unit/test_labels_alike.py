"""Labels that may be one class are told where a manifest is made and by doctor; others are not."""

import logging
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainplug.data.manifest import Clip
from brainplug.data.protocol.labels import doubtful_labels
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import SPLITS
from brainplug.doctor.data import examine_splits
from tests.made_corpora import write_noise

PAIRS = {
    "capitals": (["Dog", "dog"], "'Dog' and 'dog' are 2 classes, though they differ in capitals alone"),
    "a no-break space": (["a b", "a\xa0b"], "'a b' and 'a\\xa0b' are 2 classes.*invisible"),
    "two spaces": (["a b", "a  b"], "'a  b' and 'a b' are 2 classes.*invisible"),
    "a joiner without width": (["ab", "a\u200bb"], "'ab' and 'a\\u200bb' are 2 classes.*invisible"),
    "composed letters": (["\xe9", "e\u0301"], "'e\\u0301' and '\xe9' are 2 classes.*invisible"),
    "joined labels": (["rain", "wind", "rain,wind"], "'rain,wind' is one class, though it joins 'rain' and 'wind'"),
    "joined with blanks": (["rain", "wind", "wind & rain"], "'wind & rain' is one class"),
}
FINE = ["dog", "dogs", "hot dog", "rain, heavy", "a/c", "Größe", "GROSSER", "0", "O", "yes", "no"]


@pytest.mark.parametrize("kind", PAIRS)
def test_labels_that_may_be_one_are_told(kind, tmp_path, caplog):
    labels, message = PAIRS[kind]
    clips = []
    for number, label in enumerate(labels):
        for split in SPLITS:
            path = str(tmp_path / f"{number}-{split}.wav")
            write_noise(tmp_path / f"{number}-{split}.wav", seconds=0.2)
            clips.append(Clip(path, path, label, split))
    with caplog.at_level(logging.WARNING):
        prepare_manifest(lambda: clips, str(tmp_path / "out"))
    [line] = [record.getMessage() for record in caplog.records if "class" in record.getMessage()]
    assert re.search(message.replace("\\", r"\\"), line)
    assert any(finding.level == "warning" and finding.text.startswith(line) for finding in examine_splits(clips))


def test_other_labels_are_not_told():
    assert not list(doubtful_labels(FINE))


@given(st.lists(st.text(max_size=5), max_size=6))
def test_all_twins_are_told_once(labels):
    """Whatever the labels are, those that unicode calls equal but for capitals are named, and in one line."""
    lines = [line for line in doubtful_labels(labels) if "differ" in line]
    groups = {}
    for label in sorted(set(labels)):
        groups.setdefault(unicodedata.normalize("NFC", label).casefold(), set()).add(label)
    twins = [group for group in groups.values() if len(group) > 1]
    named = "".join(lines)
    assert all(any(shown(label) in named for shown in (repr, ascii)) for group in twins for label in group)
