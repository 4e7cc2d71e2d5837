"""doctor finds each fault that is planted, says nothing of a clean corpus, and agrees with what train.py refuses."""

import csv
import dataclasses
import os
import re
import shutil
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import brainplug.doctor
from brainplug.cli import main
from brainplug.data.corpora.own import list_clips as list_own
from brainplug.data.manifest import Clip
from brainplug.data.protocol.leaks import draw_sample, overlapping, same_content
from brainplug.data.protocol.splits import SPLITS, check_splits
from brainplug.doctor import examine, summary
from brainplug.doctor.data import SAMPLE, examine_content, examine_splits
from brainplug.doctor.finding import Finding, as_finding
from brainplug.doctor.machine import examine_folders, examine_machine
from brainplug.doctor.rehearsal import Rehearsal
from brainplug.errors import UsageError, run_command

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes" / "ESC50" / "hparams" / "train.yaml")
OWN_RECIPE = str(ROOT / "hparams" / "train.yaml")
COLUMNS = ["filename", "fold", "category", "esc10", "src_file"]
SAMPLE_RATE = 8000
MEASURED = Rehearsal(read=0.5, train=1.0, valid=0.25, peak_bytes=10**8, signal_bytes=1000)


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))


@pytest.fixture
def corpus(tmp_path):
    """Laid out as ESC-50: two classes, four clips of each in each fold. Fold 1 tests, fold 5 validates."""
    folder, rows = tmp_path / "ESC-50-master", []
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    for number in range(40):
        fold, category = number // 8 + 1, ("dog", "rain")[number % 2]
        soundfile.write(folder / "audio" / f"{number}.wav", noise(0.5, number), SAMPLE_RATE)
        rows.append([f"{number}.wav", fold, category, "True", f"recording{number}"])
    write_rows(folder, rows)
    return folder


