"""Command lines, recipes, and whose a results folder is."""

import dataclasses
import os
import re
import tempfile
from pathlib import Path

import pydantic
import pytest
import torch

from brainplug.config.output_folder import check_output_folder as check_folder
from brainplug.config.output_folder import configuration
from brainplug.config.recipe import Recipe
from brainplug.errors import UsageError, run_command
from brainplug.tasks import load_recipe, read_arguments, task_of
from brainplug.tasks.base import choose_optimizer

HPARAMS = Path(__file__).parents[2] / "hparams"
RECIPES = HPARAMS.parent / "recipes"
OPTIMIZERS = """\
optimizers:
    adamw: !name:torch.optim.AdamW
        eps: 1e-2
optimizer_settings:
    adamw: {weight_decay: 0.1}
"""


def recipe_text() -> str:
    """The template of all recipes with a key that has no value, a short name, and an optimiser of its own."""
    text = (HPARAMS / "train.yaml").read_text().replace("!include:", f"!include:{HPARAMS}/")
    text = re.sub(r"^optimizers:.*?^lr_schedule", OPTIMIZERS + "lr_schedule", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^experiment: .*$", "experiment: !ref <backbone>", text, flags=re.MULTILINE)
    text = re.sub(r"^backbone: .*$", "backbone: nano-ast  # or another", text, flags=re.MULTILINE)
    return re.sub(r"^data_folder: .*$", "data_folder: !PLACEHOLDER", text, flags=re.MULTILINE)


RECIPE = recipe_text()


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def load_file(*arguments: str, inspect: bool = True) -> Recipe:
    file, run_opts, overrides = read_arguments(arguments)
    return load_recipe(file, overrides, run_opts, inspect)


def load(*options, data="here", inspect=True):
    """Loads the recipe with the options of a command line."""
    return load_file("recipe.yaml", f"--data_folder={data}", *options, inspect=inspect)


def check_output_folder(recipe):
    check_folder(recipe, recipe.settings.output_folder, recipe.settings.save_folder)


class TestLoading:
    def test_references_follow_the_command_line(self):
        recipe = load("--seed=7", "--backbone=ast", "--number_of_epochs=5", inspect=False)
        assert recipe.settings.output_folder == "results/ast/7"
        assert recipe.settings.epoch_counter.limit == 5
        assert recipe.settings.data_folder == "here"

    @pytest.mark.parametrize(("options", "kind"), [([], ""), (["--few_shot=8"], "-8shot")])
    def test_no_colon_is_in_a_folder_s_name(self, options, kind):
        settings = load("--backbone=random:nano-ast", *options).settings
        assert settings.output_folder == f"results/random-nano-ast{kind}/1234"
        assert settings.backbone == "random:nano-ast"

    @pytest.mark.parametrize(
        ("overrides", "shots"), [({}, 8), ({"few_shot": 2}, 2), ({"few_shot": 2, "block": None}, 2)]
    )
    def test_an_included_block_may_be_referred_to_and_left_out(self, overrides, shots, recipe):
        (recipe.parent / "block.yaml").write_text("shots: 8\n")
        recipe.write_text("block: !include:block.yaml\nfew_shot: !ref <block[shots]>\n")
        if overrides:
            recipe.write_text("block: !include:block.yaml\nfew_shot: null\n")
        settings = Recipe.load("recipe.yaml", overrides).settings
        assert settings.few_shot == shots
        assert settings.block == (None if "block" in overrides else {"shots": 8})

    def test_a_recipe_cannot_be_changed(self):
        recipe = load()
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.file = "other.yaml"
        with pytest.raises(pydantic.ValidationError):
            recipe.settings.seed = 2

    def test_overrides_may_change_single_entries_of_a_block(self):
        recipe = load_recipe("recipe.yaml", {"data_folder": "here", "method_settings": {"lora": {"alpha": 2}}})
        assert recipe.settings.method_settings == {"conformer": {"kernel_size": 15}, "lora": {"alpha": 2}}

    def test_options_of_speechbrain_are_no_keys(self):
        recipe = load("--precision=bf16", "--device=cpu", "--grad_accumulation_factor=2")
        assert recipe.run_opts.precision == "bf16"
        assert recipe.run_opts.grad_accumulation_factor == 2
        assert recipe.overrides == {"data_folder": "here"}

    @pytest.mark.parametrize("name", ["2024", "1e5", "birds #1", "a: b", "[x] birds", "it's", "Größe", "2024-01-15"])
    def test_paths_are_text_whatever_they_would_be_in_yaml(self, name):
        recipe = load(f"--manifest={name}", f"--output_folder={name}", data=name)
        assert [getattr(recipe.settings, key) for key in ("data_folder", "manifest", "output_folder")] == [name] * 3

    @pytest.mark.parametrize("name", ["0123456789", "007", "1e5", "no", "null ", "a=b", "2024-01-15", "a # b", "{x}"])
    def test_every_value_that_is_text_is_text(self, name):
        """The kind of --characters=0123456789, which YAML reads as a number without its first digit."""
        settings = load(f"--experiment={name}", f"--cache_folder={name}", f"--backbone_revision={name}").settings
        assert [settings.experiment, settings.cache_folder, settings.backbone_revision] == [name] * 3

    def test_text_from_python_is_text(self):
        recipe = load_recipe("recipe.yaml", {"data_folder": "no", "cache_folder": "1:30"}, inspect=True)
        assert (recipe.settings.data_folder, recipe.settings.cache_folder) == ("no", "1:30")

    @pytest.mark.parametrize("value", ["'007'", '"007"'])
    def test_text_may_have_quotes(self, value):
        assert load(f"--cache_folder={value}").settings.cache_folder == "007"

    def test_text_that_the_data_set_takes_is_text(self):
        *_, overrides = read_arguments([str(RECIPES / "ESC50/hparams/train.yaml"), "--data_folder=x", "--subset=010"])
        assert overrides["subset"] == "010"

    @pytest.mark.parametrize("value", ["0123456789", "01", "abc 'd", "null"])
    @pytest.mark.parametrize("recipe_of", ["spoken_ctc", "LibriSpeech_ctc", "spoken_echo"])
    def test_characters_are_text(self, recipe_of, value):
        overrides = read_arguments([str(RECIPES / recipe_of / "hparams/train.yaml"), f"--characters={value}"])[2]
        assert overrides["characters"] == (None if value == "null" else value)

    @pytest.mark.parametrize(("word", "value"), [("yes", True), ("off", False)])
    def test_switches_may_be_words(self, word, value):
        assert load(f"--cache_features={word}").settings.cache_features is value

    def test_a_path_may_be_null_or_a_reference(self):
        recipe = load("--manifest=null", "--output_folder=!ref runs/<experiment>")
        assert recipe.settings.manifest is None
        assert recipe.settings.output_folder == "runs/nano-ast"

    def test_optimizer_is_not_short_for_another_option(self):
        recipe = load("--optimizer=other")
        assert recipe.settings.optimizer == "other"
        assert recipe.run_opts.optimizer_step_limit is None

    @pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2E+2", 200.0), ("5.e-1", 0.5), ("0.001", 1e-3)])
    def test_numbers_with_an_exponent_are_numbers(self, text, value):
        settings = load(f"--lr={text}").settings
        assert settings.lr == value
        assert settings.optimizers["adamw"].keywords["eps"] == 1e-2

    def test_checkpoints_by_steps_replace_those_by_minutes(self):
        assert load("--ckpt_interval_steps=2").settings.ckpt_interval_minutes == 0
        assert load().settings.ckpt_interval_minutes == 5

    @pytest.mark.parametrize("options", [["--debug"], ["--debug", "--output_folder=mine"]])
    def test_debug_writes_elsewhere(self, options):
        folders = [load(*options, inspect=False).settings.output_folder for _ in range(2)]
        assert len(set(folders)) == 2
        assert all("brainplug-debug-" in folder and os.path.isdir(folder) for folder in folders)

    def test_debug_that_is_to_stay_writes_where_it_is_told(self):
        assert (
            load("--debug", "--debug_persistently", "--output_folder=mine", inspect=False).settings.output_folder
            == "mine"
        )


class TestPublishedCode:
    def test_what_was_asked_for_stands_without_it(self):
        recipe = load("--max_grad_norm=1", "--positions=interpolate")
        assert recipe.settings.positions == "interpolate"
        assert recipe.run_opts.max_grad_norm == 1

    @pytest.mark.parametrize("options", [[], ["--max_grad_norm=1", "--positions=interpolate"]])
    def test_positions_and_clipping_are_those_of_the_paper(self, options):
        recipe = load("--paper_code=True", *options)
        assert recipe.settings.positions == "published"
        assert configuration(recipe)["options"]["max_grad_norm"] == recipe.run_opts.max_grad_norm == 0
        assert "max_grad_norm" in recipe.run_opts.overridden_args  # else SpeechBrain has its own

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ([], "nano-ast"),
            (["--paper_code=True"], "nano-ast-published"),
            (["--few_shot=8"], "nano-ast-8shot"),
            (["--few_shot=8", "--paper_code=True"], "nano-ast-8shot-published"),
            (["--optimizer=fam"], "nano-ast-fam"),
            (["--optimizer=adamw"], "nano-ast"),
            (["--optimizer=fam", "--few_shot=8"], "nano-ast-fam-8shot"),
            (["--few_shot=8", "--experiment=mine"], "mine"),
        ],
    )
    def test_runs_of_another_kind_have_folders_of_their_own(self, options, name):
        assert load(*options).settings.output_folder == f"results/{name}/1234"

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            (["--dataset=own"], "nano-ast-here"),
            (["--manifest=lists/clips.csv"], "nano-ast-clips"),
            (["--manifest=clips.csv", "--dataset=own", "--fold=2", "--few_shot=8"], "nano-ast-clips-fold2-8shot"),
            (["--manifest=my Größe's (1), clips.csv"], "nano-ast-my_Größe_s_1_clips"),
            (["--manifest=null"], "nano-ast"),
        ],
    )
    def test_a_list_is_ones_own_data_and_names_the_folder(self, options, name):
        settings = load(*options).settings
        assert settings.output_folder == f"results/{name}/1234"
        assert settings.dataset == ("spoken" if name == "nano-ast" else "own")

    @pytest.mark.parametrize(
        ("backbone", "name"),
        [
            ("runs/1 of 2/model/", "runs-1_of_2-model"),
            ("{here}/runs/1 of 2/model", "runs-1_of_2-model"),
            ("../my runs/model", "my_runs-model"),
            (".", "here"),
            ("random:../my runs/model", "random-my_runs-model"),
            ("{here}/runs/" + "deep/" * 40 + "model", "-deep" * 20 + "-model"),
            ("owner/model", "owner/model"),  # no folder, but a name of the hub
        ],
    )
    def test_the_folder_of_a_backbone_is_a_name(self, tmp_path, monkeypatch, recipe, backbone, name):
        here = tmp_path / "here"
        for folder in ("here/runs/1 of 2/model", "my runs/model", "here/runs/" + "deep/" * 40 + "model"):
            (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir(here)
        recipe.rename(here / "recipe.yaml")
        settings = load(f"--backbone={backbone.format(here=here)}", "--few_shot=8").settings
        folder = settings.output_folder.removeprefix("results/").removesuffix("-8shot/1234")
        assert folder.endswith(name) and ".." not in folder and not folder.startswith(("/", "-"))
        assert len(folder) <= 120
        assert settings.backbone == backbone.format(here=here)

    def test_a_folder_that_is_named_is_taken(self):
        assert load("--few_shot=8", "--output_folder=mine").settings.output_folder == "mine"


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--bach_size=4"], "--bach_size=4.*has no key bach_size.*no option --bach_size.*batch_size"),
            (["--seed=-1"], "seed is -1. It should be greater than or equal to 0"),
            (["--seed=4294967296"], "seed is 4294967296. It should be less than 4294967296"),
            (["--seed=null"], "seed is None. It should be a valid integer"),
            (["--batch_size=True"], "batch_size is True. It should be a valid integer"),
            (["--batch_size=[4]"], "batch_size is .4"),
            (["--number_of_epochs=0"], "number_of_epochs is 0. It should be greater than 0"),
            (["--number_of_epochs=1e3"], "number_of_epochs is 1000.0. It should be a valid integer"),
            (["--lr=0"], "lr is 0. It should be greater than 0"),
            (["--lr=nan"], "lr is 'nan'. It should be a valid number"),
            (["--lr=.nan"], "lr is nan. It should be a finite number"),
            (["--few_shot=0"], "few_shot is 0. It should be greater than 0"),
            (["--few_shot=2.5"], "few_shot is 2.5"),
            (["--paper_code=published"], "paper_code is 'published'. It should be a valid boolean"),
            (["--paper_code=null"], "paper_code is None"),
            (["--sorting=randm"], "sorting is 'randm'. It should be 'random', 'ascending' or 'descending'"),
            (["--sed=1", "--lr=x", "--few_shot=0"], "It has 3 faults:.*key sed.*seed.*lr is 'x'.*few_shot is 0"),
            (["--seed=1", "--seed=2"], 'duplicate key "seed"|Write each key once'),
            (["--folds=2"], "folds is 2. It should be greater than or equal to 3"),
            (["--manifest=clips.csv", "--dataset=spoken"], "'clips.csv'.*--dataset=spoken was given too"),
            (["--optimizers={"], "cannot be loaded"),
            (["--optimizers=none"], "optimizers is 'none'. It should be a valid dictionary"),
            (["--precision=fp16", "--device=cpu"], "fp16 was asked for, on the CPU.*--precision=bf16"),
            (["--device=gpu"], "device 'gpu'.*--device=cpu"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(UsageError, match=f"(?s){message}"):
            choose_optimizer(load(*options).settings)

    def test_a_key_without_a_value_is_named(self):
        with pytest.raises(UsageError, match=r"'recipe.yaml' .*data_folder has no value; write --data_folder="):
            load_file("recipe.yaml")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "word",
            "[1]",
            "{",
            "a: 1\na: 2",
            "a: !ref <b>",
            "a: !new:no.Such",
            "a: !include:no.yaml",
            "a: !apply:int [b]",
        ],
    )
    def test_files_that_are_no_recipe(self, text, recipe):
        recipe.write_text(text)
        with pytest.raises(UsageError, match="'recipe.yaml'"):
            load_file("recipe.yaml")

    def test_a_missing_file_and_a_folder(self, tmp_path):
        for name in ("nowhere.yaml", str(tmp_path)):
            with pytest.raises(UsageError, match="There is no such file"):
                load_file(name)

    @pytest.mark.parametrize("more", [[], ["--seed=x"]])
    def test_names_that_no_block_has_are_told_together(self, more, tmp_path):
        """Of a run; without files. An inspection tells them where other faults stop it."""
        wrong = {
            "dataset": "spokn", "method": "loar", "optimizer": "adam", "logger": "fil", "augment": "[gian]",
            "backbone": "nano-asst", "method_settings": "{lorra: {rank: 3}}", "augment_settings": "{gian: {}}",
            "optimizer_settings": "{fma: {}}", "prepare": "{maximum: 1}",
        }  # fmt: skip
        with pytest.raises(UsageError) as error:
            load(*(f"--{key}={value}" for key, value in wrong.items()), *more, inspect=bool(more))
        for name in ("spokn", "loar", "adam", "fil", "gian", "lorra", "fma", "nano-asst"):
            assert repr(name) in str(error.value)
        for words in (f"It has {10 + len(more)} faults", "are: lora", "are: spoken", "are: gain", "prepare[maximum]"):
            assert words in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--lr_schedule=cosin", "lr_schedule is 'cosin'"),
            ("--lr_schedule=null", "lr_schedule is None"),
            ("--epoch_counter=3", "epoch_counter is 3. It should be an instance of EpochCounter"),
            ("--checkpointer=x", "checkpointer is 'x'"),
            ("--train_logger=x", "train_logger is 'x'"),
            ("--method_settings={linear: 3}", "method_settings.linear. is 3"),
            ("--backbone_revision=abc", "nano-ast is a folder, which has no revisions"),
            ("--precision=fp33", "--precision: invalid choice: 'fp33'"),
            ("--ckpt_interval_minutes=x", "invalid int value: 'x'"),
            ("word", "'word' was asked for, after the recipe"),
        ],
    )
    def test_what_is_of_no_use_to_a_run(self, option, message, tmp_path):
        with pytest.raises(UsageError, match=message):
            load(option, inspect=False)
        assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]

    def test_what_the_components_refuse_is_told_together_and_leaves_no_folder(self, tmp_path):
        options = ["--optimizer_settings={adamw: {epsilon: 1}}", "--method_settings={conformer: {kernel: 1}}"]
        recipe = load(*options, "--augment_settings={gain: {sdt: 1}}", inspect=False)
        with pytest.raises(UsageError, match="(?s)^3 things.*'sdt'.*'kernel'.*'epsilon'"):
            task_of(recipe).run(recipe)
        assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]

    def test_an_entry_that_a_block_lacks(self):
        with pytest.raises(UsageError, match="'adamm' .*Write --optimizer= one of: adamw"):
            choose_optimizer(load("--optimizer=adamm").settings)


