"""The benchmark of start-up measures processes and compares them round by round."""

import subprocess
import sys

import pytest

from benchmarks import startup


def test_quotients_are_those_of_the_same_round():
    table = startup.as_table({startup.UNIT: [1.0, 2.0, 4.0], "brainplug methods": [3.0, 8.0, 8.0]})
    assert [cell.strip() for cell in table.splitlines()[-1].split("|")][1:4] == ["brainplug methods", "8.00", "3.00"]


def test_the_first_round_is_left_out(tmp_path):
    code = f"open({str(tmp_path / 'calls')!r}, 'a').write('.')"
    seconds = startup.time_actions({"one": ("-c", code), "two": ("-c", code)}, repeats=2)
    assert {name: len(values) for name, values in seconds.items()} == {"one": 2, "two": 2}
    assert (tmp_path / "calls").read_text() == "." * 6


def test_an_action_that_fails_ends_the_benchmark():
    with pytest.raises(subprocess.CalledProcessError):
        startup.time_actions({"one": ("-c", "raise SystemExit(1)")}, repeats=1)


def test_actions_are_measured_in_this_python(capsys, monkeypatch):
    monkeypatch.setattr(startup, "ACTIONS", {startup.UNIT: ("-c", f"import sys; sys.executable == {sys.executable!r}")})
    startup.main(["--repeats=1"])
    assert f"| {startup.UNIT} " in capsys.readouterr().out