def write_rows(folder, rows):
    with open(folder / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def edit(number, **changes):
    """A fault in a row of the table."""

    def plant(folder):
        with open(folder / "meta" / "esc50.csv", newline="") as file:
            rows = [row | changes if row["filename"] == f"{number}.wav" else row for row in csv.DictReader(file)]
        write_rows(folder, [list(row.values()) for row in rows])

    return plant


def rename_class_in_fold_1(folder):
    for number in range(0, 8, 2):
        edit(number, category="owl")(folder)


def copy(folder):
    shutil.copy(folder / "audio" / "0.wav", folder / "audio" / "17.wav")


def copy_in_another_format(folder):
    samples, _ = soundfile.read(folder / "audio" / "0.wav", dtype="int16")
    soundfile.write(folder / "audio" / "17.wav", samples, SAMPLE_RATE, format="FLAC")


def truncate(folder):
    path = folder / "audio" / "9.wav"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_nan(folder):
    soundfile.write(folder / "audio" / "9.wav", np.full(4000, np.nan), SAMPLE_RATE, subtype="FLOAT")


def write_long(folder):
    soundfile.write(folder / "audio" / "9.wav", noise(2.0), SAMPLE_RATE)


def empty_fold_5(folder):
    for number in range(32, 40):
        edit(number, fold="1")(folder)


def remove(*numbers):
    return lambda folder: [(folder / "audio" / f"{number}.wav").unlink() for number in numbers]


def nothing(folder):
    pass


FAULTS = {  # what is planted, options, level, what must be said
    "file in two splits": (
        edit(0, filename="17.wav"),
        [],
        "error",
        r"Files in two splits: .*17.wav \(test, train\); put",
    ),
    "content under another name": (
        copy,
        [],
        "error",
        r"The same content: .*/0.wav \(test\), .*/17.wav \(train\); keep",
    ),
    "content in another format": (
        copy_in_another_format,
        ["--full"],
        "error",
        r"The same content: .*/0.wav \(test\), .*/17.wav",
    ),
    "group in two splits": (
        edit(0, src_file="recording17"),
        [],
        "error",
        r"Groups in two splits: recording17 \(test, train\); put",
    ),
    "truncated": (truncate, [], "warning", "9.wav: truncated: .* % of the announced audio is there; mend"),
    "NaN": (write_nan, [], "warning", "9.wav: NaN or infinite samples"),
    "missing": (remove(9), [], "warning", "9.wav: the file does not exist"),
    "too many missing": (remove(9, 10, 11), [], "error", "3 files missing; train.py refuses more than 5%"),
    "class not in train": (rename_class_in_fold_1, [], "error", "Classes not in train: owl;"),
    "class with one clip": (edit(9, category="owl"), [], "error", "Classes in train alone: owl;"),
    "one training clip": (edit(9, category="owl"), [], "warning", "Classes with one training clip: owl;"),
    "longer than the frames": (write_long, [], "warning", "2.5% of the clips are cut after 0.66 s; .*=200 all of them"),
    "padding": (nothing, ["--frames=300"], "warning", "83% of the 300 frames are padding; --frames=50 holds"),
    "empty split": (empty_fold_5, [], "error", "The split valid is empty"),
    "id of two clips": (edit(0, filename="1.wav"), [], "error", "1 id of several clips: 1; "),
    "no such folder": (nothing, ["--data_folder=nowhere"], "error", "nowhere does not exist"),
    "unknown data set": (nothing, ["--dataset=esc5"], "error", "'esc5'.*--dataset= one of: esc50"),
    "unknown backbone": (nothing, ["--backbone=nano-ats"], "error", "'nano-ats'.*nano-ast"),
    "backbone to be downloaded": (nothing, ["--backbone=ast"], "warning", "hf download MIT/ast-finetuned"),
    "unknown backbone of the hub": (nothing, ["--backbone=someone/some"], "warning", "hf download someone/some"),
    "unknown method": (nothing, ["--method=loar"], "error", "'loar'.*lora"),
    "unknown optimiser": (nothing, ["--optimizer=adamm"], "error", "'adamm'.*adamw"),
    "unsuitable pooling": (nothing, ["--pooling=PROMPTS"], "error", "'PROMPTS'"),
    "frames below a patch": (nothing, ["--frames=5"], "error", "5 frames"),
    "steps of more batches than there are": (
        nothing,
        ["--batch_size=8", "--grad_accumulation_factor=4"],
        "error",
        "Steps of 4 batches, where an epoch has 3",
    ),
    "too few for few-shot": (nothing, ["--few_shot=13"], "error", "'dog' has 12"),
}


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    """Examines the recipe, without the machine; what steps take is made up, unless another `in_process` runs them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAINPLUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(brainplug.doctor, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(brainplug.doctor, "examine_machine", list)

    def examined(*options, in_process=lambda *_: MEASURED):
        monkeypatch.setattr(brainplug.doctor, "in_fresh_process", in_process)
        given = {"--data_folder": f"--data_folder={corpus}", "--frames": "--frames=64"}
        given |= {option.partition("=")[0]: option for option in options if option != "--full"}
        return list(examine([RECIPE, *given.values()], full="--full" in options))

    return examined


def texts(findings, level):
    return [finding.text for finding in findings if finding.level == level]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, corpus, run):
    plant, options, level, said = FAULTS[fault]
    plant(corpus)
    assert [text for text in texts(run(*options), level) if re.search(said, text)]


@pytest.mark.parametrize("options", [[], ["--full"]])
def test_nothing_is_found_in_a_clean_corpus(options, run):
    findings = run(*options)
    assert texts(findings, "error") == texts(findings, "warning") == []
    assert summary(findings) == "0 errors, 0 warnings: nothing stops a run."


def test_all_faults_are_told_not_the_first_alone(corpus, run):
    for plant in (edit(0, src_file="recording17"), edit(2, category="owl"), edit(4, filename="19.wav"), copy):
        plant(corpus)
    errors = texts(run("--backbone=nano-ats"), "error")
    for said in ("nano-ats", "Groups in two splits", "not in train: owl", "Files in two splits", "The same content"):
        assert any(said in error for error in errors)


def test_nothing_is_written_beside_the_caches(run, tmp_path):
    before = set(tmp_path.rglob("*"))
    run("--output_folder=results", "--full")
    run()
    assert set(tmp_path.rglob("*")) == before


def test_the_results_folder_is_that_of_the_run(run):
    assert any("results/ESC50/nano-ast-linear-fold1-2shot/7: " in text
               for text in texts(run("--method=linear", "--fold=all", "--few_shot=2", "--seed=7"), "ok"))  # fmt: skip


def test_splits_that_an_earlier_run_drew_are_those_examined(run, corpus, tmp_path):
    run()  # sets what is not to be measured
    for number in range(40):
        path = tmp_path / "own" / ("dog", "rain")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(corpus / "audio" / f"{number}.wav", path)
    drawn = tmp_path / "results" / "splits.csv"
    seed = 7
    clips = list_own(data_folder=str(tmp_path / "own"), seed=seed, splits_file=str(drawn))
    text = drawn.read_text()
    for clip in [clip for clip in clips if clip.label == "dog" and clip.split == "train"][:5]:
        row = next(line for line in text.splitlines() if line.startswith(f"{clip.id},"))
        text = text.replace(row, row.replace(",train,", ",test,"))
    drawn.write_text(text)
    own = [
        OWN_RECIPE,
        "--dataset=own",
        f"--data_folder={tmp_path / 'own'}",
        f"--seed={seed}",
        "--output_folder=results",
    ]
    tables = [line.split() for table in texts(examine(own), "") for line in table.splitlines()]
    assert ["dog", "11", "2", "7"] in tables
    assert ["rain", "16", "2", "2"] in tables
    assert drawn.read_text() == text


def test_counts_stand_in_a_table(run):
    tables = [line.split() for text in texts(run(), "") for line in text.splitlines()]
    assert ["class", "train", "valid", "test"] in tables
    assert ["dog", "12", "4", "4"] in tables


def test_of_many_classes_the_smallest_and_the_largest_are_shown():
    clips = [
        Clip(f"{split}-{label}-{number}", f"{split}-{label}-{number}", f"class{label:02}", split)
        for split in SPLITS
        for label in range(1, 31)
        for number in range(label)
    ]
    [table] = texts(examine_splits(clips), "")
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [row[0] for row in rows if row[0] != "..."] == [
        f"class{label:02}" for label in [*range(1, 6), *range(26, 31)]
    ]
    assert ["...", "20", "classes", "..."] in rows


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_an_error(corpus, run):
    (corpus / "meta" / "esc50.csv").chmod(0)
    assert "Permission denied" in " ".join(texts(run(), "error"))


def test_a_corpus_that_raises_an_error_of_the_system_is_an_error(run, monkeypatch):
    def list_clips(subset=None, **_):
        raise PermissionError("Permission denied: 'meta'")

    monkeypatch.setattr("brainplug.data.corpora.esc50.list_clips", list_clips)
    assert texts(run(), "error") == ["Permission denied: 'meta'"]


@pytest.mark.parametrize(
    ("recipe", "option", "said"),
    [
        ("nowhere.yaml", "--seed=1", "no such file"),
        (RECIPE, "--sed=1", "seed"),
        (RECIPE, "--seed=1", "data_folder has no value"),
        ("--full", "--fold=1", "names no recipe"),
        (
            str(ROOT / "recipes/pretrain_ast/hparams/nano.yaml"),
            "--seed=1",
            "lacks the keys of its task",
        ),
    ],
)
def test_a_recipe_that_cannot_be_loaded_is_refused(recipe, option, said):
    with pytest.raises(UsageError, match=f"(?s){said}"):
        list(examine([recipe, option]))


# Splits: train.py's own check is the oracle.


CLEAN = [Clip(f"{label}{split}", f"{label}{split}.wav", label, split) for label in ("cat", "dog") for split in SPLITS]
MORE_CLIPS = st.lists(
    st.builds(
        lambda name, path, label, split, group, part: Clip(name, path, label, split, None, group, *part),
        st.text("abcdefgh", min_size=3, max_size=3),
        st.sampled_from("pq"),
        st.sampled_from(["cat", "cat", "dog", "dog", "owl"]),
        st.sampled_from([*SPLITS, *SPLITS, *SPLITS, "tset"]),
        st.sampled_from(["", "", "", "", "x", "y"]),
        st.sampled_from([(None, None), (None, 1.0), (0.5, 1.5), (1.0, 2.0), (2.0, 3.0), (2.0, None)]),
    ),
    max_size=5,
)


@given(MORE_CLIPS)
def test_errors_are_told_where_train_refuses_and_only_there(more):
    clips = [*CLEAN, *more]
    errors, refusals = texts(examine_splits(clips), "error"), texts(as_finding(check_splits, clips), "error")
    assert bool(errors) == bool(refusals)
    assert not set(errors) & set(refusals), "doctor has no words of its own for it"


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["train", "test"], []),
        (["train", "valid"], []),
        (["train", "train"], ["Classes in train alone: owl"]),
        (["valid", "test"], ["Classes not in train: owl"]),
        (["test"], ["Classes not in train: owl"]),
    ],
)
def test_a_class_must_be_trained_and_tested(splits, said):
    owls = [Clip(f"owl{number}", f"{number}.wav", "owl", split) for number, split in enumerate(splits)]
    errors = texts(examine_splits([*CLEAN, *owls]), "error")
    assert [error.partition(";")[0] for error in errors] == said


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "leak"),
    [
        ((None, None), (None, None), True),
        ((None, 2.0), (1.0, None), True),
        ((1.0, 2.0), (1.2, 1.5), True),
        ((None, 2.0), (2.0, 3.0), False),
        ((1.0, 2.0), (3.0, None), False),
    ],
)
def test_parts_of_a_file_leak_where_they_overlap(one, other, leak, turned):
    clips = [Clip("a", "a.wav", "dog", "train", None, "", *one), Clip("b", "a.wav", "dog", "test", None, "", *other)]
    clips = clips[::-1] if turned else clips
    assert overlapping(clips) == (clips if leak else [])
    assert not overlapping([dataclasses.replace(clip, split="train") for clip in clips])


# Content


def test_files_that_differ_behind_their_beginning_are_different(tmp_path):
    clips = []
    for split, last in [("train", b"a"), ("valid", b"b"), ("test", b"a")]:
        (tmp_path / split).write_bytes(bytes(2**17) + last)
        clips.append(Clip(split, str(tmp_path / split), "dog", split))
    assert [[clip.split for clip in same] for same in same_content(clips)] == [["train", "test"]]


def test_the_same_content_within_a_split_is_no_leak(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"the same")
    assert same_content([Clip(name, str(tmp_path / name), "dog", "train") for name in "ab"]) == []


@pytest.mark.parametrize("full", [False, True])
def test_other_parts_of_a_copied_file_are_told_once(full, tmp_path):
    clips = []
    for split, start in [("train", 0.0), ("test", 0.25)]:
        path = tmp_path / f"{split}.wav"
        soundfile.write(path, noise(0.5), SAMPLE_RATE)
        clips.append(Clip(split, str(path), "dog", split, start=start, stop=start + 0.25, duration=0.25))
    whole = [dataclasses.replace(clip, id=f"{clip.id} whole", start=None, duration=0.5) for clip in clips]
    for several in (clips, [*clips, *whole]):
        [finding] = examine_content(several, several, full)
        assert finding.level == "error"
        assert finding.text.startswith("The same content: ")


def test_a_sample_has_clips_of_every_class_and_split():
    clips = [
        Clip(f"{split}-{label}-{number}", "", label, split)
        for split, share in zip(SPLITS, (100, 2, 1), strict=True)
        for label in "abcdefgh"
        for number in range(share * 10)
    ]
    drawn = draw_sample(clips, SAMPLE, seed=1)
    assert drawn == draw_sample(clips, SAMPLE, seed=1) != draw_sample(clips, SAMPLE, seed=2)
    assert len(set(drawn)) == SAMPLE
    counts = [sum((clip.label, clip.split) == kind for clip in drawn) for kind in {(c.label, c.split) for c in clips}]
    assert set(counts) == {4, 5}  # 24 kinds


# Steps


def test_steps_are_measured_on_the_real_model(run, tiny_backbones):
    findings = run(
        f"--backbone={tiny_backbones['ast']}",
        "--method=linear",
        "--batch_size=5",
        "--device=cpu",
        in_process=lambda function, *given: function(*given),
    )
    assert texts(findings, "error") == []
    assert any("First epoch, 5 steps of training and 2 of validation: about " in text for text in texts(findings, "ok"))


def test_an_epoch_is_reckoned_from_its_steps(run):
    findings = run("--batch_size=5", "--number_of_epochs=101", "--num_workers=0")
    # 5 * (0.5 + 1) + 2 * (0.5 + 0.25), then a hundred times 5 * 1 + 2 * 0.25 from the cache
    expected = "First epoch, 5 steps of training and 2 of validation: about 9 s; all 101 epochs: about 9 min"
    assert expected in texts(findings, "ok")


def test_few_shot_shortens_the_epoch(run):
    findings = run("--batch_size=2", "--few_shot=1")
    assert any("First epoch, 1 steps of training and 4 of validation" in text for text in texts(findings, "ok"))


def test_random_weights_are_told(run):
    assert any("random weights" in text for text in texts(run("--backbone=ast"), "ok"))
    assert not any("random weights" in text for text in texts(run(), "ok"))


@pytest.mark.parametrize("fails", ["No memory is left.", BrokenProcessPool()])
def test_steps_that_fail_are_an_error(run, fails):
    def in_process(*_):
        if isinstance(fails, str):
            return fails
        raise fails

    [error] = texts(run(in_process=in_process), "error")
    assert error.startswith("A few steps of this recipe fail: ")


def test_batches_of_seconds_are_not_what_was_measured(run):
    said = "Time and memory are those of batches of --batch_size clips, not of --batch_seconds"
    assert said in texts(run("--batch_seconds=4"), "warning")
    assert said not in texts(run(), "warning")


def test_steps_that_nearly_fill_the_memory_are_a_warning(run, monkeypatch):
    monkeypatch.setattr(brainplug.doctor, "memory_bytes", lambda device: 10**8 + 1)
    assert any("write a smaller --batch_size" in text for text in texts(run(), "warning"))


# The machine


def test_backbones_in_the_cache_are_listed(tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    put_into_cache(tmp_path, "facebook/hubert-base-ls960", tiny_backbones["hubert"])
    put_into_cache(tmp_path, "someone/whole", tiny_backbones["ast"])
    put_into_cache(tmp_path, "someone/without-weights", tiny_backbones["ast"], without="model.safetensors")
    actual = texts(examine_machine(), "ok")
    assert "Backbones that load offline: nano-ast, nano-data2vec, nano-hubert, hubert, someone/whole" in actual
    assert "Backbones that would be downloaded: ast, wav2vec2, data2vec, wavlm, whisper" in actual


def put_into_cache(cache, hub_id, folder, without=None):
    """As the hub's client lays its files out."""
    home = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / "1234", ignore=shutil.ignore_patterns(without or ""))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("1234")


