"""The probe of an adapter: a short clip and the model's output for it, by which a loaded model is verified."""

from collections.abc import Callable

import torch

from brainplug.errors import CheckpointError
from brainplug.models.adapted import AdaptedModel

Tensors = dict[str, torch.Tensor]
SAMPLES, SAMPLE_RATE = 8000, 16000
TOLERANCE = 1e-4  # of the largest output: more than other machines round differently


def make_probe(model: AdaptedModel) -> Tensors:
    """The probe's ``waveform`` ``[samples]``, in 16 bits, and the model's ``output`` for it, computed on the CPU."""
    time = torch.arange(SAMPLES, dtype=torch.float64) / SAMPLE_RATE
    sweep = 0.3 * torch.sin(2 * torch.pi * (100 + 7000 * time) * time)
    waveform = (sweep * 2**15).round().to(torch.int16)
    return {"waveform": waveform, "output": output_on_cpu(model, as_samples(waveform))}


def check_probe(output_of: Callable[[torch.Tensor], torch.Tensor], probe: Tensors, source: str) -> None:
    """Refuses a model that answers its probe with another output than when it was saved.

    `output_of` is called with the probe's clip ``[samples]``, and returns what the model computes of it.
    """
    asked, write = (
        f"The adapter {source} was asked for.",
        "Install the versions that the adapter names, or copy it again",
    )
    waveform, expected = probe.get("waveform"), probe.get("output")
    if waveform is None or expected is None or waveform.dim() != 1 or not 0 < len(waveform) <= 10 * SAMPLE_RATE:
        raise CheckpointError(asked, "Its probe holds no short waveform with an output.", write)
    output = output_of(as_samples(waveform)).float().cpu()
    if output.shape != expected.shape:
        problem = f"It answers its probe with {list(output.shape)} numbers instead of {list(expected.shape)}."
        raise CheckpointError(asked, problem, write)
    difference = (output - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        problem = f"It answers its probe with an output that is off by {difference:.3g}."
        raise CheckpointError(asked, problem, f"{write}; verify=False in Python, or --no_verify, takes it as it is")


def as_samples(waveform: torch.Tensor) -> torch.Tensor:
    """The samples from -1 to 1 of a waveform in 16 bits."""
    return waveform.float() / 2**15


@torch.no_grad()
def output_on_cpu(model: AdaptedModel, waveform: torch.Tensor) -> torch.Tensor:
    """What a model computes of a clip ``[samples]`` in evaluation mode."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval().cpu()
    output = model.output_of(waveform).float()
    model.train(was_training).to(device)
    return output
