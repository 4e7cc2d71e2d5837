"""Equal to the published code where asked: 25 cases that it computed, and its parameter counts at full size."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from brainplug.compat.petl_ast.flags import METHODS, translate
from brainplug.compat.petl_ast.weights import load_reference, without_prefix
from brainplug.errors import UsageError
from brainplug.methods.convpass import ConvpassBlock
from brainplug.methods.sublayer import AdaptedSublayer

DATA = Path(__file__).parents[1] / "data" / "published"
CASES = json.loads((DATA / "cases.json").read_text())
TENSORS = load_file(DATA / "tensors.safetensors")
COUNTS = json.loads((DATA / "parameter_counts.json").read_text())
STEPS = 6


def tensors_of(case: str, kind: str) -> dict[str, torch.Tensor]:
    """The published tensors of a case: ``param`` or ``grad``."""
    numbers = CASES[case]["tensors"]
    return {name.removeprefix(f"{kind}/"): TENSORS[n] for name, n in numbers.items() if name.startswith(f"{kind}/")}


def tensor_of(case: str, name: str) -> torch.Tensor:
    return TENSORS[CASES[case]["tensors"][name]]


def load(case: str, **changes: object) -> torch.nn.Module:
    facts = CASES[case]
    arguments = {
        "is_AST": facts["is_AST"], "final_output": facts["final_output"], "num_classes": facts["num_classes"],
        "config": facts["config"], "state_dict": tensors_of(case, "param"),
    }  # fmt: skip
    return load_reference(facts["method"], facts["flags"], **(arguments | changes))


def loss_of(model: torch.nn.Module, case: str) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(tensor_of(case, "input")), tensor_of(case, "labels"))


@pytest.mark.parametrize("case", CASES)
class TestParity:
    def test_logits_and_loss(self, case):
        model = load(case).eval()
        with torch.no_grad():
            logits, loss = model(tensor_of(case, "input")), loss_of(model, case)
        assert (logits - tensor_of(case, "logits_eval")).abs().max() < 1e-5
        assert (loss - tensor_of(case, "loss_eval")).abs().max() < 1e-5

    def test_every_gradient(self, case):
        model, gradients = load(case).eval(), without_prefix(tensors_of(case, "grad"))
        loss_of(model, case).backward()
        compared = set()
        for source in model.sources:
            if not set(source.names) <= gradients.keys():
                # What has no gradient there is frozen here, or dead: it stands outside the computation.
                assert source.tensor.grad is None, f"{source.names} has a gradient"
                continue
            expected = source.read(gradients)
            error = (source.tensor.grad - expected).abs().max()
            assert error <= max(1e-5 * expected.abs().max().item(), 1e-6), source.names
            compared.update(source.names)
        assert compared == gradients.keys()

    def test_six_steps(self, case):
        if "train_losses" not in CASES[case]["tensors"]:
            pytest.skip("its training is random: the model has dropout")
        model = load(case).train()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=5e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        losses = []
        for _ in range(STEPS):
            loss = loss_of(model, case)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        assert (torch.tensor(losses) - tensor_of(case, "train_losses")).abs().max() < 1e-4
        with torch.no_grad():
            logits = model.eval()(tensor_of(case, "input"))
        assert (logits - tensor_of(case, "logits_after_training")).abs().max() < 1e-3

    def test_counts(self, case):
        parameters = list(load(case).parameters())
        assert sum(p.numel() for p in parameters if p.requires_grad) == CASES[case]["trainable"]
        assert sum(p.numel() for p in parameters) == CASES[case]["total"]

    def test_first_weights_as_published(self, case):
        torch.manual_seed(0)
        model = load(case, state_dict=None)
        standard = {"linear_downsample", "linear_upsample", "adapter_down", "adapter_up", "ff"}
        for source in model.sources:
            module, _, part = source.names[0].rpartition(".")
            module, tensor = module.rpartition(".")[2], source.tensor.detach()
            drawn = module in standard or module.startswith("lora_")
            if drawn and part == "weight":
                assert tensor.std().item() == pytest.approx(0.02, rel=0.3), source.names
            elif drawn:
                assert not tensor.any(), source.names
            elif part == "slot_params":
                dim, experts, slots = tensor.shape
                xavier = (2 / ((experts + dim) * slots)) ** 0.5
                assert tensor.std().item() == pytest.approx(xavier, rel=0.3)
            elif module == "pwise_conv2" and part == "weight":
                inputs = tensor.shape[1]
                spread = (1 / (3 * inputs)) ** 0.5 if CASES[case]["is_AST"] else (2 / inputs) ** 0.5
                assert tensor.std().item() == pytest.approx(spread, rel=0.3)
        assert torch.isfinite(model(tensor_of(case, "input"))).all()


def words(row: str) -> tuple[str, dict, bool]:
    """The command line's words of a row of parameter_counts.json."""
    is_ast = not row.startswith("W2V2 ")
    name, *settings = row.removeprefix("W2V2 ").split(" ")
    value = dict(setting.split("=") for setting in settings if "=" in setting)
    number = {key: int(several) for key, several in value.items() if several.isdigit()}
    if name == "adapter":
        block, kind = settings[:2]
        flags = {"adapter_block": block, "adapter_type": kind, "reduction_rate_adapter": number["rr"]}
        return "adapter", flags | {"kernel_size": number["k"]}, is_ast
    if name == "LoRA":
        return "LoRA", {"reduction_rate_lora": number["rr"]}, is_ast
    if name == "LoRA-ablation":
        flags = {"reduction_rate_lora": number["rr"], "is_lora_ablation": True, "lora_config": settings[0]}
        return "LoRA", flags, is_ast
    if name == "prompt":
        flags = {"prompt_len_prompt": number["n"], "is_deep_prompt": value["deep"] == "True"}
        return "prompt-tuning", flags, is_ast
    if name == "prefix":
        return "prefix-tuning", {"prompt_len_pt": number["n"]}, is_ast
    if name in ("Dense-MoA", "Soft-MoA"):
        location = settings[1] if settings[0] == "Pfeiffer" else "MHSA"
        flags = {"adapter_type_moa": settings[0], "location_moa": location, "num_adapters": number["n"]}
        flags |= {"reduction_rate_moa": number["rr"], "num_slots": number.get("p", 1)}
        flags |= {"normalize": "convpass" in row}  # so was this row counted: it has a scale in each layer
        return name, flags | {"adapter_module_moa": "convpass" if "convpass" in row else "bottleneck"}, is_ast
    return name.removesuffix("(top3)"), {}, is_ast


