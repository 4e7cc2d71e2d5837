"""What single methods compute, against independent oracles, and what they refuse."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig
from transformers import ASTConfig, AutoConfig, WavLMConfig

from brainplug.backbones import load_backbone, random_backbone
from brainplug.compat.petl_ast.methods import (
    PublishedBottleneckAdapter,
    PublishedDenseMoA,
    PublishedFullFineTuning,
    PublishedLoRA,
)
from brainplug.errors import UsageError
from brainplug.methods.adapter import bottleneck_width
from brainplug.methods.bitfit import BitFit
from brainplug.methods.bottleneck import BottleneckAdapter, BottleneckBlock
from brainplug.methods.conformer import ConformerAdapter, ConformerBlock
from brainplug.methods.convpass import ConvpassAdapter, ConvpassBlock
from brainplug.methods.dense_moa import DenseMixture, DenseMoA
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA, LoRALinear
from brainplug.methods.peft_method import PeftMethod
from brainplug.methods.prefix import PrefixTuning
from brainplug.methods.prompt import PromptTuning
from brainplug.methods.soft_moa import SoftMixture, SoftMoA
from brainplug.methods.sublayer import AdaptedSublayer
from brainplug.models.classifier import AudioClassifier
from brainplug.models.pooling import POOLINGS
from tests.conftest import TINY

DIM, BOTTLENECK, EXPERTS = 12, 3, 4
BLOCKS = {"bottleneck": BottleneckBlock, "conformer": ConformerBlock, "convpass": ConvpassBlock}


def make_random(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


def make_block(kind: str, experts: int = 1) -> torch.nn.Module:
    named = {} if kind == "bottleneck" else {"kernel_size": 3}
    return make_random(BLOCKS[kind](DIM, BOTTLENECK, experts, **named))


def single_expert(kind: str, block: torch.nn.Module, expert: int) -> torch.nn.Module:
    """A block with the weights of one expert of a stack."""
    single = make_block(kind)
    weights = {}
    for name, tensor in block.state_dict().items():
        if name.startswith("norm.") or tensor.dim() == 0:  # the norm is shared
            weights[name] = tensor
        else:
            dim = 1 if name == "up.weight" else 0
            weights[name] = tensor.chunk(block.experts, dim)[expert]
    single.load_state_dict(weights)
    return single


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", BLOCKS)
class TestMixtures:
    def test_dense_is_the_weighted_sum_of_its_experts(self, kind):
        block = make_block(kind, EXPERTS)
        mixture = make_random(DenseMixture(DIM, block))
        tokens = torch.randn(2, 7, DIM)
        weights = torch.softmax(mixture.router(tokens), dim=-1)
        expected = sum(
            weights[..., expert, None] * single_expert(kind, block, expert)(tokens) for expert in range(EXPERTS)
        )
        torch.testing.assert_close(mixture(tokens), expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize("slots", [1, 3])
    def test_soft_dispatches_maps_and_combines(self, kind, slots, normalize):
        """Equations 1 to 4 of https://arxiv.org/abs/2308.00951, expert by expert."""
        block = make_block(kind, EXPERTS)
        mixture = make_random(SoftMixture(DIM, block, slots, normalize))
        tokens = torch.randn(2, 7, DIM)
        phi, seen = mixture.slots, tokens
        if normalize:
            seen = tokens / tokens.norm(dim=-1, keepdim=True)
            phi = mixture.scale * phi / phi.norm(dim=0)
        logits = torch.einsum("btd,dnp->btnp", seen, phi)
        dispatch, combine = logits.softmax(1), logits.flatten(2).softmax(2).view_as(logits)
        expected = torch.zeros_like(tokens)
        for expert in range(EXPERTS):
            own = torch.einsum("btp,btd->bpd", dispatch[:, :, expert], seen)
            mapped = single_expert(kind, block, expert)(own)
            expected += torch.einsum("btp,bpd->btd", combine[:, :, expert], mapped)
        torch.testing.assert_close(mixture(tokens), expected, atol=1e-4, rtol=1e-4)

    def test_no_tensor_has_the_size_of_all_experts_outputs(self, kind):
        mixture = DenseMixture(DIM, make_block(kind, EXPERTS))
        tokens, largest = torch.randn(2, 50, DIM, requires_grad=True), 2 * 50 * DIM

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            assert tensor.numel() < EXPERTS * largest
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mixture(tokens).sum().backward()
        assert tokens.grad is not None


