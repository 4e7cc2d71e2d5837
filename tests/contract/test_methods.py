"""What every method must do on every backbone; a method joins by its entry in hparams/methods.yaml."""

import copy
import itertools
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from brainplug.backbones import load_backbone, random_backbone
from brainplug.errors import UsageError
from brainplug.methods import choose_method
from brainplug.methods.peft_method import PeftMethod
from brainplug.models.classifier import AudioClassifier
from tests.conftest import TINY_BACKBONES

METHODS_FILE = Path(__file__).parents[2] / "hparams" / "methods.yaml"
METHODS = load_hyperpyyaml(METHODS_FILE.read_text())
N_CLASSES = 5
SHORT_CLIPS = (1, 399, 400, 401)  # samples; wav2vec 2.0 makes its first token of 400
# What the rates of methods.yaml leave of a width of 16 is nothing, so the small backbones have their own.
SETTINGS = {
    "lora": {"reduction_rate": 4},
    "prompt_shallow": {"prompts": 3},
    "prompt_deep": {"prompts": 3},
    "prefix": {"length": 6},
    "bottleneck": {"reduction_rate": 4},
    "conformer": {"reduction_rate": 4, "kernel_size": 4},
    "convpass": {"reduction_rate": 4},
    "dense_moa": {"reduction_rate": 8, "experts": 3},
    "soft_moa": {"reduction_rate": 8, "experts": 3, "slots": 2},
    "dora": {"r": 3},
    "vera": {"r": 4},
    "oft": {"oft_block_size": 4},
}
DIM, LAYERS, INSIDE = 16, 2, 32
HEAD = (DIM + 1) * N_CLASSES
NORM = 2 * DIM
BOTTLENECK = DIM // 4
EXPERTS, SLOTS, EXPERT_BOTTLENECK = 3, 2, DIM // 8
# The adapted model cannot equal the backbone before training:
CANNOT_START_AS_THE_BACKBONE = {
    "prompt_shallow": "tokens attend to the prompts, and every weight of a softmax counts",
    "prompt_deep": "as prompt_shallow",
    "prefix": "tokens attend to the prefix, and every weight of a softmax counts",
}
# peft computes the start by another way round (a norm's quotient, a rotation by zero), exact up to rounding.
STARTS_UP_TO_ROUNDING = ("dora", "oft", "ia3", "ln_tuning", "vera", "adalora")
# Drawn at random and never trained, but a part of what the method is.
FIXED_TENSORS = ("vera_A", "vera_B", "ranknum")
# Graphs that torch.compile has to break inside of peft.
BREAKS_IN_PEFT = {"dora": "it asks for the names of the classes of quantised weights"}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def norms_before(backbone: str, *sublayers: str) -> int:
    """Parameters of the layer norms that stand before sub-layers."""
    return len(sublayers) * NORM if backbone in ("ast", "whisper", "echo") else 0


def block_count(down: int, inner: int, up: int) -> int:
    return (DIM + 1) * down + inner + (up + 1) * DIM


def conformer_count(backbone: str) -> int:
    depthwise_and_batch_norm = (4 + 1) * BOTTLENECK + 2 * BOTTLENECK
    return NORM + block_count(2 * BOTTLENECK, depthwise_and_batch_norm, BOTTLENECK)


def expert_count() -> int:
    return EXPERTS * block_count(EXPERT_BOTTLENECK, 0, EXPERT_BOTTLENECK)


