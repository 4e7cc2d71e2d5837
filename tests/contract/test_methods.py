"""What every method must do on every backbone; a method joins by its entry in hparams/methods.yaml."""

import copy
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from brainplug.adapter_io import load_delta, save_delta
from brainplug.backbones import load_backbone
from brainplug.methods import choose_method
from brainplug.model import AudioClassifier
from tests.conftest import TINY_BACKBONES

METHODS_FILE = Path(__file__).parents[2] / "hparams" / "methods.yaml"
METHODS = load_hyperpyyaml(METHODS_FILE.read_text())
N_CLASSES = 5
# What the rates of methods.yaml leave of a width of 16 is nothing, so the small backbones have their own.
SETTINGS = {"conformer": {"reduction_rate": 4, "kernel_size": 4}}
DIM, LAYERS, RANK = 16, 2, 6
HEAD = (DIM + 1) * N_CLASSES
NORM = 2 * DIM


def conformer_count(backbone: str) -> int:
    bottleneck = DIM // 4
    norm_and_down = NORM + (DIM + 1) * 2 * bottleneck
    depthwise_and_batch_norm = (4 + 1) * bottleneck + 2 * bottleneck
    up = (bottleneck + 1) * DIM
    norm_before = NORM if backbone == "ast" else 0
    return LAYERS * (norm_and_down + depthwise_and_batch_norm + up + norm_before)


# Closed forms of what a method trains, without the head and the final layer norm.
COUNTS = {
    "linear": lambda backbone: 0,
    "lora": lambda backbone: LAYERS * 2 * 2 * DIM * RANK,
    "conformer": conformer_count,
}


def build(folder: str, method: str, seed: int = 0) -> AudioClassifier:
    torch.manual_seed(seed)
    chosen, _ = choose_method(method, METHODS, SETTINGS)
    return AudioClassifier(load_backbone(folder), chosen, N_CLASSES)


def batch(model: AudioClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (4, 64, 32) if model.backbone.spec.signal == "log_mel" else (4, 4000)
    return torch.randn(shape, generator=generator), torch.ones(4)


def train(model: AudioClassifier, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    signal, lengths = batch(model)
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(signal, lengths), torch.tensor([0, 1, 2, 3])).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(params=list(TINY_BACKBONES))
def backbone(request: pytest.FixtureRequest, tiny_backbones: dict[str, str]) -> tuple[str, str]:
    return request.param, tiny_backbones[request.param]


@pytest.mark.parametrize("method", list(METHODS))
class TestEveryMethod:
    def test_starts_as_the_backbone(self, backbone, method):
        model = build(backbone[1], method).eval()
        signal, lengths = batch(model)
        plain, _ = load_backbone(backbone[1]).eval()(signal, lengths)
        adapted, _ = model.backbone(signal, lengths)
        assert torch.equal(adapted, plain)
        train(model)
        if method != "linear" or model.backbone.spec.final_norm:
            assert not torch.equal(model.backbone(signal, lengths)[0], plain)  # so that this test can fail

    def test_trains_what_it_says_and_nothing_else(self, backbone, method):
        model = build(backbone[1], method)
        before = copy.deepcopy(dict(model.named_parameters()))
        train(model)
        unused = {"backbone.model.masked_spec_embed"}  # of wav2vec 2.0: no frame is masked here
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and name not in unused and "k_proj.bias" not in name:
                assert not torch.equal(parameter, before[name]), f"{name} did not move"
            elif not parameter.requires_grad:
                assert parameter.grad is None, f"{name} has a gradient"
                assert torch.equal(parameter, before[name]), f"{name} moved"

    def test_frozen_modules_stay_in_evaluation_mode(self, backbone, method):
        pretrained = {type(module) for module in load_backbone(backbone[1]).modules()}
        model = build(backbone[1], method).train()
        dropouts = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Dropout) and type(m) in pretrained]
        of_backbone = [m for m in dropouts if m in model._frozen_modules]
        assert all(module.training == (method == "full") for module in of_backbone)
        if method == "conformer":
            norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
            assert norms
            assert all(norm.training for norm in norms)

    def test_delta_restores_the_model_under_another_seed(self, backbone, method, tmp_path):
        trained = build(backbone[1], method, seed=0)
        train(trained)
        save_delta(trained, tmp_path / "delta.safetensors", {})
        other = build(backbone[1], method, seed=7).eval()
        signal, lengths = batch(trained)
        assert not torch.equal(other(signal, lengths), trained(signal, lengths))
        load_delta(other, tmp_path / "delta.safetensors")
        assert torch.equal(other(signal, lengths), trained(signal, lengths))
        buffers = [name for name in trained.delta() if "running_mean" in name]
        assert bool(buffers) == (method == "conformer")

    def test_delta_holds_nothing_frozen(self, backbone, method):
        model = build(backbone[1], method)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable <= model.delta().keys()
        extra = model.delta().keys() - trainable
        assert all(name.rsplit(".", 1)[1] in ("running_mean", "running_var", "num_batches_tracked") for name in extra)

    def test_counts_equal_the_closed_form(self, backbone, method):
        name, folder = backbone
        model = build(folder, method)
        if method == "full":
            expected = sum(parameter.numel() for parameter in load_backbone(folder).parameters())
        else:
            assert method in COUNTS, f"write the closed form of {method}"
            expected = COUNTS[method](name) + (NORM if model.backbone.spec.final_norm else 0)
        counts = model.count_parameters()
        assert counts["trainable_without_head"] == expected
        assert counts["trainable"] == expected + HEAD
