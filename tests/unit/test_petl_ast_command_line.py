"""Published command lines: how they are read, and what computes the same here."""

import shlex
from pathlib import Path

import pytest
from hyperpyyaml import load_hyperpyyaml

from brainplug.compat.petl_ast.command_line import (
    ENTRIES,
    PROTOCOLS,
    RUN_FLAGS,
    chosen_method,
    entry_of,
    new_command,
    read_command,
)
from brainplug.compat.petl_ast.flags import FLAGS, translate
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.config.arguments import parse_arguments
from brainplug.config.recipe import Recipe
from brainplug.errors import UsageError
from brainplug.methods import Method, choose_method, method_settings
from brainplug.methods.prompt import PromptTuning
from brainplug.tasks import load_recipe

REPOSITORY = Path(__file__).parents[2]
METHODS = load_hyperpyyaml((REPOSITORY / "hparams" / "methods.yaml").read_text())
COMMANDS = {
    "adapter": "--method adapter",
    "adapter, Houlsby": "--method adapter --adapter_block bottleneck --adapter_type Houlsby",
    "adapter, reduced": "--method adapter --reduction_rate_adapter 96 --kernel_size 8",
    "adapter, sequential": "--method adapter --adapter_block convpass --seq_or_par sequential --apply_residual True",
    "ablation": "--method adapter --is_adapter_ablation True --location MHSA --befafter before",
    "LoRA": "--method LoRA --reduction_rate_lora 128 --alpha_lora 16",
    "LoRA, ablation": "--method LoRA --is_lora_ablation True --lora_config Wq,Wk,Wv,Wo",
    "prompts": "--method prompt-tuning --prompt_len_prompt 7 --drop_prompt 0.1",
    "prompts, shallow": "--method prompt-tuning --is_deep_prompt ''",
    "prefix": "--method prefix-tuning --prompt_len_pt 8",
    "BitFit": "--method BitFit",
    "linear": "--method linear",
    "full": "--method full-FT",
    "Dense-MoA": "--method Dense-MoA --num_adapters 3 --adapter_module_moa convpass --location_moa FFN",
    "Soft-MoA": "--method Soft-MoA --num_slots 2 --adapter_type_moa Houlsby --normalize True",
}


@pytest.fixture(autouse=True)
def in_folder_with_recipes(monkeypatch, tmp_path):
    """As in the repository, but results would go elsewhere."""
    for name in ("recipes", "hparams", "train.py"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAINPLUG_CACHE", str(tmp_path))


def run_of(lines: str) -> tuple[Recipe, Method, float]:
    """The run that a translated command line starts."""
    words = shlex.split(lines.splitlines()[-1])
    assert words[:2] == ["python", "train.py"]
    file, run_opts, overrides = parse_arguments([*words[2:], "--device=cpu"])
    recipe = load_recipe(file, overrides, run_opts, inspect=True)
    settings = recipe.settings
    changes = settings.backbones.get(settings.backbone), settings.method_settings
    return (
        recipe,
        *choose_method(
            settings.method, settings.methods, *changes, variants=PUBLISHED if settings.paper_code else None
        ),
    )


class TestReading:
    def test_values_have_the_types_of_the_defaults(self):
        command = read_command("--seed 3 --drop_prompt 0.5 --method=LoRA --lora_config 'Wq,Wv' --is_AST True")
        assert command.given == {
            "seed": 3,
            "drop_prompt": 0.5,
            "method": "LoRA",
            "lora_config": "Wq,Wv",
            "is_AST": True,
        }
        assert command.model_flags == {"drop_prompt": 0.5, "lora_config": "Wq,Wv"}
        assert command.warnings == ()

    @pytest.mark.parametrize("flag", ["apply_residual", "normalize", "is_deep_prompt", "is_AST", "is_few_shot_exp"])
    def test_false_is_true(self, flag):
        command = read_command(f"--{flag} False")
        assert command.value(flag) is True
        assert [f"--{flag} False: the published code reads this as True" in line for line in command.warnings] == [True]
        assert read_command(f"--{flag} ''").value(flag) is False  # the only text that turns one off
        assert read_command("").value(flag) is (RUN_FLAGS | FLAGS)[flag]

    def test_the_program_may_stand_before_them(self):
        assert read_command("python3 main.py --seed 4").given == {"seed": 4}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("--methd LoRA", "'--methd' was asked for.*no such flag.*Write one of: method"),
            ("--seed one", "cannot be read: argument --seed: invalid int value: 'one'"),
            ("--seed", "cannot be read: argument --seed: expected one argument"),
            ("--data_path 'a", "cannot be read: No closing quotation"),
        ],
    )
    def test_what_is_refused(self, text, message):
        with pytest.raises(UsageError, match=message):
            read_command(text)


