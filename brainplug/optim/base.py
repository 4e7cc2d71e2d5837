"""What FAM and FAdam share: they check what they are given, and keep their state wider than 16 bits."""

import math
from collections.abc import Callable

import torch

Range = tuple[tuple[str, ...], Callable[[object], bool], str]  # settings, what they must fulfil, and how to say it


class CheckedOptimizer(torch.optim.Optimizer):
    """An optimiser that refuses what it cannot do, and goes on from a saved state bit for bit.

    A subclass says in `RANGES` what its settings may be, and in `STATE` what each parameter has; ``step``, a count on
    the CPU, is a part of it. The rest of the state is in the type of `wide`.
    """

    RANGES: tuple[Range, ...]
    STATE: tuple[str, ...]

    def add_param_group(self, param_group: dict) -> None:
        """Adds a group of parameters.

        Arguments
        ---------
        param_group : dict
            ``params``, and settings that differ.

        Raises
        ------
        ValueError
            A setting is out of its range, or a parameter is complex. No group is added then.
        """
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict) -> None:
        """Goes on from a saved state, bit for bit.

        Arguments
        ---------
        state_dict : dict
            What `state_dict` returned. Nothing of it is shared with the optimiser afterwards.

        Raises
        ------
        ValueError
            It is the state of another optimiser.
        """
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

    def check_group(self, group: dict) -> None:
        """Refuses settings out of their range, and complex parameters.

        Arguments
        ---------
        group : dict
            Of parameters.

        Raises
        ------
        ValueError
            Says which.
        """
        for names, fits, write in self.RANGES:
            for name in names:
                self.check_setting(name, group[name], fits, write)
        if any(parameter.is_complex() for parameter in group["params"]):
            raise ValueError(
                f"{self._name} was asked to update complex parameters. It has no rule for them. "
                "Write torch.view_as_real(values) in the parameter's place"
            )

    def check_setting(self, name: str, value: object, fits: Callable[[object], bool], write: str) -> None:
        """Refuses a setting that is out of its range.

        Arguments
        ---------
        name : str
            Of the setting.
        value : object
            What it is.
        fits : Callable
            Says whether a value is in the range.
        write : str
            How to say the range.

        Raises
        ------
        ValueError
            It is out of its range.
        """
        if not fits(value):
            raise ValueError(
                f"{self._name} was asked for with {name}={value!r}. That is out of range. Write {name} as {write}"
            )

    def parameters_with_gradients(self) -> list[list[torch.Tensor]]:
        """The parameters that have a gradient, by group.

        Returns
        -------
        list[list[Tensor]]
            One list a group.

        Raises
        ------
        ValueError
            A gradient is sparse.
        """
        found = [[param for param in group["params"] if param.grad is not None] for group in self.param_groups]
        for parameter in (parameter for parameters in found for parameter in parameters):
            if parameter.grad.layout != torch.strided:
                raise ValueError(
                    f"{self._name} was asked to update a parameter of shape {tuple(parameter.shape)}. "
                    "Its gradient is sparse. Write sparse=False where its layer is made"
                )
        return found

    @property
    def _name(self) -> str:
        return type(self).__name__


def from_0_on(value: object) -> bool:
    """Whether a value is a finite number from 0 on.

    Arguments
    ---------
    value : object
        Any number.

    Returns
    -------
    bool
        Whether it is.

    Example
    -------
    >>> from_0_on(0.0), from_0_on(float("nan"))
    (True, False)
    """
    return 0 <= value < math.inf


def whole_from(lowest: int) -> Callable[[object], bool]:
    """A range of whole numbers.

    Arguments
    ---------
    lowest : int
        Its first number.

    Returns
    -------
    Callable[[object], bool]
        Whether a value is a whole number in it.

    Example
    -------
    >>> whole_from(2)(2), whole_from(2)(1), whole_from(2)(2.0)
    (True, False, False)
    """
    return lambda value: isinstance(value, int) and value >= lowest


def closure_loss(closure: Callable[[], torch.Tensor] | None) -> torch.Tensor | None:
    """Calls the closure of a step, which computes gradients.

    Arguments
    ---------
    closure : Callable[[], Tensor], optional
        As `torch.optim.Optimizer.step` takes it.

    Returns
    -------
    Tensor, optional
        The loss.

    Example
    -------
    >>> closure_loss(None) is None
    True
    """
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def wide(parameter: torch.Tensor) -> torch.dtype:
    """The type that a parameter's update is computed in.

    Arguments
    ---------
    parameter : Tensor
        Of any real type.

    Returns
    -------
    torch.dtype
        float32, or float64 for a parameter of float64.

    Example
    -------
    >>> wide(torch.zeros(2, dtype=torch.bfloat16))
    torch.float32
    """
    return torch.promote_types(parameter.dtype, torch.float32)