# Closed forms of what a method trains in one layer, without the head and the final layer norm.
COUNTS = {
    "linear": lambda backbone: 0,
    "lora": lambda backbone: 2 * 2 * DIM * BOTTLENECK,
    "prompt_shallow": lambda backbone: 3 * DIM / LAYERS,
    "prompt_deep": lambda backbone: 3 * DIM,
    "prefix": lambda backbone: 6 * DIM,
    "bottleneck": lambda backbone: block_count(BOTTLENECK, 0, BOTTLENECK) + norms_before(backbone, "ffn"),
    "conformer": lambda backbone: conformer_count(backbone) + norms_before(backbone, "ffn"),
    "convpass": lambda backbone: (
        block_count(BOTTLENECK, 3 * BOTTLENECK**2 + BOTTLENECK, BOTTLENECK) + norms_before(backbone, "ffn")
    ),
    "dense_moa": lambda backbone: expert_count() + (DIM + 1) * EXPERTS + norms_before(backbone, "mhsa"),
    "soft_moa": lambda backbone: expert_count() + DIM * EXPERTS * SLOTS + norms_before(backbone, "mhsa"),
    "dora": lambda backbone: 2 * (2 * DIM * 3 + DIM),
    "adalora": lambda backbone: 2 * (2 * DIM * 9 + 9),
    "ia3": lambda backbone: 2 * DIM + (4 * DIM if backbone == "echo" else INSIDE),
    "ln_tuning": lambda backbone: 2 * NORM,
    "vera": lambda backbone: 2 * (4 + DIM),
    "oft": lambda backbone: 2 * (DIM // 4) * (4 * 3 // 2),
}


def chosen(method: str, **settings: object) -> object:
    return choose_method(method, METHODS, SETTINGS, {method: settings})[0]


def build(folder: str, method: str, seed: int = 0, **settings: object) -> AudioClassifier:
    torch.manual_seed(seed)
    return AudioClassifier(load_backbone(folder), chosen(method), N_CLASSES, **settings)


def batch(model: AudioClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips, the second one padded where the backbone has a mask."""
    generator = torch.Generator().manual_seed(1)
    shape = (4, 64, 32) if model.backbone.spec.signal == "log_mel" else (4, 4000)
    return torch.randn(shape, generator=generator), torch.tensor([1.0, 0.6, 1.0, 1.0])


def loss_of(model: AudioClassifier) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(*batch(model)).float(), torch.tensor([0, 1, 2, 3]))


def train(model: AudioClassifier, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(params=list(TINY_BACKBONES))
def backbone(request: pytest.FixtureRequest, tiny_backbones: dict[str, str]) -> tuple[str, str]:
    return request.param, tiny_backbones[request.param]


@pytest.mark.parametrize("method", list(METHODS))
class TestEveryMethod:
    @torch.no_grad()
    def test_starts_as_the_backbone(self, backbone, method):
        model = build(backbone[1], method).eval()
        signal, lengths = batch(model)
        plain, _ = load_backbone(backbone[1]).eval()(signal, lengths)
        adapted, _ = model.backbone(signal, lengths)
        if method in CANNOT_START_AS_THE_BACKBONE:
            own = adapted[:, model.special_tokens + model.method.prompts :]
            assert not torch.equal(own, plain[:, model.special_tokens :])  # else it can, and must be in no list
        elif method in STARTS_UP_TO_ROUNDING:
            torch.testing.assert_close(adapted, plain, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(adapted, plain)
        with torch.enable_grad():
            train(model)
        if method != "linear" or model.backbone.spec.final_norm:
            trained = model.backbone(signal, lengths)[0]
            assert trained.shape != plain.shape or not torch.allclose(trained, plain, atol=1e-5)

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
        model = build(backbone[1], method).train()
        of_backbone = [m for m in model.backbone.modules() if m in set(model._frozen_modules)]
        assert bool(of_backbone) == (method != "full")
        assert not any(module.training for module in of_backbone)
        new = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d) and m not in model._frozen_modules]
        assert bool(new) == (method == "conformer")
        assert all(norm.training for norm in new)

    def test_delta_holds_nothing_frozen(self, backbone, method):
        model = build(backbone[1], method)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trainable <= model.delta().keys()
        extra = model.delta().keys() - trainable
        assert all(name.rsplit(".", 1)[1] in BUFFERS or any(f in name for f in FIXED_TENSORS) for name in extra)

    def test_counts_equal_the_closed_form(self, backbone, method):
        name, folder = backbone
        model = build(folder, method)
        final_norm = NORM if model.backbone.spec.final_norm else 0
        if method == "full":
            expected = sum(parameter.numel() for parameter in load_backbone(folder).parameters())
        elif method == "bitfit":
            adapted = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Linear | torch.nn.LayerNorm)]
            expected = sum(module.bias.numel() for module in adapted if module.bias is not None)
        else:
            assert method in COUNTS, f"write the closed form of {method}"
            expected = LAYERS * COUNTS[method](name) + final_norm
        counts = model.count_parameters()
        assert counts["trainable_without_head"] == expected
        assert counts["trainable"] == expected + HEAD

    def test_recomputing_layers_changes_nothing(self, backbone, method):
        models = [build(backbone[1], method, gradient_checkpointing=several) for several in (False, True)]
        if method == "full":  # so that layer drop, which draws for each layer, draws nothing
            for model in models:
                model.eval()
        gradients = []
        for model in models:
            if method != "full":
                model.train()
            torch.manual_seed(3)  # dropout draws the same
            loss_of(model).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)
        for (name, buffer), (_, other) in zip(models[0].named_buffers(), models[1].named_buffers(), strict=True):
            assert torch.equal(buffer, other), f"{name} was counted twice"

    def test_works_under_autocast(self, backbone, method):
        model = build(backbone[1], method).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model)
        loss.backward()
        trained = [p for p in model.parameters() if p.grad is not None]
        assert torch.isfinite(loss)
        assert trained
        assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in trained)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "data2vec", "wavlm", "echo"])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_clip_s_logits_do_not_depend_on_its_batch(tiny_backbones, method, family):
    model = build(tiny_backbones[family], method)
    train(model)
    signal, lengths = batch(model)
    stops = [round(signal.shape[1] * float(share)) for share in lengths]
    signal[1, stops[1] :] = 0
    with torch.no_grad():
        alone = [model(clip[None, :stop], torch.ones(1)) for clip, stop in zip(signal, stops, strict=True)]
        torch.testing.assert_close(model(signal, lengths), torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", TINY_BACKBONES)
@pytest.mark.parametrize("method", list(METHODS))
def test_clips_that_are_barely_long_enough_are_trained_on(method, family):
    config = TINY_BACKBONES[family][0]
    masking = type(config)(**{**config.to_dict(), "mask_time_prob": 0.05})  # as published checkpoints have it
    model = AudioClassifier(random_backbone(masking), chosen(method), N_CLASSES)
    generator = torch.Generator().manual_seed(1)
    signals = [model.backbone.extract(torch.randn(count, generator=generator)) for count in SHORT_CLIPS]
    signal = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    lengths = torch.tensor([len(clip) / signal.shape[1] for clip in signals])
    loss = torch.nn.functional.cross_entropy(model.train()(signal, lengths), torch.arange(len(SHORT_CLIPS)) % N_CLASSES)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    with torch.no_grad():
        alone = torch.cat([model.eval()(clip[None], torch.ones(1)) for clip in signals])
        torch.testing.assert_close(model(signal, lengths), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["linear", "full", "bitfit", "lora", "dora", "ia3", "vera", "oft", "ln_tuning"])
def test_merging_leaves_a_plain_backbone_that_computes_the_same(backbone, method):
    name, folder = backbone
    model = build(folder, method)
    train(model)
    signal, lengths = batch(model)
    with torch.no_grad():
        adapted = model(signal, lengths)
        model.merge()
        torch.testing.assert_close(model(signal, lengths), adapted, atol=1e-4, rtol=1e-4)
    plain = {name for name, _ in load_backbone(folder).model.named_parameters()}
    assert {name for name, _ in model.backbone.model.named_parameters()} == plain


@pytest.mark.parametrize(
    "method", ["bottleneck", "conformer", "convpass", "dense_moa", "soft_moa", "prefix", "prompt_deep"]
)
def test_what_is_no_change_of_weights_cannot_be_merged(tiny_backbones, method):
    model = build(tiny_backbones["ast"], method)
    with pytest.raises(UsageError, match=r"Merging .* was asked for\. .* not a linear change.* Keep the adapter file"):
        model.merge()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    # Every method on one family, and those that touch layers, attention and projections on the others.
    [*(("ast", name) for name in METHODS), *itertools.product(["wav2vec2", "echo"], ["conformer", "prefix", "lora"])],
)
def test_one_graph(tiny_backbones, family, method):
    """No method breaks the graph that torch.compile makes of a backbone."""
    torch.compiler.reset()
    model = build(tiny_backbones[family], method)
    if method != "full":  # in training mode transformers' convolutions over the waveform break the graph themselves
        model.train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=method not in BREAKS_IN_PEFT)
    torch.manual_seed(3)
    expected = model(*batch(model))
    torch.manual_seed(3)
    torch.testing.assert_close(compiled(*batch(model)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", [name for name in METHODS if not isinstance(chosen(name), PeftMethod)])
def test_the_yaml_shows_every_setting(method):
    entry = METHODS[method]["settings"]
    shown = set(entry.keywords) if isinstance(entry, partial) else set()
    assert shown == {field.name for field in fields(chosen(method))}