@pytest.mark.parametrize(
    ("placement", "reads", "residual", "expected"),
    [
        ("parallel", None, False, lambda s, a, z: s(z) + a(z)),
        ("parallel", "before", False, lambda s, a, z: s(z) + a(z)),
        ("parallel", "after", False, lambda s, a, z: s(z) + a(s(z))),
        ("parallel", "before", True, lambda s, a, z: s(z) + a(z) + z),
        ("sequential", None, True, lambda s, a, z: a(s(z)) + s(z)),
        ("sequential", "after", False, lambda s, a, z: a(s(z))),
        ("sequential", "before", True, lambda s, a, z: s(a(z) + z)),
        ("sequential", "before", False, lambda s, a, z: s(a(z))),
    ],
)
@pytest.mark.parametrize("returns_tuple", [False, True])
def test_where_an_adapter_stands(placement, reads, residual, expected, returns_tuple):
    linear, adapter = torch.nn.Linear(DIM, DIM), make_block("bottleneck")

    class Attention(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, str]:
            return linear(hidden_states), "weights"

    wrapper = AdaptedSublayer(Attention() if returns_tuple else linear, adapter, placement, reads, residual)
    tokens = torch.randn(2, 5, DIM)
    actual = wrapper(hidden_states=tokens)
    if returns_tuple:
        actual, rest = actual
        assert rest == "weights"
    torch.testing.assert_close(actual, expected(linear, adapter, tokens))


class TestLoRA:
    @pytest.mark.parametrize("targets", [("query", "value"), ("query", "key", "value", "output")])
    def test_equals_peft(self, tiny_backbones, targets):
        ours, theirs = (
            AudioClassifier(load_backbone(tiny_backbones["ast"]), method, n_classes=3).eval()
            for method in (
                LoRA(rank=4, alpha=6, targets=targets),
                PeftMethod(LoraConfig(r=4, lora_alpha=6, target_modules=list(targets))),
            )
        )
        lora = [module for module in ours.modules() if isinstance(module, LoRALinear)]
        for module in lora:
            make_random(module.up)
        theirs.head.load_state_dict(ours.head.state_dict())
        factors = {name: p for name, p in theirs.named_parameters() if "lora_" in name}
        assert len(factors) == 2 * len(lora)
        with torch.no_grad():
            for name, parameter in factors.items():
                path, part = name.split(".lora_")
                module = ours.get_submodule(path)
                parameter.copy_(module.down.weight if part.startswith("A") else module.up.weight)
        signal = torch.randn(2, 64, 32)
        torch.testing.assert_close(ours(signal, torch.ones(2)), theirs(signal, torch.ones(2)), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"rank": 8, "alpha": 4}, (0.5, 8)),
            ({"reduction_rate": 96, "alpha": 16}, (2.0, 8)),
            ({"reduction_rate": 128, "alpha": 16, "scaling": "reduction_rate"}, (0.125, 6)),
        ],
    )
    def test_scaling(self, settings, expected):
        assert LoRA(**settings).scale_and_rank(768) == expected

    @pytest.mark.parametrize("settings", [{"reduction_rate": 128}, {"rank": 6}])
    def test_published_scaling_is_over_the_reduction_rate(self, settings):
        assert PublishedLoRA(alpha=16, **settings).scale_and_rank(768) == (0.125, 6)


