"""FAdam: Adam as a natural gradient step, with the diagonal of the empirical Fisher information.

Hwang, 2024, https://arxiv.org/abs/2405.12807, Algorithm 1. Its steps here are those of the published implementations,
https://github.com/lessw2020/FAdam_PyTorch and https://github.com/kozistr/pytorch_optimizer; the paper's own listing was
not compared. For each tensor θ with gradient g, and t = 1 in its first step::

    f ← b f + (1 - b) g²,  b = β2 (1 - β2^(t-1)) / (1 - β2^t)      the Fisher information
    n = g / (f^p + ε̂)                                              the natural gradient
    m ← β1 m + (1 - β1) n / max(1, RMS(n) / c)                     momentum
    u = θ / (f^p + ε̂), 0 where f = 0                               the decay
    θ ← θ - lr (m + λ u / max(1, RMS(u) / c))

f is Adam's second moment after its correction: b is 0 in the first step.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.optim.optimizer import ParamsT

from brainplug.optim.base import CheckedOptimizer, Group, Part, from_0_on, gradients_of, wide

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]  # what torch's functions for many tensors take
EPS_MODES = ("rms1", "two", "fixed")
EPS_FLOOR = 1e-15  # a gradient of zeros has RMS 0, and 0 / 0 would be NaN
# Elements that are updated together, as far as whole tensors allow: no more than twice as many are made on the way.
# Four times as many, or a quarter of them, took longer on a CPU.
BLOCK = 2**22


class FAdam(CheckedOptimizer):
    """Steps along the natural gradient, and decays in the same metric.

    All but the step counts is computed and kept in float32, or in float64 for parameters of float64; parameters of 16
    bits are rounded once a step. Nothing waits for the GPU, and gradients stay as they are.

    Arguments
    ---------
    params : ParamsT
        Parameters, or groups of them with settings of their own.
    lr : float
        Learning rate. Elements of a step are about as large as Adam's: so are learning rates that fit.
    betas : tuple[float, float]
        β1 of the momentum and β2 of the Fisher information.
    eps : float
        ε.
    weight_decay : float
        λ. Once it is clipped, the decay does not shrink with θ, so λ is not to be compared with that of AdamW.
    clip : float
        c, the largest RMS of the natural gradient and of the decay.
    p : float
        Exponent of the Fisher information.
    eps_mode, eps2 : str, float
        How ε̂, 1e-15 at least, follows from ε. ``rms1``: ε min(1, RMS(g)). ``two``: min(ε, ε2 RMS(g)). ``fixed``: ε.
    maximize : bool
        Climbs instead.

    Note
    ----
    Elements that never had a gradient, such as unused rows of an embedding, do not decay: by θ / ε̂ they would take all
    of the tensor's decay. A gradient that is not finite makes its whole tensor NaN, and no other.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    >>> optimizer = FAdam([weight], lr=0.01, weight_decay=0)
    >>> weight.grad = torch.tensor([3.0, -0.04])
    >>> optimizer.step()
    >>> torch.allclose(weight, torch.tensor([1 - 0.001, -2 + 0.001]))  # the first step has the gradient's sign
    True
    """

    STATE = ("step", "fisher", "momentum")
    RANGES = (  # settings, what they must fulfil, and how to say it
        (("lr", "eps", "weight_decay"), from_0_on, "a number from 0 on"),
        (("clip", "p", "eps2"), lambda value: 0 < value < math.inf, "a number above 0"),
        (
            ("betas",),
            lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            "two numbers from 0 to below 1, such as (0.9, 0.999)",
        ),
        (("eps_mode",), EPS_MODES.__contains__, f"one of {', '.join(EPS_MODES)}"),
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        clip: float = 1.0,
        p: float = 0.5,
        eps_mode: str = "rms1",
        eps2: float = 0.01,
        *,
        maximize: bool = False,
    ):
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "clip": clip,
            "p": p,
            "eps_mode": eps_mode,
            "eps2": eps2,
            "maximize": maximize,
        }
        super().__init__(params, settings)

    def update(self, parts: Sequence[Part]) -> None:
        """Updates parameters of one device, type and step count together."""
        for group, params in parts:
            for block in _blocks([(param, *self._state_of(param)) for param in params]):
                _step_block(block, group)

    def _state_of(self, param: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The state of a parameter, made where there is none. Its step count is on the CPU, as with torch's Adam."""
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in self.STATE[1:]:
                state[name] = torch.zeros_like(param, dtype=wide(param), memory_format=torch.preserve_format)
        return state["step"], state["fisher"], state["momentum"]


