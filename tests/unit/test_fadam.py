"""FAdam against Algorithm 1 in plain floats, against the published package, and with what can go wrong."""

import copy
import io
import math

import pytest
import pytorch_optimizer
import torch
from hypothesis import given
from hypothesis import strategies as st

from brainplug.optim import FAdam, fadam

DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "p": 0.5, "eps2": 0.01}
SETTINGS = {
    "defaults": {},
    "no decay": {"weight_decay": 0.0},
    "clip 0.3": {"clip": 0.3},
    "clip 7": {"clip": 7.0},
    "power": {"p": 0.3, "eps": 1e-3},
    "fixed": {"eps_mode": "fixed", "eps": 0.02},
    "two": {"eps_mode": "two", "eps": 0.5, "eps2": 0.2},
    "rms1": {"eps": 0.3},
    "no momentum": {"betas": (0.0, 0.9)},
    "no memory": {"betas": (0.9, 0.0)},
    "maximize": {"maximize": True},
}


def rms(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


class Reference:
    """Algorithm 1 for one tensor of float64, number by number, written from its text."""

    def __init__(self, weights: list[float], **settings: object):
        self.weights, self.settings, self.t = list(weights), {**DEFAULTS, **settings}, 0
        self.fisher, self.momentum = [1.0] * len(weights), [0.0] * len(weights)
        self.natural: list[float] = []
        self.decay: list[float] = []

    def epsilon(self, gradient: list[float]) -> float:
        eps, mode = self.settings["eps"], self.settings.get("eps_mode", "rms1")
        if mode == "fixed":
            return max(1e-15, eps)
        if mode == "two":
            return max(1e-15, min(eps, self.settings["eps2"] * rms(gradient)))
        return max(1e-15, eps * min(1.0, rms(gradient)))

    def step(self, gradient: list[float]) -> None:
        if self.settings.get("maximize"):
            gradient = [-g for g in gradient]
        self.t += 1
        beta1, beta2 = self.settings["betas"]
        power, clip = self.settings["p"], self.settings["clip"]
        b = beta2 * (1 - beta2 ** (self.t - 1)) / (1 - beta2**self.t)
        self.fisher = [b * f + (1 - b) * g * g for f, g in zip(self.fisher, gradient, strict=True)]
        epsilon = self.epsilon(gradient)
        natural = [g / (f**power + epsilon) for g, f in zip(gradient, self.fisher, strict=True)]
        self.natural = [n / max(1.0, rms(natural) / clip) for n in natural]
        self.momentum = [beta1 * m + (1 - beta1) * n for m, n in zip(self.momentum, self.natural, strict=True)]
        decay = [w / (f**power + epsilon) if f else 0.0 for w, f in zip(self.weights, self.fisher, strict=True)]
        self.decay = [u / max(1.0, rms(decay) / clip) for u in decay]
        lr, scale = self.settings["lr"], self.settings["weight_decay"]
        self.weights = [
            w - lr * (m + scale * u) for w, m, u in zip(self.weights, self.momentum, self.decay, strict=True)
        ]


def parameter(*values: float, dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def set_gradients(params: list[torch.nn.Parameter], seed: int) -> None:
    """The same gradients for the same seed and shapes, whatever the type."""
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = (torch.randn(param.shape, generator=generator, dtype=torch.float64) * 0.1).to(param.dtype)


def some_parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def run(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def stepped(gradients: list[list[float]], weights: list[float], **settings: object) -> tuple[torch.Tensor, dict]:
    """Weights and state after steps with these gradients."""
    weight = parameter(*weights)
    optimizer = FAdam([weight], **settings)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=weight.dtype)
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def values_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All weights, then all state."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [value for param in params for value in optimizer.state[param].values()]
    return [*(param.detach() for param in params), *states]


def assert_bit_equal(actual: torch.optim.Optimizer, wanted: torch.optim.Optimizer) -> None:
    for one, other in zip(values_of(actual), values_of(wanted), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


class TestAlgorithm:
    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
    def test_equals_the_reference(self, settings):
        params = some_parameters((7,), (3, 5), (1,), dtype=torch.float64)
        references = [Reference(param.flatten().tolist(), **settings) for param in params]
        optimizer = FAdam(params, **settings)
        for step in range(60):
            set_gradients(params, step)
            params[0].grad[2] = 0.0  # an element that never has a gradient
            for param, reference in zip(params, references, strict=True):
                reference.step(param.grad.flatten().tolist())
            optimizer.step()
        for param, reference in zip(params, references, strict=True):
            actual = [param, optimizer.state[param]["fisher"], optimizer.state[param]["momentum"]]
            wanted = [reference.weights, reference.fisher, reference.momentum]
            for one, other in zip(actual, wanted, strict=True):
                assert one.flatten().tolist() == pytest.approx(other, rel=1e-11, abs=1e-13)

    def test_the_reference_can_be_missed(self):
        """So that the comparison above can fail: each setting leads elsewhere."""
        ends = []
        for settings in SETTINGS.values():
            reference = Reference([1.0, -0.5], **settings)
            for _ in range(3):
                reference.step([0.2, -0.04])
                reference.step([0.05, 0.03])
            ends.append(tuple(reference.weights))
        assert len(set(ends)) == len(SETTINGS)

    def test_worked_example(self):
        first, state = stepped([[3.0, 4.0]], [1.0, -2.0])
        assert state["fisher"].tolist() == [9.0, 16.0]
        assert state["momentum"].tolist() == pytest.approx([0.1, 0.1], abs=1e-7)
        assert first.tolist() == pytest.approx([0.9998667, -2.00005], abs=5e-8)
        second, state = stepped([[3.0, 4.0], [0.3, -4.0]], [1.0, -2.0])
        assert state["fisher"].tolist() == pytest.approx([4.54277, 16.0], abs=5e-6)
        assert state["momentum"].tolist() == pytest.approx([0.10408, -0.01], abs=5e-6)
        assert second.tolist() == pytest.approx([0.9997157, -1.99999], abs=5e-8)

    def test_worked_example_on_the_way(self):
        """The numbers that FAdam keeps nowhere, from the reference that it equals."""
        reference = Reference([1.0, -2.0])
        reference.step([3.0, 4.0])
        assert rms([3.0, 4.0]) == pytest.approx(3.536, abs=5e-4)
        assert reference.natural == pytest.approx([1.0, 1.0], abs=1e-7)
        assert reference.decay == pytest.approx([0.3333, -0.5], abs=5e-5)
        assert rms(reference.decay) == pytest.approx(0.4249, abs=5e-5)
        reference.step([0.3, -4.0])
        assert reference.natural == pytest.approx([0.14075, -1.0], abs=5e-6)

    def test_elements_without_gradient_do_not_decay(self):
        """Else they would have (1.7e-8, 1.7e-8, 1.7e-8, 2.0) of the decay."""
        weight, state = stepped([[0.1, 0.1, 0.1, 0.0]], [1.0] * 4, lr=1.0, betas=(0.0, 0.999), weight_decay=1.0)
        decay = 1 - weight - state["momentum"]
        assert decay.tolist() == pytest.approx([2 / math.sqrt(3)] * 3 + [0], abs=1e-6)
        assert weight[3] == 1

    def test_first_natural_gradient_is_the_sign(self):
        gradient = [3.0, -0.02, 1e-5, -700.0]
        _, state = stepped([gradient], [0.0] * 4, betas=(0.0, 0.999), eps=1e-12)
        assert state["momentum"].tolist() == pytest.approx([1, -1, 1, -1], abs=1e-6)

    @given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.floats(0.1, 3.0))
    def test_clip_bounds_the_natural_gradient(self, gradient, clip):
        _, state = stepped([[0.01] * len(gradient), gradient], [0.0] * len(gradient), clip=clip, betas=(0.0, 0.999))
        assert rms(state["momentum"].tolist()) <= clip * (1 + 1e-9)

    def test_a_large_clip_changes_nothing(self):
        """The published codes divide by max(1, RMS) / c: for c other than 1 they scale what is not clipped too."""
        gradients = [[0.5, -0.1], [0.1, -0.02]]
        actual = [
            stepped(gradients, [1.0, 2.0], clip=clip, eps=1e-3, weight_decay=0)[1]["momentum"] for clip in (1.0, 50)
        ]
        assert torch.equal(*actual)

    @pytest.mark.parametrize("factor", [0.1, 10.0])
    def test_scale_of_the_gradient_does_not_matter(self, factor):
        gradients = [[0.3, -0.4, 1.0], [0.2, 0.5, -0.7]]
        scaled = [[factor * g for g in gradient] for gradient in gradients]
        one, other = (stepped(several, [1.0, 2.0, 3.0])[1]["momentum"] for several in (gradients, scaled))
        assert (one - other).abs().max() < 1e-6

    def test_fisher_is_the_corrected_second_moment_of_adam(self):
        params = some_parameters((9,), dtype=torch.float64)
        others = copy.deepcopy(params)
        ours, adam = FAdam(params), torch.optim.Adam(others, betas=(0.9, 0.999))
        for step in range(100):
            run(ours, params, range(step, step + 1))
            run(adam, others, range(step, step + 1))
            corrected = adam.state[others[0]]["exp_avg_sq"] / (1 - 0.999 ** (step + 1))
            assert torch.allclose(ours.state[params[0]]["fisher"], corrected, rtol=1e-9, atol=0)

    def test_what_the_fisher_information_starts_from_does_not_matter(self):
        from_zero, from_one = (FAdam(some_parameters((4,), (2, 3))) for _ in range(2))
        for param in from_one.param_groups[0]["params"]:
            fisher, momentum = torch.ones_like(param), torch.zeros_like(param)
            from_one.state[param] = {"step": torch.tensor(0.0), "fisher": fisher, "momentum": momentum}
        for optimizer in (from_zero, from_one):
            run(optimizer, optimizer.param_groups[0]["params"], range(5))
        assert_bit_equal(from_zero, from_one)

    def test_maximize_climbs_what_its_opposite_descends(self):
        up, down = (FAdam(some_parameters((4, 3)), maximize=maximize) for maximize in (True, False))
        for step in range(4):
            for optimizer, sign in ((up, 1), (down, -1)):
                set_gradients(optimizer.param_groups[0]["params"], step)
                optimizer.param_groups[0]["params"][0].grad *= sign
                optimizer.step()
        assert_bit_equal(up, down)

    def test_descends(self):
        weight = parameter(3.0, -2.0)
        optimizer = FAdam([weight], lr=0.02, weight_decay=0.001)
        for _ in range(400):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        assert weight.abs().max() < 0.1


class TestPublishedPackage:
    """kozistr/pytorch_optimizer agrees but for these points.

    It counts steps by group, so a parameter whose first gradient comes late has too small a Fisher information there.
    Elements that never had a gradient take all of the decay there, and the floor of ε̂ is another one. It has the mode
    ``two`` alone, and for p other than 1/2 an exponent on ε̂. Its ``maximize`` turns the stored gradient.
    """

    def published(self, params: list[torch.nn.Parameter], **settings: object) -> torch.optim.Optimizer:
        return pytorch_optimizer.FAdam(params, **settings)

    @pytest.mark.parametrize(
        "settings",
        [{}, {"weight_decay": 0.0}, {"clip": 0.3}, {"clip": 5.0}, {"eps": 0.05, "eps2": 0.3}, {"betas": (0.5, 0.9)}],
        ids=str,
    )
    def test_agrees(self, settings):
        params, others = (some_parameters((4,), (3, 5)) for _ in range(2))
        ours = FAdam(params, eps_mode="two", **settings)
        renamed = {{"eps2": "eps_2"}.get(name, name): value for name, value in settings.items()}
        theirs = self.published(others, **renamed)
        for optimizer, owned in ((ours, params), (theirs, others)):
            run(optimizer, owned, range(30))
        for param, other in zip(params, others, strict=True):
            assert torch.allclose(param, other, rtol=1e-5, atol=1e-6)

    def test_a_late_gradient_differs(self):
        ends = []
        for make in (FAdam, self.published):
            early, late = some_parameters((3,), (3,))
            optimizer = make([early, late], weight_decay=0.0, clip=100.0, lr=1.0, betas=(0.0, 0.999))
            before = late.detach().clone()
            run(optimizer, [early], range(1))
            run(optimizer, [early, late], range(1, 2))
            ends.append((late.detach() - before).abs().mean().item())
        ours, theirs = ends
        assert ours == pytest.approx(1.0, abs=1e-5)
        assert theirs > 1.3

    def test_unused_elements_differ(self):
        ends = []
        for make in (FAdam, self.published):
            weight = parameter(1.0, 1.0, 1.0, 1.0, dtype=torch.float32)
            optimizer = make([weight], lr=0.1, weight_decay=1.0)
            weight.grad = torch.tensor([0.1, 0.1, 0.1, 0.0])
            optimizer.step()
            ends.append(weight[3].item())
        assert ends == [1.0, pytest.approx(1 - 0.1 * 2.0)]


class TestState:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_resume_is_bit_equal(self, dtype):
        shapes = (4, 6), (5,), ()
        whole = FAdam(some_parameters(*shapes, dtype=dtype), lr=0.01)
        run(whole, whole.param_groups[0]["params"], range(8))
        half = FAdam(some_parameters(*shapes, dtype=dtype), lr=0.01)
        run(half, half.param_groups[0]["params"], range(3))
        file = io.BytesIO()
        torch.save([half.state_dict(), half.param_groups[0]["params"]], file)
        file.seek(0)
        state, params = torch.load(file, weights_only=False)
        resumed = FAdam(params)
        resumed.load_state_dict(state)
        run(resumed, params, range(3, 8))
        assert_bit_equal(resumed, whole)

    def test_parameters_of_16_bits_keep_a_state_of_32(self):
        optimizer = FAdam(some_parameters((3,), dtype=torch.bfloat16))
        run(optimizer, optimizer.param_groups[0]["params"], range(2))
        [state] = optimizer.state.values()
        assert [state[name].dtype for name in ("fisher", "momentum")] == [torch.float32] * 2
        assert all(torch.is_tensor(value) for value in state.values())

    def test_bfloat16_is_float32_rounded_once(self):
        [rough] = some_parameters((50,), dtype=torch.bfloat16)
        exact = torch.nn.Parameter(rough.detach().float())
        for weight in (rough, exact):
            weight.grad = torch.linspace(-1, 1, 50).bfloat16().to(weight.dtype)
            FAdam([weight], lr=0.1).step()
        assert torch.equal(rough, exact.bfloat16())

    def test_steps_are_counted_for_each_parameter(self):
        early, late = some_parameters((2,), (2,))
        optimizer = FAdam([early, late])
        run(optimizer, [early], range(3))
        assert late not in optimizer.state
        run(optimizer, [early, late], range(3, 5))
        assert [optimizer.state[param]["step"].item() for param in (early, late)] == [5, 2]
        first, alone = some_parameters((2,), (2,))
        run(FAdam([alone]), [first, alone], range(3, 5))
        assert torch.equal(late, alone)

    def test_blocks_do_not_change_the_result(self, monkeypatch):
        shapes = (300,), (5, 7), (2000,), (1,), (64,)
        together = FAdam(some_parameters(*shapes))
        run(together, together.param_groups[0]["params"], range(3))
        monkeypatch.setattr(fadam, "BLOCK", 100)
        apart = FAdam(some_parameters(*shapes))
        run(apart, apart.param_groups[0]["params"], range(3))
        assert_bit_equal(apart, together)

    def test_parameters_of_several_types_in_a_group(self):
        params = [*some_parameters((3,), (4,)), *some_parameters((3,), dtype=torch.bfloat16)]
        mixed = FAdam([params[2], *params[:2]])
        run(mixed, params, range(3))
        alone = FAdam(some_parameters((3,), (4,)))
        run(alone, alone.param_groups[0]["params"], range(3))
        assert all(torch.equal(*pair) for pair in zip(params[:2], alone.param_groups[0]["params"], strict=True))

    def test_groups_have_settings_of_their_own(self):
        decayed, free = some_parameters((3,), (3,))
        before = decayed.detach().clone(), free.detach().clone()
        optimizer = FAdam([{"params": [decayed]}, {"params": [free], "weight_decay": 0.0, "lr": 0.5}], lr=0.1)
        for param in (decayed, free):
            param.grad = torch.zeros_like(param)
            param.grad[0] = 1.0
        optimizer.step()
        assert (before[1] - free)[0].item() == pytest.approx(0.5 * 0.1, rel=1e-5)
        assert (before[0] - decayed)[0].item() != pytest.approx(0.1 * 0.1, rel=1e-2)

    def test_learning_rate_can_be_changed_between_steps(self):
        [weight] = some_parameters((3,))
        optimizer = FAdam([weight])
        run(optimizer, [weight], range(1))
        before = weight.detach().clone()
        optimizer.param_groups[0]["lr"] = 0.0
        run(optimizer, [weight], range(1, 2))
        assert torch.equal(weight, before)

    def test_copies_and_pickles(self):
        optimizer = FAdam(some_parameters((3,)))
        run(optimizer, optimizer.param_groups[0]["params"], range(2))
        copied = copy.deepcopy(optimizer)
        run(copied, copied.param_groups[0]["params"], range(2, 4))
        run(optimizer, optimizer.param_groups[0]["params"], range(2, 4))
        assert_bit_equal(copied, optimizer)


class TestGradients:
    def test_are_left_as_they_are(self):
        for dtype in (torch.float32, torch.bfloat16):
            [weight] = some_parameters((6,), dtype=dtype)
            optimizer = FAdam([weight], maximize=True, clip=0.1)
            set_gradients([weight], 0)
            before, position = weight.grad.clone(), weight.grad.data_ptr()
            optimizer.step()
            assert torch.equal(weight.grad, before) and weight.grad.data_ptr() == position

    def test_accumulated_ones_are_one(self):
        whole, parts = (FAdam(some_parameters((3,))) for _ in range(2))
        [one], [other] = whole.param_groups[0]["params"], parts.param_groups[0]["params"]
        (one * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        for part in ([1.0, 0.0, 1.0], [0.0, 2.0, 2.0]):
            (other * torch.tensor(part)).sum().backward()
        whole.step()
        parts.step()
        assert_bit_equal(parts, whole)

    @pytest.mark.parametrize("overflow", [False, True])
    def test_grad_scaler(self, overflow):
        [weight], [plain] = some_parameters((3,)), some_parameters((3,))
        optimizer, scaler = FAdam([weight]), torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale((weight**2).sum()).backward()
        if overflow:
            weight.grad[0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        if not overflow:
            (plain**2).sum().backward()
            FAdam([plain]).step()
        assert torch.equal(weight, plain)

    def test_that_are_missing_change_nothing(self):
        frozen, trained = some_parameters((2,), (2,))
        before = frozen.detach().clone()
        optimizer = FAdam([frozen, trained])
        run(optimizer, [trained], range(2))
        assert torch.equal(frozen, before)
        assert frozen not in optimizer.state

    @pytest.mark.parametrize("eps_mode", fadam.EPS_MODES)
    @pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.0}, {"eps": 0.0}], ids=str)
    def test_of_zeros_are_an_exact_no_op_at_first(self, eps_mode, settings):
        [weight] = some_parameters((4,))
        before, optimizer = weight.detach().clone(), FAdam([weight], eps_mode=eps_mode, **settings)
        for _ in range(3):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        assert torch.equal(weight, before)
        assert not optimizer.state[weight]["fisher"].any()

    @pytest.mark.parametrize("eps_mode", fadam.EPS_MODES)
    def test_of_zeros_stay_finite_later(self, eps_mode):
        [weight] = some_parameters((4,))
        optimizer = FAdam([weight], eps_mode=eps_mode)
        run(optimizer, [weight], range(2))
        for _ in range(50):
            weight.grad = torch.zeros_like(weight)
            optimizer.step()
        assert all(value.isfinite().all() for value in values_of(optimizer))

    @pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-12, 1e12, 1e18])
    def test_of_any_size_stay_finite(self, scale):
        params = some_parameters((4,), (3, 2))
        optimizer = FAdam(params)
        for step in range(5):
            set_gradients(params, step)
            for param in params:
                param.grad *= scale
            optimizer.step()
        assert all(value.isfinite().all() for value in values_of(optimizer))

    @pytest.mark.parametrize("wrong", [math.nan, math.inf])
    def test_that_are_not_finite_spoil_their_tensor_alone(self, wrong):
        spoilt, sound = some_parameters((3,), (3,))
        optimizer = FAdam([spoilt, sound])
        set_gradients([spoilt, sound], 0)
        spoilt.grad[1] = wrong
        optimizer.step()
        assert spoilt.isnan().all()
        assert sound.isfinite().all()

    def test_that_are_not_contiguous(self):
        [weight], [other] = some_parameters((3, 4)), some_parameters((3, 4))
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).t()
        weight.grad, other.grad = gradient, gradient.contiguous()
        for param in (weight, other):
            FAdam([param]).step()
        assert torch.allclose(weight, other, rtol=1e-6)

    def test_a_closure_computes_them(self):
        [weight], [other] = some_parameters((3,)), some_parameters((3,))
        optimizer, calls = FAdam([weight]), []

        def closure() -> torch.Tensor:
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = (weight**2).sum()
            loss.backward()
            return loss

        before = (weight**2).sum().item()
        assert optimizer.step(closure).item() == before
        assert calls == [True]
        (other**2).sum().backward()
        FAdam([other]).step()
        assert torch.equal(weight, other)

    def test_step_without_a_closure_returns_nothing(self):
        assert FAdam(some_parameters((2,))).step() is None

    def test_sparse_ones_are_refused_before_anything_changes(self):
        embedding, [dense] = torch.nn.Embedding(4, 2, sparse=True), some_parameters((2,))
        optimizer, before = FAdam([dense, embedding.weight]), dense.detach().clone()
        dense.grad = torch.ones_like(dense)
        embedding(torch.tensor([1])).sum().backward()
        with pytest.raises(ValueError, match=r"shape \(4, 2\)\. Its gradient is sparse\. Write sparse=False"):
            optimizer.step()
        assert torch.equal(dense, before)
        assert not optimizer.state


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("lr", -1e-3),
            ("lr", math.nan),
            ("lr", math.inf),
            ("betas", (1.0, 0.999)),
            ("betas", (0.9, 1.0)),
            ("betas", (-0.1, 0.999)),
            ("betas", (0.9,)),
            ("eps", -1e-8),
            ("weight_decay", -0.1),
            ("clip", 0.0),
            ("clip", math.inf),
            ("p", 0.0),
            ("eps2", 0.0),
            ("eps_mode", "rms2"),
        ],
    )
    def test_setting_out_of_range(self, name, value):
        with pytest.raises(ValueError, match=rf"{name}=.* That is out of range\. Write {name} as "):
            FAdam(some_parameters((2,)), **{name: value})
        with pytest.raises(ValueError, match=rf"{name}="):
            FAdam([{"params": some_parameters((2,)), name: value}])

    def test_group_that_is_refused_is_not_added(self):
        optimizer = FAdam(some_parameters((2,)))
        with pytest.raises(ValueError, match="clip=-1"):
            optimizer.add_param_group({"params": some_parameters((3,)), "clip": -1})
        assert len(optimizer.param_groups) == 1

    def test_complex_parameter(self):
        with pytest.raises(ValueError, match=r"complex parameters\. It has no rule .* Write torch\.view_as_real"):
            FAdam([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))])

    def test_no_parameters(self):
        with pytest.raises(ValueError, match="empty parameter list"):
            FAdam([])

    def test_empty_group_and_empty_tensor_are_no_op(self):
        [weight], [other] = some_parameters((2,)), some_parameters((2,))
        empty = torch.nn.Parameter(torch.empty(0, 3))
        optimizer, plain = FAdam([{"params": []}, {"params": [empty, weight]}]), FAdam([other])
        run(optimizer, [weight], range(1))
        empty.grad = torch.empty(0, 3)
        run(optimizer, [weight], range(1, 2))
        run(plain, [other], range(2))
        assert torch.equal(weight, other)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_one_element(self, shape):
        """Its natural gradient is clipped to c, its decay too."""
        weight = torch.nn.Parameter(torch.full(shape, 5.0))
        weight.grad = torch.full(shape, -0.2)
        FAdam([weight], lr=1.0).step()
        assert weight.item() == pytest.approx(5 + 0.1 - 0.1 * 1)

    def test_state_of_another_optimiser(self):
        [weight] = some_parameters((2,))
        adamw = torch.optim.AdamW([weight])
        run(adamw, [weight], range(1))
        optimizer = FAdam([weight])
        with pytest.raises(
            ValueError, match=r"step, fisher, momentum\. It holds step, exp_avg, .* Write the optimiser"
        ):
            optimizer.load_state_dict(adamw.state_dict())
        assert not optimizer.state


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu():
    params = [torch.nn.Parameter(param.detach().cuda()) for param in some_parameters((4,), (3, 5))]
    optimizer = FAdam(params)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(param.isfinite().all() for param in params)