CLASSES = {True: 50, False: 31}


@pytest.mark.parametrize("row", COUNTS)
def test_counts_at_full_size(row):
    method, flags, is_ast = words(row)
    config = {"max_length": 500} if is_ast else {}
    with torch.device("meta"):
        model = load_reference(
            method, flags, is_AST=is_ast, final_output="ALL", num_classes=CLASSES[is_ast], config=config,
            state_dict=None,
        )  # fmt: skip
    counts = model.classifier.count_parameters()
    assert counts == COUNTS[row]


@pytest.mark.parametrize("case", CASES)
def test_frozen_encoder_stays_in_evaluation_mode(case):
    """But for the models that the published code never sets to it."""
    facts = CASES[case]
    model = load(case).train()
    whole = facts["method"] in ("full-FT", "linear", "BitFit")
    assert model.classifier.backbone.model.training == whole
    assert not any(module.training for module in model.classifier._frozen_modules)
    assert bool(model.classifier._frozen_modules) != whole
    for module in model.modules():
        if isinstance(module, ConvpassBlock):
            assert module.dropout.training  # in mixtures; single adapters have none
    if not facts["is_AST"]:
        masks = getattr(model.classifier.backbone.model.config, "apply_spec_augment", True)
        assert masks == (facts["method"] != "linear")


def combinations(is_ast: bool) -> list[dict]:
    """Flags of every adapter that the published code can place."""
    blocks = ("bottleneck", "conformer", "convpass") if is_ast else ("bottleneck", "conformer")
    placed = [
        {"adapter_block": block, "adapter_type": kind, "seq_or_par": order, "apply_residual": residual}
        for block in blocks
        for kind in ("Pfeiffer", "Houlsby")
        for order in ("parallel", "sequential")
        for residual in (False, True)
    ]
    ablation = [
        {
            "adapter_block": block,
            "is_adapter_ablation": True,
            "location": location,
            "seq_or_par": order,
            "befafter": side,
        }
        for block in blocks
        for location in ("MHSA", "FFN")
        for order in ("parallel", "sequential")
        for side in ("before", "after")
    ]
    return placed + (ablation if is_ast else [])


def adapted(flags: dict, wrapper: AdaptedSublayer, tokens: torch.Tensor, is_ast: bool) -> torch.Tensor:
    """A sub-layer by the table of the published code's placements."""

    def sublayer(tokens: torch.Tensor) -> torch.Tensor:
        outputs = wrapper.sublayer(tokens)
        return outputs[0] if isinstance(outputs, tuple) else outputs

    order, adapter = flags["seq_or_par"], wrapper.adapter
    if flags.get("is_adapter_ablation"):
        before = flags["befafter"] == "before"
        if order == "sequential" and before:
            return sublayer(adapter(tokens)) + adapter(tokens)
        return sublayer(tokens) + adapter(tokens if before else sublayer(tokens))
    if order == "parallel":
        residual = tokens if flags["apply_residual"] and is_ast else 0
        return sublayer(tokens) + adapter(tokens) + residual
    return adapter(sublayer(tokens)) + (sublayer(tokens) if flags["apply_residual"] else 0)


