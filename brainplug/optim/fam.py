"""FAM: gradient descent with a momentum that follows the gradient's spectrum.

After https://github.com/sine2pi/FAMOptimizer (``FAMOptimizer.py``, 2025), which calls it frequency-adaptive momentum.
For each parameter θ with gradient g, average m (zeros in the beginning) and band energies b::

    e = energies of the bands in the spectrum of g        see `brainplug.optim.spectrum`
    b ← β b + (1 - β) e, in its first step e
    a = rule(b), or α before that and for small parameters
    P ← a P, 1 in the beginning
    m ← m + w (g - m),  w = (1 - a) / (1 - P)             w = 1 - a without bias_correction
    θ ← (1 - lr λ) θ - lr m

With ``m' = a m' + (1 - a) g``, the published average, m is ``m' / (1 - P)``: w follows from that.
There is no second moment: learning rates that fit are those of gradient descent, not those of Adam.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import ParamsT

from brainplug.optim.base import CheckedOptimizer, Group, Part, from_0_on, gradients_of, whole_from, wide
from brainplug.optim.spectrum import (
    HANDLERS,
    Handler,
    band_energies,
    band_matrix,
    handler_for,
    random_sample,
    strided_sample,
)

State = dict[str, torch.Tensor]
Sampler = Callable[[torch.Size, torch.device], torch.Tensor | None]
RECORD_NAME = "fam.jsonl"


class Batch(NamedTuple):
    """Parameters that are analysed together: their states, gradients, and momenta a, ``[parameters]``."""

    states: list[State]
    gradients: list[torch.Tensor]
    momenta: torch.Tensor


class FAM(CheckedOptimizer):
    """Steps along an average of the gradients, the longer the more noise their spectrum shows.

    All state is in tensors, in float32 (float64 for such parameters) whatever the parameters' type. Nothing is random
    and nothing waits for the GPU, except for records; parameters of one size are analysed together.

    Arguments
    ---------
    params : ParamsT
        Parameters, or groups of them with settings of their own and ``handler``, a name in `handlers`; by default the
        one that the group's ``name`` suggests, see `handler_for`. The settings marked * hold for all groups.
    lr : float
        Learning rate.
    alpha : float
        α, the momentum before the analysis starts and where it finds nothing.
    beta : float
        β, of the average of band energies.
    eps : float
        Added to the sum of a spectrum.
    weight_decay : float
        λ.
    n_bands : int
        Bands of a spectrum.
    fam_start_step : int
        Steps before the analysis starts.
    layer_boost : bool, optional
        Does nothing, as in the published code, which never reads it.
    min_size : int
        Only parameters of more elements are analysed.
    debug, debug_dir, debug_interval : bool, str, int
        * Appends records to ``fam.jsonl`` in this folder, every so many steps: one JSON object a parameter, with
        ``step``, ``group``, ``name``, ``bands`` (b) and ``momentum`` (a). Only the first process does. Of a step that
        was done twice, because the run was resumed, the later record counts.
    parity : bool
        Computes what the published code does: samples at random (*), and the next three off.
    decoupled_wd : bool, optional
        Decays as above. Otherwise λθ is a part of g, in the spectrum too.
    bias_correction : bool, optional
        * Makes the first steps as long as the later ones.
    cover_all : bool, optional
        Counts bins that the published bands leave out, the highest among them, to the band below.
    analyse_every : int
        Steps from one analysis to the next; in between a stays.
    spectrum : str
        ``amplitude``, or ``power``: squared.
    handlers : Mapping[str, Handler]
        * How gradients are read.
    sampler : Callable, optional
        * Called with a gradient's shape and device, returns the flat indices of the elements that are analysed, or None
        for all. By default `strided_sample`.

    Note
    ----
    Zeros have no energy in any band: the momentum is α, with the handler ``attention`` that of low frequencies.
    A gradient that is not finite makes its own parameter not finite, and no other.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = FAM([weight], lr=0.5)
    >>> weight.grad = torch.tensor([3.0, 0.0])
    >>> optimizer.step()
    >>> weight.tolist()
    [-0.5, -2.0]
    """

    STATE = ("step", "average", "product")  # and, once they were analysed, "bands"
    RANGES = (
        (("lr", "eps", "weight_decay"), from_0_on, "a number from 0 on"),
        (("alpha", "beta"), lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        (("n_bands",), whole_from(2), "a whole number from 2 on"),
        (("fam_start_step", "min_size"), whole_from(0), "a whole number from 0 on"),
        (("analyse_every",), whole_from(1), "a whole number from 1 on"),
        (("spectrum",), ("amplitude", "power").__contains__, "amplitude or power"),
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        alpha: float = 0.9,
        beta: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        n_bands: int = 8,
        fam_start_step: int = 100,
        layer_boost: bool | None = None,
        min_size: int = 256,
        debug: bool = False,
        debug_dir: str = "fam_debug",
        debug_interval: int = 10,
        *,
        parity: bool = False,
        decoupled_wd: bool | None = None,
        bias_correction: bool | None = None,
        cover_all: bool | None = None,
        analyse_every: int = 1,
        spectrum: str = "amplitude",
        handlers: Mapping[str, Handler] = HANDLERS,
        sampler: Sampler | None = None,
    ):
        if layer_boost is not None:
            warnings.warn("layer_boost does nothing: the published code never reads it.", stacklevel=2)
        self.check_setting("debug_interval", debug_interval, whole_from(1), "a whole number from 1 on")
        self.bias_correction = not parity if bias_correction is None else bias_correction
        self.handlers, self.sampler = handlers, sampler or (random_sample if parity else strided_sample)
        self.record_file = Path(debug_dir, RECORD_NAME) if debug else None
        self.debug_interval = debug_interval
        settings = {
            "lr": lr,
            "alpha": alpha,
            "beta": beta,
            "eps": eps,
            "weight_decay": weight_decay,
            "n_bands": n_bands,
            "fam_start_step": fam_start_step,
            "min_size": min_size,
            "decoupled_wd": not parity if decoupled_wd is None else decoupled_wd,
            "cover_all": not parity if cover_all is None else cover_all,
            "analyse_every": analyse_every,
            "spectrum": spectrum,
        }
        super().__init__(params, settings)

    def __getstate__(self) -> dict[str, Any]:
        own = ("bias_correction", "handlers", "sampler", "record_file", "debug_interval")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def check_group(self, group: Group) -> None:
        """Checks the handler too; a group without one gets the one that its name suggests."""
        super().check_group(group)
        group.setdefault("handler", handler_for(group.get("name", "")))
        handlers = f"one of: {', '.join(self.handlers)}"
        self.check_setting("handler", group["handler"], self.handlers.__contains__, handlers)

    def update(self, parts: Sequence[Part]) -> None:
        """Updates parameters of one device and type together, and writes records of the step."""
        kinds: dict[tuple[torch.device, torch.dtype], list[Part]] = {}
        for group, parameters in parts:
            for kind, of_kind in _by_kind(parameters).items():
                kinds.setdefault(kind, []).append((group, of_kind))
        for alike in kinds.values():
            self._step_alike(alike)
        if self.record_file is not None and _is_first_process():
            self._record(self.record_file)

    def momentum_of(self, parameter: torch.Tensor) -> float:
        """The momentum a of a parameter's last step. Reading it waits for the GPU."""
        [group] = [group for group in self.param_groups if any(other is parameter for other in group["params"])]
        return self._momenta(group, [self._state_of(parameter)], []).item()

    def _handler(self, group: Group) -> Handler:
        return self.handlers[group["handler"]]

    def _step_alike(self, parts: list[Part]) -> None:
        """Updates parameters of one device and type, which come with their groups."""
        states = [self._state_of(parameter) for _, parameters in parts for parameter in parameters]
        # With a tensor for the 1: torch would make one for every step count.
        torch._foreach_add_([state["step"] for state in states], torch.tensor(1.0), alpha=1.0)
        batches = [batch for group, parameters in parts for batch in self._analyse(group, parameters)]
        states = [state for batch in batches for state in batch.states]
        gradients = [gradient for batch in batches for gradient in batch.gradients]
        weights = self._weights(states, torch.cat([batch.momenta for batch in batches]))
        torch._foreach_lerp_([state["average"] for state in states], gradients, weights)
        for group, parameters in parts:
            if group["weight_decay"] and group["decoupled_wd"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            averages = [self.state[parameter]["average"] for parameter in parameters]
            torch._foreach_add_(parameters, averages, alpha=-group["lr"])

    def _state_of(self, parameter: torch.Tensor) -> State:
        """The state of a parameter, made where there is none. Its step count is on the CPU, as with torch's Adam."""
        state = self.state[parameter]
        if not state:
            dtype = wide(parameter)
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["average"] = torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)  # m
            state["product"] = torch.ones((), dtype=dtype, device=parameter.device)  # P
        return state

    def _analyse(self, group: Group, parameters: list[torch.Tensor]) -> Iterator[Batch]:
        """Splits parameters into those that are analysed together; keeps their band energies ``bands`` (b)."""
        kinds: dict[tuple[int, bool], tuple[list[State], list[torch.Tensor], list[torch.Tensor]]] = {}
        for parameter, gradient in zip(parameters, _gradients(group, parameters), strict=True):
            state, sample = self.state[parameter], []
            if gradient.numel() > group["min_size"] and _is_time(group, state["step"].item()):
                sample = [self._sample(gradient)]
            length = sample[0].numel() if sample else 0
            states, gradients, samples = kinds.setdefault((length, "bands" in state), ([], [], []))
            states.append(state)
            gradients.append(gradient)
            samples += sample
        for states, gradients, samples in kinds.values():
            yield Batch(states, gradients, self._momenta(group, states, samples))

    def _momenta(self, group: Group, states: list[State], samples: list[torch.Tensor]) -> torch.Tensor:
        """The momenta of parameters that all have band energies or all have none; there may be no samples now."""
        bands = torch.stack([state["bands"] for state in states]) if "bands" in states[0] else None
        if samples:
            energies = self._energies(group, torch.stack(samples))
            bands = energies if bands is None else bands.lerp_(energies, 1 - group["beta"])
            for state, row in zip(states, bands.unbind(), strict=True):
                state["bands"] = row
        if bands is None:
            return states[0]["product"].new_full((len(states),), group["alpha"])
        return self._handler(group).rule(bands, group["alpha"])

    def _sample(self, gradient: torch.Tensor) -> torch.Tensor:
        index = self.sampler(gradient.shape, gradient.device)
        flat = gradient.flatten()
        return flat if index is None else flat[index]

    def _energies(self, group: Group, samples: torch.Tensor) -> torch.Tensor:
        """Band energies ``[parameters, n_bands]`` of samples ``[parameters, length]``."""
        bins, bands = samples.shape[1] // 2 + 1, self._handler(group).bands
        matrix = band_matrix(bands, bins, group["n_bands"], group["cover_all"], samples.device, samples.dtype)
        return band_energies(samples, matrix, group["eps"], group["spectrum"] == "power")

    def _weights(self, states: list[State], momenta: torch.Tensor) -> list[torch.Tensor]:
        """The weights w of the gradients in their averages, for momenta ``[parameters]``; keeps the products P."""
        weights = 1 - momenta
        if self.bias_correction:
            products = momenta * torch.stack([state["product"] for state in states])
            for state, product in zip(states, products.unbind(), strict=True):
                state["product"] = product
            weights /= 1 - products
        return list(weights.unbind())

    def _record(self, path: Path) -> None:
        """Appends what was analysed in this step. Reading it waits for the GPU."""
        lines = []
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names") or [f"{number}.{index}" for index in range(len(group["params"]))]
            for name, parameter in zip(names, group["params"], strict=True):
                state = self.state.get(parameter, {})
                if parameter.grad is not None and "bands" in state and state["step"].item() % self.debug_interval == 0:
                    record = {
                        "step": int(state["step"].item()),
                        "group": group.get("name", str(number)),
                        "name": name,
                        "bands": state["bands"].tolist(),
                        "momentum": self._momenta(group, [state], []).item(),
                    }
                    lines.append(f"{json.dumps(record)}\n")
        if lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.writelines(lines)


