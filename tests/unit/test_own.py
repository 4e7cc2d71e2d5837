"""Data of one's own: folders and lists become clips or one clear error, and any file is read or set aside."""

import contextlib
import csv
import io
import logging
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brainplug.data.audio import read_audio
from brainplug.data.corpora.own import list_clips
from brainplug.data.decoding import open_clip, why_unreadable
from brainplug.data.manifest import Clip, read_manifest
from brainplug.data.protocol.checks import check_clips
from brainplug.data.protocol.prepare import prepare_manifest
from brainplug.data.protocol.splits import SPLITS, check_splits
from brainplug.errors import UsageError
from brainplug.inference.inputs import list_inputs

NAMES = [f"{label}/{'deep/er/' * (n % 2)}{n}.wav" for label in ("cat", "dog") for n in range(10)]


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def folder(tmp_path):
    """Ten clips of each of two classes, some of them deeper."""
    touch(tmp_path, *NAMES)
    return tmp_path


def write_list(folder, text, name="clips.csv", encoding="utf-8"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return str(folder / name)


def listed(folder, columns="", value=lambda n: ""):
    """A list of the clips of `folder`, with more columns."""
    rows = [f"{name},{name[:3]}" for name in NAMES]
    return write_list(folder, "\n".join([f"path,label{columns}", *(row + value(n) for n, row in enumerate(rows))]))


def sizes(clips):
    return Counter(clip.split for clip in clips)


# Folders


def test_sub_folders_are_the_labels_at_any_depth(folder):
    clips = list_clips(str(folder))
    assert {clip.id: clip.label for clip in clips} == {name.removesuffix(".wav"): name[:3] for name in NAMES}
    assert all(clip.path == f"{folder}/{clip.id}.wav" for clip in clips)
    assert sizes(clips) == {"train": 16, "valid": 2, "test": 2}
    check_splits(clips)


@pytest.mark.parametrize("label", ["dog, barking", 'a "quoted" dog', "Größe", "日本語", "#1: <dog>", "'"])
def test_awkward_names_of_folders_are_labels(label, folder, tmp_path):
    (folder / "dog").rename(folder / label)
    assert {clip.label for clip in list_clips(str(folder))} == {"cat", label}


def test_letters_with_accents_are_one_label_however_they_are_written(folder):
    (folder / "dog").rename(folder / "Gro\u0308ße")
    touch(folder, "Größe/composed.wav")
    assert Counter(clip.label for clip in list_clips(str(folder))) == {"cat": 10, "Größe": 11}


def test_a_label_that_is_no_text_is_refused(folder):
    os.rename(folder / "dog", os.fsencode(folder) + b"/d\xf6g")
    with pytest.raises(UsageError, match="0xF6 is not UTF-8; in Windows' cp1252 it would be 'dög'"):
        list_clips(str(folder))


def test_two_files_of_one_name_have_two_ids(folder):
    touch(folder, "dog/0.flac")
    assert {clip.id for clip in list_clips(str(folder))} >= {"dog/0.flac", "dog/0.wav"}


def test_what_is_left_out_is_said(folder, caplog):
    touch(folder, "loose.wav", "dog/notes.txt", "dog/.hidden.wav", "dog/._0.wav", "cat/.trash/0.wav", ".git/config")
    (folder / "dog" / "loop").symlink_to(folder)
    assert len(list_clips(str(folder))) == 20
    assert "7 entries are left out (hidden, in no sub-folder, linked folders, or no audio" in caplog.text
    assert "'.git', 'loose.wav'" in caplog.text


def test_audio_that_cannot_be_decoded_is_listed_so_that_it_is_quarantined(folder):
    touch(folder, "dog/a.m4a", "dog/b.MP3", "cat/c.raw")
    assert {"dog/a", "dog/b", "cat/c"} <= {clip.id for clip in list_clips(str(folder))}


def test_a_class_may_be_a_linked_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "dog").rename(elsewhere / "dogs")
    (folder / "dog").symlink_to(elsewhere / "dogs")
    assert Counter(clip.label for clip in list_clips(str(folder))) == {"cat": 10, "dog": 10}


def empty_class(folder):
    touch(folder, "cow/notes.txt")


def one_class(folder):
    (folder / "dog").rename(folder / ".dog")


def no_class(folder):
    one_class(folder)
    (folder / "cat").rename(folder / ".cat")
    touch(folder, "a.wav")


