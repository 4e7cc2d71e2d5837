"""Writes a classifier as an ONNX file, which onnxruntime runs without Python, and checks it against the classifier."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.backbones.echo_encoder import EchoBackbone
from brainplug.data.front_ends import FrontEnd
from brainplug.errors import CheckpointError, ConfigError
from brainplug.files import replace
from brainplug.inference.classifier import Classifier

SUFFIX = ".onnx"
FORMAT = "1"  # of the inputs, outputs and metadata
OPSET = 18  # of onnxruntime 1.14 and newer
LARGEST = 2**31 - 2**24  # bytes of weights: a file of protobuf holds 2 GiB
TOLERANCE = 1e-4  # of logits up to 1, and relative to the largest above
SHORT, MEDIUM, BEYOND = 0.1, 1.3, 1.1  # seconds of checked clips; the last one times the length that a backbone reads


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written: its inputs with their axes, and how far it is from the classifier.

    The differences are the largest ones of logits and of probabilities, on clips of noise.
    """

    path: Path
    inputs: dict[str, list[str | int]]
    logits: float
    probabilities: float


class ClassifierGraph(torch.nn.Module):
    """What is exported: from a signal or a waveform to logits and probabilities, ``[batch, classes]`` each.

    Without a front end, `forward` takes the backbone's signal, with `lengths` if the backbone masks padding. With one
    it takes waveforms ``[batch, samples]`` and their lengths. `lengths` ``[batch]`` are numbers of samples.
    """

    def __init__(self, model: torch.nn.Module, front_end: FrontEnd | None):
        super().__init__()
        self.model, self.front_end = model, front_end

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes logits and probabilities."""
        if lengths is None:
            shares = signal.new_ones(signal.shape[0])
        elif self.front_end is None:
            shares = lengths.to(signal.dtype) / signal.shape[1]
        else:
            signal, shares = self.front_end(signal, lengths)
        logits = self.model(signal, shares)
        return logits, logits.softmax(1)


def export_onnx(classifier: Classifier, path: str | Path, waveform: bool = False) -> Exported:
    """Writes a classifier as one ONNX file, once the file has given the classifier's results on clips of noise.

    The outputs are `logits` and `probabilities`, ``[batch, classes]``; the size of the batch is any. What else is
    needed to use the file is in its metadata: labels, sample rate, and which adapter and backbone it was made of.

    Arguments
    ---------
    classifier : Classifier
        In float32 and on the CPU.
    path : str | Path
        Ends with ``.onnx``; an existing file is replaced.
    waveform : bool
        Whether the graph takes waveforms at 16 kHz, and makes the backbone's signal itself: `waveform`
        ``[batch, samples]``, and `lengths` ``[batch]``, the number of samples of each that are not padding. Else it
        takes `signal`, as `Classifier.read` returns it, and `lengths` where the backbone masks padding.

    Raises
    ------
    ConfigError
        A package is missing, the file cannot be written, or the classifier cannot be exported.
    CheckpointError
        The file does not compute what the classifier does; it is removed.
    """
    path = Path(path)
    check_path(path)
    check_packages()
    _check_classifier(classifier)
    graph = ClassifierGraph(classifier.model, classifier.model.backbone.front_end() if waveform else None).eval()
    with _temporary_beside(path) as temporary:
        _write_graph(graph, classifier, temporary, waveform)
        differences = _compare(temporary, classifier, waveform)
        replace(temporary, path)
    return Exported(path, {name: list(axes) for name, axes in input_axes(classifier, waveform).items()}, *differences)


def check_path(path: Path) -> None:
    """Raises a `ConfigError` unless a file of this name can be written."""
    reason = None
    if path.suffix != SUFFIX:
        reason = f"It ends with {path.suffix!r}, and the only format is ONNX."
    elif path.is_dir():
        reason = "It is a folder."
    elif path.parent.exists() and not os.access(path.parent, os.W_OK):
        reason = f"Nothing can be written to {path.parent}."
    if reason:
        raise ConfigError(f"An export to {path} was asked for.", reason, f"Write --onnx=FILE{SUFFIX}")


def check_packages() -> None:
    """Raises a `ConfigError` that names the extra if a package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as fault:
        problem = f"The package {fault.name or 'onnx'} cannot be imported: {fault}."
        raise ConfigError(
            "An export to ONNX was asked for.", problem, "Write: pip install 'brainplug[onnx]'"
        ) from fault


def input_axes(classifier: Classifier, waveform: bool) -> dict[str, list[str | int]]:
    """The inputs of a graph: name -> axes, a text where any size will do."""
    backbone = classifier.model.backbone
    lengths: dict[str, list[str | int]] = {"lengths": ["batch"]}
    if waveform:
        return {"waveform": ["batch", "samples"], **lengths}
    if backbone.frames is None:
        return {"signal": ["batch", "samples"], **lengths}
    return {"signal": ["batch", backbone.frames, int(backbone.signal_settings["mel_bands"])]}