class SimpleFAM(FAM):
    """FAM without bands, history and decay: the upper half of the spectrum raises the momentum in proportion.

    The momentum is ``min(0.98, α + r / 20)`` with the share r of the upper half in the spectrum of the gradient's first
    1000 elements, for parameters of more elements and after 100 steps. There is no bias correction.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = SimpleFAM([weight], lr=0.5)
    >>> weight.grad = torch.tensor([3.0, 0.0])
    >>> optimizer.step()
    >>> torch.allclose(weight, torch.tensor([1 - 0.5 * 0.1 * 3, -2]))
    True
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, alpha: float = 0.9):
        super().__init__(
            params,
            lr,
            alpha,
            beta=0.0,
            n_bands=2,
            min_size=1000,
            bias_correction=False,
            handlers={"default": Handler(_halves, _raise_in_proportion)},
            sampler=_first_thousand,
        )

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of parameters; there is one handler, whatever the group's name."""
        super().add_param_group({**param_group, "handler": "default"})


def _first_thousand(shape: torch.Size, device: torch.device) -> torch.Tensor:
    return torch.arange(1000, device=device)


def _halves(bins: int, n_bands: int) -> list[tuple[int, int]]:
    return [(0, bins // 2), (bins // 2, bins)]


def _raise_in_proportion(energies: torch.Tensor, alpha: float) -> torch.Tensor:
    return (alpha + 0.05 * energies[:, 1]).clamp(max=0.98)


def _by_kind(parameters: list[torch.Tensor]) -> dict[tuple[torch.device, torch.dtype], list[torch.Tensor]]:
    """Parameters by device and type."""
    kinds: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.device, parameter.dtype), []).append(parameter)
    return kinds


def _gradients(group: Group, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients in the type of the update; with the decay, where it is a part of them."""
    dtype = wide(parameters[0])
    gradients = gradients_of(parameters)
    if any(gradient.dtype != dtype for gradient in gradients):
        gradients = [gradient.to(dtype) for gradient in gradients]
    if not group["weight_decay"] or group["decoupled_wd"]:
        return gradients
    decays = [parameter.to(dtype) for parameter in parameters]
    return list(torch._foreach_add(gradients, decays, alpha=group["weight_decay"]))


def _is_time(group: Group, step: float) -> bool:
    """Whether a parameter is analysed in its step, counted from 1."""
    analysed = step - group["fam_start_step"]
    return analysed > 0 and (analysed - 1) % group["analyse_every"] == 0


def _is_first_process() -> bool:
    return (
        not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
        or torch.distributed.get_rank() == 0
    )
