"""What a training step costs with every method: time and memory as multiples of F, the frozen forward pass.

F is the plain backbone's pass over the same batch, in evaluation mode and without gradients. A step is forward pass,
cross-entropy, backward pass, AdamW's step and the release of the gradients. Weights are random: they change no cost.

Time: F and the step take turns, and each step is compared with the F just before it, so that a machine which slows down
slows both. The median of these quotients is shown, after a first round that does not count.

Memory: the weights and the optimizer's state, plus the most that is allocated beside them on the way. On a GPU torch
counts it. On a CPU torch's profiler notes each piece that torch allocates or frees, and the highest running sum is
taken: unlike the memory of the process, it is the same in every run, and no freed memory that the process keeps is in
it. What libraries below torch allocate for themselves is not in it.

Checkpoint: size of the file that holds what was trained.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedConfig

from benchmarks.measure import Measured, describe_device, from_1_on, measure, measuring_parser, show
from brainplug.adapters.file import save_delta
from brainplug.backbones import Backbone, known_config, random_backbone
from brainplug.cli.listing import count_on_meta, read_methods
from brainplug.config.recipe import run_command
from brainplug.methods import Method, choose_method
from brainplug.models.adapted import AudioClassifier
from brainplug.results.report import markdown_table, table_marks

HPARAMS = Path(__file__).parents[1] / "hparams"
MARKS = table_marks("speed", "python -m benchmarks.methods")
N_CLASSES = 50
SAMPLES_PER_FRAME = 160  # 10 ms at 16 kHz
# Dense-MoA is compared with a single adapter of the same kind: how much do experts cost?
MIXTURE = {"experts": 15, "expert_block": "bottleneck", "reduction_rate": 128, "location": "mhsa"}
ADAPTER = {"reduction_rate": 128, "location": "mhsa"}


@dataclass(frozen=True)
class Setting:
    """What all methods are measured with.

    Arguments
    ---------
    config : PreTrainedConfig
        Of the backbone.
    frames : int
        Length of a clip, in frames of 10 ms.
    batch : int
        Clips of a batch.
    device : str
        ``cpu`` or ``cuda``.
    precision : str
        ``fp32`` or ``bf16``.
    """

    config: PreTrainedConfig
    frames: int
    batch: int
    device: str
    precision: str

    def backbone(self) -> Backbone:
        """A new one."""
        return random_backbone(self.config, frames=self.frames).to(self.device)

    def batch_for(self, backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
        """Signals of noise, and their lengths."""
        signals = [backbone.extract(torch.randn(self.frames * SAMPLES_PER_FRAME)) for _ in range(self.batch)]
        return torch.stack(signals).to(self.device), torch.ones(self.batch, device=self.device)

    def cast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


class FrozenPass(Measured):
    """F: the plain backbone's forward pass.

    Arguments
    ---------
    setting : Setting
        Backbone and size.
    """

    def __init__(self, setting: Setting):
        # Frozen as the methods freeze it: autocast keeps copies of weights that could be trained.
        self.setting, self.backbone = setting, setting.backbone().eval().requires_grad_(False)
        self.batch = setting.batch_for(self.backbone)

    def __call__(self) -> None:
        """One pass."""
        with torch.no_grad(), self.setting.cast():
            self.backbone(*self.batch)

    def tensors(self) -> Iterable[torch.Tensor]:
        """The weights."""
        return [*self.backbone.parameters(), *self.backbone.buffers()]


class TrainingStep(Measured):
    """A step with a method.

    Arguments
    ---------
    setting : Setting
        Backbone and size.
    method : Method
        Adapts the backbone.
    lr : float
        Learning rate.
    """

    def __init__(self, setting: Setting, method: Method, lr: float):
        self.setting = setting
        self.model = AudioClassifier(setting.backbone(), method, N_CLASSES).to(setting.device).train()
        self.batch = setting.batch_for(self.model.backbone)
        self.classes = torch.arange(setting.batch, device=setting.device) % N_CLASSES
        self.optimizer = torch.optim.AdamW([weight for weight in self.model.parameters() if weight.requires_grad], lr)

    def __call__(self) -> None:
        """One step."""
        with self.setting.cast():
            loss = torch.nn.functional.cross_entropy(self.model(*self.batch), self.classes)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> Iterable[torch.Tensor]:
        """The weights, and the optimizer's state."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.model.parameters(), *self.model.buffers(), *filter(torch.is_tensor, states)]

    def checkpoint_bytes(self) -> int:
        """Size of the file that holds what was trained."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "delta.safetensors")
            save_delta(self.model, path, {})
            return path.stat().st_size


def compare_methods(setting: Setting, backbone: str, names: Sequence[str], repeats: int) -> str:
    """Measures methods, and a mixture of 15 experts beside a single adapter.

    Arguments
    ---------
    setting : Setting
        Backbone and size.
    backbone : str
        Its name, for what ``backbones.yaml`` changes.
    names : Sequence[str]
        Entries of ``methods.yaml``; all of them where there is none.
    repeats : int
        Rounds that count.

    Returns
    -------
    str
        What F costs, and a Markdown table with one row a method.

    Raises
    ------
    UsageError
        No such method.
    """
    methods, changes = read_methods(str(HPARAMS), backbone)
    groups = [{name: choose_method(name, methods, changes)} for name in names or methods]
    mixture = choose_method("dense_moa", methods, {"dense_moa": MIXTURE})
    adapter = choose_method("bottleneck", methods, {"bottleneck": ADAPTER})
    groups.append({f"dense_moa, {MIXTURE['experts']} experts": mixture, "bottleneck, same place and rate": adapter})
    forward = FrozenPass(setting)
    rows = [row for group in tqdm(groups, dynamic_ncols=True) for row in _rows(setting, forward, group, repeats)]
    [cost] = measure([forward], repeats, setting.device)
    milliseconds = 1000 * statistics.median(cost.seconds)
    table = markdown_table(("method", "time (F)", "memory (F)", "checkpoint (bytes)", ""), rows)
    return f"F takes {milliseconds:,.0f} ms and {cost.peak_bytes / 1e6:,.0f} MB.\n\n{table}"


def _rows(
    setting: Setting, forward: FrozenPass, group: dict[str, tuple[Method, float]], repeats: int
) -> list[tuple[str, ...]]:
    """The rows of methods that are also compared with the last one of them; their models are freed afterwards."""
    counts = {name: count_on_meta(setting.config, method, N_CLASSES) for name, (method, _) in group.items()}
    reasons = [(name, "-", "-", "-", f"-: {reason}") for name, reason in counts.items() if isinstance(reason, str)]
    if reasons:
        return reasons
    steps = [TrainingStep(setting, method, lr) for method, lr in group.values()]
    first, *costs = measure([forward, *steps], repeats, setting.device)
    rows = []
    for name, step, cost in zip(group, steps, costs, strict=True):
        relative = [f"{times:.2f}" for times in cost.relative_to(first)]
        seconds, memory = cost.relative_to(costs[-1])
        note = (
            "" if cost is costs[-1] else f"{seconds:.2f} times the time and {memory:.2f} times the memory of the next"
        )
        rows.append((name, *relative, f"{step.checkpoint_bytes():,}", note))
    return rows


def describe_machine(setting: Setting, backbone: str) -> str:
    """What the numbers depend on beside the methods.

    Arguments
    ---------
    setting : Setting
        Backbone and size.
    backbone : str
        Its name.

    Returns
    -------
    str
        One line.
    """
    size = f"{setting.batch} clips of {setting.frames} frames, {setting.precision}"
    return f"{backbone}, {size}, {describe_device(setting.device)}."


def main(arguments: list[str]) -> None:
    """Reads the command line, measures and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = measuring_parser(__doc__, repeats=5, methods="")
    parser.add_argument("--batch", type=from_1_on, default=4, help="clips of a batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    setting = Setting(known_config(chosen.backbone), chosen.frames, chosen.batch, chosen.device, chosen.precision)
    names = [name for name in chosen.methods.split(",") if name]
    table = compare_methods(setting, chosen.backbone, names, chosen.repeats)
    show(f"{describe_machine(setting, chosen.backbone)} {table}", chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
