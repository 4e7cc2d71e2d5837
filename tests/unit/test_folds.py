"""Drawn splits and folds: whole groups, every class everywhere, the same by the same seed, and what was drawn stays."""

import itertools
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from brainplug.data.manifest import Clip
from brainplug.data.protocol.folds import NINTHS, TENTHS, draw, group_of, split_of, stretch_of
from brainplug.errors import UsageError

FIVE = range(1, 6)


def made(sizes, groups=None):
    """Clips of classes of some sizes, in some number of groups that hold all classes."""
    labels = [f"class {number}" for number, size in enumerate(sizes) for _ in range(size)]
    return [
        Clip(f"{n}", f"{n}.wav", label, group=f"{n * 7 % groups}" if groups else "") for n, label in enumerate(labels)
    ]


def counts(clips, drawn):
    """How many clips of each class are in each part."""
    return Counter((clip.label, part) for clip, part in zip(clips, drawn, strict=True))


# What holds for every draw, whatever is drawn.

labels_and_groups = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", *"123456789"])), min_size=3, max_size=60
)


def assert_sound(clips, drawn, parts):
    assert len(drawn) == len(clips)
    assert set(drawn) == set(parts)
    parts_of = defaultdict(set)
    for clip, part in zip(clips, drawn, strict=True):
        parts_of[group_of(clip)].add(part)
    assert {len(actual) for actual in parts_of.values()} == {1}
    assert set(counts(clips, drawn)) == set(itertools.product({clip.label for clip in clips}, set(parts)))