def metadata(classifier: Classifier, waveform: bool) -> dict[str, str]:
    """What the file says of itself; values that are no text are written as JSON."""
    description, backbone = classifier.description, classifier.model.backbone
    signal = {"signal": "waveform"} if waveform else backbone.signal_settings
    values = {
        "format": FORMAT,
        "task": description.task,
        "labels": classifier.labels,
        "sample_rate": backbone.sample_rate,
        "input": "waveform" if waveform else "signal",
        "signal": signal,
        "longest_clip": description.longest_clip,
        "backbone": description.backbone,
        "backbone_revision": description.backbone_revision,
        "method": description.method,
        "adapter_sha256": description.weights_sha256 or "",
        "versions": description.versions,
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {f"brainplug.{name}": text for name, text in texts.items()}


def _check_classifier(classifier: Classifier) -> None:
    backbone = classifier.model.backbone
    reason, write = None, "Use it in Python: brainplug predict"
    weights = sum(tensor.numel() * tensor.element_size() for tensor in classifier.model.state_dict().values())
    if isinstance(backbone, EchoBackbone):
        reason = "Echo's encoder keeps tables of positions that grow with the clip, which a graph cannot."
    elif weights > LARGEST:
        reason = f"Its weights take {weights / 1e9:.1f} GB; one ONNX file holds 2 GB."
    elif classifier.device.type != "cpu" or classifier.precision != "fp32":
        reason = f"It was loaded on {classifier.device} in {classifier.precision}."
        write = 'Load it with device="cpu" and precision="fp32"'
    if reason:
        raise ConfigError(f"An ONNX file of a classifier with {backbone.name} was asked for.", reason, write)


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """The name of a file in the same folder, which is removed unless it has got another name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(suffix=f"{SUFFIX}.tmp", prefix=f".{path.stem}.", dir=path.parent)
    os.close(descriptor)
    os.chmod(name, 0o666 & ~_umask())
    try:
        yield Path(name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_graph(graph: ClassifierGraph, classifier: Classifier, path: Path, waveform: bool) -> None:
    """Traces the graph, and writes it with its metadata."""
    import onnx

    axes = input_axes(classifier, waveform)
    axes |= {name: ["batch", len(classifier.labels)] for name in ("logits", "probabilities")}
    dynamic = {name: {n: axis for n, axis in enumerate(sizes) if isinstance(axis, str)} for name, sizes in axes.items()}
    example = _inputs(classifier, _noise([1.0, 0.6], classifier), waveform)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of the tracer, that it sees fixed sizes where sizes are fixed. The file is checked with other sizes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                tuple(example.values()),
                str(path),
                input_names=list(example),
                output_names=["logits", "probabilities"],
                dynamic_axes=dynamic,
                opset_version=OPSET,
                # The exporter that traces takes a second and needs no other package; the newer one up to a minute.
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as fault:
        reason = str(fault).strip().partition("\n")[0]
        raise _cannot(classifier, f"torch's exporter refuses it: {reason}") from fault
    written = onnx.load(str(path))
    onnx.helper.set_model_props(written, metadata(classifier, waveform))
    written.producer_name = "brainplug"
    onnx.checker.check_model(written)
    onnx.save(written, str(path))


def _cannot(classifier: Classifier, reason: str) -> ConfigError:
    description = classifier.description
    return ConfigError(
        f"An ONNX file of {description.method} on {description.backbone} was asked for.",
        reason if reason.endswith(".") else f"{reason}.",
        "Use the run in Python: brainplug predict",
    )


def _noise(seconds: Sequence[float], classifier: Classifier) -> list[torch.Tensor]:
    """Clips of noise ``[samples]``, which fade so that their halves differ."""
    generator = torch.Generator().manual_seed(0)
    counts = [round(duration * classifier.model.backbone.sample_rate) for duration in seconds]
    return [torch.randn(count, generator=generator) * torch.linspace(0.2, 0.01, count) for count in counts]


def _inputs(classifier: Classifier, clips: Sequence[torch.Tensor], waveform: bool) -> dict[str, torch.Tensor]:
    """The inputs of a batch of clips."""
    backbone = classifier.model.backbone
    signals = list(clips) if waveform else [backbone.extract(clip) for clip in clips]
    names = input_axes(classifier, waveform)
    values = (pad_sequence(signals, batch_first=True), torch.tensor([len(signal) for signal in signals]))
    return dict(zip(names, values, strict=False))


def _compare(path: Path, classifier: Classifier, waveform: bool) -> tuple[float, float]:
    """The largest differences of logits and probabilities from the classifier's, on batches and clips of two sizes."""
    import onnxruntime

    frames = classifier.model.backbone.frames
    beyond = BEYOND * (frames / 100 if frames else MEDIUM)  # frames of 10 ms
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed too
    largest = (0.0, 0.0)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for clips in (_noise([SHORT], classifier), _noise([beyond, SHORT, MEDIUM], classifier)):
            inputs = {name: value.numpy() for name, value in _inputs(classifier, clips, waveform).items()}
            logits, probabilities = map(torch.as_tensor, session.run(["logits", "probabilities"], inputs))
            expected = torch.cat([_logits_of(classifier, clip) for clip in clips])
            new = _difference(classifier, logits, expected), _difference(classifier, probabilities, expected.softmax(1))
            largest = max(largest[0], new[0]), max(largest[1], new[1])
    except _onnxruntime_faults() as fault:
        raise _cannot(classifier, f"onnxruntime cannot run it: {str(fault).partition(chr(10))[0]}") from fault
    return largest


def _logits_of(classifier: Classifier, clip: torch.Tensor) -> torch.Tensor:
    """The classifier's own logits ``[1, classes]`` of a clip alone."""
    with torch.no_grad():
        logits: torch.Tensor = classifier.model(classifier.model.backbone.extract(clip)[None], torch.ones(1))
    return logits


def _difference(classifier: Classifier, actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference; one above the tolerance, or a NaN, raises a `CheckpointError`."""
    difference = (actual - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise CheckpointError(
            f"An ONNX file of {classifier.description.method} on {classifier.description.backbone} was asked for.",
            f"It gives other results than the run: they differ by up to {difference:.2g}. The file was removed.",
            "Use the run in Python: brainplug predict",
        )
    return difference


def _onnxruntime_faults() -> tuple[type[Exception], ...]:
    """The errors that onnxruntime raises, which have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds: list[Any] = [value for value in vars(state).values() if isinstance(value, type)]
    return (RuntimeError, *(kind for kind in kinds if issubclass(kind, Exception)))