class TestPrefix:
    def test_attention_sees_the_prefix_as_two_more_tokens(self):
        """By hand, with the keys and values in full."""
        backbone = random_backbone(ASTConfig(**TINY, num_mel_bins=32, max_length=64)).eval()
        PrefixTuning(length=4).attach(backbone.model, backbone.spec)
        attention = make_random(backbone.model.layers[0].attention)
        tokens, heads = torch.randn(2, 5, 16), 2
        query, key, value = (map_(tokens) for map_ in (attention.q_proj, attention.k_proj, attention.v_proj))
        key = torch.cat([key, attention.prefix.keys.expand(2, -1, -1)], dim=1)
        value = torch.cat([value, attention.prefix.values.expand(2, -1, -1)], dim=1)
        split = [several.unflatten(2, (heads, 8)).transpose(1, 2) for several in (query, key, value)]
        weights = torch.softmax(split[0] @ split[1].transpose(2, 3) / 8**0.5, dim=-1)
        expected = attention.o_proj((weights @ split[2]).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attention(tokens)[0], expected, atol=1e-5, rtol=1e-5)


class TestPrompts:
    @pytest.mark.parametrize("deep", [False, True])
    def test_equals_a_backbone_that_is_given_the_tokens(self, deep):
        """Layer by layer, with the prompts put in and taken out by hand."""
        backbone = random_backbone(ASTConfig(**TINY, num_mel_bins=32, max_length=64)).eval()
        make_random(backbone)
        signal = torch.randn(2, 64, 32)
        plain_layers = list(backbone.model.layers)
        tokens = backbone.model.embeddings(signal)
        PromptTuning(prompts=3, deep=deep).attach(backbone.model, backbone.spec)
        for index, layer in enumerate(plain_layers):
            if index == 0 or deep:
                remaining = tokens[:, 2 if index == 0 else 5 :]
                prompts = backbone.model.layers[index].prompts.expand(2, -1, -1)
                tokens = torch.cat([tokens[:, :2], prompts, remaining], dim=1)
            tokens = layer(tokens)
        expected = backbone.model.layernorm(tokens)
        torch.testing.assert_close(backbone(signal, torch.ones(2))[0], expected, atol=1e-5, rtol=1e-5)

    def test_dropout_of_prompts_works_in_training_alone(self, tiny_backbones):
        method = PromptTuning(prompts=3, deep=True, dropout=0.5)
        model = AudioClassifier(load_backbone(tiny_backbones["ast"]), method, n_classes=3)
        signal = torch.randn(2, 64, 32), torch.ones(2)
        model.eval()
        assert torch.equal(model(*signal), model(*signal))
        model.train()
        assert not torch.equal(model(*signal), model(*signal))


