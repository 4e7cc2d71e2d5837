"""data2vec's teacher, targets and loss against closed forms and transformers' own modules."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Data2VecAudioConfig, Data2VecAudioModel

from brainplug.errors import ConfigError
from brainplug.pretrain.data2vec import Data2VecPretraining, Teacher, data2vec_loss, tau_at

DIM, LAYERS = 16, 3
DROPOUTS = ["hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"]


def make_student(**settings: object) -> Data2VecAudioModel:
    """In training mode, with all the noise of training: a teacher must have none of it."""
    torch.manual_seed(0)
    config = Data2VecAudioConfig(
        hidden_size=DIM,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=2,
        conv_pos_kernel_size=5,
        num_conv_pos_embedding_groups=4,
        **{**dict.fromkeys([*DROPOUTS, "layerdrop"], 0.5), **settings},
    )
    student = Data2VecAudioModel(config).train()
    shake(student)
    return student


def shake(student: Data2VecAudioModel) -> None:
    """Stands for a step of training: moves every weight."""
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def make_features() -> torch.Tensor:
    return torch.randn(2, 20, DIM, generator=torch.Generator().manual_seed(0))


def expected_targets(encoder: torch.nn.Module, features: torch.Tensor, top: int) -> torch.Tensor:
    """Walks through transformers' modules one by one, in double precision."""
    encoder = copy.deepcopy(encoder).double().eval()
    tokens, normalised = features.double(), []
    tokens = encoder.layer_norm(tokens + encoder.pos_conv_embed(tokens))
    for layer in encoder.layers:
        tokens = layer.layer_norm(tokens + layer.attention(tokens)[0])
        block = layer.feed_forward
        output = block.output_dense(block.intermediate_act_fn(block.intermediate_dense(tokens)))
        tokens = layer.final_layer_norm(tokens + output)
        variance, mean = torch.var_mean(output, dim=1, correction=0, keepdim=True)  # of a clip's channel, over time
        normalised.append((output - mean) / (variance + 1e-5).sqrt())
    return torch.stack(normalised[-top:]).mean(0)


@pytest.mark.parametrize("top", [1, 2, LAYERS])
def test_targets_are_the_normalised_feed_forward_outputs_of_the_top_layers(top):
    student, features = make_student(), make_features()
    targets = Teacher(student, top).targets(features)
    torch.testing.assert_close(targets.double(), expected_targets(student.encoder, features, top), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(targets, Teacher(student, 1 + top % LAYERS).targets(features), atol=0.1)


def test_targets_have_mean_0_and_one_layer_has_variance_1_in_each_clip_and_channel():
    student, features = make_student(), make_features()
    torch.testing.assert_close(
        Teacher(student, LAYERS).targets(features).mean(1), torch.zeros(2, DIM), rtol=0, atol=1e-5
    )
    variance = Teacher(student, 1).targets(features).var(1, correction=0)
    assert variance.min() > 0.99 and variance.max() <= 1.00001


def test_targets_of_a_clip_do_not_depend_on_the_others():
    teacher, features = Teacher(make_student(), 2), make_features()
    torch.testing.assert_close(teacher.targets(features)[1:], teacher.targets(features[1:]), rtol=1e-4, atol=1e-5)


def test_the_teacher_runs_without_dropout_layerdrop_and_gradient():
    student = make_student(layerdrop=1.0)
    teacher, features = Teacher(student, LAYERS), make_features().requires_grad_()
    student.train()
    first, second = teacher.targets(features), teacher.targets(features)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.encoder.parameters())
    assert not any(module.training for module in teacher.encoder.modules())


def test_a_student_is_trained_beside_its_teacher_as_without():
    """Nothing of the teacher hangs on the student: no hook, no frozen weight, no evaluation mode."""
    student = make_student(**dict.fromkeys([*DROPOUTS, "layerdrop"], 0.0))
    features = make_features()
    before = student.encoder(features).last_hidden_state
    teacher = Teacher(student, 2)
    teacher.targets(features)
    teacher.update(0.9)
    assert torch.equal(student.encoder(features).last_hidden_state, before)
    assert student.encoder.training and all(parameter.requires_grad for parameter in student.parameters())
    assert not any(module._forward_hooks for model in (student, teacher.encoder) for module in model.modules())


def test_the_students_input_is_augmented_and_the_teachers_is_not():
    config = make_student(**dict.fromkeys([*DROPOUTS, "layerdrop"], 0.0)).config
    pretraining = Data2VecPretraining(Data2VecAudioModel(config))
    teacher = Teacher(pretraining.model, 2)
    clean, mask = torch.randn(2, 4000), torch.arange(12).expand(2, 12) < 6
    noisy = clean + torch.randn(2, 4000)
    alone, beside, other = (pretraining(clean, mask, teacher, augmented) for augmented in (None, noisy, clean))
    assert torch.equal(alone["targets"], beside["targets"])
    assert torch.equal(alone["predictions"], other["predictions"])
    assert not torch.allclose(alone["predictions"], beside["predictions"], atol=1e-3)
    beside["loss"].backward()
    assert pretraining.model.feature_extractor.conv_layers[0].conv.weight.grad.abs().max() > 0