@given(
    rows=labels_and_groups,
    parts=st.sampled_from([TENTHS, NINTHS, FIVE]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_every_draw_is_sound_or_refused(rows, parts, seed, data):
    clips = [Clip(f"{n}", f"{n}.wav", label, group=group) for n, (label, group) in enumerate(rows)]
    groups = defaultdict(set)
    for clip in clips:
        groups[clip.label].add(group_of(clip))
    try:
        drawn = draw(clips, parts, seed)
    except UsageError as error:
        too_small = min(map(len, groups.values())) < len(set(parts))
        if too_small != ("The class" in str(error)):
            raise
        return
    assert_sound(clips, drawn, parts)
    part_of = dict(zip(clips, drawn, strict=True))
    shuffled = data.draw(st.permutations(clips))
    assert draw(shuffled, parts, seed) == [part_of[clip] for clip in shuffled]


@given(
    sizes=st.lists(st.integers(5, 30), min_size=2, max_size=6),
    parts=st.sampled_from([TENTHS, NINTHS, FIVE]),
    seed=st.integers(0, 99),
)
def test_clips_without_groups_are_never_refused(sizes, parts, seed):
    clips = made(sizes)
    assert_sound(clips, draw(clips, parts, seed), parts)


@pytest.mark.parametrize("groups", [None, 40])
def test_shares_are_those_asked_for(groups):
    clips = made([400, 200, 100], groups)
    actual = counts(clips, draw(clips, TENTHS, seed=1))
    for label, size in (("class 0", 400), ("class 1", 200), ("class 2", 100)):
        shares = {part: actual[label, part] / size for part in ("train", "valid", "test")}
        assert shares == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.03)


def test_folds_are_as_even_as_those_of_scikit_learn():
    clips = made([60, 60, 30], groups=15)
    cutter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    cuts = cutter.split(clips, [clip.label for clip in clips], [clip.group for clip in clips])
    theirs = [Counter(clips[row].label for row in rows) for _, rows in cuts]
    actual = counts(clips, draw(clips, FIVE, seed=0))
    for label in ("class 0", "class 1", "class 2"):
        ours = [actual[label, fold] for fold in FIVE]
        assert max(ours) - min(ours) <= max(fold[label] for fold in theirs) - min(fold[label] for fold in theirs)


@pytest.mark.parametrize("size", [3, 4, 9])
def test_a_small_class_among_large_ones_is_in_every_split(size):
    clips = made([500, 500, *[size] * 20])
    assert_sound(clips, draw(clips, TENTHS, seed=1), TENTHS)


def test_three_groups_become_three_splits():
    clips = made([30, 30], groups=3)
    assert_sound(clips, draw(clips, TENTHS, seed=1), TENTHS)


def test_parts_of_a_file_stay_together():
    clips = [
        Clip(f"{n} {start}", f"{n}.wav", "ab"[n % 2], start=start, stop=start + 1)
        for n in range(20)
        for start in range(5)
    ]
    drawn = draw(clips, TENTHS, seed=1)
    assert_sound(clips, drawn, TENTHS)
    assert len({(clip.path, part) for clip, part in zip(clips, drawn, strict=True)}) == 20


def test_draws_depend_on_the_seed_and_on_no_other_random_number():
    clips = made([50, 50])
    random.seed(0)
    first = draw(clips, TENTHS, seed=1)
    random.seed(1)
    assert draw(clips, TENTHS, seed=1) == first
    assert len({tuple(draw(clips, TENTHS, seed)) for seed in range(10)}) == 10


# Too little


@pytest.mark.parametrize(
    ("sizes", "groups", "parts", "message"),
    [
        ([2, 9], None, TENTHS, r"test, valid, train.*'class 0' has 2 clips\. Add clips .* 3 of different groups"),
        ([2, 1, 9], None, TENTHS, "'class 0' has 2 clips, and 1 more classes"),
        ([9, 4], None, FIVE, r"1, 2, 3, 4, 5.*'class 1' has 4 clips\. Add clips .* 5 of"),
        ([9, 1], None, NINTHS, r"'class 1' has 1 clips\. Add clips .* 2 of"),
        ([50, 50], 2, TENTHS, "'class 0' has 50 clips, in 2 groups or files"),
    ],
)
def test_a_class_that_is_too_small_is_named(sizes, groups, parts, message):
    with pytest.raises(UsageError, match=message):
        draw(made(sizes, groups), parts, seed=1)


def test_groups_that_cannot_be_spread_are_refused():
    groups = ["ab", "ac", "bc", "abc"]  # two of the three parts would have to do with one group each
    clips = [
        Clip(f"{n}{label}", f"{n}{label}", label, group=f"{n}") for n, all_of in enumerate(groups) for label in all_of
    ]
    with pytest.raises(UsageError, match="no way to it.*column split, or smaller groups"):
        draw(clips, TENTHS, seed=1)


# A rerun


@given(old=st.integers(40, 80), new=st.integers(0, 40), parts=st.sampled_from([TENTHS, FIVE]), seed=st.integers(0, 99))
def test_what_was_drawn_stays_and_what_is_added_follows_its_group(old, new, parts, seed):
    clips = [Clip(f"{n}", f"{n}.wav", "ab"[n % 2], group=f"{n % 30 // 2}") for n in range(old + new)]
    before = draw(clips[:old], parts, seed)
    earlier = {stretch_of(clip): part for clip, part in zip(clips[:old], before, strict=True)}
    after = draw(clips, parts, seed + 1, earlier)
    assert after[:old] == before
    assert_sound(clips, after, parts)


def test_clips_that_were_taken_away_move_no_other():
    clips = made([30, 30])
    before = dict(zip(clips, draw(clips, TENTHS, seed=1), strict=True))
    earlier = {stretch_of(clip): part for clip, part in before.items()}
    fewer = [clip for clip in clips if before[clip] != "test"]
    assert draw(fewer, TENTHS, seed=2, earlier=earlier) == [before[clip] for clip in fewer]


def test_a_new_class_is_spread_too():
    clips = made([30, 30, 3])
    earlier = {stretch_of(clip): part for clip, part in zip(clips[:60], draw(clips[:60], TENTHS, seed=1), strict=True)}
    assert_sound(clips, draw(clips, TENTHS, 1, earlier), TENTHS)


def test_groups_that_join_what_was_apart_are_refused():
    clips = made([30, 30])
    earlier = {stretch_of(clip): part for clip, part in zip(clips, draw(clips, TENTHS, seed=1), strict=True)}
    grouped = [Clip(clip.id, clip.path, clip.label, group="Ann") for clip in clips[:25]] + clips[25:]
    with pytest.raises(UsageError, match=r"The group Ann was in \w+ and \w+ then.*another --output_folder"):
        draw(grouped, TENTHS, 1, earlier)


# Rotation


@pytest.mark.parametrize(("test", "valid"), [(1, 5), (2, 1), (3, 2), (4, 3), (5, 4)])
def test_the_fold_before_the_tested_one_validates(test, valid):
    splits = {fold: split_of(fold, test, FIVE) for fold in FIVE}
    assert splits == {**dict.fromkeys(FIVE, "train"), test: "test", valid: "valid"}


def test_folds_may_have_any_numbers():
    assert [split_of(fold, 10, [0, 10, 25]) for fold in (0, 10, 25)] == ["valid", "test", "train"]