def test_a_package_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr("brainplug.doctor.machine.REPORTED_PACKAGES", ("torch", "brainplug-without-a-name"))
    assert "brainplug-without-a-name is not installed" in texts(examine_machine(), "error")[0]


def test_a_feature_cache_that_cannot_be_written_to_is_a_warning(tmp_path):
    (tmp_path / "file").touch()
    [warning] = texts(examine_folders(str(tmp_path), str(tmp_path / "file")), "warning")
    assert "file cannot be written to; write --cache_folder" in warning


def test_folders_that_may_not_be_looked_into(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()
    look, may = os.stat, os.access

    def forbidden(path, *given, **named):
        if str(path).startswith(f"{closed}/"):
            raise PermissionError(13, "Permission denied")
        return look(path, *given, **named)

    monkeypatch.setattr(os, "stat", forbidden)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(closed) and may(path, mode))
    findings = list(examine_folders(str(closed / "results"), str(closed / "features")))
    assert [finding.level for finding in findings] == ["error", "warning"]
    assert all(f"{closed} cannot be written to" in finding.text for finding in findings)


def test_a_finding_is_one_aligned_line():
    assert [str(Finding(level, "this")).index("this") for level in ("ok", "warning", "error")] == [9, 9, 9]


# The command


@pytest.mark.parametrize(("options", "code"), [(["--few_shot=12"], 0), (["--few_shot=13"], 1), (["--fewshot=1"], 2)])
def test_the_exit_code_tells(options, code, run, corpus, capsys):
    run()  # sets what is not to be measured
    arguments = ["doctor", RECIPE, f"--data_folder={corpus}", "--frames=64", *options]
    with pytest.raises(SystemExit) as end:
        sys.exit(run_command(main, arguments))
    assert end.value.code == code
    printed = capsys.readouterr()
    if code < 2:
        assert printed.out.splitlines()[-1].startswith(f"{code} error")
    else:
        assert "error: " in printed.err


def test_without_a_recipe_the_machine_is_examined(capsys):
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("Machine\nok       Python ")


def test_other_commands_refuse_what_they_do_not_know(capsys):
    with pytest.raises(SystemExit) as end:
        main(["backbones", "--full"])
    assert end.value.code == 2
    assert "unrecognized arguments: --full" in capsys.readouterr().err
