"""Which training clips are kept."""

import random

import numpy as np
import pytest

from brainplug.data.few_shot import keep_examples
from brainplug.data.manifest import Clip
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
    kept = keep_examples(CLIPS, examples, seed=3, first=first)
    labels = [clip.label for clip in kept if clip.split == "train"]
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(("dog", "cat", "cow"), examples)
    assert [clip for clip in kept if clip.split != "train"] == OTHERS
    assert kept == [clip for clip in CLIPS if clip in kept]


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
