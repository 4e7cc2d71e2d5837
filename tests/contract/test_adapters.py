"""The adapter of every method on every backbone: loaded under another seed and in another process, and by peft."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from transformers import AutoModel

import brainplug
from brainplug.adapters.file import save_adapter
from brainplug.adapters.layout import DESCRIPTION_NAME, WEIGHTS_NAME
from brainplug.models.classifier import AudioClassifier
from tests.conftest import TINY_BACKBONES
from tests.contract.test_methods import METHODS, N_CLASSES, batch, build, train
from tests.made_adapters import describe_classifier

IN_PEFT = ("lora", "dora", "adalora", "ia3", "ln_tuning", "vera", "oft")
NOT_IN_PEFT = {
    "echo": "it is not in transformers",
    "wavlm": "its attention in transformers reads the weights of its projections, past what peft adds",
}
NAMES_CLASH = ("whisper", "ln_tuning")  # layer_norm is the final norm's path, and the end of the paths of other norms
REPOSITORY = Path(__file__).parents[2]
LABELS = [f"class {number}" for number in range(N_CLASSES)]


def loads_in_peft(backbone: str, method: str) -> bool:
    return method in IN_PEFT and backbone not in NOT_IN_PEFT and (backbone, method) != NAMES_CLASH


def write(backbone: str, method: str, folder: Path) -> AudioClassifier:
    """Trains an adapter a little, so that nothing is at its start, and writes it."""
    model = build(backbone, method)
    train(model)
    save_adapter(model, folder, describe_classifier(model, LABELS, method))
    return model


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("backbone", TINY_BACKBONES)
@torch.no_grad()
def test_it_restores_the_model_under_another_seed(backbone, method, tiny_backbones, tmp_path):
    with torch.enable_grad():
        model = write(tiny_backbones[backbone], method, tmp_path)
    torch.manual_seed(7)
    loaded = brainplug.Classifier.from_run(tmp_path)
    assert any("running_mean" in name for name in model.delta()) == (method == "conformer")
    signal, lengths = batch(model)
    assert torch.equal(loaded.model(signal, lengths), model(signal, lengths))
    values = json.loads((tmp_path / DESCRIPTION_NAME).read_text())
    assert ("peft_type" in values) == loads_in_peft(backbone, method)
    # The file is as large as its tensors and its header.
    path = tmp_path / WEIGHTS_NAME
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - header == sum(tensor.nbytes for tensor in safetensors.torch.load_file(path).values())


@pytest.mark.parametrize("method", IN_PEFT)
@pytest.mark.parametrize("backbone", [name for name in TINY_BACKBONES if name not in NOT_IN_PEFT])
@torch.no_grad()
def test_peft_loads_it_on_the_plain_backbone(backbone, method, tiny_backbones, tmp_path):
    if not loads_in_peft(backbone, method):
        pytest.skip("the names of its norms clash")
    with torch.enable_grad():
        model = write(tiny_backbones[backbone], method, tmp_path)
    plain = AutoModel.from_pretrained(tiny_backbones[backbone])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        of_peft = PeftModel.from_pretrained(plain.encoder if backbone == "whisper" else plain, tmp_path).eval()
    missing = [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]
    assert missing == []
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[of_peft.peft_config["default"].peft_type]
    assert any(prefix in name for name, _ in of_peft.named_parameters())
    signal, _ = batch(model)
    ours = model.backbone.model(signal.transpose(1, 2) if backbone == "whisper" else signal).last_hidden_state
    theirs = of_peft(signal.transpose(1, 2) if backbone == "whisper" else signal).last_hidden_state
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


LOAD_ALL = """
import json, sys
import torch
import brainplug
from tests.contract.test_methods import batch

torch.manual_seed(7)
logits = {}
for method in json.loads(sys.argv[1]):
    model = brainplug.Classifier.from_run(method).model
    with torch.no_grad():
        logits[method] = model(*batch(model)).tolist()
print(json.dumps(logits))
"""


def test_another_process_loads_every_method(tiny_backbones, tmp_path):
    models = {method: write(tiny_backbones["hubert"], method, tmp_path / method) for method in METHODS}
    command = [sys.executable, "-c", LOAD_ALL, json.dumps(list(METHODS))]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    logits = json.loads(subprocess.check_output(command, cwd=tmp_path, env=environment))
    for method, model in models.items():
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(logits[method]), model(*batch(model)), atol=1e-6, rtol=0)