def _step_block(block: list[tuple[torch.Tensor, ...]], group: Group) -> None:
    """Updates parameters of one device, type and step count, which come with their state."""
    params, steps, fishers, momenta = zip(*block, strict=True)
    # With a tensor for the 1: torch would make one for every step count.
    torch._foreach_add_(steps, torch.tensor(1.0), alpha=1.0)
    weights: Tensors = params
    gradients, dtype = gradients_of(params), fishers[0].dtype
    narrow = params[0].dtype != dtype
    if narrow:
        weights, gradients = ([tensor.to(dtype) for tensor in tensors] for tensors in (params, gradients))
    _update(weights, gradients, fishers, momenta, steps[0].item(), group)
    if narrow:
        torch._foreach_copy_(params, weights)


def _update(
    weights: Tensors,
    gradients: Tensors,
    fishers: Tensors,
    momenta: Tensors,
    step: float,
    group: Group,
) -> None:
    """One step, in place, of weights, fishers and momenta."""
    beta1, beta2 = group["betas"]
    # √N of each tensor, since RMS(x) = |x| / √N. This copy does not wait for the GPU, nor does anything below.
    roots = torch.tensor([math.sqrt(weight.numel() or 1) for weight in weights], dtype=fishers[0].dtype)
    roots = roots.to(weights[0].device, non_blocking=True)
    keep = beta2 * (1 - beta2 ** (step - 1)) / (1 - beta2**step)
    torch._foreach_mul_(fishers, torch.tensor(keep, dtype=torch.float64))  # as for the step counts
    torch._foreach_addcmul_(fishers, gradients, gradients, value=1 - keep)
    scales = torch._foreach_sqrt(fishers) if group["p"] == 0.5 else torch._foreach_pow(fishers, group["p"])
    for scale in scales:
        torch.threshold_(scale, 0.0, math.inf)  # where f = 0: n = 0 and u = 0 follow
    torch._foreach_add_(scales, _epsilons(gradients, roots, group))  # f^p + ε̂
    natural = torch._foreach_div(gradients, scales)
    # f and ε̂ do not depend on the gradient's sign, so it is turned here.
    torch._foreach_mul_(natural, _clip_factors(natural, -1.0 if group["maximize"] else 1.0, roots, group))
    torch._foreach_lerp_(momenta, natural, 1 - beta1)
    if group["weight_decay"]:
        for weight, scale in zip(weights, scales, strict=True):
            torch.div(weight, scale, out=scale)  # u
        factors = _clip_factors(scales, group["weight_decay"], roots, group)
        torch._foreach_addcmul_(weights, scales, factors, value=-group["lr"])
    torch._foreach_add_(weights, momenta, alpha=-group["lr"])


def _epsilons(gradients: Tensors, roots: torch.Tensor, group: Group) -> tuple[torch.Tensor, ...] | float:
    """ε̂ of each gradient, or of all."""
    highest = max(EPS_FLOOR, group["eps"])
    if group["eps_mode"] == "fixed":
        return highest
    slope = group["eps"] if group["eps_mode"] == "rms1" else group["eps2"]
    return (slope * _norms(gradients) / roots).clamp(EPS_FLOOR, highest).unbind()


def _clip_factors(tensors: Tensors, factor: float, roots: torch.Tensor, group: Group) -> tuple[torch.Tensor, ...]:
    """For each tensor x of N elements: factor / max(1, RMS(x) / c) = factor · c√N / max(c√N, |x|)."""
    limits = group["clip"] * roots
    return (factor * limits / torch.maximum(limits, _norms(tensors))).unbind()


def _norms(tensors: Tensors) -> torch.Tensor:
    """|x| of each tensor x."""
    return torch.stack(torch._foreach_norm(tensors))


def _blocks(entries: Iterable[tuple[torch.Tensor, ...]]) -> Iterator[list[tuple[torch.Tensor, ...]]]:
    """Splits parameters with their state into lists of one kind, of `BLOCK` elements at most or of one parameter."""
    kinds = defaultdict(list)
    for entry in entries:
        param, step, *_ = entry
        kinds[param.device, param.dtype, step.item()].append(entry)
    for kind in kinds.values():
        block: list[tuple[torch.Tensor, ...]] = []
        size = 0
        for entry in kind:
            elements = entry[0].numel()
            if block and size + elements > BLOCK:
                yield block
                block, size = [], 0
            block.append(entry)
            size += elements
        yield block
