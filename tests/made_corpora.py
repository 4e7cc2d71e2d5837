"""Small corpora that follow the official layouts file by file: names, columns and folders as released."""

import csv
import zlib
from pathlib import Path

import numpy as np
import soundfile

FSC_SPEAKERS = {
    "train": ("2BqVo8kVB2Skwgyb", "4BrX8aDqK2cLZRYl"),
    "valid": ("2ojo7YRL7Gck83Z3",),
    "test": ("4aGjX3AG5xcxeL7a",),
}
FSC_INTENTS = (
    ("Turn on the lights", "activate", "lights", "none"),
    ("Turn up the heat in the kitchen", "increase", "heat", "kitchen"),
)
GSC_WORDS = ("bed", "cat", "no", "yes")
# Chosen so that the lists and the official hash rule agree.
GSC_SPEAKERS = {
    "train": ("00000001", "00000003", "00000004", "00000005"),
    "valid": ("00000000", "00000007"),
    "test": ("00000002", "00000018"),
}
GSC_NOISES = ("doing_the_dishes", "white_noise")
US8K_CLASSES = {3: "dog_bark", 8: "siren"}
LIBRISPEECH_CHAPTERS = {
    "train-clean-100": ("103/1240", "1034/121119"),
    "dev-clean": ("84/121123",),
    "test-clean": ("1089/134686",),
}
LIBRISPEECH_TEXTS = ("CHAPTER ONE", "THAT HAD ITS SOURCE AWAY BACK IN THE WOODS")
IEMOCAP_EMOTIONS = ("ang", "hap", "neu", "sad", "exc", "fru", "xxx")


def write_noise(path: Path, seconds: float = 0.2, rate: int = 16000, channels: int = 1) -> None:
    """Writes noise that depends on the names of the file and of its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32("/".join(path.parts[-2:]).encode()))
    soundfile.write(path, 0.1 * generator.standard_normal((round(seconds * rate), channels)), rate)


def write_rows(path: Path, rows: list[list]) -> None:
    """Writes a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def make_fsc(folder: Path) -> Path:
    """Fluent Speech Commands: two clips of each of two intents by each of four speakers."""
    for split, speakers in FSC_SPEAKERS.items():
        rows = [["", "path", "speakerId", "transcription", "action", "object", "location"]]
        for speaker in speakers:
            for number, intent in enumerate(2 * FSC_INTENTS):
                path = f"wavs/speakers/{speaker}/{zlib.crc32(speaker.encode()):08x}-4474-11e9-a9a5-{number:012x}.wav"
                write_noise(folder / path)
                rows.append([len(rows) - 1, path, speaker, *intent])
        write_rows(folder / "data" / f"{split}_data.csv", rows)
    write_rows(folder / "data" / "speaker_demographics.csv", [["speakerId"], *([s] for s in FSC_SPEAKERS["train"])])
    (folder / "readme.md").touch()
    return folder


def make_gsc(folder: Path) -> Path:
    """Speech Commands v2: four words, each said once by each of eight speakers, and two background noises."""
    lists = {"train": [], "valid": [], "test": []}
    for split, speakers in GSC_SPEAKERS.items():
        for word in GSC_WORDS:
            lists[split] += [f"{word}/{speaker}_nohash_0.wav" for speaker in speakers]
    for name in sum(lists.values(), []):
        write_noise(folder / name)
    for name in GSC_NOISES:
        write_noise(folder / "_background_noise_" / f"{name}.wav", seconds=15.0, rate=8000)
    (folder / "_background_noise_" / "README.md").touch()
    (folder / "validation_list.txt").write_text("\n".join(lists["valid"]) + "\n")
    (folder / "testing_list.txt").write_text("\n".join(lists["test"]) + "\n")
    for name in ("LICENSE", "README.md"):
        (folder / name).touch()
    return folder


def make_us8k(folder: Path) -> Path:
    """UrbanSound8K: two classes; in each of the ten folds a recording of two clips and one of a single clip."""
    rows = [["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]]
    for fold in range(1, 11):
        for class_id, label in US8K_CLASSES.items():
            for clips in (2, 1):
                recording = 100000 + 100 * fold + 10 * class_id + clips
                for number in range(clips):
                    name = f"{recording}-{class_id}-0-{number}.wav"
                    # As in the original, rates and channels differ from file to file.
                    write_noise(folder / "audio" / f"fold{fold}" / name, rate=(44100, 8000)[number], channels=clips)
                    rows.append([name, recording, 0.5 * number, 0.5 * number + 0.2, 1, fold, class_id, label])
    write_rows(folder / "metadata" / "UrbanSound8K.csv", rows)
    for name in ("FREESOUNDCREDITS.txt", "UrbanSound8K_README.txt", "audio/.DS_Store"):
        (folder / name).touch()
    return folder


def make_iemocap(folder: Path) -> Path:
    """IEMOCAP: in each session one dialogue, in which each speaker has a turn of every emotion."""
    for session in range(1, 6):
        dialogue = f"Ses0{session}F_script01_1b" if session % 2 else f"Ses0{session}M_impro01"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for number, emotion in enumerate(IEMOCAP_EMOTIONS):
            for speaker in "FM":
                name = f"{dialogue}_{speaker}{number:03d}"
                write_noise(folder / f"Session{session}" / "sentences" / "wav" / dialogue / f"{name}.wav")
                lines += [
                    f"[{10 * number:.4f} - {10 * number + 2.5:.4f}]\t{name}\t{emotion}\t[2.5000, 2.5000, 2.5000]",
                    "C-E2:\tNeutral;\t()",
                    "C-F1:\tNeutral; Frustration;\t(puzzled)",
                    "A-E3:\tval 3; act 2; dom  2;\t()",
                    "",
                ]
        ratings = folder / f"Session{session}" / "dialog" / "EmoEvaluation"
        for part in ("Attribute", "Categorical", "Self-evaluation"):
            (ratings / part).mkdir(parents=True)
        (ratings / "Categorical" / f"{dialogue}_e1_cat.txt").write_text(f"{dialogue}_F000 :Neutral state; ()\n")
        (ratings / f"{dialogue}.txt").write_text("\n".join(lines) + "\n")
        (ratings / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X\xff")
    (folder / "README.txt").touch()
    return folder


def make_librispeech(folder: Path, seconds: float = 2.0) -> Path:
    """LibriSpeech: two utterances in each of a few chapters of three parts."""
    for part, chapters in LIBRISPEECH_CHAPTERS.items():
        for chapter in chapters:
            name = chapter.replace("/", "-")
            lines = [f"{name}-{number:04d} {text}" for number, text in enumerate(LIBRISPEECH_TEXTS)]
            for line in lines:
                write_noise(folder / part / chapter / f"{line.split()[0]}.flac", seconds)
            (folder / part / chapter / f"{name}.trans.txt").write_text("\n".join(lines) + "\n")
    for name in ("BOOKS.TXT", "CHAPTERS.TXT", "LICENSE.TXT", "README.TXT", "SPEAKERS.TXT"):
        (folder / name).touch()
    return folder