def test_after_n_steps_the_layers_and_their_norm_are_the_closed_form_average():
    student = make_student()
    teacher = Teacher(student, LAYERS)

    def own() -> dict[str, torch.Tensor]:
        parts = {"layers": student.encoder.layers, "layer_norm": student.encoder.layer_norm}
        return {
            f"{part}.{name}": parameter.detach().double().clone()
            for part, module in parts.items()
            for name, parameter in module.named_parameters()
        }

    taus, history = [0.9, 0.95, 0.99, 0.5, 0.999], [own()]
    for tau in taus:
        shake(student)
        teacher.update(tau)
        history.append(own())
    averaged = dict(teacher.encoder.named_parameters())
    assert len(history[0]) == sum(not name.startswith("pos_conv_embed") for name in averaged)
    for name in history[0]:
        expected = math.prod(taus) * history[0][name]
        for step, tau in enumerate(taus, start=1):
            expected = expected + (1 - tau) * math.prod(taus[step:]) * history[step][name]
        torch.testing.assert_close(averaged[name].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_a_tau_of_0_copies_the_student_and_one_of_1_stays(tau):
    student = make_student()
    teacher = Teacher(student, 1)
    start = [parameter.clone() for parameter in teacher.averaged()[0]]
    shake(student)
    teacher.update(tau)
    averaged, own = teacher.averaged()
    assert not any(map(torch.equal, start, own))
    assert all(map(torch.equal, averaged, start if tau else own))


def test_positions_are_copied_and_layers_are_not():
    student, features = make_student(), make_features()
    teacher = Teacher(student, 2)
    layers = copy.deepcopy(teacher.encoder)
    shake(student)
    targets = teacher.targets(features)
    layers.pos_conv_embed = student.encoder.pos_conv_embed
    torch.testing.assert_close(targets.double(), expected_targets(layers, features, 2), rtol=1e-4, atol=1e-4)


def test_all_before_the_transformer_is_the_students_own():
    names = Teacher(make_student(), 2).state_dict()
    assert {name.split(".")[0] for name in names} == {"pos_conv_embed", "layer_norm", "layers"}


def test_a_teacher_of_a_16_bit_student_has_32_bits():
    student = make_student().bfloat16()
    teacher = Teacher(student, 2)
    shake(student)
    teacher.update(0.999)
    assert {parameter.dtype for parameter in teacher.encoder.parameters()} == {torch.float32}
    assert teacher.targets(make_features().bfloat16()).dtype == torch.float32


def test_a_restored_teacher_goes_on_bit_for_bit():
    student, features = make_student(), make_features()
    teacher = Teacher(student, 2)
    shake(student)
    teacher.update(0.9)
    restored = Teacher(student, 2)
    assert not torch.equal(restored.targets(features), teacher.targets(features))
    restored.load_state_dict(copy.deepcopy(teacher.state_dict()))
    for _ in range(2):
        assert torch.equal(restored.targets(features), teacher.targets(features))
        shake(student)
        restored.update(0.95)
        teacher.update(0.95)


@pytest.mark.parametrize("top", [0, -1, LAYERS + 1])
def test_layers_that_the_model_does_not_have_are_refused(top):
    with pytest.raises(ConfigError, match=f"top {top} layers.*has {LAYERS}.*top_layers: {LAYERS}"):
        Teacher(make_student(), top)


@pytest.mark.parametrize(("start", "end", "steps"), [(0.999, 0.9999, 30_000), (0.97, 0.995, 400), (0.9, 0.99, 1)])
def test_tau_meets_its_end_points_exactly(start, end, steps):
    assert tau_at(0, start, end, steps) == start
    assert tau_at(steps, start, end, steps) == tau_at(100 * steps, start, end, steps) == end


def test_tau_without_a_ramp_is_its_end():
    assert tau_at(0, 0.9, 0.99, 0) == 0.99


@given(start=st.floats(0, 1), end=st.floats(0, 1), steps=st.integers(1, 50_000), share=st.floats(0, 1))
def test_tau_is_linear_between(start, end, steps, share):
    step = int(share * steps)
    assert tau_at(step, start, end, steps) == pytest.approx((1 - step / steps) * start + step / steps * end, abs=1e-12)


def expected_loss(predictions: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, beta: float) -> float:
    """The formula, number by number."""
    total, frames = 0.0, 0
    for predicted, target, masked in zip(
        predictions.flatten(0, 1).tolist(), targets.flatten(0, 1).tolist(), mask.flatten().tolist(), strict=True
    ):
        if masked:
            frames += 1
            for one, other in zip(predicted, target, strict=True):
                d = abs(one - other)
                total += d * d if not beta else 0.5 * d * d / beta if d <= beta else d - 0.5 * beta
    return total / math.sqrt(predictions.shape[-1]) / frames


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0, 10.0])
def test_the_loss_is_the_formula(beta):
    predictions, targets = make_features(), make_features().flip(1)
    mask = torch.rand(2, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    loss = data2vec_loss(predictions, targets, mask, beta).item()
    assert loss == pytest.approx(expected_loss(predictions, targets, mask, beta), rel=1e-5)


def test_the_scale_at_base_is_the_published_one():
    predictions = torch.zeros(1, 1, 768)
    predictions[0, 0, 0] = 1
    loss = data2vec_loss(predictions, torch.zeros(1, 1, 768), torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.0361, abs=5e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_frames_that_are_not_masked_do_not_count(beta):
    predictions, targets = make_features().requires_grad_(), make_features().flip(1)
    mask = torch.arange(20).expand(2, 20) % 3 == 0
    loss = data2vec_loss(predictions, targets, mask, beta)
    elsewhere = torch.where(mask[..., None], targets, targets + 5)
    assert torch.equal(data2vec_loss(predictions, elsewhere, mask, beta), loss)
    loss.backward()
    assert predictions.grad[~mask].eq(0).all() and predictions.grad[mask].ne(0).all()