class TestOptimizer:
    def group(self, *options):
        """The one group of parameters of the optimiser that a command line asks for."""
        entry = choose_optimizer(load(*options).settings)
        [group] = entry.build(torch.nn.Linear(1, 1), lr=0.1).param_groups
        return group

    def test_settings_come_from_the_entry_the_recipe_and_the_command_line(self):
        group = self.group("--optimizer_settings={adamw: {betas: [0.5, 0.6]}}")
        assert (group["eps"], group["weight_decay"], tuple(group["betas"])) == (0.01, 0.1, (0.5, 0.6))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [("{eps: -1}", "Invalid epsilon"), ("{epsilon: 1}", "unexpected keyword argument 'epsilon'")],
    )
    def test_what_it_does_not_take_is_refused_before_the_work(self, settings, message):
        with pytest.raises(UsageError, match=f"optimizer 'adamw' .*{message}.*optimizers.yaml"):
            self.group(f"--optimizer_settings={{adamw: {settings}}}")


def trained(recipe):
    """Leaves a checkpoint, as a run does."""
    os.makedirs(f"{recipe.settings.save_folder}/CKPT+1")


class TestOutputFolder:
    def test_the_same_run_may_come_again(self, tmp_path):
        check_output_folder(load())
        trained(load())
        record = tmp_path / "results/nano-ast/1234/configuration.json"
        before = record.stat().st_mtime_ns, record.read_bytes()
        check_output_folder(load())
        assert (record.stat().st_mtime_ns, record.read_bytes()) == before

    @pytest.mark.parametrize(
        ("option", "named"),
        [
            ("--lr=0.5", "'lr: 0.5'"),
            ("--precision=bf16", "--precision=bf16"),
            ("--max_grad_norm=1", "--max_grad_norm=1.0"),
        ],
    )
    def test_another_run_is_refused(self, option, named, tmp_path):
        check_output_folder(load())
        trained(load())
        record = tmp_path / "results/nano-ast/1234/configuration.json"
        before = record.read_bytes()
        with pytest.raises(
            UsageError, match=f"was asked for with .*{named}.*It holds a run with .*another --output_fold"
        ):
            check_output_folder(load(option))
        assert record.read_bytes() == before

    def test_finished_results_are_kept_without_checkpoints_too(self, tmp_path):
        check_output_folder(load())
        (tmp_path / "results/nano-ast/1234/results.json").write_text("{}")
        with pytest.raises(UsageError, match="It holds a run with"):
            check_output_folder(load("--lr=0.5"))

    def test_a_run_that_left_nothing_gives_way(self):
        check_output_folder(load(data="mistyped"))
        check_output_folder(load())
        trained(load())
        with pytest.raises(UsageError, match="data_folder: mistyped"):
            check_output_folder(load(data="mistyped"))

    def test_checkpoints_that_nothing_describes_are_refused(self):
        trained(load())
        with pytest.raises(UsageError, match="It holds a run with nothing of this"):
            check_output_folder(load())

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="file/below was asked for.*cannot be written"):
            check_output_folder(load("--output_folder=file/below"))

    @pytest.mark.parametrize("option", ["--device=cpu", "--noprogressbar", "--ckpt_interval_steps=3", "--test_only"])
    def test_options_that_change_no_number_change_no_configuration(self, option):
        assert configuration(load(option)) == configuration(load())

    def test_comments_and_layout_change_no_configuration(self, recipe):
        before = configuration(load())
        recipe.write_text("# A comment\n\n" + RECIPE.replace("# or another", "# nothing else").replace("3\n", "  3\n"))
        assert configuration(load()) == before

    def test_the_number_of_processes_changes_it(self, monkeypatch):
        before = configuration(load())
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert configuration(load()) != before


class TestRunCommand:
    def test_success(self):
        arguments = []
        assert run_command(arguments.extend, ["a"]) == 0
        assert arguments == ["a"]

    def test_what_the_user_can_mend(self, capsys):
        def main(arguments):
            raise UsageError("This was asked.", "That was found.", "Write this")

        assert run_command(main, []) == 2
        assert capsys.readouterr() == ("", "error: This was asked. That was found. Write this\n")

    def test_what_the_user_can_mend_and_a_worker_found(self, capsys):
        class Clips(torch.utils.data.Dataset):
            def __len__(self):
                return 1

            def __getitem__(self, index):
                raise UsageError("This was asked.", "That was found.", "Write this")

        assert run_command(lambda _: list(torch.utils.data.DataLoader(Clips(), num_workers=1)), []) == 2
        assert capsys.readouterr().err == "error: This was asked. That was found. Write this\n"

    def test_what_is_a_defect_keeps_its_traceback(self):
        with pytest.raises(ZeroDivisionError):
            run_command(lambda arguments: 1 / 0, [])
        with pytest.raises(RuntimeError, match="invalid for input of size 1"):
            run_command(lambda arguments: torch.zeros(1).view(2), [])
