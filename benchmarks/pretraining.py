"""The cost of parts of a pre-training step, relative to the first variant of each.

- HuBERT's loss: one product of tokens with the codebook, and the published construction, which expands the negatives of
  every frame to ``[clusters, frames, dim]``. Loss and gradients are the same.
- data2vec's teacher: one call for all parameters, and a loop over them.

Variants take turns. The table shows the median quotient over the rounds after a warm-up.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import torch
from transformers import Data2VecAudioModel

from benchmarks.measure import Measured, describe_device, from_1_on, measure, show
from brainplug.backbones import known_config
from brainplug.errors import run_command
from brainplug.pretrain.data2vec import Teacher
from brainplug.pretrain.hubert import TEMPERATURE, HubertObjective
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("speed", "python -m benchmarks.pretraining")
COLUMNS = ("what", "way", "ms", "time", "memory")
TAU = 0.999

LossFunction = Callable[[HubertObjective, torch.Tensor, torch.Tensor], torch.Tensor]


class Loss(Measured):
    """HuBERT's loss of masked frames and its gradients."""

    def __init__(self, loss: LossFunction, frames: int, dim: int, clusters: int, device: str):
        self.loss, self.objective = loss, HubertObjective(dim, clusters).to(device)
        self.tokens = torch.randn(frames, dim, device=device, requires_grad=True)
        self.labels = torch.randint(clusters, (frames,), device=device)

    def __call__(self) -> None:
        """Runs forward and backward."""
        self.loss(self.objective, self.tokens, self.labels).backward()

    def tensors(self) -> Iterable[torch.Tensor]:
        """Weights and tokens."""
        return [*self.objective.parameters(), self.tokens]


def one_product(objective: HubertObjective, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of tokens ``[frames, dim]`` as this project computes it."""
    return torch.nn.functional.cross_entropy(objective(tokens), labels)


def expanded(objective: HubertObjective, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same loss as the published code builds it: the target's logit, then all others with the target's masked."""
    projected, codes = objective.projection(tokens), objective.codebook
    positives, negatives = codes[labels], codes[:, None].expand(-1, len(tokens), -1)  # [clusters, frames, dim]
    duplicates = (positives == negatives).all(-1)
    candidates = torch.cat([positives[None], negatives])
    logits = torch.cosine_similarity(projected, candidates, dim=-1) / TEMPERATURE
    logits = torch.cat([logits[:1], logits[1:].masked_fill(duplicates, float("-inf"))]).t()
    return torch.nn.functional.cross_entropy(logits, labels.new_zeros(len(labels)))


class TeacherUpdate(Measured):
    """The update of a teacher."""

    def __init__(self, update: Callable[[Teacher], None], teacher: Teacher):
        self.update, self.teacher = update, teacher

    def __call__(self) -> None:
        """Updates once."""
        self.update(self.teacher)

    def tensors(self) -> Iterable[torch.Tensor]:
        """The averaged parameters of teacher and student."""
        return [tensor for tensors in self.teacher.averaged() for tensor in tensors]


@torch.no_grad()
def update_in_a_loop(teacher: Teacher) -> None:
    """Averages parameter by parameter."""
    for own, student in zip(*teacher.averaged(), strict=True):
        own.mul_(TAU).add_(student.float(), alpha=1 - TAU)


def compare(frames: int, clusters: int, repeats: int, device: str) -> str:
    """Measures all variants at the sizes of BASE, and returns a Markdown table.

    Arguments
    ---------
    frames : int
        Masked frames of a batch.
    clusters : int
        Size of the codebook.
    repeats : int
        Rounds after the warm-up.
    """
    config = known_config("data2vec")
    teacher = Teacher(Data2VecAudioModel(config).to(device), top=8)
    variants: dict[str, dict[str, Measured]] = {
        f"HuBERT's loss, {frames:,} frames, {clusters} clusters": {
            "one product": Loss(one_product, frames, config.hidden_size, clusters, device),
            "published": Loss(expanded, frames, config.hidden_size, clusters, device),
        },
        "data2vec's teacher, BASE": {
            "one call": TeacherUpdate(lambda teacher: teacher.update(TAU), teacher),
            "a loop": TeacherUpdate(update_in_a_loop, teacher),
        },
    }
    rows = []
    for what, actions in variants.items():
        costs = measure(list(actions.values()), repeats, device)
        for way, cost in zip(actions, costs, strict=True):
            relative = [f"{quotient:.2f}" for quotient in cost.relative_to(costs[0])]
            rows.append((what, way, f"{1000 * statistics.median(cost.seconds):,.1f}", *relative))
    return markdown_table(COLUMNS, rows)


def main(arguments: list[str]) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=from_1_on, default=2000, help="masked in a batch; HuBERT BASE has some 2,200")
    parser.add_argument("--clusters", type=from_1_on, default=500)
    parser.add_argument("--repeats", type=from_1_on, default=5, help="rounds after a warm-up")
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between its marks")
    options = parser.parse_args(arguments)
    table = compare(options.frames, options.clusters, options.repeats, options.device)
    show(f"{describe_device(options.device)}.\n\n{table}", options.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
