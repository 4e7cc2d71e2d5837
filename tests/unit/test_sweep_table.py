"""A table's YAML: what it means, and that all its faults are told at once."""

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from brainplug.config.recipe import parse_arguments
from brainplug.errors import UsageError
from brainplug.sweep.plan import make_plan
from brainplug.sweep.table import as_flag, merged, read_table

RECIPES = Path(__file__).parents[2] / "recipes"
ESC50 = str(RECIPES / "ESC50" / "hparams" / "train.yaml")
SPOKEN = str(RECIPES.parent / "hparams" / "train.yaml")
ROWS = {"linear": {"method": "linear"}, "lora": {"method": "lora"}}


@pytest.fixture
def write(tmp_path):
    """Writes a table of two rows and one column; what is given stands in it too."""

    def written(text: str = "", **changes: object) -> str:
        content = {"rows": ROWS, "columns": {"ESC-50": {"recipe": ESC50, "data_folder": "."}}, **changes}
        path = tmp_path / "table.yaml"
        path.write_text(text or yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return written


def refused(path: str, output_folder: Path, **overrides: object) -> str:
    """What is said of a table that is refused; nothing is written."""
    with pytest.raises(UsageError) as error:
        make_plan(read_table(path, overrides), path, None, str(output_folder / "out"))
    assert not (output_folder / "out").exists()
    return str(error.value)


class TestReading:
    def test_rows_and_columns(self, write):
        table = read_table(write(seeds=[1, 2], compare_with="linear", note="One."), {})
        assert (table.name, table.seeds, table.compare_with, table.note) == ("table", (1, 2), "linear", "One.")
        assert list(table.places()) == [("linear", "ESC-50"), ("lora", "ESC-50")]
        assert table.faults == ()

    def test_a_recipe_is_looked_for_from_the_table_s_folder(self, write, tmp_path):
        (tmp_path / "own.yaml").write_text("seed: 1\n")
        table = read_table(write(columns={"own": {"recipe": "own.yaml"}}), {})
        assert table.columns["own"]["recipe"] == str(tmp_path / "own.yaml")

    def test_numbers_are_read_as_in_recipes(self, write):
        table = read_table(write(f"rows: {{a: {{lr: 1e-3}}}}\ncolumns: {{b: {{recipe: {ESC50}}}}}"), {})
        assert table.rows["a"]["lr"] == 0.001

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("rows: [", "cannot be read"),
            ("a: &a [*a]", "cannot be read"),
            ("when: 2024-13-13", "cannot be read"),
            ("rows: !!python/object/apply:os.getcwd []", "cannot be read"),
            ("[1, 2]", "no block of keys and values"),
            ("# nothing", "no block of keys and values"),
        ],
    )
    def test_what_is_no_table(self, text, message, write):
        with pytest.raises(UsageError, match=message):
            read_table(write(text), {})

    def test_a_table_that_is_missing(self, tmp_path):
        with pytest.raises(UsageError, match="table5.yaml.*No such file"):
            read_table(str(tmp_path / "table5.yaml"), {})

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.dates(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["rows", "columns", "shared", "seeds", "published", "compare_with", "note"])
                    | st.sampled_from(["recipe", "data_folder", "folds", "settings", "lora", "ESC-50", 8]),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=25,
        )
    )
    def test_junk_is_refused_and_never_breaks(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "junk.yaml"
        path.write_text(yaml.safe_dump(content))
        with contextlib.suppress(UsageError):
            assert read_table(str(path), {}).faults  # no such recipe exists


class TestSettings:
    def test_a_row_goes_before_its_column_and_this_before_what_all_share(self, write):
        columns = {"a": {"recipe": ESC50, "settings": {"lr": 2, "frames": 2}}}
        table = read_table(
            write(shared={"lr": 1, "frames": 1, "pooling": "CLS"}, columns=columns, rows={"r": {"lr": 3}}), {}
        )
        assert table.settings("r", "a") == {"lr": 3, "frames": 2, "pooling": "CLS"}

    def test_the_command_line_changes_what_all_share(self, write):
        table = read_table(write(shared={"number_of_epochs": 5, "frames": 9}), {"number_of_epochs": 1})
        assert table.shared == {"number_of_epochs": 1, "frames": 9}

    def test_blocks_are_merged_setting_by_setting(self):
        settings = {"lora": {"alpha": 4, "rank": 1}, "augment": ["gain"]}
        assert merged(settings, {"lora": {"rank": 2}, "augment": []}) == {
            "lora": {"alpha": 4, "rank": 2},
            "augment": [],
        }
        assert settings["lora"] == {"alpha": 4, "rank": 1}
        assert merged({"lora": None}, {"lora": {"rank": 2}}) == {"lora": {"rank": 2}}

    @given(
        st.one_of(
            st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(),
            st.lists(st.sampled_from(["gain", "noise"])), st.dictionaries(st.sampled_from("ab"), st.floats(0, 1)),
        )
    )  # fmt: skip
    def test_the_command_line_carries_every_value(self, value):
        overrides = parse_arguments([ESC50, as_flag("key", value)])[2]
        assert overrides["key"] == pytest.approx(value)


FAULTS = {
    "unknown key": ({"columnz": {}}, "unknown key 'columnz'; known are: columns"),
    "no rows": ({"rows": {}}, "rows is empty"),
    "rows of nothing": ({"rows": None}, "rows is empty"),
    "no columns": ({"columns": {}}, "columns is empty"),
    "rows that are a list": ({"rows": ["lora"]}, "rows is empty"),
    "row that is no block": ({"rows": {"lora": 3}}, "the row 'lora' has 3, which is no block of settings"),
    "row without letters": ({"rows": {"+.": {}}}, r"'\+\.' has no letter or figure"),
    "row that is a number": ({"rows": {8: {}}}, "the name 8 is no text; write '8'"),
    "one folder": ({"rows": {"a b": {}, "a,b": {}}}, "rows 'a b', 'a,b' would have the same folder, a_b"),
    "one folder of columns": (
        {"columns": {"a b": {"recipe": ESC50}, "a,b": {"recipe": ESC50}}},
        "columns 'a b', 'a,b' would have the same folder",
    ),
    "shared that is no block": ({"shared": [1]}, r"shared has \[1\], which is no block"),
    "row's fold": ({"rows": {"a": {"fold": 1}}}, "the row 'a' sets fold; that is said by folds"),
    "shared seed": ({"shared": {"seed": 1}}, "shared sets seed; that is said by seeds"),
    "debug": ({"shared": {"debug": True}}, "shared sets debug"),
    "column's folder": (
        {"columns": {"a": {"recipe": ESC50, "settings": {"output_folder": "x"}}}},
        "the column 'a' sets output_folder",
    ),
    "seeds that are none": ({"seeds": []}, r"seeds is \[\], no list of whole numbers"),
    "seeds that are one": ({"seeds": 3}, "seeds is 3, no list"),
    "seeds below zero": ({"seeds": [-1]}, r"seeds is \[-1\]"),
    "seeds that are true": ({"seeds": [True]}, r"seeds is \[True\]"),
    "seed twice": ({"seeds": [1, 1]}, "has one twice"),
    "column without recipe": ({"columns": {"a": {}}}, "the column 'a' has no recipe"),
    "column of nothing": ({"columns": {"a": None}}, "the column 'a' has no recipe"),
    "recipe that is missing": ({"columns": {"a": {"recipe": "b.yaml"}}}, "the recipe 'b.yaml'; there is no such file"),
    "column's unknown key": (
        {"columns": {"a": {"recipe": ESC50, "settingz": {}}}},
        "'a' has the unknown key 'settingz'; known are: settings",
    ),
    "folds that are text": ({"columns": {"a": {"recipe": ESC50, "folds": "some"}}}, "has the folds 'some'"),
    "folds that are none": ({"columns": {"a": {"recipe": ESC50, "folds": []}}}, r"has the folds \[\]"),
    "a column's seeds": ({"columns": {"a": {"recipe": ESC50, "seeds": [1, 1]}}}, r"the column 'a': seeds \[1, 1\]"),
    "fold twice": ({"columns": {"a": {"recipe": ESC50, "folds": [1, 1]}}}, "each once"),
    "column without rows": ({"columns": {"a": {"recipe": ESC50, "rows": []}}}, r"has the rows \[\]"),
    "column's unknown row": (
        {"columns": {"a": {"recipe": ESC50, "rows": ["loar"]}}},
        "names the row 'loar', which is not there; there are: lora",
    ),
    "data folder": ({"columns": {"a": {"recipe": ESC50, "data_folder": 5}}}, "data_folder 5, which is no text"),
    "published row": ({"published": {"loar": {"ESC-50": 1}}}, "published names 'loar'.*lora"),
    "published column": ({"published": {"lora": {"ESC-5": 1}}}, "published names 'ESC-5'.*ESC-50"),
    "published text": ({"published": {"lora": {"ESC-50": "many"}}}, "published has 'many'.*no number"),
    "published number": ({"published": {"lora": 5}}, "published has 5 for 'lora'"),
    "published list": ({"published": [1]}, r"published is \[1\]"),
    "reference": ({"compare_with": "linearr"}, "compare_with names no row; there are: linear"),
    "reference that is a list": ({"compare_with": ["linear"]}, "compare_with names no row"),
    "note": ({"note": 5}, "note is 5"),
}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_each_is_told(self, fault, write):
        changes, message = FAULTS[fault]
        told = read_table(write(**changes), {}).faults
        assert any(re.search(message, one) for one in told), told

    def test_a_table_without_faults_has_none(self, write):
        assert read_table(write(), {}).faults == ()

    @pytest.mark.parametrize("key", ["seed", "fold", "output_folder", "debug"])
    def test_the_command_line_does_not_set_what_the_table_does(self, key, write):
        [told] = read_table(write(), {key: 1}).faults
        assert f"the command line sets {key}" in told

    def test_two_rows_of_one_name(self, write):
        text = f"rows:\n  a: {{method: lora}}\n  a: {{method: full}}\ncolumns: {{c: {{recipe: {ESC50}}}}}\n"
        assert read_table(write(text), {}).faults == ("'a' stands there twice",)

    def test_all_are_told_at_once_and_nothing_is_written(self, write, tmp_path):
        text = f"""
rows:
    lora: {{method: lora}}
    lora: {{method: lora}}
    mistyped: {{method: loar}}
    unknown: {{method: lora, learning_rate: 1}}
    waveform: {{method: lora, backbone: wav2vec2, features_on_device: True}}
    option: {{method: lora, precision: fp12}}
columns:
    ESC-50: {{recipe: {ESC50}, data_folder: ., rows: [lora, mistyped, unknown], folds: [6]}}
    pooled: {{recipe: {ESC50}, data_folder: ., rows: [lora, waveform, option], settings: {{pooling: PROMPTS}}}}
    missing: {{recipe: nowhere.yaml}}
    pretraining: {{recipe: {RECIPES / "pretrain_ast" / "hparams" / "nano.yaml"}, rows: [lora]}}
    given: {{recipe: {RECIPES / "FSC" / "hparams" / "train.yaml"}, data_folder: ., rows: [lora], folds: [1]}}
seeds: []
compare: lora
"""
        told = refused(write(text), tmp_path)
        for message in (
            "'lora' stands there twice",
            "unknown key 'compare'",
            "seeds is []",
            "the recipe 'nowhere.yaml'",
            "lora / ESC-50: The folds [6] were asked for.",
            "mistyped / ESC-50: The method 'loar' was asked for.",
            "It has no key learning_rate, and SpeechBrain no option --learning_rate",
            "lora / pooled: The pooling 'PROMPTS' was asked for.",
            "waveform / pooled: ",
            "option / pooled: SpeechBrain does not take its options",
            "lora / pretraining: ",
            "lora / given: The fold 1 was asked for. fsc has given splits",
        ):
            assert message in told
        assert "no cell was run" in told

    def test_a_recipe_of_another_program(self, write, tmp_path):
        (tmp_path / "other.yaml").write_text("seed: 1\noutput_folder: out\n")
        told = refused(write(columns={"other": {"recipe": "other.yaml"}}, rows={"a": {}}), tmp_path)
        assert "a / other: The recipe" in told
        assert "It lacks the keys of its task: " in told


class TestCells:
    def cells(self, path: str, data_folder: str | None = None) -> list:
        return list(make_plan(read_table(path, {}), path, data_folder, "out").cells)

    def test_all_folds_of_a_recipe_with_folds(self, write):
        cells = self.cells(write(rows={"linear": ROWS["linear"]}, seeds=[1, 2]), "data")
        assert [(cell.fold, cell.seed) for cell in cells] == [(fold, seed) for fold in range(1, 6) for seed in (1, 2)]
        assert cells[3].folder == Path("out/ESC-50/linear/fold2-seed2")
        assert {cell.data_folder for cell in cells} == {"data"}
        assert cells[0].arguments()[1:] == [
            "--method=linear", "--seed=1", "--output_folder=out/ESC-50/linear/fold1-seed1", "--fold=1",
            "--data_folder=data",
        ]  # fmt: skip

    def test_a_recipe_without_folds_has_a_cell_a_seed(self, write):
        columns = {"spoken": {"recipe": SPOKEN}, "two": {"recipe": ESC50, "data_folder": "d", "folds": [2, 4]}}
        cells = self.cells(write(columns=columns, rows={"linear": ROWS["linear"]}, seeds=[7]))
        assert [(cell.column, cell.fold, cell.seed) for cell in cells] == [
            ("spoken", None, 7), ("two", 2, 7), ("two", 4, 7),
        ]  # fmt: skip
        assert cells[0].folder == Path("out/spoken/linear/seed7")
        assert not any(argument.startswith("--fold=") for argument in cells[0].arguments())

    def test_a_column_may_have_seeds_of_its_own(self, write):
        columns = {"one": {"recipe": SPOKEN}, "two": {"recipe": SPOKEN, "seeds": [9]}}
        cells = self.cells(write(columns=columns, rows={"linear": ROWS["linear"]}, seeds=[1, 2]))
        assert [(cell.column, cell.seed) for cell in cells] == [("one", 1), ("one", 2), ("two", 9)]

    def test_a_column_may_have_some_rows(self, write):
        columns = {"one": {"recipe": SPOKEN, "rows": ["lora"]}}
        assert [cell.row for cell in self.cells(write(columns=columns))] == ["lora"]
