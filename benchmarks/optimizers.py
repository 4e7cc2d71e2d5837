"""What an optimiser's step costs, as a multiple of torch's AdamW: time and memory.

The parameters are those that a method trains on a backbone, with its head; their gradients are noise, the same in every
step. AdamW, in its version for many tensors at once (foreach), and the others take turns; each step is compared with
the AdamW step of the same round. The median of these quotients is shown, after a first round that does not count. On a
GPU a step ends when the GPU has done it. Memory is that of weights, gradients and state, and the most that a step
allocates beside them; see methods.py.
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from tqdm import tqdm
from transformers import PreTrainedConfig

from benchmarks.measure import Measured, describe_device, measure, measuring_parser, show
from benchmarks.methods import HPARAMS, N_CLASSES
from brainplug.backbones import known_config, random_backbone
from brainplug.cli.methods import read_methods
from brainplug.errors import run_command
from brainplug.methods import Method, choose_method
from brainplug.models.classifier import AudioClassifier
from brainplug.optim import FAM, FAdam
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("speed", "python -m benchmarks.optimizers")
METHODS = "conformer,lora,full"
COLUMNS = ("optimizer", "ms", "time (AdamW)", "memory (AdamW)", "tensors", "elements", "trained")
# Each is called with the parameters; the first one is what the others are compared with. All of them decay.
OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, foreach=True),
    # From the first step on it looks at the spectrum of all that is large enough.
    "fam": partial(FAM, lr=0.1, weight_decay=0.0025, min_size=128, fam_start_step=0),
    "fadam": FAdam,
}


class OptimizerStep(Measured):
    """A step of an optimiser on parameters of its own.

    Arguments
    ---------
    optimizer : Callable
        Makes the optimiser from the parameters.
    weights : Sequence[Tensor]
        What the parameters start as.
    """

    def __init__(
        self,
        optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer],
        weights: Sequence[torch.Tensor],
    ):
        self.params = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
        for param in self.params:
            param.grad = 1e-3 * torch.randn_like(param)
        self.optimizer = optimizer(self.params)

    def __call__(self) -> None:
        """One step."""
        self.optimizer.step()

    def tensors(self) -> Iterable[torch.Tensor]:
        """The weights, their gradients and the optimiser's state."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.params, *(param.grad for param in self.params), *filter(torch.is_tensor, states)]


def trained_weights(config: PreTrainedConfig, method: Method, frames: int, device: str) -> list[torch.Tensor]:
    """What a method trains on a backbone.

    Arguments
    ---------
    config : PreTrainedConfig
        Of the backbone; its weights are random.
    method : Method
        Adapts it.
    frames : int
        Length of a clip, in frames of 10 ms.
    device : str
        Where they lie.

    Returns
    -------
    list[Tensor]
        The parameters, those of the head too.
    """
    model = AudioClassifier(random_backbone(config, frames=frames), method, N_CLASSES).to(device)
    return [weight for weight in model.parameters() if weight.requires_grad]


def compare_optimizers(
    config: PreTrainedConfig, backbone: str, names: Sequence[str], frames: int, repeats: int, device: str
) -> str:
    """Measures all optimisers on what some methods train.

    Arguments
    ---------
    config : PreTrainedConfig
        Of the backbone.
    backbone : str
        Its name, for what ``backbones.yaml`` changes.
    names : Sequence[str]
        Entries of ``methods.yaml``.
    frames : int
        Length of a clip, in frames of 10 ms.
    repeats : int
        Rounds that count.
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    str
        A Markdown table with a row for each method and optimiser.

    Raises
    ------
    UsageError
        No such method.
    """
    methods, changes = read_methods(str(HPARAMS), backbone)
    chosen = {name: choose_method(name, methods, changes)[0] for name in names}
    rows = []
    for name, method in tqdm(chosen.items(), dynamic_ncols=True):
        weights = trained_weights(config, method, frames, device)
        rows += _rows(weights, repeats, device, f"{name} on {backbone}")
    return markdown_table(COLUMNS, rows)


def _rows(weights: list[torch.Tensor], repeats: int, device: str, trained: str) -> list[tuple[str, ...]]:
    """The rows of one set of parameters; their copies are freed afterwards."""
    costs = measure([OptimizerStep(make, weights) for make in OPTIMIZERS.values()], repeats, device)
    sizes = f"{len(weights):,}", f"{sum(weight.numel() for weight in weights):,}", trained
    rows = []
    for name, cost in zip(OPTIMIZERS, costs, strict=True):
        relative = [f"{times:.2f}" for times in cost.relative_to(costs[0])]
        rows.append((name, f"{1000 * statistics.median(cost.seconds):,.2f}", *relative, *sizes))
    return rows


def main(arguments: list[str]) -> None:
    """Reads the command line, measures and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = measuring_parser(__doc__, repeats=30, methods=METHODS)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    names = [name for name in chosen.methods.split(",") if name]
    config = known_config(chosen.backbone)
    table = compare_optimizers(config, chosen.backbone, names, chosen.frames, chosen.repeats, chosen.device)
    show(f"{describe_device(chosen.device)}.\n\n{table}", chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