class TestPooling:
    SLICES = {
        "ALL": slice(0, None), "CLS": slice(0, 1), "SPECIAL": slice(0, 2), "PROMPTS": slice(2, 5),
        "SPEECH": slice(5, None), "PROMPTS+SPEECH": slice(2, None),
    }  # fmt: skip

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_means_over_the_named_tokens(self, tiny_backbones, pooling):
        model = AudioClassifier(load_backbone(tiny_backbones["ast"]), PromptTuning(prompts=3), 3, pooling).eval()
        tokens = torch.randn(2, 15, 16)
        torch.testing.assert_close(model.pool(tokens, None), tokens[:, self.SLICES[pooling]].mean(1))

    @pytest.mark.parametrize("pooling", ["ALL", "SPEECH", "PROMPTS", "PROMPTS+SPEECH"])
    def test_padding_is_left_out(self, tiny_backbones, pooling):
        model = AudioClassifier(load_backbone(tiny_backbones["wav2vec2"]), PromptTuning(prompts=3), 3, pooling)
        tokens = torch.randn(2, 3 + 10, 16)
        mask = torch.arange(10) < torch.tensor([[10], [4]])
        first, last = {"ALL": (0, 7), "SPEECH": (3, 7), "PROMPTS": (0, 3), "PROMPTS+SPEECH": (0, 7)}[pooling]
        torch.testing.assert_close(model.pool(tokens, mask)[1], tokens[1, first:last].mean(0))

    @pytest.mark.parametrize(
        ("backbone", "method", "pooling", "message"),
        [
            ("wav2vec2", LinearProbe(), "CLS", r"no \[CLS\] token\. Write one of: ALL, SPEECH"),
            ("ast", LinearProbe(), "PROMPTS", r"no prompts\. Write one of: ALL, CLS, SPECIAL, SPEECH"),
            ("ast", LinearProbe(), "EVERYTHING", r"does not exist\. Write one of: ALL, CLS, SPECIAL, SPEECH"),
        ],
    )
    def test_what_there_is_not_is_refused(self, tiny_backbones, backbone, method, pooling, message):
        with pytest.raises(UsageError, match=message):
            AudioClassifier(load_backbone(tiny_backbones[backbone]), method, 3, pooling)


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
@pytest.mark.parametrize(
    "method",
    [
        PromptTuning(prompts=3, deep=False),
        PromptTuning(prompts=3),
        PrefixTuning(length=4),
        LoRA(rank=2),
        ConformerAdapter(reduction_rate=4, kernel_size=6, location="houlsby"),
        ConvpassAdapter(reduction_rate=4),
        DenseMoA(reduction_rate=4, expert_block="convpass"),
        SoftMoA(reduction_rate=4, location="houlsby"),
        SoftMoA(reduction_rate=4, expert_block="conformer", normalize=True),
    ],
)
def test_a_clip_does_not_hear_its_batch(tiny_backbones, family, method):
    """Prompts and prefixes leave the mask of the padding in force; convolutions and slots have their own."""
    config = AutoConfig.from_pretrained(tiny_backbones[family])
    config.feat_extract_norm = "layer"  # frame by frame: the other norm reads the padding, in transformers too
    model = make_random(AudioClassifier(random_backbone(config), method, 3))
    with torch.no_grad():
        for parameter in model.backbone.model.feature_extractor.parameters():
            parameter.mul_(3)  # so that the padding is no silence to later layers
    clip = torch.randn(1, 4000)
    padded = torch.cat([torch.nn.functional.pad(clip, (0, 2400)), torch.randn(1, 6400)])
    with torch.no_grad():
        alone = model(clip, torch.ones(1))[0]
        together = model(padded, torch.tensor([4000 / 6400, 1.0]))[0]
        unmasked = model(padded, torch.ones(2))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(unmasked, alone, atol=1e-4)  # so that this test can fail


@given(dim=st.integers(1, 2000), rate=st.floats(0.01, 5000))
@settings(max_examples=200, deadline=None)
def test_a_bottleneck_is_never_empty(dim, rate):
    if 1 <= rate <= dim:
        assert 1 <= bottleneck_width(dim, rate) <= dim
    else:
        with pytest.raises(UsageError, match=f"tokens are {dim} wide"):
            bottleneck_width(dim, rate)


