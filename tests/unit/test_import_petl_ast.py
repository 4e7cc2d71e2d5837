"""Published checkpoints as adapters of ours."""

import argparse
import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hyperpyyaml import load_hyperpyyaml
from transformers import ASTConfig, Wav2Vec2Config

from brainplug.adapters.file import read_adapter
from brainplug.backbones import Backbone, random_backbone
from brainplug.cli.import_petl_ast import add_arguments, import_petl_ast, read_labels
from brainplug.compat.petl_ast.checkpoint import read_checkpoint
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.compat.petl_ast.weights import _published_name, load_reference, without_prefix
from brainplug.errors import UsageError
from brainplug.methods import restore_method
from brainplug.models.classifier import AudioClassifier
from tests.made_adapters import described_by
from tests.unit.test_petl_ast import CASES, tensor_of, tensors_of

METHODS = load_hyperpyyaml((Path(__file__).parents[2] / "hparams" / "methods.yaml").read_text())
LINEAR = "linear"  # the case that is used where any would do


def run(folder: Path, *options: str) -> str:
    """Imports what `write` has written."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    chosen = parser.parse_args(
        [f"{folder}/model.pt", f"--out={folder}/adapter", f"--config={folder}/config.json", *options]
    )
    return import_petl_ast(chosen)


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict) -> None:
    torch.save(tensors, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(config))


def words(case: str) -> list[str]:
    """The options that say what a case is; the published parser takes an empty text alone as False."""
    facts = CASES[case]
    values = {name: repr("") if value is False else value for name, value in facts["flags"].items()}
    flags = " ".join(f"--{name} {value}" for name, value in values.items())
    return [f"--method={facts['method']}", f"--flags={flags}", f"--pooling={facts['final_output']}"]


def fresh(adapter: Path, backbone: Backbone) -> AudioClassifier:
    """A model of ours with an adapter, made from its description."""
    read = read_adapter(adapter)
    description = read.description
    method = restore_method(description.method_settings, PUBLISHED)
    model = AudioClassifier(backbone, method, len(description.labels), description.pooling)
    model.load_delta(read.weights)
    return model.eval()


def backbone_of(published: dict[str, torch.Tensor], config: ASTConfig | Wav2Vec2Config, **settings: object) -> Backbone:
    """A backbone with the weights of a published model; positions of another size stay as they are."""
    backbone = random_backbone(config, **settings)
    for name, tensor in backbone.model.state_dict(keep_vars=True).items():
        values = published[_published_name(name)]
        if values.numel() == tensor.numel():
            tensor.data.copy_(values.view(tensor.shape))
    return backbone


@pytest.mark.parametrize("case", CASES)
def test_every_case_computes_the_same_as_an_adapter(case, tmp_path):
    facts, published = CASES[case], tensors_of(case, "param")
    write(tmp_path, published, facts["config"])
    assert "7 classes" in run(tmp_path, *words(case))
    config = (ASTConfig if facts["is_AST"] else Wav2Vec2Config)(**facts["config"])
    model = fresh(tmp_path / "adapter", backbone_of(without_prefix(published), config))
    signal = tensor_of(case, "input")
    with torch.no_grad():
        logits = model(signal, torch.ones(len(signal)))
    assert (logits - tensor_of(case, "logits_eval")).abs().max() < 1e-5
    description = described_by(tmp_path)
    assert (description["paper_code"], description["positions"]) == (True, "published")
    assert description["backbone"] == ("ast" if facts["is_AST"] else "wav2vec2")
    assert description["labels"] == list(map(str, range(7)))


def test_safetensors_labels_and_names(tmp_path):
    facts = CASES[LINEAR]
    write(tmp_path, {}, facts["config"])
    safetensors.torch.save_file(tensors_of(LINEAR, "param"), tmp_path / "model.safetensors")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = [f"--out={tmp_path}/adapter", f"--config={tmp_path}/config.json", f"--labels={tmp_path}/labels.txt"]
    import_petl_ast(
        parser.parse_args([f"{tmp_path}/model.safetensors", *options, "--method=linear", "--backbone=mine"])
    )
    description = described_by(tmp_path)
    assert (description["backbone"], description["labels"]) == ("mine", list("abcdefg"))
    wanted = {"signal": "log_mel", "frames": 64, "mel_bands": 128}
    assert {name: description["signal"][name] for name in wanted} == wanted


class TestFrames:
    """A model of clips of 100 frames whose backbone is for 200."""

    config = {**CASES[LINEAR]["config"], "max_length": 200}

    @pytest.fixture
    def published(self) -> dict[str, torch.Tensor]:
        short = self.config | {"max_length": 100}
        torch.manual_seed(0)
        model = load_reference(
            LINEAR, {}, is_AST=True, final_output="ALL", num_classes=7, config=short, state_dict=None
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        published = {name: source.tensor.detach() for source in model.sources for name in source.names}
        published["embeddings.position_embeddings"].zero_()
        return published

    def test_they_follow_from_the_positions(self, published, tmp_path):
        write(tmp_path, published, self.config)
        run(tmp_path, "--method=linear")
        description = described_by(tmp_path)
        assert description["signal"]["frames"] == 96  # 9 patches; the last 4 frames are in none
        # As a run would build it: from the backbone for 200 frames.
        frames, positions = description["signal"]["frames"], description["positions"]
        backbone = backbone_of(published, ASTConfig(**self.config), frames=frames, positions=positions)
        model = fresh(tmp_path / "adapter", backbone)
        reference = load_reference(
            LINEAR, {}, is_AST=True, final_output="ALL", num_classes=7, config=self.config | {"max_length": 100},
            state_dict=published,
        ).eval()  # fmt: skip
        signal = torch.randn(2, 100, 128)
        with torch.no_grad():
            logits = model(signal[:, :96], torch.ones(2))
            assert torch.allclose(logits, reference(signal), atol=1e-6)

    def test_frozen_positions_that_an_adapter_cannot_hold_are_refused(self, published, tmp_path):
        published["embeddings.position_embeddings"][0, 5, 0] = 1.0
        write(tmp_path, published, self.config)
        with pytest.raises(UsageError, match="neither the backbone's own nor zero.*--config=FILE"):
            run(tmp_path, "--method=linear")
        assert not (tmp_path / "adapter").exists()

    def test_positions_that_are_no_bands_are_refused(self, published, tmp_path):
        published["embeddings.position_embeddings"] = torch.zeros(1, 2 + 13, 48)
        write(tmp_path, published, self.config)
        with pytest.raises(UsageError, match="13 positions are not 12 bands"):
            run(tmp_path, "--method=linear")


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


class TestReading:
    def test_nothing_is_executed(self, tmp_path):
        torch.save({"weight": Evil(tmp_path / "executed")}, tmp_path / "torch.pt")
        (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil(tmp_path / "executed"), protocol=2))
        for name in ("torch.pt", "pickle.pt"):
            with pytest.raises(UsageError, match="cannot be read as tensors alone"):
                read_checkpoint(str(tmp_path / name))
        assert not (tmp_path / "executed").exists()
        pickle.loads((tmp_path / "pickle.pt").read_bytes())
        assert (tmp_path / "executed").exists()  # so that this test can fail

    @pytest.mark.parametrize("content", [b"", b"no checkpoint"])
    @pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
    def test_files_that_are_none(self, name, content, tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read as tensors alone"):
            read_checkpoint(str(tmp_path / name))

    def test_a_file_that_is_not_there(self):
        with pytest.raises(UsageError, match=r"'nowhere\.pt' .*No such file"):
            read_checkpoint("nowhere.pt")

    def test_a_file_with_more_than_tensors(self, tmp_path):
        torch.save({"epoch": 3, "model": {"weight": torch.zeros(1)}}, tmp_path / "model.pt")
        with pytest.raises(UsageError, match="no state dict, but a dict with 'epoch', 'model'"):
            read_checkpoint(str(tmp_path / "model.pt"))


class TestWhatIsRefused:
    def test_another_model(self, tmp_path):
        write(tmp_path, {"fc.weight": torch.zeros(1)}, CASES[LINEAR]["config"])
        with pytest.raises(UsageError, match="neither AST nor wav2vec 2.0 with a head, such as fc.weight"):
            run(tmp_path, "--method=linear")

    def test_flags_of_another_model(self, tmp_path):
        write(tmp_path, tensors_of(LINEAR, "param"), CASES[LINEAR]["config"])
        with pytest.raises(UsageError, match="Missing: .*lora_down_q"):
            run(tmp_path, "--method=LoRA", "--flags=--reduction_rate_lora 8")

    @pytest.mark.parametrize("text", ["a\nb", "a\na\nb"])
    def test_labels_that_are_not_as_many_as_the_classes(self, text, tmp_path):
        (tmp_path / "labels.txt").write_text(text)
        with pytest.raises(UsageError, match=r"2 of them different; the head has 3 classes"):
            read_labels(str(tmp_path / "labels.txt"), 3)

    def test_labels_that_are_no_text(self, tmp_path):
        (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(UsageError, match="They cannot be read.*UTF-8"):
            read_labels(str(tmp_path / "labels.txt"), 1)

    def test_no_place_for_it(self):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        with pytest.raises(UsageError, match="Write --out=FOLDER"):
            import_petl_ast(parser.parse_args(["model.pt", "--method=linear"]))


def test_without_a_file_the_labels_are_numbers():
    assert read_labels(None, 2) == ["0", "1"]


def test_a_command_line_without_a_checkpoint_is_translated(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = "--method adapter --apply_residual False --dataset_name ESC-50"
    text = import_petl_ast(parser.parse_args(["--flags", flags, "--pooling=CLS"]))
    assert text.splitlines()[-1].startswith("python train.py recipes/ESC50/hparams/train.yaml --paper_code=True")
    assert "--pooling=CLS" in text
    assert capsys.readouterr().err.startswith("warning: --apply_residual False: the published code reads this as True")
