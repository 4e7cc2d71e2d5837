"""The ablation: what was run and what not, differences by seed, and a conclusion that follows from them."""

import json
import subprocess
from pathlib import Path

import pytest

from brainplug.errors import UsageError
from recipes.spoken_echo import ablation
from recipes.spoken_echo.ablation import COMBINED, MARKS, PLAIN, VARIANTS, main, table

OTHER = "with Givens rotations"


def results(*rates: float) -> dict[int, dict]:
    return {
        seed: {"test_wer": rate, "test_cer": rate / 2, "total": 1000, "epochs": 3} for seed, rate in enumerate(rates)
    }


def cells(made: str, variant: str) -> list[str]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines() if line.startswith("|")]
    [row] = [row for row in rows if row[0] == variant]
    return row


def test_a_clear_difference_is_named_beside_its_row():
    made = table(
        {
            PLAIN: results(0.20, 0.24, 0.22),
            COMBINED: results(0.10, 0.135, 0.12),
            "and a convolution": results(0.107, 0.136, 0.121),
        }
    )
    assert cells(made, COMBINED) == [
        COMBINED, "1,000", "11.8 ± 1.8", "10.0, 13.5, 12.0", "5.9 ± 0.9", "-10.2", "< 0.001", PLAIN
    ]  # fmt: skip
    assert f"Runs of 3 epochs. Clear at p < 0.05: {COMBINED} (-10.2 points from {PLAIN})." in made
    assert cells(made, "and a convolution")[5:] == ["+0.3", "0.272", COMBINED]
    assert cells(made, "and the adaptive base")[1:-1] == ["not run"] * 6


def test_a_difference_within_the_spread_is_none():
    made = table({PLAIN: results(0.20, 0.24, 0.22), OTHER: results(0.25, 0.20, 0.21)})
    assert "Nothing is clear" in made
    assert "Nothing was tested: that takes two seeds." in table({PLAIN: results(0.2), OTHER: results(0.4)})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands; each leaves a result, but where the convolution is on."""
    made: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        made.append(command)
        options = dict(option[2:].split("=", 1) for option in command if option.startswith("--") and "=" in option)
        if options["use_convolution"] == "True" and len(made) < 10:
            return subprocess.CompletedProcess(command, 1)
        actual = {"test_wer": 0.1 * int(options["seed"]), "test_cer": 0.05, "total": 10, "epochs": 3}
        Path(options["output_folder"], "results.json").write_text(json.dumps(actual))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ablation.subprocess, "run", run)
    return made


def test_finished_runs_are_not_made_again(runs, tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text("\n".join(MARKS) + "\n")
    options = [f"--output_folder={tmp_path / 'out'}", "--seeds", "1", "2", "--number_of_epochs=3"]
    with pytest.raises(UsageError, match=r"and_a_convolution/1 .*output\.txt says why"):
        main(options)
    begun = len(runs)
    assert all("--number_of_epochs=3" in command for command in runs)
    runs.extend([[]] * 10)  # from now on all end well
    main([*options, f"--write={document}"])
    again = [command for command in runs[begun:] if command]
    assert len(again) <= 2 * len(VARIANTS) - (begun - 2)
    assert "| 15.0 ± 7.1 |" in document.read_text()
    assert document.read_text().splitlines()[2] in capsys.readouterr().out


def test_finished_runs_with_other_options_are_refused(runs, tmp_path):
    runs.extend([[]] * 10)  # all end well
    options = [f"--output_folder={tmp_path / 'out'}", "--seeds", "1"]
    main([*options, "--number_of_epochs=3"])
    with pytest.raises(UsageError, match=r"with 'number_of_epochs: 5'.* a run with 'number_of_epochs: 3'"):
        main([*options, "--number_of_epochs=5"])
