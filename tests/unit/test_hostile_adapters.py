"""Adapters of others: refused, or loaded as what they were; no crash, no code, no hang.

tests/soak/adapters.py gives 2,000.
"""

from pathlib import Path

import torch

from tests.contract.test_methods import batch, build, train
from tests.hostile_adapters import attack_often, write_adapter

PAIRS = (("ast", "lora"), ("hubert", "conformer"), ("wav2vec2", "adalora"), ("whisper", "bottleneck"))


def make_adapters(tiny_backbones: dict[str, str], folder: Path) -> dict[Path, torch.Tensor]:
    """Trained adapters, with a signal for each."""
    made = {}
    for backbone, method in PAIRS:
        model = build(tiny_backbones[backbone], method)
        train(model)
        write_adapter(model, folder / f"{backbone}-{method}", method)
        made[folder / f"{backbone}-{method}"] = batch(model)[0]
    return made


def test_hostile_adapters(tiny_backbones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcomes, faults = attack_often(make_adapters(tiny_backbones, tmp_path), tmp_path / "scratch", range(200))
    assert faults == []
    assert sum(outcomes.values()) == 200
