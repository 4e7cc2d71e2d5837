"""The recipe that made nano-ast, on a corpus of a dozen clips."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import ASTModel

pytest.importorskip("espeakng_loader", reason="the extra 'demo' is not installed")

from brainplug.backbones import load_backbone  # noqa: E402

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "pretrain_ast"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    recordings = folder / "root" / "usr" / "share" / "games" / "pingus"
    recordings.mkdir(parents=True)
    for k in range(8):  # as many as make a label
        soundfile.write(recordings / f"splash{k}.wav", 0.1 * np.random.default_rng(k).standard_normal(8000), 8000)
    command = [
        *(sys.executable, RECIPE / "train.py", RECIPE / "hparams" / "nano.yaml", f"--output_folder={folder / 'run'}"),
        *(f"--recordings_folder={folder / 'root'}", "--spoken_clips=10", "--event_clips=10", "--valid_clips=6"),
        *("--number_of_epochs=1", "--steps_per_epoch=2", "--batch_size=4", "--precision=fp32", "--noprogressbar"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run" / "nano-ast"


def test_the_result_loads_as_a_backbone_and_with_transformers(pretrained):
    model = ASTModel.from_pretrained(pretrained)
    assert model.dtype == torch.float32
    backbone = load_backbone(str(pretrained), frames=300)
    signal = backbone.extract(torch.randn(32000))[None]
    assert torch.equal(backbone.eval()(signal, torch.ones(1))[0], model.eval()(signal).last_hidden_state)
    assert (pretrained / "model.safetensors").stat().st_size < 8e6
    assert backbone.model.config._attn_implementation == "eager"  # the backbone says what is fast for it


def test_the_card_lists_the_training_data(pretrained):
    card = (pretrained / "README.md").read_text()
    assert "| spoken words | 10 |" in card
    assert "| pingus-data | GPL-2+ |" in card
    assert "klettres-data" not in card  # it was not installed
    assert (pretrained / "curve.png").stat().st_size > 5000
