"""The benchmark of serving: a row for each method and number of adapters. No time is compared."""

import pytest

from benchmarks.serving import main


def test_the_table_has_a_row_for_each_method_and_number(tmp_path, capsys):
    document = tmp_path / "serving.md"
    document.write_text("<!-- serving: written by `python -m benchmarks.serving` -->\n<!-- end of serving -->\n")
    sizes = ["--backbone=random:nano-ast", "--frames=32", "--batch=3", "--repeats=1", "--threads=1"]
    main([*sizes, "--methods=lora", "--adapters=1,4", f"--write={document}"])
    lines = [line for line in document.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [(row[0], row[1], row[5]) for row in rows] == [("lora", "1", "1"), ("lora", "4", "3")]
    assert all(float(row[-1]) > 0 for row in rows)
    assert "nano-ast, 32 frames, 3 clips, fp32" in capsys.readouterr().out


def test_a_number_of_adapters_that_cannot_be_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--adapters=1,none"])
    assert "--adapters: 'none' is not a whole number from 1 on" in capsys.readouterr().err
