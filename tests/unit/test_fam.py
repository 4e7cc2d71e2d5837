"""FAM against numbers worked by hand, and against the published algorithm written as plainly as it goes."""

import copy
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import speechbrain as sb
import torch
from hypothesis import given
from hypothesis import strategies as st

from brainplug.backbones import known_config
from brainplug.cli.methods import read_methods
from brainplug.cli.optimizers import list_optimizer_groups
from brainplug.errors import UsageError
from brainplug.methods import choose_method
from brainplug.models.classifier import classifier_without_weights
from brainplug.optim import FAM, FAdam, FAMScheduler, SimpleFAM, fam_parameter_groups
from brainplug.optim.entry import OptimizerEntry, as_entry
from brainplug.optim.fam_groups import SETTINGS
from brainplug.optim.spectrum import HANDLERS, growing_bands, halved_bands, random_sample, strided_sample
from brainplug.results.plots.fam import draw_records, read_records
from tests.conftest import TINY_BACKBONES
from tests.unit.test_listing import NARROW

HPARAMS = str(Path(__file__).parents[2] / "hparams")
METHODS, _ = read_methods(HPARAMS, "ast")
AT_ONCE = {"fam_start_step": 0, "min_size": 0}
AS_PUBLISHED = {**AT_ONCE, "parity": True, "n_bands": 4}
SAMPLES = torch.arange(32)
IMPULSE = (SAMPLES == 0).float()
ALTERNATING = (-1.0) ** SAMPLES
TWO_WAVES = 2 * torch.cos(2 * math.pi * 2 * SAMPLES / 32) + torch.cos(2 * math.pi * 10 * SAMPLES / 32)


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(shape, dtype=dtype))


def analysed(gradient: torch.Tensor, handler: str = "default", **settings: object) -> tuple[list[float], float]:
    """Band energies and momentum after one step with a gradient."""
    weight = parameter(*gradient.shape)
    optimizer = FAM([{"params": [weight], "handler": handler}], **{**AS_PUBLISHED, **settings})
    weight.grad = gradient.clone()
    optimizer.step()
    return optimizer.state[weight]["bands"].tolist(), optimizer.momentum_of(weight)


def gradients_of(parameters: list[torch.Tensor], step: int) -> None:
    """Gives parameters gradients that depend on the step alone."""
    generator = torch.Generator().manual_seed(step)
    for weight in parameters:
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)