class TestTranslation:
    @pytest.mark.parametrize("case", [name for name in COMMANDS if name != "ablation"])
    def test_the_run_has_the_method(self, case):
        text = f"{COMMANDS[case]} --is_AST True --dataset_name ESC-50 --data_path here"
        self.assert_same_method(text)

    @pytest.mark.parametrize(
        "text", [COMMANDS["ablation"] + " --seq_or_par sequential", "--method adapter --apply_residual False"]
    )
    def test_the_run_has_a_method_that_does_not_start_as_the_backbone(self, text):
        self.assert_same_method(f"{text} --is_AST True --dataset_name ESC-50 --data_path here")

    @pytest.mark.parametrize("text", ["--method adapter", "--method linear", "--method full-FT"])
    def test_on_waveforms(self, text):
        experiment, _, _ = self.assert_same_method(f"{text} --dataset_name ESC-50 --data_path here")
        assert (experiment.settings.backbone, experiment.settings.augment) == ("wav2vec2", [])

    def assert_same_method(self, text: str) -> tuple[Recipe, Method, float]:
        command = read_command(text)
        run = run_of(new_command(command))
        wanted = translate(command.value("method"), command.model_flags, is_AST=command.value("is_AST"))
        assert (type(run[1]), method_settings(run[1])) == (type(wanted), method_settings(wanted))
        assert type(wanted) in PUBLISHED.values()
        return run

    def test_the_run_has_the_papers_protocol(self):
        experiment, _, lr = run_of(
            new_command(read_command("--method adapter --is_AST True --dataset_name ESC-50 --data_path '/my data/x'"))
        )
        settings = experiment.settings
        wanted = {
            "dataset": "esc50", "backbone": "ast", "paper_code": True, "positions": "published", "seed": 10,
            "lr": 0.005, "number_of_epochs": 50, "batch_size": 32, "frames": 500, "few_shot": None, "pooling": "ALL",
            "data_folder": "/my data/x", "output_folder": "results/ESC50/ast-conformer-fold1-published/10",
        }  # fmt: skip
        assert {name: getattr(settings, name) for name in wanted} == wanted
        [augment] = settings.augment
        assert (type(augment).__name__, augment.frequency_width, augment.time_width) == ("SpecAugment", 24, 80)

    @pytest.mark.parametrize(
        ("text", "few_shot"),
        [("--is_few_shot_exp True --few_shot_samples 8", 8), ("--is_few_shot_exp True", 64), ("", None)],
    )
    def test_few_shot(self, text, few_shot):
        lines = new_command(read_command(f"--method BitFit --is_AST True --dataset_name ESC-50 --data_path x {text}"))
        assert run_of(lines)[0].settings.few_shot == few_shot

    def test_other_words(self):
        text = "--method linear --dataset_name ESC-50 --model_ckpt_wav some/where --seed 5 --num_workers 2 --device cpu"
        assert {"--backbone=some/where", "--seed=5", "--num_workers=2", "--device=cpu"} <= set(
            new_command(read_command(text)).split()
        )

    def test_remarks(self):
        lines = new_command(read_command("--method linear --dataset_name ESC-50 --use_wandb True")).splitlines()
        assert [line[0] for line in lines] == ["#", "#", "p"]
        assert "5 folds" in lines[0]
        assert "--use_wandb" in lines[1]

    def test_a_recipe_that_is_not_there_is_named(self, monkeypatch, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        for name, protocol in PROTOCOLS.items():
            lines = new_command(read_command(f"--method linear --dataset_name {name}"))
            assert lines.startswith(f"# There is no recipes/{protocol.folder}/hparams/train.yaml here")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("--method linear", "data set '' .*ESC-50"),
            ("--method linear --dataset_name ESC50", "data set 'ESC50'.*--dataset_name, and one of: ESC-50"),
            ("--method LoRA --dataset_name GSC", "'LoRA' was asked for without --is_AST.*Write --is_AST True too"),
            ("--method lora --dataset_name GSC --is_AST 1", "method 'lora'.*LoRA"),
            ("--method adapter --adapter_block conv --dataset_name GSC", "adapter_block: 'conv'"),
        ],
    )
    def test_what_is_refused(self, text, message):
        with pytest.raises(UsageError, match=message):
            new_command(read_command(text))


def test_every_entry_is_of_its_class():
    for kind, name in ENTRIES.items():
        assert type(METHODS[name]["settings"]()) is kind
    for deep in (False, True):
        assert METHODS[entry_of(PromptTuning(deep=deep))]["settings"]().deep == deep


def test_every_method_has_an_entry():
    for text in COMMANDS.values():
        assert entry_of(chosen_method(read_command(f"{text} --is_AST True"))) in METHODS
