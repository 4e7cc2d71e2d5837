"""brainplug push, and every place that takes an adapter from the hub: with a hub on the loopback address."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from brainplug.adapters.file import save_adapter
from brainplug.backbones import load_backbone
from brainplug.methods.lora import LoRA
from brainplug.models.classifier import AudioClassifier
from tests.fake_hub import TOKEN, Hub, running_hub
from tests.made_adapters import describe_classifier
from tests.made_corpora import write_noise

REPOSITORY = Path(__file__).parents[2]
REPO = "somebody/birds"
# Runs command lines in one process: [[name, ...], ...] -> their exit codes and what they printed.
DRIVER = """
import contextlib, io, json, sys
from brainplug.errors import run_command
from brainplug.cli import main

results = []
for line in json.loads(sys.argv[1]):
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = run_command(main, line)
    results.append([code, output.getvalue(), errors.getvalue()])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters, ``one`` and ``two``, of the bundled backbone, and a clip."""
    folder = tmp_path_factory.mktemp("push")
    write_noise(folder / "clip.wav")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = AudioClassifier(load_backbone("nano-hubert"), LoRA(rank=2), 2)
        torch.nn.init.normal_(model.head.weight, std=0.02)
        save_adapter(model, folder / name / "adapter", describe_classifier(model.eval(), ["wren", "owl"], "lora"))
    return folder


def run(folder: Path, hub: Hub, *lines: list[str], **environment: str) -> list[tuple[int, str, str]]:
    """Runs commands in another process, whose hub is the given one."""
    values = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder / "cache"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    values |= {"PYTHONPATH": str(REPOSITORY), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    command = [sys.executable, "-c", DRIVER, json.dumps(lines)]
    printed = subprocess.check_output(command, cwd=folder, env=os.environ | values, text=True)
    return [tuple(result) for result in json.loads(printed.splitlines()[-1])]


def predict(source: str) -> list[str]:
    return ["predict", source, "clip.wav", "--format=json"]


def test_an_adapter_is_pushed_and_used_by_its_name(folder):
    with running_hub() as hub:
        pushed, again, local, named = run(
            folder,
            hub,
            ["push", "one", f"--repo={REPO}"],
            ["push", "two/adapter", f"--repo={REPO}", "--branch=next"],
            predict("one"),
            predict(REPO),
        )
        assert [code for code, *_ in (pushed, again, local, named)] == [0, 0, 0, 0]
        first = hub.branches[REPO]["main"]
        assert hub.commits[REPO][first].keys() - {".gitattributes"} == {path.name for path in folder.glob("one/*/*")}
        assert f"{REPO}@{first[:12]}" in pushed[1]
        assert named[1] == local[1]

        shutil.rmtree(folder / "cache")
        other, of_branch, of_commit, refused = run(
            folder,
            hub,
            predict("two"),
            predict(f"{REPO}@next"),
            [*predict(REPO), f"--revision={first}"],
            predict(f"{REPO}@nowhere"),
        )
        assert of_branch[1] == other[1] != local[1]
        assert of_commit[1] == local[1]
        assert refused[0] == 2
        assert "nowhere" in refused[2]

        asked = len(hub.requests)
        cached = predict(f"{REPO}@next"), predict(f"{REPO}@{first}"), predict("somebody/else")
        of_cache, of_cached_commit, not_cached = run(folder, hub, *cached, HF_HUB_OFFLINE="1")
        assert len(hub.requests) == asked
        assert (of_cache[1], of_cached_commit[1], not_cached[0]) == (other[1], local[1], 2)
        assert "outgoing traffic has been disabled" in not_cached[2]


def test_what_cannot_be_pushed_or_found_is_told(folder):
    altered, shutdown = folder / "altered", folder / "unfinished"
    shutil.copytree(folder / "one", altered, dirs_exist_ok=True)
    weights = altered / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    (shutdown / "save").mkdir(parents=True, exist_ok=True)
    with running_hub() as hub:
        cases = {
            "It is not the one that adapter_config.json describes": ["push", "altered", f"--repo={REPO}"],
            "Its run has not finished": ["push", "unfinished", f"--repo={REPO}"],
            "no name of a repository": ["push", "one", "--repo=birds"],
            "the hub does not give it": predict("somebody/nothing"),
            "It is a folder. Leave the revision out": [*predict("one"), "--revision=main"],
            "There is no such folder": predict("nothing"),
        }
        for words, (code, _, errors) in zip(cases, run(folder, hub, *cases.values()), strict=True):
            assert code == 2, errors
            assert words in errors
        assert hub.commits == {}
        [(code, _, errors)] = run(folder, hub, ["push", "one", f"--repo={REPO}"], HF_TOKEN="hf_of_a_stranger")
        assert code == 2
        assert "Check the network and the token" in errors