def train(optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    """Takes steps; returns the parameters."""
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    for step in steps:
        gradients_of(parameters, step)
        optimizer.step()
    return [weight.detach().clone() for weight in parameters]


def same(actual: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(actual, wanted, strict=True))


class TestWorkedExamples:
    @pytest.mark.parametrize(
        ("gradient", "bands", "momentum"),
        [
            (torch.ones(32), [1, 0, 0, 0], 0.9),
            (IMPULSE, [4 / 17] * 4, 0.95),
            (ALTERNATING, [0, 0, 0, 0], 0.9),
            (TWO_WAVES, [2 / 3, 0, 1 / 3, 0], 0.95),
        ],
    )
    def test_bands_and_momentum(self, gradient, bands, momentum):
        actual = analysed(gradient)
        assert actual[0] == pytest.approx(bands, abs=1e-5)
        assert actual[1] == pytest.approx(momentum)

    def test_power_hears_the_strong_wave_alone(self):
        bands, momentum = analysed(TWO_WAVES, spectrum="power")
        assert bands == pytest.approx([0.8, 0, 0.2, 0], abs=1e-5)
        assert momentum == pytest.approx(0.9)

    def test_the_highest_bin_counts_where_all_are_covered(self):
        bands, momentum = analysed(ALTERNATING, cover_all=True)
        assert bands == pytest.approx([0, 0, 0, 1], abs=1e-5)
        assert momentum == pytest.approx(0.95)

    def test_white_noise(self):
        bands, momentum = analysed(torch.randn(4096, generator=torch.Generator().manual_seed(0)), n_bands=8)
        assert sum(bands[4:]) == pytest.approx(0.5, abs=0.02)
        assert sum(bands[6:]) == pytest.approx(0.25, abs=0.02)
        assert momentum == pytest.approx(0.95)

    def test_order_tells_a_smooth_gradient_from_noise(self):
        generator = torch.Generator().manual_seed(0)
        walk = torch.randn(4096, generator=generator).cumsum(0)
        ordered, _ = analysed(walk)
        shuffled, _ = analysed(walk[torch.randperm(4096, generator=generator)])
        assert sum(ordered[2:]) < 0.2
        assert sum(shuffled[2:]) > 0.4

    def test_growing_bands(self):
        bands = growing_bands(33, 10)
        assert [start for start, _ in bands] == [0, 0, 1, 1, 3, 4, 7, 10, 15, 22]
        assert bands[-1] == (22, 32)
        energies, momentum = analysed((torch.arange(64) == 0).float(), "conv", n_bands=10)
        assert sum(energies[2:7]) == pytest.approx(9 / 33)
        assert sum(energies[7:]) == pytest.approx(22 / 33)
        assert momentum == pytest.approx(0.95)

    def test_halved_bands(self):
        bands = halved_bands(33, 12)
        assert {stop - start for start, stop in bands} == {2}
        inner = {bin_ for start, stop in bands for bin_ in range(start, stop)}
        assert set(range(33)) - inner == {12, 13, 14, 15, 28, 29, 30, 31, 32}

    def test_history_switches_the_rule_off_after_51_steps(self):
        weight = parameter(30)  # 16 bins: the impulse has one half of its energy in the upper band
        optimizer = FAM([weight], **{**AS_PUBLISHED, "n_bands": 2})
        weight.grad = (torch.arange(30) == 0).float()
        actual = []
        for _ in range(52):
            optimizer.step()
            weight.grad = torch.zeros(30)
            actual.append((optimizer.state[weight]["bands"][1].item(), optimizer.momentum_of(weight)))
        assert actual[0] == pytest.approx((0.5, 0.95))
        assert actual[50] == pytest.approx((0.3025, 0.95), abs=1e-4)
        assert actual[51] == pytest.approx((0.2995, 0.9), abs=1e-4)

    @pytest.mark.parametrize(("gradient", "change"), [(torch.ones(32), -1e-4), (IMPULSE, -5e-5)])
    def test_update(self, gradient, change):
        weight = parameter(32)
        weight.grad = gradient
        FAM([weight], lr=1e-3, **AS_PUBLISHED).step()
        assert weight[0].item() == pytest.approx(change)

    def test_simple_fam(self):
        weight = parameter(1001)
        optimizer = SimpleFAM([weight], lr=1.0)
        optimizer.param_groups[0]["fam_start_step"] = 0
        weight.grad = (torch.arange(1001) == 0).float()  # flat: 251 of 501 bins are in the upper half
        optimizer.step()
        assert optimizer.momentum_of(weight) == pytest.approx(0.9 + 0.05 * 251 / 501)
        assert weight[0].item() == pytest.approx(-(0.1 - 0.05 * 251 / 501), rel=1e-4)


# The published algorithm, one parameter and one number at a time.


def published_edges(handler: str, bins: int, n: int) -> list[tuple[int, int]]:
    if handler == "conv":
        edges = [max(0, int(math.floor(bins ** (i / n) - 1))) for i in range(n + 1)]
        return [(edges[i], edges[i + 1]) for i in range(n)]
    if handler == "attention":
        low = n // 2
        edges = [(i * (bins // 2 // low), (i + 1) * (bins // 2 // low)) for i in range(low)]
        width = (bins - bins // 2) // (n - low)
        return edges + [(bins // 2 + i * width, bins // 2 + (i + 1) * width) for i in range(n - low)]
    return [(i * (bins // n), (i + 1) * (bins // n)) for i in range(n)]


def published_momentum(handler: str, b: list[float], alpha: float) -> float:
    n = len(b)
    if handler == "default":
        return min(0.95, alpha + 0.05) if sum(b[n // 2 :]) > 0.3 else alpha
    if handler == "conv":
        if sum(b[n // 4 : 3 * n // 4]) > 0.4:
            return min(0.97, alpha + 0.07)
        return min(0.95, alpha + 0.05) if sum(b[3 * n // 4 :]) > 0.3 else alpha
    if handler == "attention":
        k = b.index(max(b))
        if k < n // 4:
            return max(0.85, alpha - 0.05)
        return min(0.98, alpha + 0.08) if k > 3 * n // 4 else alpha
    return min(0.98, alpha + 0.08) if sum(b[3 * n // 4 :]) > 0.2 else alpha


class Published:
    """One parameter under the published FAM, in float64."""

    def __init__(self, values: np.ndarray, handler: str, start: int, min_size: int):
        self.values, self.m, self.handler, self.start, self.min_size = (
            values.copy(),
            0 * values,
            handler,
            start,
            min_size,
        )
        self.steps, self.history = 0, None

    def step(self, gradient: np.ndarray, index: np.ndarray | None, lr: float, decay: float, n: int) -> None:
        self.steps += 1
        g, a = gradient + decay * self.values, 0.9
        if self.steps > self.start and g.size > self.min_size:
            spectrum = abs(np.fft.rfft(g.flatten() if index is None else g.flatten()[index]))
            spectrum = spectrum / (spectrum.sum() + 1e-8)
            actual = [spectrum[i:j].sum() for i, j in published_edges(self.handler, len(spectrum), n)]
            before = actual if self.history is None else self.history
            self.history = [0.99 * old + 0.01 * new for old, new in zip(before, actual, strict=True)]
            a = published_momentum(self.handler, self.history, 0.9)
        self.m = a * self.m + (1 - a) * g
        self.values = self.values - lr * self.m


SHAPES = [(7,), (300,), (20, 30), (12000,), (130, 90), (70, 66, 3)]


class TestParity:
    @pytest.mark.parametrize("handler", HANDLERS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_follows_the_published_algorithm(self, handler, dtype):
        """At random samples that are drawn in the same order, with a decay that is in the spectrum."""
        generator = np.random.default_rng(0)
        weights = [torch.nn.Parameter(torch.tensor(generator.standard_normal(shape), dtype=dtype)) for shape in SHAPES]
        references = [Published(weight.detach().double().numpy(), handler, start=3, min_size=256) for weight in weights]
        optimizer = FAM(
            [{"params": weights, "handler": handler}], lr=0.1, weight_decay=0.1, fam_start_step=3, parity=True
        )
        for step in range(12):
            for weight in weights:
                noise = generator.standard_normal(weight.shape)
                weight.grad = torch.tensor(noise.cumsum(0) if step % 3 else noise, dtype=dtype)
            torch.manual_seed(step)
            optimizer.step()
            torch.manual_seed(step)
            for weight, reference in zip(weights, references, strict=True):
                index = random_sample(weight.shape, weight.device) if step >= 3 else None
                index = None if index is None else index.numpy()
                reference.step(weight.grad.double().numpy(), index, lr=0.1, decay=0.1, n=8)
        tolerance = 1e-6 if dtype == torch.float64 else 1e-5
        for weight, reference in zip(weights, references, strict=True):
            np.testing.assert_allclose(weight.detach().double().numpy(), reference.values, atol=tolerance)
            if reference.history:
                actual = optimizer.state[weight]["bands"].double().numpy()
                np.testing.assert_allclose(actual, reference.history, atol=tolerance)

    def test_samples_can_be_given(self):
        gradient = torch.cat([IMPULSE, torch.ones(32)])
        assert analysed(gradient, sampler=lambda shape, device: torch.arange(32))[1] == pytest.approx(0.95)
        assert analysed(gradient, sampler=lambda shape, device: torch.arange(32, 64))[1] == pytest.approx(0.9)

    def test_samples_of_the_published_code_are_rows_and_columns(self):
        shape = torch.Size([130, 90, 2])
        torch.manual_seed(3)
        actual = random_sample(shape, torch.device("cpu"))
        torch.manual_seed(3)
        values = torch.arange(shape.numel()).view(shape)
        rows, columns = torch.randperm(130)[:64], torch.randperm(90)[:64]
        assert torch.equal(actual, values[rows][:, columns].flatten())


class TestSamples:
    @pytest.mark.parametrize(
        ("shape", "count"),
        [((10000,), None), ((10001,), 1000), ((200, 300), 4096), ((8, 3000), 512), ((99, 99, 3), 12288)],
    )
    def test_are_in_order_and_apart(self, shape, count):
        index = strided_sample(torch.Size(shape), torch.device("cpu"))
        if count is None:
            assert index is None
            return
        assert len(index) == count
        assert (index.diff() > 0).all()
        assert 0 <= index[0] <= index[-1] < math.prod(shape)

    def test_nothing_is_drawn(self):
        before = torch.get_rng_state()
        train(FAM([parameter(200, 300), parameter(12000)], **AT_ONCE), range(2))
        assert torch.equal(torch.get_rng_state(), before)


class TestProperties:
    @given(
        seed=st.integers(0, 1000),
        length=st.integers(1, 400),
        n_bands=st.integers(2, 16),
        handler=st.sampled_from(sorted(HANDLERS)),
        cover_all=st.booleans(),
        spectrum=st.sampled_from(["amplitude", "power"]),
    )
    def test_bands_are_shares(self, seed, length, n_bands, handler, cover_all, spectrum):
        gradient = torch.randn(length, generator=torch.Generator().manual_seed(seed))
        bands, momentum = analysed(gradient, handler, n_bands=n_bands, cover_all=cover_all, spectrum=spectrum)
        assert min(bands) >= 0
        assert sum(bands) <= 1 + 1e-5
        if cover_all:
            assert sum(bands) == pytest.approx(1 if length // 2 + 1 >= n_bands else 0, abs=1e-4)
        assert 0.85 - 1e-6 <= momentum <= 0.98 + 1e-6

    @pytest.mark.parametrize("handler", HANDLERS)
    def test_scale_does_not_matter(self, handler):
        for seed in range(20):
            gradient = torch.randn(300, generator=torch.Generator().manual_seed(seed)).cumsum(0)
            (bands, momentum), (others, other) = analysed(gradient, handler), analysed(10 * gradient, handler)
            assert bands == pytest.approx(others, abs=1e-6)
            assert momentum == other

    @pytest.mark.parametrize("kind", SETTINGS)
    def test_momenta_of_the_published_groups_have_limits(self, kind):
        _, _, alpha, n_bands, handler = SETTINGS[kind]
        for seed in range(30):
            gradient = torch.randn(300, generator=torch.Generator().manual_seed(seed)).cumsum(0)
            for values in (gradient, gradient.diff(), torch.zeros(300)):
                momentum = analysed(values, handler, alpha=alpha, n_bands=n_bands)[1]
                assert 0.85 - 1e-6 <= momentum <= 0.98 + 1e-6

    @pytest.mark.parametrize("bias_correction", [False, True])
    def test_before_the_analysis_it_is_descent_along_an_average(self, bias_correction):
        weight = parameter(300, dtype=torch.float64)
        train(FAM([weight], lr=0.1, fam_start_step=20, bias_correction=bias_correction), range(20))
        wanted, average, gradient = torch.zeros(300).double(), torch.zeros(300).double(), parameter(300)
        for step in range(20):
            gradients_of([gradient], step)
            average = 0.9 * average + 0.1 * gradient.grad.double()
            wanted -= 0.1 * average / (1 - 0.9 ** (step + 1) if bias_correction else 1)
        assert torch.allclose(weight.detach(), wanted, atol=1e-12)

    def test_bias_is_corrected_by_the_product_of_all_momenta(self):
        weight = parameter(300, dtype=torch.float64)
        optimizer = FAM([weight], lr=1.0, fam_start_step=3)
        average, product, wanted = torch.zeros(300).double(), 1.0, torch.zeros(300).double()
        for step in range(8):
            train(optimizer, range(step, step + 1))
            momentum = optimizer.momentum_of(weight)
            average = momentum * average + (1 - momentum) * weight.grad
            product *= momentum
            wanted -= average / (1 - product)
        assert momentum == pytest.approx(0.95)
        assert torch.allclose(weight.detach(), wanted, atol=1e-6)

    def test_parameters_analysed_together_are_as_if_alone(self):
        shapes = [(300,), (20, 30), (300,), (130, 90), (600,), (5,), ()]
        together, apart = ([parameter(*shape) for shape in shapes] for _ in range(2))
        optimizers = [FAM(together, lr=0.1, fam_start_step=1), *(FAM([p], lr=0.1, fam_start_step=1) for p in apart)]
        for step in range(6):
            gradients_of(together, step)
            for one, other in zip(together, apart, strict=True):
                other.grad = one.grad.clone()
            for optimizer in optimizers:
                optimizer.step()
        for one, other in zip(together, apart, strict=True):
            assert torch.allclose(one, other, atol=1e-6)

    def test_nothing_is_read_from_the_device(self):
        """Tensors on torch's meta device have no values: what asks for one fails, as it would wait on a GPU."""
        with torch.device("meta"):
            weights = [torch.nn.Parameter(torch.empty(*shape)) for shape in SHAPES]
        groups = [{"params": [weight], "handler": handler} for handler, weight in zip([*HANDLERS] * 2, weights)]  # noqa: B905
        optimizer = FAM(groups, weight_decay=0.1, **AT_ONCE)
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.empty_like(weight)
            optimizer.step()
        with pytest.raises((RuntimeError, NotImplementedError)):
            optimizer.momentum_of(weights[1])

    @pytest.mark.gpu
    def test_a_gpu_is_not_waited_for(self):
        weights = [torch.nn.Parameter(torch.zeros(shape, device="cuda")) for shape in SHAPES]
        optimizer = FAM(weights, weight_decay=0.1, **AT_ONCE)
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_analyses_at_a_distance(self):
        weight = parameter(300)
        optimizer, actual = FAM([weight], fam_start_step=2, analyse_every=3, handlers=HANDLERS), []
        for step in range(10):
            train(optimizer, range(step, step + 1))
            bands = optimizer.state[weight].get("bands")
            actual.append(None if bands is None else tuple(bands.tolist()))
        assert actual[1] is None
        assert actual[2] == actual[3] == actual[4] != actual[5] == actual[7] != actual[8]


class TestState:
    def make(self, dtype: torch.dtype = torch.float32) -> FAM:
        shapes = [(300,), (20, 30), (130, 90), (5,)]
        groups = [{"params": [parameter(*shape, dtype=dtype)], "name": f"conv{shape}", "lr": 0.1} for shape in shapes]
        return FAM(groups, weight_decay=0.01, fam_start_step=3)

    def test_two_runs_are_equal_bit_for_bit(self):
        assert same(train(self.make(), range(12)), train(self.make(), range(12)))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    @pytest.mark.parametrize("stop", [0, 1, 3, 4, 9])
    def test_a_resumed_run_is_equal_bit_for_bit(self, dtype, stop, tmp_path):
        wanted = train(self.make(dtype), range(12))
        first, second = self.make(dtype), self.make(dtype)
        halfway = train(first, range(stop))
        torch.save(first.state_dict(), tmp_path / "optimizer.ckpt")
        second.load_state_dict(torch.load(tmp_path / "optimizer.ckpt"))
        for group, values in zip(second.param_groups, halfway, strict=True):
            group["params"][0].data.copy_(values)
        train(first, range(50, 52))  # what goes on elsewhere does not reach the loaded state
        assert same(train(second, range(stop, 12)), wanted)

    def test_state_is_tensors_wide_enough(self):
        optimizer = self.make(torch.bfloat16)
        train(optimizer, range(5))
        for state in optimizer.state.values():
            assert {value.dtype for value in state.values()} == {torch.float32}

    def test_parameters_of_16_bits_follow_those_of_32(self):
        for narrow in (torch.bfloat16, torch.float16):
            for one, other in zip(train(self.make(narrow), range(12)), train(self.make(), range(12)), strict=True):
                assert torch.allclose(one.float(), other, atol=0.05)

    def test_a_copy_goes_on_by_itself(self):
        optimizer = self.make()
        train(optimizer, range(5))
        copied = copy.deepcopy(optimizer)
        assert same(train(copied, range(5, 9)), train(optimizer, range(5, 9)))

    def test_speechbrains_checkpointer_keeps_it(self, tmp_path):
        wanted = train(self.make(), range(12))
        first, second = self.make(), self.make()
        halfway = train(first, range(7))
        sb.utils.checkpoints.Checkpointer(tmp_path, {"optimizer": first}).save_checkpoint()
        sb.utils.checkpoints.Checkpointer(tmp_path, {"optimizer": second}).recover_if_possible()
        for group, values in zip(second.param_groups, halfway, strict=True):
            group["params"][0].data.copy_(values)
        assert same(train(second, range(7, 12)), wanted)

    @pytest.mark.parametrize("optimizer", [FAM, FAdam])
    def test_nothing_of_a_saved_state_is_shared(self, optimizer):
        first, second = (optimizer([parameter(400)], lr=0.1) for _ in range(2))
        train(first, range(3))
        saved = first.state_dict()
        remaining = {name: value.clone() for name, value in saved["state"][0].items()}
        second.load_state_dict(saved)
        train(second, range(3))
        assert all(torch.equal(first.state_dict()["state"][0][name], value) for name, value in remaining.items())

    def test_the_state_of_another_optimiser_is_refused(self):
        weight = parameter(3)
        adam = torch.optim.AdamW([weight])
        train(adam, range(1))
        with pytest.raises(ValueError, match=r"step, average, product\. It holds step, exp_avg.* Write the optimiser"):
            FAM([weight]).load_state_dict(adam.state_dict())


class TestUse:
    def test_groups_have_settings_of_their_own(self):
        slow, fast, frozen = parameter(300), parameter(300), parameter(300).requires_grad_(False)
        groups = [
            {"params": [slow], "lr": 0.1, "n_bands": 4, "alpha": 0.5, "handler": "embedding", "weight_decay": 0.5},
            {"params": [fast, frozen], "lr": 1.0, "fam_start_step": 10},
        ]
        optimizer = FAM(groups, **AT_ONCE)
        slow.grad, fast.grad = torch.ones(300), torch.ones(300)
        optimizer.step()
        assert len(optimizer.state[slow]["bands"]) == 4
        assert "bands" not in optimizer.state[fast]
        assert (slow[0].item(), fast[0].item()) == pytest.approx((-0.1, -1.0))
        assert not frozen.any()
        assert frozen not in optimizer.state

    @pytest.mark.parametrize(("decoupled_wd", "wanted"), [(True, 0.9 - 0.1), (False, 1 - 0.1 * 2)])
    def test_decay(self, decoupled_wd, wanted):
        weight = torch.nn.Parameter(torch.ones(300))
        weight.grad = torch.ones(300)
        FAM([weight], lr=0.1, weight_decay=1.0, decoupled_wd=decoupled_wd).step()
        assert weight[0].item() == pytest.approx(wanted)

    def test_a_parameter_without_a_gradient_stays_where_it_is(self):
        weights = [parameter(300), parameter(300)]
        optimizer = FAM(weights, weight_decay=0.1, **AT_ONCE)
        gradients_of(weights, 0)
        optimizer.step()
        before, state = weights[1].detach().clone(), copy.deepcopy(optimizer.state[weights[1]])
        weights[1].grad = None
        optimizer.step()
        assert torch.equal(weights[1], before)
        assert all(torch.equal(optimizer.state[weights[1]][name], value) for name, value in state.items())
        gradients_of(weights, 1)
        optimizer.step()
        assert [optimizer.state[weight]["step"].item() for weight in weights] == [3, 2]

    def test_gradients_may_be_summed_over_batches(self):
        actual = []
        for batches in ([6], [2, 4]):
            torch.manual_seed(0)
            layer, inputs = torch.nn.Linear(30, 20), torch.randn(6, 30)
            optimizer = FAM(layer.parameters(), **AT_ONCE)
            for part in inputs.split(batches):
                layer(part).square().sum().backward()
            optimizer.step()
            actual.append(layer.weight.detach())
        assert torch.allclose(*actual, atol=1e-6)

    def test_a_scaled_step_that_overflows_is_left_out(self):
        weight = parameter(300)
        optimizer, scaler = FAM([weight], **AT_ONCE), torch.GradScaler("cpu", init_scale=4.0)
        scaler.scale(weight.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight[0].item() == pytest.approx(-1e-3)
        weight.grad.fill_(math.inf)
        scaler.step(optimizer)
        assert weight[0].item() == pytest.approx(-1e-3)
        assert optimizer.state[weight]["step"] == 1

    def test_it_learns(self):
        torch.manual_seed(0)
        layer, wanted, inputs = torch.nn.Linear(30, 20), torch.randn(20, 30), torch.randn(64, 30)
        optimizer = FAM(layer.parameters(), lr=5.0, fam_start_step=10)
        losses = []
        for _ in range(200):
            loss = (layer(inputs) - inputs @ wanted.T).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 100

    def test_the_published_example(self, tmp_path):
        model = torch.nn.Sequential(torch.nn.Conv1d(1, 8, 32), torch.nn.BatchNorm1d(8))
        groups = fam_parameter_groups(model, lr=1e-3, weight_decay=0.0025)
        with pytest.warns(UserWarning, match="layer_boost does nothing"):
            optimizer = FAM(
                params=groups, beta=0.99, n_bands=10, fam_start_step=100, layer_boost=True, min_size=128, debug=True,
                weight_decay=0.0025, lr=0.001, debug_dir=str(tmp_path),
            )  # fmt: skip
        FAMScheduler(
            optimizer, warmup_steps=100, total_steps=10000, decay_start_step=100, warmup_start_lr=1e-6, eta_min=1e-6
        )
        assert [group["n_bands"] for group in optimizer.param_groups] == [10, 4]

    def test_nothing_warns_by_default(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FAM([parameter(3)])


class TestBadInput:
    @pytest.mark.parametrize(
        "settings",
        [
            {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}, {"weight_decay": -0.1}, {"eps": -1e-8}, {"alpha": 1.0},
            {"alpha": -0.1}, {"beta": 1.0}, {"beta": -0.1}, {"n_bands": 1}, {"n_bands": 2.5}, {"fam_start_step": -1},
            {"min_size": -1}, {"analyse_every": 0}, {"spectrum": "phase"}, {"debug_interval": 0},
        ],
    )  # fmt: skip
    def test_settings_out_of_range(self, settings):
        [(name, value)] = settings.items()
        with pytest.raises(ValueError, match=rf"^FAM was asked for with {name}={value!r}\. .* Write {name} as"):
            FAM([parameter(3)], **settings)

    def test_a_group_that_is_refused_is_not_added(self):
        optimizer = FAM([parameter(3)])
        with pytest.raises(
            ValueError, match="handler='cnov'.* Write handler as one of: default, conv, attention, embedding"
        ):
            optimizer.add_param_group({"params": [parameter(3)], "handler": "cnov"})
        assert len(optimizer.param_groups) == 1

    def test_complex_parameters(self):
        with pytest.raises(ValueError, match=r"complex .* Write torch\.view_as_real"):
            FAM([parameter(3, dtype=torch.complex64)])

    def test_sparse_gradients(self):
        weight, other = parameter(4, 3), parameter(3)
        weight.grad, other.grad = torch.ones(4, 3).to_sparse(), torch.ones(3)
        with pytest.raises(ValueError, match=r"\(4, 3\)\. Its gradient is sparse\. Write sparse=False"):
            FAM([other, weight]).step()
        assert not other.any()

    def test_no_parameters(self):
        with pytest.raises(ValueError, match="empty parameter list"):
            FAM([])
        weight = parameter(3)
        weight.grad = torch.ones(3)
        FAM([{"params": []}, {"params": [weight]}], lr=1.0).step()
        assert weight.tolist() == [-1, -1, -1]

    def test_a_closure_is_called_once_with_gradients(self):
        weight, calls = parameter(3), []

        def closure() -> torch.Tensor:
            loss = (weight - 1).square().sum()
            loss.backward()
            calls.append(loss)
            return loss

        assert FAM([weight], lr=0.5).step(closure) == 3
        assert len(calls) == 1
        assert weight.tolist() == [1, 1, 1]

    @pytest.mark.parametrize("handler", HANDLERS)
    def test_gradients_of_zeros_change_nothing(self, handler):
        weight = torch.nn.Parameter(torch.ones(300))
        optimizer = FAM([{"params": [weight], "handler": handler}], **AT_ONCE)
        for _ in range(3):
            weight.grad = torch.zeros(300)
            optimizer.step()
        assert torch.equal(weight, torch.ones(300))
        assert not optimizer.state[weight]["bands"].any()

    @pytest.mark.parametrize("shape", [(), (1,), (2,), (0,), (3, 0)])
    @pytest.mark.parametrize("handler", HANDLERS)
    def test_tensors_of_hardly_any_elements(self, shape, handler):
        weight = parameter(*shape)
        optimizer = FAM([{"params": [weight], "handler": handler}], lr=1.0, **AT_ONCE)
        weight.grad = torch.ones(shape)
        optimizer.step()
        assert torch.equal(weight, -torch.ones(shape))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("handler", HANDLERS)
    def test_a_gradient_that_is_not_finite_spoils_its_own_parameter_alone(self, value, handler):
        actual = []
        for spoilt in (False, True):
            weights = [parameter(300), parameter(300), parameter(300)]
            optimizer = FAM([{"params": weights, "handler": handler}], **AT_ONCE)
            for step in range(3):
                gradients_of(weights, step)
                if spoilt and step == 1:
                    weights[1].grad[7] = value
                optimizer.step()
            actual.append(weights)
        assert torch.equal(actual[0][0], actual[1][0])
        assert torch.equal(actual[0][2], actual[1][2])
        assert not actual[1][1][7].isfinite()


class TestScheduler:
    def rates(self, count: int, **settings: object) -> list[float]:
        optimizer = torch.optim.SGD([parameter(1)], lr=1.0)
        scheduler, actual = FAMScheduler(optimizer, **settings), []
        for _ in range(count):
            actual.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return actual

    def test_steps_warm_up_stay_and_fall(self):
        rates = self.rates(13, warmup_steps=2, decay_start_step=4, total_steps=8, warmup_start_lr=0.5, eta_min=0.1)
        cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)]
        assert rates == pytest.approx([0.5, 0.75, 1, 1, *cosine, *[0.1] * 5])

    def test_epochs_warm_up_and_fall(self):
        rates = self.rates(8, warmup_epochs=2, max_epochs=6)
        cosine = [1e-8 + (1 - 1e-8) * (1 + math.cos(math.pi * done / 4)) / 2 for done in range(4)]
        assert rates == pytest.approx([1e-8, 0.5, *cosine, 1e-8, 1e-8], abs=1e-7)

    def test_published_numbers_are_the_defaults(self):
        optimizer = torch.optim.SGD([parameter(1)], lr=1.0)
        scheduler = FAMScheduler(optimizer)
        assert (scheduler.warmup, scheduler.decay_start, scheduler.end) == (1000, 1000, 100_000)
        assert (scheduler.warmup_start_lr, scheduler.eta_min) == (1e-6, 1e-6)

    @pytest.mark.parametrize("settings", [{"warmup_epochs": 3, "max_epochs": 3}, {"warmup_steps": 3, "total_steps": 3}])
    def test_a_warm_up_until_the_end_divides_by_nothing(self, settings):
        rates = self.rates(5, **settings)
        assert rates[2] == pytest.approx(2 / 3, abs=1e-5)
        assert rates[3] == rates[4] < 1e-5

    def test_it_goes_on_from_its_state(self):
        optimizer = torch.optim.SGD([parameter(1)], lr=1.0)
        scheduler = FAMScheduler(optimizer, warmup_steps=2, total_steps=9)
        for _ in range(5):
            optimizer.step()
            scheduler.step()
        other = torch.optim.SGD([parameter(1)], lr=1.0)
        resumed = FAMScheduler(other, warmup_steps=2, total_steps=9)
        resumed.load_state_dict(scheduler.state_dict())
        for element in (optimizer, other):
            element.step()
        scheduler.step()
        resumed.step()
        assert resumed.get_last_lr() == scheduler.get_last_lr()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"warmup_steps": 1, "max_epochs": 2, "warmup_epochs": 1}, "It counts one of them"),
            ({"warmup_epochs": 1}, "It counts one of them"),
            ({"warmup_steps": 10, "total_steps": 5}, "out of order"),
            ({"warmup_steps": -1}, "out of order"),
            ({"warmup_steps": 5, "decay_start_step": 3}, "out of order"),
            ({"eta_min": -1.0}, "A rate below 0"),
        ],
    )
    def test_bad_input(self, settings, message):
        with pytest.raises(ValueError, match=rf"^FAMScheduler was asked .*{message}.* Write "):
            self.rates(1, **settings)


def kinds(model: torch.nn.Module) -> dict[str, str]:
    """Parameter -> kind."""
    groups = fam_parameter_groups(model, lr=1.0)
    return {name: group["name"] for group in groups for name in group["param_names"]}


class TestGroups:
    @pytest.mark.parametrize("backbone", list(TINY_BACKBONES))
    @pytest.mark.parametrize("method", METHODS)
    def test_every_trained_parameter_is_in_one_group(self, tiny_backbones, backbone, method):
        adaptation, _ = choose_method(method, METHODS, NARROW)
        model = classifier_without_weights(known_config(tiny_backbones[backbone]), adaptation, n_classes=5)
        groups = fam_parameter_groups(model, lr=1.0, weight_decay=0.1)
        actual = sorted(id(weight) for group in groups for weight in group["params"])
        assert actual == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)
        names = [name for group in groups for name in group["param_names"]]
        assert len(set(names)) == len(names)
        norms = {
            f"{path}.{name}"
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm | torch.nn.BatchNorm1d)
            for name, weight in module.named_parameters(recurse=False)
            if weight.requires_grad
        }
        assert norms == {name for name, kind in kinds(model).items() if kind == "norm"}
        FAM(groups)

    @pytest.mark.parametrize(
        ("method", "wanted"),
        [
            ("conformer", {"depthwise.weight": "conv", "down.weight": "conv", "up.weight": "conv",
                           "expert_bias": "conv",
                           "batch_norm.weight": "norm", "adapter.norm.bias": "norm", "head.weight": "other"}),
            ("convpass", {"convolution.weight": "conv", "down.bias": "conv", "up.weight": "conv"}),
            ("bottleneck", {"down.weight": "other", "up.weight": "other", "expert_bias": "other"}),
            ("lora", {"q_proj.down.weight": "attention", "v_proj.up.weight": "attention", "layernorm.weight": "norm"}),
            ("dora", {"q_proj.lora_A.default.weight": "attention"}),
            ("bitfit", {"q_proj.bias": "attention", "layernorm_before.bias": "norm", "fc1.bias": "other"}),
            ("prompt_deep", {"prompts": "embed"}),
            ("prefix", {"prefix.keys": "embed", "prefix.values": "embed"}),
            ("soft_moa", {"slots": "embed"}),
            ("dense_moa", {"router.weight": "attention"}),
            ("ln_tuning", {"layernorm_after.ln_tuning_layers.default.weight": "norm"}),
            ("full", {"cls_token": "embed", "position_embeddings": "embed", "projection.weight": "conv",
                      "o_proj.weight": "attention", "fc2.weight": "other"}),
        ],
    )  # fmt: skip
    def test_kinds(self, method, wanted):
        methods, changes = read_methods(HPARAMS, "nano-ast")
        adaptation, _ = choose_method(method, methods, changes)
        actual = kinds(classifier_without_weights(known_config("nano-ast"), adaptation, n_classes=5))
        for ending, kind in wanted.items():
            assert {actual[name] for name in actual if name.endswith(ending)} == {kind}, ending

    def test_a_linear_map_beside_a_convolution_is_none(self):
        model = torch.nn.ModuleDict({"front": torch.nn.Conv1d(1, 1, 1), "classes": torch.nn.Linear(1, 1)})
        assert set(kinds(model).items()) >= {("front.weight", "conv"), ("classes.weight", "other")}

    def test_layers_are_no_norms(self):
        layers = torch.nn.ModuleList([torch.nn.ModuleDict({"fc1": torch.nn.Linear(2, 2)})])
        assert set(kinds(torch.nn.ModuleDict({"layers": layers})).values()) == {"other"}

    def test_torchs_attention(self):
        model = torch.nn.ModuleDict({"mixer": torch.nn.MultiheadAttention(4, 2), "words": torch.nn.Embedding(3, 4)})
        actual = kinds(model)
        assert actual["mixer.in_proj_weight"] == "attention"
        assert actual["words.weight"] == "embed"

    def test_settings(self):
        model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(3, 4), "norm": torch.nn.LayerNorm(4)})
        embed, norm = fam_parameter_groups(model, lr=1.0, weight_decay=0.1)
        assert (
            embed["lr"],
            embed["weight_decay"],
            embed["alpha"],
            embed["n_bands"],
            embed["handler"],
        ) == pytest.approx((0.8, 0.15, 0.95, 8, "embedding"))
        assert (norm["lr"], norm["weight_decay"], norm["n_bands"], norm["handler"]) == (1.0, 0.0, 4, "default")

    def test_a_group_has_the_handler_that_its_name_suggests(self):
        names = {"my_cnn": "conv", "self_attn": "attention", "tokens": "embedding", "head": "default"}
        groups = [{"params": [parameter(1)], "name": name} for name in names]
        assert [group["handler"] for group in FAM(groups).param_groups] == list(names.values())


class TestCommand:
    def test_groups_are_listed(self):
        listed = list_optimizer_groups(HPARAMS, "fam", "nano-ast", "conformer", n_classes=10)
        rows = {line.split("|")[1].strip(): line for line in listed.splitlines()[2:]}
        assert list(rows) == ["conv", "norm", "other"]
        assert "backbone.model.layers.*.mlp.adapter.depthwise.weight" in rows["conv"]
        assert "1,930" in rows["other"]

    def test_an_optimiser_without_groups_has_one(self):
        listed = list_optimizer_groups(HPARAMS, "adamw", "nano-ast", "linear", n_classes=10)
        assert listed.splitlines()[2].startswith("| all ")

    def test_bad_input(self):
        with pytest.raises(UsageError, match="Write --optimizer= one of: fam"):
            list_optimizer_groups(HPARAMS, "fan", "nano-ast", "linear", n_classes=10)
        with pytest.raises(UsageError, match="methods.yaml"):
            list_optimizer_groups("nowhere", "fam", "nano-ast", "linear", n_classes=10)


class TestEntry:
    def test_an_optimiser_is_an_entry_with_nothing_to_say(self):
        layer = torch.nn.Linear(2, 3)
        layer.bias.requires_grad_(False)
        entry = as_entry(torch.optim.SGD)
        [group] = entry.build(layer, lr=0.1).param_groups
        assert group["params"] == [layer.weight]
        assert as_entry(entry) is entry

    def test_groups_come_from_the_model(self):
        layer = torch.nn.Linear(2, 3)
        entry = OptimizerEntry(FAM, groups=fam_parameter_groups)
        assert [group["name"] for group in entry.build(layer, lr=0.1).param_groups] == ["other"]

    def test_settings_go_where_they_are_taken(self):
        entry = OptimizerEntry(FAM, groups=fam_parameter_groups)
        changed = entry.with_settings({"weight_decay": 0.5, "min_size": 7, "lr_scale": 3})
        [group] = changed.build(torch.nn.Linear(2, 3), lr=0.1).param_groups
        assert (group["weight_decay"], group["min_size"], changed.lr_scale) == (0.5, 7, 3)
        [untouched] = entry.build(torch.nn.Linear(2, 3), lr=0.1).param_groups
        assert (untouched["weight_decay"], untouched["min_size"], entry.lr_scale) == (0.0, 256, 1)


class TestRecords:
    @pytest.fixture
    def run(self, tmp_path) -> Callable[[range], Path]:
        """Steps of a run that keeps records."""

        def run(steps: range) -> Path:
            layers = torch.nn.ModuleDict({"conv": torch.nn.Conv1d(1, 8, 64), "fc": torch.nn.Linear(30, 20)})
            optimizer = FAM(
                fam_parameter_groups(layers, lr=0.1),
                fam_start_step=4,
                debug=True,
                debug_dir=str(tmp_path / "run"),
                debug_interval=2,
            )
            train(optimizer, steps)
            return tmp_path / "run" / "fam.jsonl"

        return run

    def test_a_line_for_each_analysed_parameter(self, run):
        records = [json.loads(line) for line in run(range(9)).read_text().splitlines()]
        assert [(record["step"], record["group"], record["name"]) for record in records] == [
            (step, group, name) for step in (6, 8) for group, name in (("conv", "conv.weight"), ("other", "fc.weight"))
        ]
        assert {len(record["bands"]) for record in records} == {10, 8}
        assert all(0.85 <= record["momentum"] <= 0.98 for record in records)

    def test_parameters_without_gradients_have_no_records(self, tmp_path):
        weights = [parameter(300), parameter(300)]
        optimizer = FAM(weights, debug=True, debug_dir=str(tmp_path), debug_interval=1, **AT_ONCE)
        weights[0].grad = torch.ones(300)
        optimizer.step()
        assert [json.loads(line)["name"] for line in (tmp_path / "fam.jsonl").read_text().splitlines()] == ["0.0"]
        assert weights[1] not in optimizer.state

    def test_groups_without_names_have_numbers(self, tmp_path):
        groups = [{"params": [parameter(300)]}, {"params": [parameter(300)]}]
        train(FAM(groups, debug=True, debug_dir=str(tmp_path), debug_interval=1, **AT_ONCE), range(1))
        records = [json.loads(line) for line in (tmp_path / "fam.jsonl").read_text().splitlines()]
        assert [record["name"] for record in records] == ["0.0", "1.0"]

    def test_nothing_is_written_without_debug(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        train(FAM([parameter(300)], **AT_ONCE), range(20))
        assert list(tmp_path.iterdir()) == []

    def test_a_resumed_run_appends_and_its_records_count(self, run):
        path = run(range(9))
        with path.open("a") as file:
            file.write('{"step": 10, "gro\n')
        run(range(9))
        assert len(path.read_text().splitlines()) == 9
        actual = read_records(path)
        assert {
            group: {step: len(records) for step, records in series.items()} for group, series in actual.items()
        } == {
            "conv": {6: 1, 8: 1},
            "other": {6: 1, 8: 1},
        }

    def test_records_are_drawn_beside_their_file(self, run, tmp_path):
        picture = run(range(9)).with_suffix(".png")
        assert draw_records(str(tmp_path)) == [picture]
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_what_is_missing_is_named(self, run, tmp_path, monkeypatch):
        run(range(9))
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(UsageError, match=r"matplotlib is missing.*brainplug\[plot\]"):
            draw_records(str(tmp_path))
