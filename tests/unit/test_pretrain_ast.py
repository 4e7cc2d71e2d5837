"""The AST recipe finds recordings of a test set, makes its corpus anew for other settings, and writes its card."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "pretrain_ast"))

import card  # noqa: E402
import overlap  # noqa: E402
import prepare  # noqa: E402


def test_a_recording_that_holds_a_test_clip_is_found_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(8000, generator=generator) for _ in range(5)]
    templates = torch.stack([overlap.loudest(clip) for clip in clips])
    recording = 0.3 * torch.randn(30000, generator=generator)
    unrelated, _ = overlap.best_match(recording, templates)
    recording[12345 : 12345 + 8000] += clips[3]
    correlation, number = overlap.best_match(recording, templates)
    assert number == 3
    assert unrelated < 0.2 < overlap.THRESHOLD < correlation


def test_a_corpus_is_made_anew_for_other_settings(tmp_path, monkeypatch):
    plans = [prepare.Plan(0, "event", ("hiss",), ("noise",))]
    monkeypatch.setattr(prepare, "plan_corpus", lambda *_: (plans, []))
    monkeypatch.setattr(prepare, "phone_names", lambda: ["s"])
    made = []

    def make_chunks(function, plans, seed, frames, mel_bands, names):
        made.append(seed)
        yield plans, (np.full((1, frames, mel_bands), seed), np.zeros((1, prepare.token_count(frames), len(names))))

    monkeypatch.setattr(prepare, "make_chunks", make_chunks)
    for seed in (1, 1, 2):
        prepare.prepare_corpus(str(tmp_path / "corpus"), "/", 0, 1, frames=36, mel_bands=4, seed=seed)
    assert made == [1, 2]
    assert (np.load(tmp_path / "corpus" / "log_mels.npy") == 2).all()
    assert json.loads((tmp_path / "corpus" / "corpus.json").read_text())["kinds"] == ["event"]


def test_the_card_of_a_corpus_without_recordings_has_zero_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "voices", lambda: ["f1"])
    log = tmp_path / "train_log.txt"
    log.write_text("epoch: 1 - train loss: 3.0 - valid loss: 2.0, valid mean average precision: 0.5\n")
    config = SimpleNamespace(num_hidden_layers=2, hidden_size=8, num_mel_bins=16, max_length=100)
    settings = SimpleNamespace(
        export_folder=str(tmp_path), train_log=str(log), ast=SimpleNamespace(config=config), number_of_epochs=1,
        steps_per_epoch=2, batch_size=4, valid_clips=3,
    )  # fmt: skip
    card.write_card(settings, ["word", "word", "event"], missing_packages=list(card.known_packages()), parameters=10**6)
    text = (tmp_path / "README.md").read_text()
    assert "| spoken words | 2 |" in text and "| free recordings | 0 |" in text and "| none | |" in text
    assert (tmp_path / "curve.png").stat().st_size > 5000
