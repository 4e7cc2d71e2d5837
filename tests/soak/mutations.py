"""Files with faults: hypothesis changes bytes, lines and words of good ones."""

import random
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

NUMBERS = [bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01\x00\x00\x00", bytes(8), b"\xff" * 8]
# What people and attackers write where a value stands.
WORDS = [
    "", "null", "NaN", "1e999", "-1", "0", "1e30", "99999999999999999999", "true", "[]", "{}", "'", '"', "\0", "\ufeff",
    "é", "../../../etc/passwd", "/", "~", "a" * 10000,
    "[" * 500, "{a: " * 300, "*a", "&a [*a]", "!!python/object/apply:os.system ['touch pwned']",
    "!apply:os.system ['touch pwned']", "!new:subprocess.Popen {args: [touch, pwned]}", "!include:/etc/passwd",
    "!ref <output_folder>", "!ref <nothing>", "file:///etc/passwd", "sep=;", ",,,,", "\t", "\r", "2020-01-01",
    "0x1F", "1_0",
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 8)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@dataclass(frozen=True)
class BadInput:
    """A changed file: its path in the folder of good ones, what was done to it, and its content."""

    path: str
    change: str
    content: bytes


def cut(data: bytes) -> st.SearchStrategy[tuple[str, bytes]]:
    return st.integers(0, len(data) - 1).map(lambda end: ("cut", data[:end]))


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> tuple[str, bytes]:
    """Bytes that are flipped, overwritten, left out, doubled, added or moved; most often where a header is."""
    longest = len(data) if draw(st.booleans()) else min(len(data), 200)
    start = draw(st.integers(0, longest - 1))
    end = draw(st.integers(start + 1, min(len(data), start + draw(st.sampled_from([1, 4, 64, 100_000])))))
    how = draw(st.sampled_from(["flip", "number", "noise", "zeros", "left out", "doubled", "added", "reversed"]))
    piece = data[start:end]
    new = {
        "flip": bytes([piece[0] ^ (1 << draw(st.integers(0, 7)))]) + piece[1:],
        "number": draw(st.sampled_from(NUMBERS)) + piece[4:],
        "noise": draw(st.binary(min_size=len(piece), max_size=len(piece))) if len(piece) < 5000 else piece[::-1],
        "zeros": bytes(len(piece)),
        "left out": b"",
        "doubled": piece + piece,
        "added": piece + draw(st.binary(min_size=1, max_size=64)),
        "reversed": piece[::-1],
    }[how]
    return f"{how} {start} to {end}", data[:start] + new + data[end:]


@st.composite
def changed_twice(draw: st.DrawFn, data: bytes) -> tuple[str, bytes]:
    first, content = draw(changed_bytes(data))
    second, content = draw(changed_bytes(content or data))
    return f"{first}; {second}", content


@st.composite
def changed_text(draw: st.DrawFn, data: bytes) -> tuple[str, bytes]:
    """A text with another word, or with lines left out, doubled or exchanged."""
    lines = data.decode().splitlines(keepends=True)
    number = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["word", "word", "word", "value", "left out", "doubled", "exchanged", "added", "bomb"]))
    line = lines[number]
    word = draw(st.sampled_from(WORDS) | st.text(max_size=8))
    if how == "word":
        words = line.split(" ")
        words[draw(st.integers(0, len(words) - 1))] = word
        lines[number] = " ".join(words)
    elif how == "value":
        key, colon, _ = line.partition(":")
        lines[number] = f"{key}{colon} {word}\n"
    elif how == "left out":
        del lines[number]
    elif how == "doubled":
        lines.insert(number, line)
    elif how == "exchanged":
        lines[number], lines[0] = lines[0], lines[number]
    elif how == "added":
        lines.insert(number, word + "\n")
    else:
        lines = [BOMB, *lines]
    encoding = draw(st.sampled_from(["utf-8"] * 4 + ["utf-16", "latin-1"]))
    return f"{how} in line {number + 1}, {encoding}", "".join(lines).encode(encoding, "replace")


def changes(path: Path, others: list[bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    """All that is done to a file; `others` are files of other kinds, which may stand in its place."""
    data = path.read_bytes()
    anything = [
        cut(data),
        changed_bytes(data),
        st.sampled_from(others).map(lambda other: ("another file", other)),
        st.binary(max_size=300).map(lambda noise: ("noise", noise)),
    ]
    try:
        data.decode()
    except UnicodeDecodeError:
        return st.one_of(*anything, changed_bytes(data), changed_twice(data))
    return st.one_of(*anything, *[changed_text(data)] * 6)


def bad_inputs(folder: Path, weights: dict[str, int], count: int) -> list[BadInput]:
    """Draws different bad inputs, the same ones each time; `weights` says how often each path is drawn.

    Hypothesis changes one example a little to get the next one, so a sample of many is taken.
    """
    drawn: dict[BadInput, None] = {}
    contents = {path: (folder / path).read_bytes() for path in weights}

    @seed(0)
    @settings(
        max_examples=8 * count,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from([path for path, weight in weights.items() for _ in range(weight)]))
        change, content = data.draw(changes(folder / path, list(contents.values())))
        if content != contents[path]:
            drawn.setdefault(BadInput(path, change, content))

    draw()
    return random.Random(0).sample(list(drawn), count)
