"""How fast many adapters on one backbone are, beside a model with a single one.

An adapter with random weights is saved to a temporary folder, and loaded into a hub under many names. Then mixed
batches, in which each clip has another adapter as far as there are enough, take turns with a batch of the same signals
in a `Classifier`, which has one adapter. The table shows

- load: the median time to load an adapter, from the file to the device, without its probe;
- verify: the time that the probe adds, which is a pass of one clip;
- each: what an adapter adds to the memory, beside the one backbone;
- in a batch: the adapters that a batch mixes;
- clips a second: of the mixed batch;
- ratio: these, over the clips a second of the classifier in the same round, as a median.

Weights of the backbone are random too, which changes no cost.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import torch
from tqdm import tqdm

from benchmarks.measure import Measured, describe_device, from_1_on, measure, measuring_parser, show
from brainplug.adapters.description import ClassifierDescription
from brainplug.adapters.file import save_adapter
from brainplug.backbones import known_config, load_backbone, random_backbone
from brainplug.backbones.loading import base_name
from brainplug.cli.methods import read_methods
from brainplug.errors import run_command
from brainplug.inference import AdapterHub, Classifier
from brainplug.methods import choose_method
from brainplug.models.classifier import AudioClassifier
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table
from brainplug.tasks.results import describe_method

HPARAMS = Path(__file__).parents[1] / "hparams"
MARKS = {
    "cpu": table_marks("serving", "python -m benchmarks.serving"),
    "cuda": table_marks("serving on a GPU", "python -m benchmarks.serving --device=cuda"),
}
LABELS = [f"class {number}" for number in range(50)]
SECONDS_PER_FRAME = 0.01
COLUMNS = ("method", "adapters", "load, ms", "verify, ms", "each, MiB", "in a batch", "clips a second", "ratio")


@dataclass(frozen=True)
class Setting:
    """What all methods are measured with."""

    name: str  # of the backbone
    folder: str  # with a backbone of this architecture
    frames: int  # of a clip, 10 ms each
    batch: int  # clips
    device: str
    precision: str


def save_random_adapter(folder: Path, setting: Setting, method: str) -> None:
    """Saves an adapter of a method with random weights."""
    methods, changes = read_methods(str(HPARAMS), setting.name)
    model = AudioClassifier(load_backbone(setting.folder), choose_method(method, methods, changes)[0], len(LABELS))
    for name, tensor in model.delta().items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            tensor.normal_(std=0.02)
    recipe = SimpleNamespace(method=method, channel="mix", length_limit=lambda backbone: None)
    description = ClassifierDescription(
        **describe_method(model, recipe), paper_code=False, positions="crop", pooling=model.pooling, labels=LABELS
    )
    save_adapter(model, folder, description)


class SingleAdapter(Measured):
    """The pass of a batch through a classifier."""

    def __init__(self, folder: Path, setting: Setting):
        self.classifier = Classifier.from_run(folder, setting.device, setting.precision)
        samples = round(setting.frames * SECONDS_PER_FRAME * self.classifier.backbone.sample_rate)
        self.batch = self.classifier.signals_of(0.1 * torch.randn(setting.batch, samples), None)

    def __call__(self) -> None:
        """Runs one pass, to the probabilities as numbers."""
        with self.classifier.autocast():
            self.classifier.model(*self.batch).float().softmax(1).tolist()

    def tensors(self) -> Iterable[torch.Tensor]:
        """The weights."""
        return [*self.classifier.model.parameters(), *self.classifier.model.buffers()]


class MixedBatch(Measured):
    """The pass of the same batch through a hub, with the first `count` of its adapters in turn."""

    def __init__(self, hub: AdapterHub, batch: tuple[torch.Tensor, torch.Tensor], count: int):
        self.hub, self.batch = hub, batch
        self.names = [[str(number % count)] for number in range(len(batch[0]))]

    def __call__(self) -> None:
        """Runs one pass, to the predictions."""
        self.hub.classify_signals(*self.batch, self.names)

    def tensors(self) -> Iterable[torch.Tensor]:
        """Those of the backbone."""
        return self.hub.backbone.parameters()


def seconds_to_load(hub: AdapterHub, folder: Path, verify: bool) -> float:
    """Loads an adapter, and unloads it; returns the time to load it."""
    start = time.perf_counter()
    hub.load("once more", folder, verify=verify)
    if hub.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    hub.unload("once more")
    return seconds


def rows_of(setting: Setting, method: str, counts: Sequence[int], repeats: int) -> Iterator[list[str]]:
    """Measures hubs with these numbers of adapters of a method; a row for each."""
    hub = AdapterHub(setting.folder, setting.device, setting.precision)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        save_random_adapter(folder, setting, method)
        single = SingleAdapter(folder, setting)
        for count in tqdm(sorted(counts), f"Classifying with {method}"):
            for number in range(len(hub.names), count):
                hub.load(str(number), folder, verify=False)
            alone, mixed = measure([single, MixedBatch(hub, single.batch, count)], repeats, setting.device)
            plain = [seconds_to_load(hub, folder, False) for _ in range(repeats)]
            verified = [seconds_to_load(hub, folder, True) for _ in range(repeats)]
            load = statistics.median(plain)
            yield [
                method,
                str(count),
                f"{1000 * load:.0f}",
                f"{1000 * (statistics.median(verified) - load):.0f}",
                f"{hub.nbytes('0') / 2**20:.2f}",
                str(min(count, setting.batch)),
                f"{setting.batch / statistics.median(mixed.seconds):.2f}",
                f"{1 / mixed.relative_to(alone)[0]:.2f}",
            ]


def compare(setting: Setting, methods: Sequence[str], counts: Sequence[int], repeats: int) -> str:
    """Measures methods; returns a table."""
    rows = [row for method in methods for row in rows_of(setting, method, counts, repeats)]
    described = f"{setting.frames} frames, {setting.batch} clips, {setting.precision}"
    heading = f"{setting.name}, {described}, {describe_device(setting.device)}."
    return f"{heading}\n\n{markdown_table(COLUMNS, rows)}"


def main(arguments: list[str]) -> None:
    """Prints the table."""
    parser = measuring_parser(__doc__, repeats=3, methods="lora,bottleneck,conformer,soft_moa")
    parser.set_defaults(backbone="random:ast")
    parser.add_argument("--adapters", default="1,10,100,300", help="numbers of adapters, separated by commas")
    parser.add_argument("--batch", type=from_1_on, default=16, help="clips")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    chosen = parser.parse_args(arguments)
    try:
        counts = [from_1_on(count) for count in chosen.adapters.split(",")]
    except argparse.ArgumentTypeError as error:
        parser.error(f"--adapters: {error}")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    name = base_name(chosen.backbone)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        random_backbone(known_config(name), frames=chosen.frames).save_pretrained(folder)
        setting = Setting(name, folder, chosen.frames, chosen.batch, chosen.device, chosen.precision)
        table = compare(setting, chosen.methods.split(","), counts, chosen.repeats)
    show(table, chosen.write, MARKS[torch.device(chosen.device).type])


if __name__ == "__main__":
    sys.exit(run_command(main))
