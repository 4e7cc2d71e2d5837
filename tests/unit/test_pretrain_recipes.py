"""The base recipes have the values of the papers and their code, and one step of them runs."""

from pathlib import Path
from types import SimpleNamespace

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import pytest
import speechbrain as sb
import torch
import yaml

from brainplug.config.recipe import Recipe
from brainplug.data.masking import span_mask
from brainplug.pretrain.brain import PretrainBrain
from brainplug.pretrain.corpus import frames_in
from brainplug.pretrain.data2vec import Data2VecPretraining, Teacher
from brainplug.pretrain.hubert import HubertPretraining

RECIPES = Path(__file__).parents[2] / "recipes"
# The published values of BASE; the first table has the sizes of both models.
SIZES = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "conv_dim": 7 * [512], "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False, "hidden_act": "gelu", "hidden_dropout": 0.1, "attention_dropout": 0.1,
    "activation_dropout": 0.0, "layerdrop": 0.05, "initializer_range": 0.02, "num_conv_pos_embedding_groups": 16,
}  # fmt: skip
CONFIGS = {
    "hubert": {
        **SIZES, "feat_extract_norm": "group", "feat_proj_dropout": 0.1, "num_conv_pos_embeddings": 128,
        "do_stable_layer_norm": False,
    },
    "data2vec": {
        **SIZES, "feat_proj_dropout": 0.0, "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19,
    },
}  # fmt: skip
SETTINGS = {
    "hubert": {
        "mask_probability": 0.8, "mask_length": 10, "mask_minimum": 2, "feature_gradient": 0.1, "feature_penalty": 10.0,
        "projection": 256, "alpha": 1.0, "lr": 5e-4, "max_grad_norm": 10.0, "label_layer": 6, "cluster_starts": 20,
        "clusters": 100, "mask_same_count": True, "augment": [], "labels_from": "mfcc",
    },
    "data2vec": {
        "mask_probability": 0.65, "mask_length": 10, "mask_minimum": 1, "lr": 5e-4, "max_grad_norm": float("inf"),
        "top_layers": 8, "beta": 0.0, "tau_start": 0.999, "tau_end": 0.9999, "tau_steps": 30000, "alarms_after": 5000,
        "mask_same_count": True, "augment": [],
    },
}  # fmt: skip
BATCH_SECONDS = {"hubert": 87.5, "data2vec": 237.5}  # of one GPU


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def base(request, tmp_path_factory) -> tuple[str, dict]:
    return request.param, load(request.param, "base", tmp_path_factory.mktemp("base"))


def load(name: str, size: str, folder: Path) -> dict:
    file = RECIPES / f"pretrain_{name}" / "hparams" / f"{size}.yaml"
    return dict(Recipe.load(str(file), {"results_folder": str(folder)}).settings)


def test_base_has_the_published_values(base):
    name, hparams = base
    config = hparams["model"].config.to_dict()
    assert {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
            if key in CONFIGS[name]} == CONFIGS[name]  # fmt: skip
    assert {key: hparams[key] for key in SETTINGS[name]} == SETTINGS[name]
    assert hparams["batch_size"] * hparams["crop_seconds"] == BATCH_SECONDS[name]
    optimizer = hparams["optimizer"]([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    # fairseq's Adam takes the decay off the weights, as AdamW does
    assert (tuple(optimizer["betas"]), optimizer["eps"], optimizer["weight_decay"]) == ((0.9, 0.98), 1e-6, 0.01)
    assert 90e6 < sum(parameter.numel() for parameter in hparams["model"].parameters()) < 97e6


def test_base_trains_as_long_as_published(base):
    name, hparams = base
    if name == "data2vec":
        total = hparams["number_of_epochs"] * hparams["steps_per_epoch"]
        assert total == 400_000
        rates = [hparams["lr_schedule"](step, total) for step in (0, 12_000, 372_000, 400_000)]
        assert rates == pytest.approx([0.01, 1, 1, 0.01])
    else:
        first, second = hparams["iterations"]
        assert first["number_of_epochs"] * hparams["steps_per_epoch"] == 250_000
        assert second["number_of_epochs"] * hparams["steps_per_epoch"] == 400_000
        assert (hparams["labels_from"], second["clusters"]) == ("mfcc", 500)
        assert second["labels_from"].endswith("iteration1/hubert-base")
        rates = [hparams["lr_schedule"](step, 250_000) for step in (0, 10_000, 20_000, 135_000, 250_000)]
        assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_one_step_of_base_runs_on_a_random_clip(base):
    name, hparams = base
    waveforms = 0.1 * torch.randn(1, 8000)
    frames = frames_in(8000)
    mask = span_mask(1, frames, hparams["mask_probability"], 10, 1, torch.Generator().manual_seed(1))
    model = hparams["model"].train()
    model.config.layerdrop = 0.0  # the first layer must change
    before = model.encoder.layers[0].attention.q_proj.weight.detach().clone()
    if name == "hubert":
        pretraining = HubertPretraining(model, hparams["clusters"], hparams["projection"])
        outputs = pretraining(waveforms, torch.randint(100, (1, frames)), mask)
    else:
        pretraining = Data2VecPretraining(model)
        outputs = pretraining(waveforms, mask, Teacher(model, hparams["top_layers"]))
    outputs["loss"].backward()
    torch.optim.SGD(pretraining.parameters(), lr=0.1).step()
    assert torch.isfinite(outputs["loss"])
    assert not torch.equal(before, model.encoder.layers[0].attention.q_proj.weight)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_nano_and_base_have_the_same_keys(name):
    texts = [(RECIPES / f"pretrain_{name}" / "hparams" / f"{size}.yaml").read_text() for size in ("nano", "base")]
    nano, base = ({key.value for key, _ in yaml.compose(text, Loader=yaml.Loader).value} for text in texts)
    assert nano == base


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_waveforms_are_augmented_in_training_alone(name, tmp_path):
    augment = load(name, "nano", tmp_path)["augment"]
    assert [type(function).__name__ for function in augment] == ["Noise", "Gain"]
    brain = SimpleNamespace(settings=SimpleNamespace(augment=augment))
    waveforms = torch.randn(3, 1600)
    assert PretrainBrain.augment(brain, waveforms, sb.Stage.VALID) is waveforms
    augmented = PretrainBrain.augment(brain, waveforms, sb.Stage.TRAIN)
    assert augmented.shape == waveforms.shape
    assert not torch.isclose(augmented, waveforms).all(1).any()
