"""What FAM and FAdam share: they check what they are given, and keep their state wider than 16 bits."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Group = dict[str, Any]  # of parameters, as torch.optim has it
Part = tuple[Group, list[torch.Tensor]]  # a group, and some of its parameters
Range = tuple[tuple[str, ...], Callable[[Any], bool], str]  # settings, what they must fulfil, and how to say it


class CheckedOptimizer(torch.optim.Optimizer):
    """An optimiser that refuses what it cannot do, and goes on from a saved state bit for bit.

    A subclass says in `RANGES` what its settings may be, and in `STATE` what each parameter has; ``step``, a count on
    the CPU, is a part of it. The rest of the state is in the type of `wide`.
    """

    RANGES: tuple[Range, ...]
    STATE: tuple[str, ...]

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of parameters; a setting out of range or a complex parameter raises a ValueError before that."""
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a saved state, bit for bit, and copies it; that of another optimiser raises a ValueError."""
        states = state_dict["state"]
        for state in states.values():
            if state and not set(self.STATE) <= set(state):
                raise ValueError(
                    f"{self._name} was asked to go on from a state of {', '.join(self.STATE)}. "
                    f"It holds {', '.join(state)}. Write the optimiser that saved it, or start a new run"
                )
        super().load_state_dict(state_dict)
        indices = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(indices, parameters, strict=True):
            # torch has rounded it to the parameter's type, which may be of 16 bits, and moved the count of steps.
            for name, value in states.get(index, {}).items():
                device, dtype = ("cpu", value.dtype) if name == "step" else (parameter.device, wide(parameter))
                self.state[parameter][name] = value.to(device, dtype, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:  # type: ignore[override]
        """Updates the parameters that have a gradient; a sparse gradient raises a ValueError, and nothing is updated.

        A closure computes the loss, which is returned, and the gradients; it is called once, before the update.
        """
        loss = closure_loss(closure)
        self.update(list(zip(self.param_groups, self.parameters_with_gradients(), strict=True)))
        return loss

    def update(self, parts: Sequence[Part]) -> None:
        """Updates parameters that all have a gradient."""
        raise NotImplementedError

    def check_group(self, group: Group) -> None:
        """Refuses settings out of their range, and complex parameters."""
        for names, fits, write in self.RANGES:
            for name in names:
                self.check_setting(name, group[name], fits, write)
        if any(parameter.is_complex() for parameter in group["params"]):
            raise ValueError(
                f"{self._name} was asked to update complex parameters. It has no rule for them. "
                "Write torch.view_as_real(values) in the parameter's place"
            )

    def check_setting(self, name: str, value: object, fits: Callable[[Any], bool], write: str) -> None:
        """Refuses a setting that is out of its range, which `write` names."""
        if not fits(value):
            raise ValueError(
                f"{self._name} was asked for with {name}={value!r}. That is out of range. Write {name} as {write}"
            )

    def parameters_with_gradients(self) -> list[list[torch.Tensor]]:
        """The parameters that have a gradient, one list for each group; raises a ValueError if a gradient is sparse."""
        groups = [[param for param in group["params"] if param.grad is not None] for group in self.param_groups]
        for parameter in (parameter for parameters in groups for parameter in parameters):
            if parameter.grad.layout != torch.strided:
                raise ValueError(
                    f"{self._name} was asked to update a parameter of shape {tuple(parameter.shape)}. "
                    "Its gradient is sparse. Write sparse=False where its layer is made"
                )
        return groups

    @property
    def _name(self) -> str:
        return type(self).__name__


def from_0_on(value: float) -> bool:
    """Whether a value is a finite number from 0 on.

    Example
    -------
    >>> from_0_on(0.0), from_0_on(float("nan"))
    (True, False)
    """
    return 0 <= value < math.inf


def whole_from(lowest: int) -> Callable[[object], bool]:
    """A check whether a value is a whole number from `lowest` on.

    Example
    -------
    >>> whole_from(2)(2), whole_from(2)(1), whole_from(2)(2.0)
    (True, False, False)
    """
    return lambda value: isinstance(value, int) and value >= lowest


def gradients_of(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of parameters that all have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def closure_loss(closure: Callable[[], torch.Tensor] | None) -> torch.Tensor | None:
    """Calls the closure of a step, which computes the gradients, and returns its loss."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def wide(parameter: torch.Tensor) -> torch.dtype:
    """The type in which a parameter is updated: float32, or float64 for a parameter of float64.

    Example
    -------
    >>> wide(torch.zeros(2, dtype=torch.bfloat16))
    torch.float32
    """
    return torch.promote_types(parameter.dtype, torch.float32)
