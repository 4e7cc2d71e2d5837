"""Messages for what the user can mend."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainplug.errors import UsageError, nearest

METHODS = ["linear", "full", "lora", "conformer"]
names = st.text(st.characters(blacklist_characters=", ", blacklist_categories=["Cs"]), min_size=1, max_size=20)


def test_usage_error_says_its_three_parts_in_order():
    error = UsageError("'loar' was asked for.", "It does not exist.", "Write --method=lora")
    assert str(error) == "'loar' was asked for. It does not exist. Write --method=lora"


def test_usage_error_is_a_value_error():
    with pytest.raises(ValueError, match="^asked found write$"):
        raise UsageError("asked", "found", "write")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conformr", "conformer"),
        ("loar", "lora, linear"),
        ("liner", "linear"),
        ("zzz", "conformer, full, linear, lora"),
        ("", "conformer, full, linear, lora"),
        (7, "conformer, full, linear, lora"),
    ],
)
def test_nearest_lists_close_names_or_else_all(name, expected):
    assert nearest(name, METHODS) == expected


def test_nearest_of_nothing_is_empty():
    assert nearest("lora", []) == ""


@given(st.text(), st.lists(names, min_size=1, unique=True))
def test_nearest_names_only_what_exists_and_never_nothing(name, candidates):
    listed = nearest(name, candidates).split(", ")
    assert listed
    assert set(listed) <= set(candidates)


@given(st.lists(names, min_size=1, unique=True), st.data())
def test_nearest_puts_an_existing_name_first(candidates, data):
    name = data.draw(st.sampled_from(candidates))
    assert nearest(name, candidates).split(", ")[0] == name


@given(st.text(), st.lists(names, unique=True), st.randoms())
def test_nearest_ignores_the_order_of_the_candidates(name, candidates, random):
    shuffled = random.sample(candidates, len(candidates))
    assert nearest(name, candidates) == nearest(name, shuffled)


@pytest.mark.parametrize("lines", [1, 100_000])  # within the pipe's buffer, and beyond it
def test_a_command_whose_reader_has_gone_ends_silently(lines):
    script = f"""
import sys
from brainplug.errors import run_command
sys.stdin.read()  # until the reader has gone
sys.exit(run_command(lambda _: print("line\\n" * {lines})))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141
