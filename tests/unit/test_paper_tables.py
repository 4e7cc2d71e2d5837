"""The tables of the papers that are shipped: their runs, their hyper-parameters and the numbers beside them."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from brainplug.cli import main
from brainplug.config.recipe import RecipeLoader
from brainplug.sweep.plan import Plan, make_plan
from brainplug.sweep.table import read_table

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
TABLES = REPOSITORY / "recipes" / "paper_tables"
PAPER = REPOSITORY.parent / "shared" / "reference" / "paper_tables.md"
needs_paper = pytest.mark.skipif(not PAPER.is_file(), reason="the published tables are not beside the repository")

CELLS = {"table1": 11 * (5 + 10 + 1 + 1), "table3": 4 * (1 + 1 + 10)}
# Of these the first row and the last one are planned, which is enough to see that they can be run.
CELLS_OF_TWO_ROWS = {
    "table2": 2 * 3 * (4 * 5 + 4),
    "figure2": 2 * 2,
    "figure3": 2 * (5 + 5 + 1 + 1),
    "soft_moa": 2 * (5 + 10 + 1 + 1),
    "spoken": 2 * 3,
    "esc10": (2 + 4) * 5 + 4 * 4 * 5,  # four rows are named by columns
    "nano": 2 * 5 * 3 + 3 * 5,
}
# Highest learning rates of the paper; of AST where two are named.
RATES = {
    "full": 5e-5,
    "linear": 1e-3,
    "bitfit": 5e-3,
    "lora": 5e-3,
    "bottleneck": 5e-3,
    "conformer": 5e-3,
    "prompt_shallow": 1e-2,
    "prompt_deep": 1e-2,
    "prefix": 1e-2,
}
# Trained parameters beside the head, in thousands, as the paper prints them; it does not count the final layer norm.
TRAINABLE = {
    "BitFit": 102,
    "shallow prompt tuning, 300 prompts": 230,
    "deep prompt tuning, 25 prompts a layer": 230,
    "prefix tuning, 24": 221,
    "LoRA": 221,
    "bottleneck adapter, Pfeiffer": 249,
    "bottleneck adapter, Houlsby": 498,
    "conformer adapter, Pfeiffer": 271,
    "conformer adapter, Houlsby": 542,
}
FINAL_NORM = 2 * 768


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory) -> Callable[[str], Plan]:
    """Plans a shipped table, as it would be run, once."""
    folder = tmp_path_factory.mktemp("tables")

    @functools.cache
    def plan(name: str) -> Plan:
        path = str(TABLES / f"{name}.yaml")
        table = read_table(path, {})
        if name in CELLS_OF_TWO_ROWS:
            named = [row for column in table.columns.values() for row in column.rows]
            ends = (next(iter(table.rows)), next(reversed(table.rows)))
            rows = {row: settings for row, settings in table.rows.items() if row in (*ends, *named)}
            table = table.model_copy(update={"rows": rows})
        return make_plan(table, path, None, str(folder / name))

    return plan


def paper_section(title: str) -> list[list[str]]:
    """The rows of a table in the document of the published numbers, its header first."""
    text = PAPER.read_text().partition(f"## {title}")[2]
    lines = re.search(r"((?:^\|.*\n)+)", text, re.MULTILINE)[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def test_every_table_that_is_shipped_is_tested():
    assert {path.stem for path in TABLES.glob("*.yaml")} == {*CELLS, *CELLS_OF_TWO_ROWS}


@pytest.mark.parametrize(("name", "cells"), [*CELLS.items(), *CELLS_OF_TWO_ROWS.items()])
def test_tables_have_their_cells(name, cells, plan_of):
    assert len(plan_of(name).cells) == cells
    assert len({cell.folder for cell in plan_of(name).cells}) == cells


def test_dry_run_ends_with_the_number_of_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main(["table", str(TABLES / "table1.yaml"), "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert (code, lines[-1]) == (0, "187 cells")
    assert len(lines) == 187 + 2
    assert list(tmp_path.iterdir()) == []


@needs_paper
def test_table_1_follows_the_papers_protocol(plan_of):
    """Frames, batches, epochs, folds and SpecAugment of each data set, as the document of the protocol has them."""
    [_, *rows] = paper_section("Protocol of the paper")
    protocol = {row[0].removesuffix(" v2"): row for row in rows}
    text = PAPER.read_text()
    with_masks = re.search(r"on the training split of (.+) only", text)[1].split(" and ")
    plan = plan_of("table1")
    for (row, column), actual in plan.protocols.items():
        _, frames, classes, batch, epochs, *_ = protocol[column]
        assert (actual.frames, actual.batch_size, actual.epochs) == (int(frames), int(batch), int(epochs)), (
            row,
            column,
        )
        assert actual.augment == (("spec_augment",) if column in with_masks else ())
        assert (actual.method in RATES) and actual.lr == RATES[actual.method]
        assert (actual.backbone, actual.optimizer) == ("ast", "adamw")
        kernel = 8 if column in with_masks else 31
        settings = yaml.load("\n".join(actual.definition["recipe"]).replace("!", "#"), RecipeLoader)["method_settings"]
        assert settings["conformer"]["kernel_size"] == kernel
        assert actual.definition["options"]["max_grad_norm"] == 0.0
        folds = sorted(cell.fold or 0 for cell in plan.cells if (cell.row, cell.column) == (row, column))
        assert folds == {"ESC-50": [1, 2, 3, 4, 5], "US8K": list(range(1, 11))}.get(column, [0])


def test_the_optimiser_has_the_papers_values():
    entry = yaml.compose((REPOSITORY / "hparams" / "optimizers.yaml").read_text(), Loader=RecipeLoader)
    adamw = next(value for key, value in entry.value if key.value == "adamw")
    values = {key.value: yaml.load(yaml.serialize(value), RecipeLoader) for key, value in adamw.value}
    assert (values["betas"], values["eps"], values["weight_decay"]) == ([0.9, 0.98], 1e-6, 0.1)


@pytest.mark.parametrize("row", TRAINABLE)
def test_table_1_trains_as_many_parameters_as_the_paper(row, plan_of):
    trained = plan_of("table1").protocols[row, "GSC"].trainable_without_head  # the kernel of 31 is counted in the paper
    beside_norm = trained - (FINAL_NORM / 2 if row == "BitFit" else FINAL_NORM)
    assert beside_norm / 1000 == pytest.approx(TRAINABLE[row], abs=1)


@needs_paper
@pytest.mark.parametrize(
    ("name", "title", "columns"),
    [
        ("table1", "Table 1: AST, full data", ["ESC-50", "US8K", "GSC", "FSC"]),
        ("table2", "Table 2: AST, few-shot", None),
        ("table3", "Table 3: wav2vec 2.0 base", ["GSC", "FSC", "IEMOCAP"]),
    ],
)
def test_published_numbers_are_those_of_the_paper(name, title, columns):
    header, *rows = paper_section(title)
    table = read_table(str(TABLES / f"{name}.yaml"), {})
    if columns is None:  # "ESC-50: 1", "2", ...: a name goes on until the next one
        named = ""
        for position, text in enumerate(header[1:], start=1):
            named = text.partition(":")[0] if ":" in text else named
            header[position] = f"{named}, {text.rpartition(': ')[2]}"
        columns = header[1:]
    wanted = {row[0]: {column: float(row[header.index(column)]) for column in columns} for row in rows}
    assert table.published == wanted
    assert list(table.rows) == [row[0] for row in rows]
    assert list(table.columns) == columns


def test_soft_moa_has_no_numbers_that_are_not_at_hand(plan_of):
    assert plan_of("soft_moa").table.published == {}