class TestLastLayers:
    def test_only_they_are_trained(self, tiny_backbones):
        model = AudioClassifier(load_backbone(tiny_backbones["wav2vec2"]), FullFineTuning(layers=1), 3).train()
        layers = model.backbone.model.encoder.layers
        trained = {id(p) for p in [*layers[-1].parameters(), *model.head.parameters()]}
        assert {id(p) for p in model.parameters() if p.requires_grad} == trained
        assert layers[-1].dropout.training
        assert not layers[0].dropout.training

    def test_published_code_trains_three_of_wav2vec2_and_all_of_ast(self):
        config = {**TINY, "num_hidden_layers": 5}
        speech = WavLMConfig(**config, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
        for backbone, expected in (
            (random_backbone(speech), [False, False, True, True, True]),
            (random_backbone(ASTConfig(**config)), [True] * 5),
        ):
            model = AudioClassifier(backbone, PublishedFullFineTuning(), 3)
            layers = backbone.spec.layers_of(model.backbone.model)
            assert [all(p.requires_grad for p in layer.parameters()) for layer in layers] == expected


BAD_SETTINGS = [
    (lambda: BottleneckAdapter(location="above"), "location 'above' .* ffn, houlsby, mhsa"),
    (lambda: BottleneckAdapter(placement="series"), "placement: 'series' .* parallel, sequential"),
    (lambda: BottleneckAdapter(reads="behind"), "reads: 'behind' .* before"),
    (lambda: BottleneckAdapter(residual=True), "parallel adapter with residual .* not start as the backbone"),
    (lambda: BottleneckAdapter(placement="sequential"), "sequential adapter without residual"),
    (lambda: ConformerAdapter(kernel_size=0), "kernel of 0 tokens .* at least 1"),
    (lambda: ConvpassAdapter(kernel_size=-1), "kernel of -1 tokens"),
    (lambda: DenseMoA(experts=0), "0 experts .* none"),
    (lambda: DenseMoA(expert_block="mlp"), "'mlp' .* bottleneck, conformer, convpass"),
    (lambda: SoftMoA(slots=0), "0 slots .* at least 1"),
    (lambda: SoftMoA(location="everywhere"), "location 'everywhere'"),
    (lambda: LoRA(), "Exactly one of the two"),
    (lambda: LoRA(rank=2, reduction_rate=4), "Exactly one of the two"),
    (lambda: LoRA(rank=2, scaling="root"), "scaling: 'root' .* rank, reduction_rate"),
    (lambda: LoRA(rank=2, targets=["query", "values"]), "'values'.* query, key, value, output"),
    (lambda: LoRA(rank=2, targets=[]), "match nothing"),
    (lambda: PromptTuning(prompts=0), "0 prompts .* none"),
    (lambda: PromptTuning(dropout=1.5), "dropout of 1.5"),
    (lambda: PrefixTuning(length=5), "prefix of 5 vectors .* Write length: 6, an even number"),
    (lambda: PrefixTuning(length=0), "prefix of 0 vectors .* Write length: 2"),
]
BAD_ON_A_BACKBONE = [
    (BottleneckAdapter(reduction_rate=17), "reduction rate 17 .* 16 wide.* from 1 to 16"),
    (DenseMoA(reduction_rate=0.5), "reduction rate 0.5"),
    (LoRA(rank=17), "rank 17 .* 16 wide"),
    (LoRA(reduction_rate=32), "reduction rate 32"),
    (FullFineTuning(layers=3), "last 3 layers .* has 2"),
    (FullFineTuning(layers=0), "last 0 layers"),
    (PeftMethod(LoraConfig(target_modules=["quary"])), "LoraConfig on .*quary.* Write target_modules"),
    (PeftMethod(PrefixTuningConfig(num_virtual_tokens=4)), "adds no layers to a model .* prefix"),
]


@pytest.mark.parametrize(("make", "message"), BAD_SETTINGS)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("method", "message"), BAD_ON_A_BACKBONE)
def test_settings_that_this_backbone_cannot_have(tiny_backbones, method, message):
    with pytest.raises(ValueError, match=message):
        AudioClassifier(load_backbone(tiny_backbones["ast"]), method, 3)


def test_published_code_may_start_elsewhere():
    assert PublishedBottleneckAdapter(residual=True).residual
    assert not PublishedBottleneckAdapter(placement="sequential").residual


def test_bitfit_trains_the_final_norm_s_bias_alone(tiny_backbones):
    model = AudioClassifier(load_backbone(tiny_backbones["ast"]), BitFit(), 3)
    norm = model.backbone.model.layernorm
    assert norm.bias.requires_grad
    assert not norm.weight.requires_grad


def test_published_mixture_can_be_copied_after_a_step(tiny_backbones):
    """What it keeps for later in the layer is gone by then."""
    model = AudioClassifier(load_backbone(tiny_backbones["ast"]), PublishedDenseMoA(reduction_rate=4), 3)
    signal = torch.randn(2, 64, 32), torch.ones(2)
    model(*signal).sum().backward()
    torch.testing.assert_close(copy.deepcopy(model)(*signal), model(*signal))
