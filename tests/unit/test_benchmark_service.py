"""The benchmark of the service: a row for each size of batches. No time is compared."""

from benchmarks.service import main


def test_the_table_has_a_row_for_each_size(tmp_path, capsys):
    document = tmp_path / "service.md"
    document.write_text("<!-- service: written by `python -m benchmarks.service` -->\n<!-- end of service -->\n")
    main(["--frames=32", "--seconds=0.3", "--clips=6", "--clients=3", "--batch=4", f"--write={document}"])
    lines = [line for line in document.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [(row[0], row[1]) for row in rows] == [("1", "3"), ("4", "3")]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])
    assert "lora on nano-ast, 6 clips of 0.3 s" in capsys.readouterr().out