def splits_for_classes(folder):
    (folder / "dog").rename(folder / "Train")
    (folder / "cat").rename(folder / "test")


def blank_class(folder):
    (folder / "dog").rename(folder / " ")


def small_class(folder):
    touch(folder, "cow/0.wav", "cow/1.wav")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (empty_class, "1 hold no audio, first 'cow'"),
        (one_class, "It has 'cat'.*one sub-folder a class"),
        (no_class, "It has none.*one sub-folder a class"),
        (splits_for_classes, "'Train', 'test' are splits.*--manifest=clips.csv"),
        (blank_class, "has no label"),
        (small_class, "'cow' has 2 clips"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(change, message, folder):
    change(folder)
    with pytest.raises(UsageError, match=message):
        list_clips(str(folder))


@pytest.mark.parametrize("name", ["nowhere", "cat/0.wav"])
def test_a_data_folder_that_is_none_is_refused(name, folder):
    with pytest.raises(UsageError, match=f"{name}.*cannot be read.*--data_folder"):
        list_clips(str(folder / name))


def test_neither_folder_nor_list_is_refused():
    with pytest.raises(UsageError, match="--data_folder=DIR or --manifest=clips.csv"):
        list_clips()


# Lists


def test_rows_become_clips(folder):
    text = """path,label,split,fold,group,start,stop,id,speaker
cat/0.wav, cat ,train,1,Ann,,,first,x
cat/2.wav,"dog, ""loud"" one",test,2,Ben,0.5,1.5,,y
./cat//2.wav,Größe,valid,3,Cid,1.5,,,y
"""
    clips = list_clips(manifest=write_list(folder, text, encoding="utf-8-sig"))
    assert clips == [
        Clip("first", f"{folder}/cat/0.wav", "cat", "train", 1, "Ann"),
        Clip("cat/2", f"{folder}/cat/2.wav", 'dog, "loud" one', "test", 2, "Ben", 0.5, 1.5),
        Clip("./cat//2", f"{folder}/cat/2.wav", "Größe", "valid", 3, "Cid", 1.5),
    ]


def test_relative_paths_begin_in_the_data_folder_and_absolute_ones_stay(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    rows = [f"{folder}/cat/0.wav,cat,train", "cat/2.wav,cat,valid", "dog/0.wav,dog,train", "dog/2.wav,dog,test"]
    manifest = write_list(elsewhere, "\n".join(["path,label,split", *rows]))
    names = ("cat/0", "cat/2", "dog/0", "dog/2")
    assert [clip.path for clip in list_clips(str(folder), manifest)] == [f"{folder}/{name}.wav" for name in names]
    with pytest.raises(UsageError, match=f"'cat/2.wav'|{elsewhere}.*--data_folder"):
        list_clips(manifest=write_list(elsewhere, "path,label\ncat/2.wav,cat\ndog/0.wav,dog\n"))


def test_parts_of_one_file_have_ids_of_their_own(folder):
    rows = [f"cat/0.wav,{'ab'[n % 2]},train,{n}" for n in range(3)] + ["dog/0.wav,a,valid,", "dog/2.wav,a,test,"]
    clips = list_clips(manifest=write_list(folder, "\n".join(["path,label,split,start", *rows])))
    assert [clip.id for clip in clips[:3]] == ["cat/0.wav-0", "cat/0.wav-1", "cat/0.wav-2"]


# How systems write the list path, label, split, start; all of them mean the same.
USUAL = "path,label,split,start\ncat/0.wav,Größe,train,0.5\ncat/2.wav,Größe,valid,\ndog/0.wav,dog,test,\n"
SPELLINGS = {
    "UTF-8 with a mark": USUAL.encode("utf-8-sig"),
    "UTF-16": USUAL.encode("utf-16"),
    "UTF-16, big-endian with a mark": b"\xfe\xff" + USUAL.encode("utf-16-be"),
    "UTF-16 without a mark": USUAL.encode("utf-16-le"),
    "UTF-16, big-endian without a mark": USUAL.encode("utf-16-be"),
    "Excel's Unicode text": USUAL.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
    "a first line sep=,": b"sep=,\r\n" + USUAL.encode(),
    "a first line sep=; with a mark": b"\xef\xbb\xbfsep=;\r\n" + USUAL.replace(",", ";").encode(),
    "semicolons and decimal commas": USUAL.replace(",", ";").replace(".5", ",5").encode(),
    "bars": USUAL.replace(",", "|").encode(),
    "a quoted header": USUAL.replace("path,label", '"path","label"').replace(",", ";").encode(),
    "trailing commas": USUAL.replace("\n", ",,\n").encode(),
    "trailing commas below the header": USUAL.replace("5\n", "5,,\n").encode(),
    "empty rows": (USUAL + ",,,\n\n,,,\n").encode(),
    "back slashes": USUAL.replace("t/", "t\\").replace("g/", "g\\").encode(),
    "old Mac lines": USUAL.replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_lists_are_read_however_they_are_written(kind, folder):
    (folder / "clips.csv").write_bytes(SPELLINGS[kind])
    clips = list_clips(manifest=str(folder / "clips.csv"))
    assert [(os.path.relpath(clip.path, folder), clip.label, clip.split, clip.start) for clip in clips] == [
        ("cat/0.wav", "Größe", "train", 0.5),
        ("cat/2.wav", "Größe", "valid", None),
        ("dog/0.wav", "dog", "test", None),
    ]


PATHS = {
    "as it is": "Möwe/a b.wav",
    "an address": "file://{folder}/M%C3%B6we/a%20b.wav",
    "an address of this machine": "file://localhost{folder}/M%C3%B6we/a%20b.wav",
    "with back slashes": "Möwe\\a b.wav",
    "in cp1252": "M\udcf6we/a b.wav",
    "in cp1252 with back slashes": "M\udcf6we\\a b.wav",
}


@pytest.mark.parametrize("kind", PATHS)
def test_paths_of_other_systems_name_the_same_file(kind, folder):
    touch(folder, "Möwe/a b.wav")
    path = PATHS[kind].format(folder=folder)
    text = f"path,label,split\n{path},bird,train\ncat/0.wav,cat,valid\n"
    manifest = write_list(folder, text.encode(errors="surrogateescape"))
    clip, _ = list_clips(manifest=manifest)
    assert clip.path == f"{folder}/Möwe/a b.wav"
    assert list_inputs([manifest])[0].path == clip.path


def test_a_name_with_a_back_slash_is_left_alone(folder):
    touch(folder, "a\\b.wav", "a/b.wav")
    [clip] = list_inputs([write_list(folder, "path\na\\b.wav\n")])
    assert os.path.basename(clip.path) == "a\\b.wav"


BAD_LISTS = {
    "nothing": ("", "lacks path, label; it has no columns"),
    "no rows": ("path,label\n", "0 clips, with no label"),
    "no label": ("path,labels\ncat/0.wav,cat\n", r"lacks label.*perhaps now: labels"),
    "one label": ("path,label\ncat/0.wav,cat\ndog/0.wav,cat\n", "2 clips, with 'cat'. Give clips of two classes"),
    "semicolons and another label": ("path;labels\ncat/0.wav;cat\n", "lacks path, label; it has path;labels"),
    "a workbook": (b"PK\x03\x04" + bytes(99), "a workbook or an archive.*save it as CSV"),
    "UTF-16 cut in a letter": ("path,label\ncat/0.wav,cat\n".encode("utf-16")[:-1], "not utf-16-le: truncated"),
    "drives of Windows": ("path,label\nC:\\a.wav,cat\nC:\\b.wav,dog\n", "begins on a drive of Windows"),
    "another machine": ("path,label\nfile://nas/a.wav,cat\nfile://nas/b.wav,dog\n", "names another machine"),
    "paths in cp1252": ("path,label\nMöwe.wav,cat\nb.wav,dog\n".encode("cp1252"), "0xF6 is not UTF-8.*'Möwe.wav'"),
    "a start of one second or of thousands": ("path,label,start\ncat/0.wav,cat,\"1,250\"\n", "may be 1.250 or 1250"),
    "a column twice": ("path,label,label\ncat/0.wav,cat,dog\n", "has label more than once"),
    "an empty label": ("path,label\ncat/0.wav,\ndog/0.wav,dog\n", "'cat/0' has no label"),
    "a blank label": ('path,label\ncat/0.wav,"  "\ndog/0.wav,dog\n', "'cat/0' has no label"),
    "an empty path": ("path,label\ncat/0.wav,cat\n,dog\n", "row 2 of .*path is empty"),
    "Latin-1": ("path,label\ncat/0.wav,Größe\ndog/0.wav,dog\n".encode("latin-1"), "0xF6 is not UTF-8.*'Größe'"),
    "climbing": ("path,label\n../cat/0.wav,cat\n", r"row 1 of .*climbs out.*--data_folder=DIR.*or absolute"),
    "climbing in the middle": ("path,label\ncat/0.wav,cat\ncat/../../x.wav,cat\n", "row 2 of .*climbs out"),
    "climbing through a link": ("path,label\nlink/../x.wav,cat\n", "climbs out"),
    "climbing as on Windows": ("path,label\n..\\x.wav,cat\n", "climbs out"),
    "a file twice": ("path,label\ncat/0.wav,cat\n./cat/0.wav,dog\n", "listed as .*'cat' and as .*'dog'.*one label"),
    "no file": ("path,label\na.wav,cat\nb.wav,dog\n", "None of its files exists.*--data_folder=DIR"),
    "a NUL byte": ("path,label\ncat/0.wav,cat\ncat/\0.wav,cat\n", "Line 3: it has a NUL byte"),
    "a start that is no number": ("path,label,start\ncat/0.wav,cat,nan\n", "'nan' is no number of seconds"),
    "a stop at infinity": ("path,label,stop\ncat/0.wav,cat,inf\n", "'inf' is no number of seconds"),
    "a start in minutes": ("path,label,start\ncat/0.wav,cat,1:30\ndog/0.wav,dog,\n", "'1:30'.*times in seconds"),
    "half a fold": ("path,label,fold\ncat/0.wav,cat,1.5\ndog/0.wav,dog,1\n", "'1.5'.*whole numbers"),
    "splits for some": ("path,label,split\ncat/0.wav,cat,train\ndog/0.wav,dog,\n", "split.*empty for 1 of 2.*'dog/0'"),
    "folds for some": ("path,label,fold\ncat/0.wav,cat,1\ndog/0.wav,dog,\n", "fold.*empty for 1 of 2"),
    "folds, and no --fold": ("path,label,fold\ncat/0.wav,cat,1\ndog/0.wav,dog,2\n", "no column split. Write --fold=1"),
    "too few clips": ("path,label\ncat/0.wav,cat\ndog/0.wav,dog\n", "'cat' has 1 clips, and 1 more"),
    "broken quotes": ('path,label\ncat/0.wav,"cat\n', "Line 1: unexpected end"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_a_list_that_cannot_be_used_is_refused(kind, folder):
    content, message = BAD_LISTS[kind]
    (folder / "clips.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        list_clips(manifest=str(folder / "clips.csv"))


BAD_SPLITS = {
    "an unknown label in test": (",cow,test", "'cow' occurs in test only"),
    "an unknown label in valid": (",cow,valid", "'cow' occurs in valid only"),
    "another name": (",cat,training", "'training'. Write train"),
    "no such split": (",cat,held out", "'held out'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_SPLITS)
def test_splits_that_cannot_be_used_are_refused(kind, folder):
    row, message = BAD_SPLITS[kind]
    manifest = listed(folder, ",split", lambda n: f",{SPLITS[n % 3]}")
    touch(folder, "cat/x.wav")
    with open(manifest, "a") as file:
        file.write(f"\ncat/x.wav{row}")
    with pytest.raises(UsageError, match=message):
        check_splits(list_clips(manifest=manifest))


def test_ids_that_occur_twice_are_refused(folder):
    manifest = listed(folder, ",id,split", lambda n: f",{n % 19},{SPLITS[n % 3]}")
    with pytest.raises(UsageError, match="1 ids occur more than once, first '0'"):
        check_splits(list_clips(manifest=manifest))


# Splits and folds


def test_given_splits_are_used_as_they_are(folder, tmp_path):
    manifest = listed(folder, ",split", lambda n: f",{SPLITS[n % 3]}")
    clips = list_clips(manifest=manifest, splits_file=str(tmp_path / "out" / "splits.csv"))
    assert [clip.split for clip in clips] == [SPLITS[n % 3] for n in range(20)]
    assert not (tmp_path / "out").exists()


def test_validation_is_carved_out_of_train_in_whole_groups(folder, tmp_path, caplog):
    manifest = listed(folder, ",split,group", lambda n: f",{'train' if n % 5 else 'test'},{n % 10}")
    clips = list_clips(manifest=manifest, splits_file=str(tmp_path / "splits.csv"))
    assert "a ninth of train" in caplog.text
    assert sizes(clips) == {"train": 14, "valid": 2, "test": 4}
    check_splits(clips)
    assert {clip.group for clip in clips if clip.split == "test"} == {"0", "5"}
    assert list_clips(manifest=manifest, splits_file=str(tmp_path / "splits.csv")) == clips


def test_groups_are_in_one_split(folder):
    clips = list_clips(manifest=listed(folder, ",group", lambda n: f",{n % 5}"))
    check_splits(clips)
    assert len({(clip.group, clip.split) for clip in clips}) == 5


def test_drawn_folds_rotate(folder):
    rotations = [list_clips(str(folder), fold=fold, folds=4, seed=3) for fold in (1, 2, 3, 4)]
    assert len({tuple(clip.fold for clip in clips) for clips in rotations}) == 1
    for fold, clips in enumerate(rotations, start=1):
        check_splits(clips)
        assert {clip.fold for clip in clips if clip.split == "test"} == {fold}
        assert {clip.fold for clip in clips if clip.split == "valid"} == {(fold - 2) % 4 + 1}


def test_given_folds_are_honoured_even_beside_splits(folder):
    manifest = listed(folder, ",fold,split", lambda n: f",{n % 3 * 10},{SPLITS[n % 3]}")
    clips = list_clips(manifest=manifest, fold=10)
    assert {(clip.fold, clip.split) for clip in clips} == {(0, "valid"), (10, "test"), (20, "train")}
    assert [clip.fold for clip in clips] == [n % 3 * 10 for n in range(20)]


@pytest.mark.parametrize("fold", [0, 6, "one", "all", 1.5])
def test_a_fold_that_does_not_exist_is_refused(fold, folder):
    with pytest.raises(UsageError, match=f"fold {fold!r}.*1, 2, 3, 4, 5.*--fold=1"):
        list_clips(str(folder), fold=fold)


def test_two_folds_are_too_few(folder):
    with pytest.raises(UsageError, match="folds 0, 1. Give three folds"):
        list_clips(manifest=listed(folder, ",fold", lambda n: f",{n % 2}"), fold=1)


# What was drawn is written down.


@pytest.mark.parametrize("options", [{}, {"fold": 2}])
def test_clips_that_are_added_move_no_other(options, folder, tmp_path_factory):
    splits_file = str(tmp_path_factory.mktemp("out") / "splits.csv")
    before = list_clips(str(folder), splits_file=splits_file, **options)
    assert read_manifest(splits_file)[0].path == before[0].path
    touch(folder, *(f"{label}/new{n}.wav" for label in ("cat", "ant", "dog") for n in range(10)))
    after = list_clips(str(folder), splits_file=splits_file, **options)
    assert len(after) == 50
    assert [clip for clip in after if clip in before] == before
    assert list_clips(str(folder), splits_file=splits_file, **options) == after
    drawn_anew = list_clips(str(folder), **options)
    assert [clip for clip in drawn_anew if clip in before] != before  # so that the file matters


@pytest.mark.parametrize("options", [{"seed": 2}, {"fold": 1, "folds": 3}, {"fold": 1, "folds": 5}])
def test_what_was_drawn_otherwise_is_not_used(options, folder, tmp_path_factory):
    splits_file = str(tmp_path_factory.mktemp("out") / "splits.csv")
    for before in ({"seed": 1}, {"fold": 1, "folds": 4}):
        list_clips(str(folder), splits_file=splits_file, **before)
        assert list_clips(str(folder), splits_file=splits_file, **options) == list_clips(str(folder), **options)


def test_the_file_of_splits_is_a_list_for_other_runs(folder, tmp_path_factory):
    splits_file = str(tmp_path_factory.mktemp("out") / "splits.csv")
    clips = list_clips(str(folder), seed=7, splits_file=splits_file)
    again = list_clips(manifest=splits_file, seed=8)
    assert again == clips


# Permissions


@pytest.fixture
def without_rights():
    """A folder that everyone may read, and its owner's rights given up; root may read anything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        touch(folder, *(f"{label}/{n}.wav" for label in ("cat", "dog") for n in range(10)), "clips.csv")
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        for path in folder.rglob("*"):
            path.chmod(0o755)


@contextlib.contextmanager
def locked(path):
    """Takes the right to read; its owner does."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    path.chmod(0)
    os.seteuid(user)
    if os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        pytest.skip("permissions do not bind here")
    yield


@pytest.mark.parametrize("name", ["dog", "clips.csv"])
def test_what_may_not_be_read_is_refused(name, without_rights):
    options = {"manifest": str(without_rights / name)} if name.endswith("csv") else {}
    with locked(without_rights / name), pytest.raises(UsageError, match=f"{name}.*cannot be read: Permission denied"):
        list_clips(str(without_rights), **options)


def test_a_file_that_may_not_be_read_says_so(without_rights):
    path = without_rights / "dog" / "0.wav"
    with locked(path), pytest.raises(PermissionError) as caught, open_clip(Clip("a", str(path), "dog")):
        pass
    assert why_unreadable(caught.value) == "Permission denied"


# By the hundred: any list is read or refused, with no other error.

cells = st.one_of(
    st.sampled_from(["cat/0.wav", "dog/0.wav", "dog/2.wav", "cat/2.wav", "cat/4.wav", "dog/4.wav"]),
    st.sampled_from("cat dog train valid test 1 2 3 0.5 inf nan -1 1e400".split()),
    st.sampled_from(["..", "../x.wav", "/", "~", "", " ", "\0", "\ud800", "a\nb", 'a"b', "cat/0.wav\0"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
headers = st.permutations(["path", "label", "split", "fold", "group", "start", "stop", "id", "other"]).flatmap(
    lambda names: st.integers(1, 9).map(lambda count: names[:count])
)


@st.composite
def tables(draw_from):
    """Lists that are right in part."""
    names = draw_from(st.one_of(headers, st.just(["path", "label"]), st.just(["path", "label", "split"])))
    usual = {
        "path": st.sampled_from(NAMES),
        "label": st.sampled_from(["cat", "dog"]),
        "split": st.sampled_from(["train", "valid", "test"]),
        "fold": st.sampled_from("123"),
    }
    wild = draw_from(st.booleans())
    columns = [st.one_of(usual.get(name, cells), cells) if wild else usual.get(name, st.just("")) for name in names]
    rows = draw_from(st.lists(st.tuples(*columns), max_size=25))
    text = io.StringIO()
    csv.writer(text).writerows([names, *rows])
    return text.getvalue().encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    touch(folder, *NAMES)
    return folder


@settings(max_examples=300, deadline=None)
@given(content=tables() | st.binary(max_size=200), fold=st.none() | st.integers(0, 4))
def test_any_list_is_read_or_refused(content, fold, shared_folder):
    (shared_folder / "clips.csv").write_bytes(content)
    splits_file = str(shared_folder / "splits.csv")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(splits_file)
    try:
        clips = list_clips(None, str(shared_folder / "clips.csv"), fold, splits_file=splits_file)
        check_splits(clips)
    except UsageError:
        return
    assert {clip.label for clip in clips if clip.split == "train"} == {clip.label for clip in clips}
    if os.path.exists(splits_file):
        written = read_manifest(splits_file)
        assert written == [replace(clip, split="") if fold is not None else clip for clip in clips]


# By the hundred: any file is read, or set aside with a reason.

CODINGS = """
WAV PCM_U8, WAV PCM_16, WAV PCM_24, WAV PCM_32, WAV FLOAT, WAV DOUBLE, WAV ULAW, WAV ALAW, WAV IMA_ADPCM, WAV MS_ADPCM,
WAV GSM610, FLAC PCM_S8, FLAC PCM_16, FLAC PCM_24, OGG VORBIS, OGG OPUS, MP3 MPEG_LAYER_III, AIFF PCM_16, AIFF FLOAT,
AU PCM_16, AU ULAW, AU DOUBLE, W64 PCM_24, RF64 PCM_32
""".replace("\n", " ").split(",")
RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]
ODD_RATES = [900, 11127, 15999, 200_001, 401_000]
HARMS = [*["none"] * 4, "cut", "header bit", "any bit", "noise", "nothing"]
PARTS = [(None, None), (0.1, None), (0.05, 0.25), (None, 0.2), (None, 9.0), (np.inf, None)]


@st.composite
def files(draw_from):
    """A file's name and content: of some format, whole or damaged."""
    name, subtype = draw_from(st.sampled_from(CODINGS)).split()
    # libsndfile's encoders do not survive everything: no odd rates for Vorbis, no NaN but in float files.
    rate = draw_from(st.sampled_from(RATES if name == "OGG" else [*RATES, *ODD_RATES]))
    channels = draw_from(st.sampled_from([1, 2, 7]))
    count = round(draw_from(st.sampled_from([0.3, 0.4, 0.5, 0.6, 0.05, 0.0])) * rate)
    random = np.random.default_rng(draw_from(st.integers(0, 99)))
    samples = random.uniform(-1, 1, (count, channels)) * draw_from(st.sampled_from([0, 0.1, 1]))
    if count and subtype in ("FLOAT", "DOUBLE"):
        samples[random.integers(count)] = draw_from(st.sampled_from([1, 1e5, 1e30, 1e300, np.nan, np.inf]))
    content = io.BytesIO()
    try:
        soundfile.write(content, samples, rate, subtype, format=name)
    except (soundfile.SoundFileError, ValueError):  # no such file, such as MP3 of seven channels
        content = io.BytesIO(b"no file")
    content = bytearray(content.getvalue() or b"no file")  # an MP3 without samples is nothing
    harm = draw_from(st.sampled_from(HARMS))
    if harm == "cut":
        del content[draw_from(st.integers(0, len(content))) :]
    elif harm == "noise":
        position = draw_from(st.integers(0, len(content)))
        content[position : position + 50] = random.bytes(50)
    elif harm == "nothing":
        content = b""
    elif harm.endswith("bit"):
        position = draw_from(st.integers(0, min(len(content), 64 if harm == "header bit" else len(content)) - 1))
        content[position] ^= 1 << draw_from(st.integers(0, 7))
    suffix = draw_from(st.sampled_from([name.lower(), "wav", "mp3", "flac", "ogg"]))
    return f"a.{suffix}", bytes(content)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(file=files(), part=st.sampled_from(PARTS))
def test_any_file_is_read_or_set_aside(file, part):
    name, content = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        quarantine = Path(folder, "quarantine.csv")
        clip = Clip("a", str(path), "dog", start=part[0], stop=part[1])
        remaining = check_clips([clip], folder, max_fraction=1)
        assert len(remaining) + quarantine.exists() == 1
        if remaining:
            waveform = read_audio(remaining[0], 16000)
            assert waveform.dtype == torch.float32 and waveform.isfinite().all()
            # libsndfile takes the header of some AU files for audio, 24 samples of it.
            assert len(waveform) == pytest.approx(remaining[0].duration * 16000, rel=1e-3, abs=16 * 24)
        else:
            (row,) = csv.DictReader(io.StringIO(quarantine.read_text()))
            assert row["reason"].strip() and folder not in row["reason"]


# Preparation


def test_bad_files_of_a_folder_are_set_aside_with_a_count(tmp_path, caplog):
    data, out = tmp_path / "data", tmp_path / "out"
    touch(data, *(f"{label}/{n}.wav" for label in ("cat", "dog") for n in range(20)))
    for number, path in enumerate(data.rglob("*.wav")):
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(1600), 8000)
    touch(data, "dog/compressed.m4a")
    os.truncate(data / "cat" / "0.wav", 1000)
    with caplog.at_level(logging.INFO):
        clips = prepare_manifest(list_clips, str(out), data_folder=str(data), splits_file=str(out / "splits.csv"))
    assert len(clips) == 39
    assert "2 clips (cat 1, dog 1) quarantined" in caplog.text
    with open(out / "quarantine.csv", newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == {"dog/compressed", "cat/0"}
    assert len(read_manifest(str(out / "splits.csv"))) == 41


def test_a_list_may_say_what_is_said_instead_of_a_label(tmp_path):
    path = tmp_path / "clips.csv"
    rows = "".join(f"{n}.wav,Turn it off,s{n}\n" for n in range(20))
    path.write_text(f"path,text,group\n{rows}")
    for n in range(20):
        (tmp_path / f"{n}.wav").touch()
    clips = list_clips(manifest=str(path), transcribed=True)
    assert {clip.text for clip in clips} == {"Turn it off"}
    assert {clip.split for clip in clips} == {"train", "valid", "test"}
    assert len({clip.label for clip in clips}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"manifest": "clips.csv"}, "lacks text; it has path, label"), ({"data_folder": "."}, "--manifest=clips.csv")],
)
def test_transcribed_clips_need_a_column_text(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.csv").write_text("path,label\na.wav,dog\n")
    with pytest.raises(UsageError, match=message):
        list_clips(**options, transcribed=True)
