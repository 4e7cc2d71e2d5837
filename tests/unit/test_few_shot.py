"""Which training clips are kept."""

import random
from collections import Counter

import numpy as np
import pytest

from brainplug.data.manifest import Clip, read_manifest
from brainplug.data.protocol.few_shot import keep_examples, write_examples
from brainplug.errors import UsageError

CLIPS = [
    Clip(f"{split}-{label}-{number}", "", label, split)
    for split in ("train", "valid", "test")
    for label in ("dog", "cat", "cow")
    for number in range(20)
]
OTHERS = [clip for clip in CLIPS if clip.split != "train"]


def kept_ids(clips: list[Clip], examples: int, **named: object) -> set[str]:
    return {clip.id for clip in keep_examples(clips, examples, **named) if clip.split == "train"}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("examples", [1, 7, 20])
def test_every_class_has_as_many_and_the_other_splits_stay(first, examples):
    remaining = keep_examples(CLIPS, examples, seed=3, first=first)
    labels = [clip.label for clip in remaining if clip.split == "train"]
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(("dog", "cat", "cow"), examples)
    assert [clip for clip in remaining if clip.split != "train"] == OTHERS
    assert remaining == [clip for clip in CLIPS if clip in remaining]


def test_the_draw_depends_on_the_seed_alone():
    drawn = kept_ids(CLIPS, 5, seed=3)
    random.seed(0)
    np.random.seed(0)
    shuffled = random.sample(CLIPS, len(CLIPS))
    assert kept_ids(shuffled, 5, seed=3) == drawn
    assert len({frozenset(kept_ids(CLIPS, 5, seed=seed)) for seed in range(10)}) == 10


def test_the_first_ones_are_those_of_the_manifest():
    wanted = {f"train-{label}-{number}" for label in ("dog", "cat", "cow") for number in (0, 1, 2)}
    assert kept_ids(CLIPS, 3, seed=3, first=True) == kept_ids(CLIPS, 3, seed=4, first=True) == wanted
    assert "train-dog-19" in kept_ids(CLIPS[::-1], 1, seed=3, first=True)


def test_a_class_with_too_few_clips_is_named():
    clips = [clip for clip in CLIPS if clip.label != "cow" or clip.id.endswith("1")]
    with pytest.raises(UsageError, match=r"3 training clips of each class.*'cow' has 2.*--few_shot=2 or less"):
        keep_examples(clips, 3, seed=1)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_fewer_examples_are_among_more(seed):
    drawn = [kept_ids(CLIPS, examples, seed=seed) for examples in (1, 2, 4, 8)]
    assert all(fewer < more for fewer, more in zip(drawn, drawn[1:], strict=False))


def test_groups_take_turns():
    clips = [Clip(f"{group}{number}", "", "dog", "train", group=group) for group in "abcd" for number in range(5)]
    for seed in range(5):
        for examples, most in ((3, 1), (4, 1), (7, 2), (9, 3)):
            groups = Counter(name[0] for name in kept_ids(clips, examples, seed=seed))
            assert sum(groups.values()) == examples
            assert max(groups.values()) == most
    assert len({frozenset(kept_ids(clips, 2, seed=seed)) for seed in range(20)}) > 5


def test_classes_with_too_few_clips_are_kept_whole_if_asked():
    clips = [clip for clip in CLIPS if clip.label != "cow" or clip.id.endswith("1")]
    remaining = [clip.label for clip in keep_examples(clips, 3, seed=1, short="keep") if clip.split == "train"]
    assert Counter(remaining) == {"dog": 3, "cat": 3, "cow": 2}
    with pytest.raises(UsageError, match="few_shot_short 'kep'.*error or keep"):
        keep_examples(clips, 3, seed=1, short="kep")


def test_what_was_kept_is_written_down(tmp_path):
    remaining = keep_examples(CLIPS, 2, seed=5)
    write_examples(remaining, str(tmp_path), 2, 5)
    written = read_manifest(str(tmp_path / "few_shot_2_5.csv"))
    assert written == [clip for clip in remaining if clip.split == "train"]