def published_layer(layer: torch.nn.Module, tokens: torch.Tensor, flags: dict, is_ast: bool) -> torch.Tensor:
    """A layer step by step."""
    for position, norm_before, norm_after in (
        ("attention", "layernorm_before", "layer_norm"),
        ("mlp" if is_ast else "feed_forward", "layernorm_after", "final_layer_norm"),
    ):
        entering = getattr(layer, norm_before)(tokens) if is_ast else tokens
        wrapper = getattr(layer, position)
        if isinstance(wrapper, AdaptedSublayer):
            leaving = adapted(flags, wrapper, entering, is_ast)
        else:
            leaving = wrapper(entering)
            leaving = leaving[0] if isinstance(leaving, tuple) else leaving
        tokens = tokens + leaving if is_ast else getattr(layer, norm_after)(tokens + leaving)
    return tokens


@pytest.mark.parametrize(
    ("is_ast", "flags"), [(is_ast, flags) for is_ast in (True, False) for flags in combinations(is_ast)]
)
def test_every_placement(is_ast, flags):
    """All that the command line can say, beyond the cases that were run: the table of placements, step by step."""
    case = "linear" if is_ast else "w2v2-linear"
    torch.manual_seed(0)
    model = load_reference(
        "adapter", {"reduction_rate_adapter": 8, "kernel_size": 4, **flags}, is_AST=is_ast, final_output="ALL",
        num_classes=7, config=CASES[case]["config"], state_dict=None,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    layers = model.classifier.backbone.spec.layers_of(model.classifier.backbone.model)
    tokens = torch.randn(2, 9, 48)
    with torch.no_grad():
        for layer in layers:
            expected = published_layer(layer, tokens, flags, is_ast)
            torch.testing.assert_close(layer(tokens), expected, atol=1e-4, rtol=1e-5)
    location = flags.get("location") or ("both" if flags["adapter_type"] == "Houlsby" else "FFN")
    wrapped = {"MHSA": ["attention"], "FFN": ["mlp"], "both": ["attention", "mlp"]}[location]
    wrapped = wrapped if is_ast else [name.replace("mlp", "feed_forward") for name in wrapped]
    assert [name for name, module in layers[0].named_children() if isinstance(module, AdaptedSublayer)] == wrapped


class TestStateDicts:
    def test_the_encoder_may_be_listed_twice(self):
        """As most published models do, under two names."""
        own = tensors_of("lora-qv", "param")
        twice = own | {name.removeprefix("model."): tensor for name, tensor in own.items()}
        model = load("lora-qv", state_dict=twice).eval()
        expected = tensor_of("lora-qv", "logits_eval")
        assert (model(tensor_of("lora-qv", "input")) - expected).abs().max() < 1e-5

    def test_missing_and_unexpected_are_listed(self):
        weights = tensors_of("lora-qv", "param")
        weights["classification_head.scale"] = weights.pop("classification_head.bias")
        message = r"Missing: \['classification_head.bias'\]; unexpected: \['classification_head.scale'\]"
        with pytest.raises(UsageError, match=message):
            load("lora-qv", state_dict=weights)

    def test_another_shape_is_listed(self):
        with pytest.raises(UsageError, match=r"of another shape: \[.*classification_head.weight"):
            load("lora-qv", num_classes=8)

    def test_a_refused_state_dict_names_what_another_method_has(self):
        with pytest.raises(UsageError, match=r"Missing: .*key_tokens.*unexpected: .*lora_down_q"):
            load_reference(
                "prefix-tuning", {}, is_AST=True, final_output="ALL", num_classes=7,
                config=CASES["lora-qv"]["config"], state_dict=tensors_of("lora-qv", "param"),
            )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "flags", "is_ast", "message"),
    [
        ("adapters", {}, True, r"published method 'adapters'.*Write one of: adapter"),
        ("LoRA", {}, False, r"'LoRA' was asked for on wav2vec 2\.0\. .* AST only"),
        ("adapter-Hydra", {}, True, "not one that can be imported"),
        ("adapter", {"reduction_rate": 8}, True, "reduction_rate_adapter"),
        ("adapter", {"adapter_block": "mlp"}, True, "bottleneck, conformer, convpass"),
        ("adapter", {"seq_or_par": "series"}, True, "parallel, sequential"),
    ],
)
def test_unknown_words_are_refused(method, flags, is_ast, message):
    with pytest.raises(UsageError, match=message):
        translate(method, flags, is_AST=is_ast)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_case(method):
    assert any(case["method"] == method for case in CASES.values())


def test_all_rows_of_the_counts_are_understood():
    assert {words(row)[0] for row in COUNTS} == set(METHODS)
    assert all(re.fullmatch(r"[\w-]+", words(row)[0]) for row in COUNTS)


def test_pooling_is_no_matter_on_wav2vec2():
    """The published model for it has no such word."""
    case = "w2v2-linear"
    model = load(case, final_output="CLS").eval()
    assert (model(tensor_of(case, "input")) - tensor_of(case, "logits_eval")).abs().max() < 1e-5
