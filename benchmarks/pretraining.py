"""What parts of a pre-training step cost, each as a multiple of the way that stands first in its table rows.

- HuBERT's loss: one product of tokens with the codebook, beside the published construction, which expands the negatives
  of every frame to ``[clusters, frames, dim]``. Both give the same loss and the same gradients.
- The teacher of data2vec: one call for all parameters, beside a loop over them.

They take turns; the median of the rounds' quotients is shown, after a first round that does not count.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable

import brainplug  # noqa: F401  before transformers: it lets torchaudio load beside any torch

# isort: split
import torch
from transformers import Data2VecAudioModel

from benchmarks.measure import Measured, describe_device, from_1_on, measure, show
from brainplug.backbones import known_config
from brainplug.config.recipe import run_command
from brainplug.pretrain.data2vec import Teacher
from brainplug.pretrain.hubert import TEMPERATURE, HubertObjective
from brainplug.results.report import markdown_table, table_marks

MARKS = table_marks("speed", "python -m benchmarks.pretraining")
COLUMNS = ("what", "way", "ms", "time", "memory")
TAU = 0.999


class Loss(Measured):
    """HuBERT's loss and its gradients.

    Arguments
    ---------
    loss : Callable
        Of an objective, tokens and labels.
    frames, dim, clusters : int
        How many frames are masked, how wide tokens are, how many clusters there are.
    device : str
        Where it runs.
    """

    def __init__(self, loss: Callable, frames: int, dim: int, clusters: int, device: str):
        self.loss, self.objective = loss, HubertObjective(dim, clusters).to(device)
        self.tokens = torch.randn(frames, dim, device=device, requires_grad=True)
        self.labels = torch.randint(clusters, (frames,), device=device)

    def __call__(self) -> None:
        """Forward and backward."""
        self.loss(self.objective, self.tokens, self.labels).backward()

    def tensors(self) -> Iterable[torch.Tensor]:
        """Weights and tokens."""
        return [*self.objective.parameters(), self.tokens]


def one_product(objective: HubertObjective, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss as this project computes it.

    Arguments
    ---------
    objective : HubertObjective
        Projection and codebook.
    tokens, labels : torch.Tensor
        ``[frames, dim]`` and ``[frames]``.

    Returns
    -------
    torch.Tensor
        A scalar.
    """
    return torch.nn.functional.cross_entropy(objective(tokens), labels)


def expanded(objective: HubertObjective, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss as the published code builds it: the right code, then all codes with the right one struck out.

    Arguments
    ---------
    objective, tokens, labels : HubertObjective, torch.Tensor, torch.Tensor
        As in `one_product`.

    Returns
    -------
    torch.Tensor
        A scalar, the same.

    Example
    -------
    >>> objective, tokens, labels = HubertObjective(8, 5), torch.randn(3, 8), torch.tensor([0, 4, 2])
    >>> bool(torch.allclose(expanded(objective, tokens, labels), one_product(objective, tokens, labels)))
    True
    """
    projected, codes = objective.projection(tokens), objective.codebook
    right, all_codes = codes[labels], codes[:, None].expand(-1, len(tokens), -1)  # [clusters, frames, dim]
    struck_out = (right == all_codes).all(-1)
    targets = torch.cat([right[None], all_codes])
    logits = torch.cosine_similarity(projected, targets, dim=-1) / TEMPERATURE
    logits = torch.cat([logits[:1], logits[1:].masked_fill(struck_out, float("-inf"))]).t()
    return torch.nn.functional.cross_entropy(logits, labels.new_zeros(len(labels)))


class Following(Measured):
    """The teacher's step.

    Arguments
    ---------
    follow : Callable
        Of a teacher.
    teacher : Teacher
        Of any model.
    """

    def __init__(self, follow: Callable[[Teacher], None], teacher: Teacher):
        self.follow, self.teacher = follow, teacher

    def __call__(self) -> None:
        """One step."""
        self.follow(self.teacher)

    def tensors(self) -> Iterable[torch.Tensor]:
        """What is averaged."""
        return [tensor for tensors in self.teacher.averaged() for tensor in tensors]


@torch.no_grad()
def follow_in_a_loop(teacher: Teacher) -> None:
    """Averages parameter by parameter.

    Arguments
    ---------
    teacher : Teacher
        Changed in place.
    """
    for own, student in zip(*teacher.averaged(), strict=True):
        own.mul_(TAU).add_(student.float(), alpha=1 - TAU)


def compare(frames: int, clusters: int, repeats: int, device: str) -> str:
    """Measures all pairs, at the sizes of BASE.

    Arguments
    ---------
    frames : int
        How many are masked in a batch.
    clusters : int
        Size of the codebook.
    repeats : int
        Rounds that count.
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    str
        A Markdown table.
    """
    config = known_config("data2vec")
    teacher = Teacher(Data2VecAudioModel(config).to(device), top=8)
    pairs = {
        f"HuBERT's loss, {frames:,} frames, {clusters} clusters": {
            "one product": Loss(one_product, frames, config.hidden_size, clusters, device),
            "published": Loss(expanded, frames, config.hidden_size, clusters, device),
        },
        "data2vec's teacher, BASE": {
            "one call": Following(lambda teacher: teacher.follow(TAU), teacher),
            "a loop": Following(follow_in_a_loop, teacher),
        },
    }
    rows = []
    for what, ways in pairs.items():
        costs = measure(list(ways.values()), repeats, device)
        for way, cost in zip(ways, costs, strict=True):
            relative = [f"{times:.2f}" for times in cost.relative_to(costs[0])]
            rows.append((what, way, f"{1000 * statistics.median(cost.seconds):,.1f}", *relative))
    return markdown_table(COLUMNS, rows)


def main(arguments: list[str]) -> None:
    """Reads the command line, measures and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=from_1_on, default=2000, help="masked in a batch; HuBERT BASE has some 2,200")
    parser.add_argument("--clusters", type=from_1_on, default=500)
    parser.add_argument("--repeats", type=from_1_on, default=5, help="rounds that count")
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between marks")
    chosen = parser.parse_args(arguments)
    table = compare(chosen.frames, chosen.clusters, chosen.repeats, chosen.device)
    show(f"{describe_device(chosen.device)}.\n\n{table}", chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
