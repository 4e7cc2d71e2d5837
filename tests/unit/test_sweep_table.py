"""A table's YAML: what it means, and that all its faults are named at once."""

import contextlib
import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from brainplug.config.arguments import parse_arguments
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

    def written(given: str | dict | None = None, **changes: object) -> str:
        columns = {"ESC-50": {"recipe": ESC50, "data_folder": "."}}
        content = {"rows": ROWS, "columns": columns, **changes, **(given if isinstance(given, dict) else {})}
        path = tmp_path / "table.yaml"
        path.write_text(given if isinstance(given, str) else yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return written


def refused(path: str, output_folder: Path, **overrides: object) -> str:
    """The message that refuses a table; nothing is written."""
    with pytest.raises(UsageError) as error:
        make_plan(read_table(path, overrides), path, None, str(output_folder / "out"))
    assert not (output_folder / "out").exists()
    return str(error.value)


class TestReading:
    def test_rows_and_columns(self, write):
        table = read_table(write(seeds=[1, 2], compare_with="linear", note="One."), {})
        assert (table.name, table.seeds, table.compare_with, table.note) == ("table", [1, 2], "linear", "One.")
        assert list(table.locations()) == [("linear", "ESC-50"), ("lora", "ESC-50")]
        assert table.faults == ()

    def test_a_recipe_is_looked_for_from_the_table_s_folder(self, write, tmp_path):
        (tmp_path / "own.yaml").write_text("seed: 1\n")
        table = read_table(write(columns={"own": {"recipe": "own.yaml"}}), {})
        assert table.columns["own"].recipe == str(tmp_path / "own.yaml")

    def test_a_recipe_of_the_package_is_found_from_anywhere(self, write, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        table = read_table(write(columns={"spoken": {"recipe": "hparams/train.yaml"}}), {})
        assert table.columns["spoken"].recipe == SPOKEN

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
            ("[1, 2]", "not a block of keys and values"),
            ("# nothing", "not a block of keys and values"),
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
    "unknown key": ({"columnz": {}}, "the table has the unknown key 'columnz'; the nearest are: columns"),
    "key that is a number": ({8: {}}, "8.*is not a text"),
    "no rows": ({"rows": {}}, "rows is empty"),
    "rows of nothing": ({"rows": None}, "rows is empty"),
    "no columns": ({"columns": {}}, "columns is empty"),
    "rows that are a list": ({"rows": ["lora"]}, r"rows is \['lora'\]: input should be a valid dictionary"),
    "row that is no block": ({"rows": {"lora": 3}}, "rows.lora is 3: input should be a valid dictionary"),
    "row without letters": ({"rows": {"+.": {}}}, r"rows\['\+\.'\]: the name has no letter or digit"),
    "row that is a number": ({"rows": {8: {}}}, r"rows\[8\] is not a text; write it in quotes"),
    "row that is a date": ({"rows": {date(2024, 1, 1): {}}}, "is not a text"),
    "row that is true": ({"rows": {True: {}}}, "is not a text"),
    "one folder": ({"rows": {"a b": {}, "a,b": {}}}, "rows 'a b', 'a,b' would have the same folder, a_b"),
    "one folder of columns": (
        {"columns": {"a b": {"recipe": ESC50}, "a,b": {"recipe": ESC50}}},
        "columns 'a b', 'a,b' would have the same folder",
    ),
    "shared that is no block": ({"shared": [1]}, r"shared is \[1\]: input should be a valid dictionary"),
    "row's fold": ({"rows": {"a": {"fold": 1}}}, "rows.a: it sets fold; write folds"),
    "setting that is a number": ({"rows": {"a": {8: 1}}}, r"rows.a\[8\] is not a text"),
    "shared seed": ({"shared": {"seed": 1}}, "shared: it sets seed; write seeds"),
    "debug": ({"shared": {"debug": True}}, "shared: it sets debug"),
    "two settings": ({"shared": {"debug": True, "seed": 1}}, "it sets debug; .*; it sets seed; "),
    "column's folder": (
        {"columns": {"a": {"recipe": ESC50, "settings": {"output_folder": "x"}}}},
        "columns.a.settings: it sets output_folder",
    ),
    "seeds that are none": ({"seeds": []}, r"seeds is \[\]: list should have at least 1 item"),
    "seeds of nothing": ({"seeds": None}, "seeds is None"),
    "seeds that are one": ({"seeds": 3}, "seeds is 3: input should be a valid list"),
    "seeds below zero": ({"seeds": [-1]}, r"seeds\[0\] is -1: input should be greater than or equal to 0"),
    "seeds above 32 bits": ({"seeds": [1, 2**32]}, r"seeds\[1\] is 4294967296: input should be less than 4294967296"),
    "seeds that are true": ({"seeds": [True]}, r"seeds\[0\] is True: input should be a valid integer"),
    "seed twice": ({"seeds": [1, 1]}, r"seeds: \[1, 1\] has a number twice"),
    "column without recipe": ({"columns": {"a": {}}}, "columns.a has no recipe"),
    "column of nothing": ({"columns": {"a": None}}, "columns.a is None: input should be a valid dictionary"),
    "recipe that is missing": ({"columns": {"a": {"recipe": "b.yaml"}}}, "columns.a.recipe: there is no file 'b.yaml'"),
    "column's unknown key": (
        {"columns": {"a": {"recipe": ESC50, "settingz": {}}}},
        "columns.a has the unknown key 'settingz'; the nearest are: settings",
    ),
    "folds that are text": (
        {"columns": {"a": {"recipe": ESC50, "folds": "some"}}},
        "columns.a.folds: 'some' is neither all nor a list of whole numbers",
    ),
    "folds of nothing": ({"columns": {"a": {"recipe": ESC50, "folds": None}}}, "columns.a.folds: None is neither all"),
    "folds that are none": ({"columns": {"a": {"recipe": ESC50, "folds": []}}}, r"columns.a.folds is \[\]"),
    "folds that are true": ({"columns": {"a": {"recipe": ESC50, "folds": [True]}}}, r"columns.a.folds\[0\] is True"),
    "a column's seeds": ({"columns": {"a": {"recipe": ESC50, "seeds": [1, 1]}}}, "columns.a.seeds: .*twice"),
    "fold twice": ({"columns": {"a": {"recipe": ESC50, "folds": [1, 1]}}}, "columns.a.folds: .*twice"),
    "column without rows": ({"columns": {"a": {"recipe": ESC50, "rows": []}}}, r"columns.a.rows is \[\]"),
    "column's unknown row": (
        {"columns": {"a": {"recipe": ESC50, "rows": ["loar"]}}},
        r"columns.a.rows\[0\]: 'loar' is not one of the rows; the nearest are: lora",
    ),
    "data folder": (
        {"columns": {"a": {"recipe": ESC50, "data_folder": 5}}},
        "columns.a.data_folder is 5: input should be a valid string",
    ),
    "published row": ({"published": {"loar": {"ESC-50": 1}}}, "published.loar: .*not one of the rows.*lora"),
    "published column": (
        {"published": {"lora": {"ESC-5": 1}}},
        r"published.lora\['ESC-5'\]: .*not one of the columns.*ESC-50",
    ),
    "published text": (
        {"published": {"lora": {"ESC-50": "many"}}},
        r"published.lora\['ESC-50'\] is 'many': input should be a valid number",
    ),
    "published truth": ({"published": {"lora": {"ESC-50": True}}}, "is True: input should be a valid number"),
    "published number": ({"published": {"lora": 5}}, "published.lora is 5"),
    "published list": ({"published": [1]}, r"published is \[1\]"),
    "reference": ({"compare_with": "linearr"}, "compare_with: 'linearr' is not one of the rows; .*: linear"),
    "reference that is a list": ({"compare_with": ["linear"]}, r"compare_with is \['linear'\]"),
    "note": ({"note": 5}, "note is 5"),
}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_each_is_named(self, fault, write):
        changes, message = FAULTS[fault]
        faults = read_table(write(changes), {}).faults
        assert any(re.search(message, sentence) for sentence in faults), faults
        assert len(faults) == 1, faults

    def test_what_may_be_null_or_left_out(self, write):
        columns = {"a": {"recipe": ESC50, "data_folder": None, "settings": None}}
        nothing = dict.fromkeys(("shared", "published", "compare_with", "note"))
        table = read_table(write({**nothing, "rows": {"lora": None}, "columns": columns}), {})
        assert table.faults == ()
        assert table.settings("lora", "a") == {}
        assert read_table(write({"published": {"lora": {"ESC-50": None}, "linear": None}}), {}).faults == ()

    def test_sound_rows_and_columns_are_checked_further(self, write):
        columns = {"a": {"recipe": ESC50}, "b": {"recipe": ESC50, "folds": 1}, "c": {}}
        table = read_table(write({"rows": {"lora": {}, "full": 1, 8: {}}, "columns": columns}), {})
        assert list(table.locations()) == [("lora", "a")]
        assert len(table.faults) == 4

    def test_a_table_without_faults_has_none(self, write):
        assert read_table(write(), {}).faults == ()

    @pytest.mark.parametrize("key", ["seed", "fold", "output_folder", "debug"])
    def test_the_command_line_does_not_set_what_the_table_does(self, key, write):
        [fault] = read_table(write(), {key: 1}).faults
        assert f"the command line: it sets {key}" in fault

    def test_two_rows_of_one_name(self, write):
        text = f"rows:\n  a: {{method: lora}}\n  a: {{method: full}}\ncolumns: {{c: {{recipe: {ESC50}}}}}\n"
        assert read_table(write(text), {}).faults == ("the key 'a' occurs twice",)

    def test_all_are_named_at_once_and_nothing_is_written(self, write, tmp_path):
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
        message = refused(write(text), tmp_path)
        for fault in (
            "the key 'lora' occurs twice",
            "unknown key 'compare'",
            "seeds is []",
            "there is no file 'nowhere.yaml'",
            "lora / ESC-50: The folds [6] were asked for.",
            "mistyped / ESC-50: The method 'loar' was asked for.",
            "It has no key learning_rate, and SpeechBrain no option --learning_rate",
            "lora / pooled: The pooling 'PROMPTS' was asked for.",
            "waveform / pooled: ",
            "SpeechBrain's options cannot be read: argument --precision: invalid choice: 'fp12'",
            "lora / pretraining: ",
            "lora / given: The fold 1 was asked for. fsc has given splits",
        ):
            assert fault in message
        assert "no cell was run" in message

    def test_a_recipe_of_another_program(self, write, tmp_path):
        (tmp_path / "other.yaml").write_text("seed: 1\noutput_folder: out\n")
        message = refused(write(columns={"other": {"recipe": "other.yaml"}}, rows={"a": {}}), tmp_path)
        assert "a / other: The recipe" in message
        assert "It lacks the keys of its task: " in message


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
