"""What others wrote runs nothing unasked: recipes name whose objects they load, weights are weights alone."""

import contextlib
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from speechbrain.utils.checkpoints import Checkpointer

from brainplug import cli
from brainplug.backbones import load_backbone
from brainplug.compat.petl_ast.checkpoint import read_checkpoint
from brainplug.config.recipe import Recipe
from brainplug.config.trust import check_trusted, is_foreign
from brainplug.errors import ConfigError, UsageError
from brainplug.files import packaged_folder
from brainplug.tasks import load_recipe, read_arguments
from brainplug.training.checkpoints import SafeCheckpointer

RECIPES = sorted(path for name in ("hparams", "recipes") for path in packaged_folder(name).rglob("*.yaml"))


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def left(tmp_path):
    """The file that code out of a stranger's file leaves."""
    return tmp_path / "left"


# Recipes


@pytest.mark.parametrize(
    "name",
    [
        "torch.optim.AdamW", "torch.nn.GELU", "torch.nn.functional.relu", "torch.zeros", "torch.utils.data.DataLoader",
        "peft.LoraConfig", "speechbrain.utils.seed_everything", "speechbrain.utils.epoch_loop.EpochCounter",
        "brainplug.methods.lora.LoRA", "brainplug.optim.schedules.cosine", "brainplug.data.features.cache_folder",
        "brainplug.no.such.thing",
    ],
)  # fmt: skip
def test_objects_of_the_field_are_ours(name):
    assert not is_foreign(name)


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "subprocess.run", "builtins.eval", "builtins.exec", "mine.list_clips", "transformers.pipeline",
        "brainplugs.methods.lora.LoRA", "brainplug.files.os.system", "brainplug.config.trust.import_module",
        "torch.os.system", "torch.utils.cpp_extension.load_inline", "torch.utils.cpp_extension.subprocess.run",
        "torch.load", "torch.serialization.load", "torch.hub.load", "torch.jit.load", "torch.ops.load_library",
        "speechbrain.utils.importutils.import_module", "speechbrain.inference.interfaces.foreign_class",
        "brainplug.config.recipe.Recipe.load", "brainplug.config.recipe.load_hyperpyyaml",
    ],
)  # fmt: skip
def test_objects_that_run_what_others_bring_are_foreign(name):
    assert is_foreign(name)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: "-".join(path.parts[-3:]))
def test_our_recipes_need_no_trust(recipe):
    check_trusted(str(recipe))


def stranger(folder: Path, more: str, included: str = "") -> Path:
    """The template of all recipes in another folder, with more lines."""
    text = (packaged_folder("hparams") / "train.yaml").read_text()
    path = folder / "stranger.yaml"
    path.write_text(text.replace("!include:", f"!include:{packaged_folder('hparams').resolve()}/") + more)
    (folder / "included.yaml").write_text(included)
    return path


def test_a_copy_of_our_recipe_needs_no_trust(tmp_path):
    assert load_recipe(str(stranger(tmp_path, "")), inspect=True).settings.method == "conformer"


TAGS = {
    "applied": ("x: !apply:pathlib.Path.touch [!new:pathlib.Path [{left}]]\n", ""),
    "deep": ("x: {{y: [1, !apply:os.system ['touch {left}']]}}\n", ""),
    "through ours": ("x: !apply:brainplug.files.os.system ['touch {left}']\n", ""),
    "included": ("x: !include:included.yaml\n", "y: !apply:os.system ['touch {left}']\n"),
    "verbatim": ("x: !<!apply:os.system> ['touch {left}']\n", ""),
    "Python's": ("x: !!python/object/apply:os.system ['touch {left}']\n", ""),
    "Python's, included": ("x: !include:included.yaml\n", "y: !!python/object/apply:os.system ['touch {left}']\n"),
}


@pytest.mark.parametrize("kind", TAGS)
def test_a_stranger_s_recipe_runs_nothing(kind, left, tmp_path):
    recipe = str(stranger(tmp_path, *(text.format(left=left) for text in TAGS[kind])))
    words = "cannot be loaded|has no key x" if kind.startswith("Python's") else "--trust"
    for load in (load_recipe, Recipe.load):
        with pytest.raises(UsageError, match=words):
            load(recipe)
        assert not left.exists()
    with contextlib.suppress(UsageError):
        read_arguments([recipe, "--seed=1"])
    assert not left.exists()


def test_a_module_beside_a_recipe_is_not_imported(left, tmp_path, monkeypatch):
    """Already a look at the parameters of its data set would run it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_stranger_s.py").write_text(f"open({str(left)!r}, 'w')\ndef list_clips(**_): return []\n")
    recipe = stranger(tmp_path, "")
    recipe.write_text(recipe.read_text().replace("brainplug.synthetic.spoken.list_clips", "a_stranger_s.list_clips"))
    with pytest.raises(ConfigError, match=r"would run a_stranger_s\.list_clips.*--trust"):
        read_arguments([str(recipe)])
    assert not left.exists()
    for trust in ("--trust", "--trust=True"):
        file, run_opts, overrides = read_arguments([str(recipe), trust])
        recipe_loaded = load_recipe(file, overrides, run_opts, inspect=True)
        assert "trust" not in recipe_loaded.overrides
    assert left.exists()


@pytest.mark.parametrize("more", [[], ["--trust=False"]])
def test_a_recipe_cannot_trust_itself(more, left, tmp_path):
    recipe = stranger(tmp_path, f"trust: True\nx: !apply:os.system ['touch {left}']\n")
    with pytest.raises(ConfigError, match="--trust"):
        read_arguments([str(recipe), *more])


def test_blocks_of_a_folder_run_nothing(left, tmp_path):
    (tmp_path / "methods.yaml").write_text(f"x: !apply:os.system ['touch {left}']\n")
    for command in ("methods", "optimizers"):
        with pytest.raises(ConfigError, match="would run os.system"):
            cli.main([command, f"--hparams={tmp_path}"])
    assert not left.exists()


# Weights


def test_a_checkpoint_of_the_published_code_is_weights_alone(left, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": Payload(left)}, path)
    with pytest.raises(UsageError, match="model.pt"):
        read_checkpoint(str(path))
    assert not left.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_weights_of_a_backbone_are_weights_alone(protocol, left, tmp_path, tiny_backbones):
    folder = tmp_path / "backbone"
    folder.mkdir()
    for file in Path(tiny_backbones["ast"]).iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"embeddings.cls_token": Payload(left)}, file, protocol)
    with pytest.raises(UsageError):
        load_backbone(str(folder))
    assert not left.exists()


def test_an_adapter_is_safetensors_alone(left, tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(pickle.dumps(Payload(left)))
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load_file(path)
    assert not left.exists()


@pytest.mark.parametrize("kind", [Checkpointer, SafeCheckpointer])
def test_the_checkpoint_of_a_run_is_weights_alone(kind, left, tmp_path):
    """Somebody else's folder of results may be continued."""
    layer = torch.nn.Linear(1, 1)
    kind(tmp_path / "save", {"layer": layer}).save_checkpoint(name="one")
    [saved] = (tmp_path / "save").rglob("layer.ckpt")
    torch.save({"weight": Payload(left)}, saved)
    (saved.parent / "checksums.json").unlink(missing_ok=True)
    again = kind(tmp_path / "save", {"layer": layer})
    if kind is SafeCheckpointer:
        assert again.recover_if_possible() is None  # torn
    else:
        with pytest.raises(pickle.UnpicklingError):
            again.recover_if_possible()
    assert not left.exists()
