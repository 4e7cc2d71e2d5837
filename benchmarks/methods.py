"""The cost of a training step with every method: time and memory as multiples of F, the frozen forward pass.

F is the plain backbone's pass over the same batch, in evaluation mode and without gradients. A step is forward pass,
cross-entropy, backward pass, AdamW's step and the release of the gradients. Weights are random, which changes no cost.

Time: F and the step take turns, and each step is compared with the F before it, so that a slower moment of the machine
slows both. The table shows the median of these quotients, after a warm-up round.

Memory: the weights, the optimizer's state, and the peak of other allocations. On a GPU torch counts them. On a CPU they
are the highest running sum of the allocations that torch's profiler records. This is the same in every run and does not
include memory that the process has freed but keeps. Allocations by libraries below torch do not count.

Checkpoint: size of the file with the trained weights.
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
from brainplug.cli.methods import count_on_meta, read_methods
from brainplug.errors import run_command
from brainplug.methods import Method, choose_method
from brainplug.models.classifier import AudioClassifier
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

HPARAMS = Path(__file__).parents[1] / "hparams"
MARKS = table_marks("speed", "python -m benchmarks.methods")
N_CLASSES = 50
SAMPLES_PER_FRAME = 160  # 10 ms at 16 kHz
# Dense-MoA is compared with a single adapter of the same kind, to show the cost of the experts.
MIXTURE = {"experts": 15, "expert_block": "bottleneck", "reduction_rate": 128, "location": "mhsa"}
ADAPTER = {"reduction_rate": 128, "location": "mhsa"}


@dataclass(frozen=True)
class Setting:
    """The backbone and the batch that all methods are measured with."""

    config: PreTrainedConfig
    frames: int  # of a clip, 10 ms each
    batch: int  # clips
    device: str
    precision: str  # fp32 or bf16

    def backbone(self) -> Backbone:
        """Makes a backbone with random weights."""
        return random_backbone(self.config, frames=self.frames).to(self.device)

    def batch_for(self, backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes signals of noise, and their relative lengths."""
        signals = [backbone.extract(torch.randn(self.frames * SAMPLES_PER_FRAME)) for _ in range(self.batch)]
        return torch.stack(signals).to(self.device), torch.ones(self.batch, device=self.device)

    def cast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


class FrozenPass(Measured):
    """F: the plain backbone's forward pass."""

    def __init__(self, setting: Setting):
        # Frozen, as with the methods: autocast caches copies of trainable weights.
        self.setting, self.backbone = setting, setting.backbone().eval().requires_grad_(False)
        self.batch = setting.batch_for(self.backbone)

    def __call__(self) -> None:
        """Runs one pass."""
        with torch.no_grad(), self.setting.cast():
            self.backbone(*self.batch)

    def tensors(self) -> Iterable[torch.Tensor]:
        """The weights."""
        return [*self.backbone.parameters(), *self.backbone.buffers()]


class TrainingStep(Measured):
    """A training step with a method."""

    def __init__(self, setting: Setting, method: Method, lr: float):
        self.setting = setting
        self.model = AudioClassifier(setting.backbone(), method, N_CLASSES).to(setting.device).train()
        self.batch = setting.batch_for(self.model.backbone)
        self.classes = torch.arange(setting.batch, device=setting.device) % N_CLASSES
        self.optimizer = torch.optim.AdamW([weight for weight in self.model.parameters() if weight.requires_grad], lr)

    def __call__(self) -> None:
        """Runs one step."""
        with self.setting.cast():
            loss = torch.nn.functional.cross_entropy(self.model(*self.batch), self.classes)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> Iterable[torch.Tensor]:
        """The weights and the optimizer's state."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.model.parameters(), *self.model.buffers(), *filter(torch.is_tensor, states)]

    def checkpoint_bytes(self) -> int:
        """Size of the file with the trained weights."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "delta.safetensors")
            save_delta(self.model, path)
            return path.stat().st_size


def compare_methods(setting: Setting, backbone: str, names: Sequence[str], repeats: int) -> str:
    """Measures methods, and a mixture of 15 experts beside a single adapter.

    Arguments
    ---------
    backbone : str
        Name of the backbone, for the changes of ``backbones.yaml``.
    names : Sequence[str]
        Entries of ``methods.yaml``; all if empty.

    Returns
    -------
    str
        The cost of F, and a Markdown table with a row for each method.
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
    """The rows of a group of methods, which are also compared with the last one; their models are freed afterwards."""
    counts = {name: count_on_meta(setting.config, method, N_CLASSES) for name, (method, _) in group.items()}
    reasons: list[tuple[str, ...]] = [
        (name, "-", "-", "-", f"-: {reason}") for name, reason in counts.items() if isinstance(reason, str)
    ]
    if reasons:
        return reasons
    steps = [TrainingStep(setting, method, lr) for method, lr in group.values()]
    first, *costs = measure([forward, *steps], repeats, setting.device)
    rows: list[tuple[str, ...]] = []
    for name, step, cost in zip(group, steps, costs, strict=True):
        relative = [f"{quotient:.2f}" for quotient in cost.relative_to(first)]
        seconds, memory = cost.relative_to(costs[-1])
        note = f"{seconds:.2f} times the time and {memory:.2f} times the memory of the next"
        rows.append((name, *relative, f"{step.checkpoint_bytes():,}", "" if cost is costs[-1] else note))
    return rows


def describe_machine(setting: Setting, backbone: str) -> str:
    """The backbone, the batch and the machine, in one line."""
    size = f"{setting.batch} clips of {setting.frames} frames, {setting.precision}"
    return f"{backbone}, {size}, {describe_device(setting.device)}."


def main(arguments: list[str]) -> None:
    """Measures and prints the table."""
    parser = measuring_parser(__doc__, repeats=5, methods="")
    parser.add_argument("--batch", type=from_1_on, default=4, help="clips of a batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    setting = Setting(known_config(options.backbone), options.frames, options.batch, options.device, options.precision)
    names = [name for name in options.methods.split(",") if name]
    table = compare_methods(setting, options.backbone, names, options.repeats)
    show(f"{describe_machine(setting, options.backbone)} {table}", options.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
