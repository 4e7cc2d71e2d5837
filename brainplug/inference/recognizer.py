"""What a run left behind, ready to be used; after SpeechBrain's inference interfaces."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.backbones import Backbone
from brainplug.data.audio import read_audio
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.methods import restore_method
from brainplug.methods.linear import LinearProbe
from brainplug.models.adapted import AdaptedModel
from brainplug.models.ctc import CTCModel, load_waveform_backbone
from brainplug.models.decoding import Decoder, make_decoder
from brainplug.models.echo_recognizer import ECHO_FOLDER, NEW, EchoRecognizer, load_echo


class SpeechRecognizer(torch.nn.Module):
    """Writes down what is said.

    Arguments
    ---------
    model : AdaptedModel
        With trained weights.
    write : Callable
        Called with signals and their lengths, as the model's backbone takes them; returns texts.

    Example
    -------
    >>> recognizer = SpeechRecognizer.from_run("results/spoken_ctc/hubert-lora/1234")  # doctest: +SKIP
    >>> recognizer.transcribe_file("speech.wav")  # doctest: +SKIP
    'turn on the lights'
    """

    def __init__(self, model: AdaptedModel, write: Callable[[torch.Tensor, torch.Tensor], list[str]]):
        super().__init__()
        self.model, self.write = model.eval(), write

    @classmethod
    def from_run(cls, folder: str, device: str = "cpu") -> "SpeechRecognizer":
        """Builds the recogniser that a run trained.

        Arguments
        ---------
        folder : str
            The run's output folder; ``adapter.json`` and ``adapter.safetensors`` are read, of an Echo its own files.
        device : str
            Where it computes.

        Returns
        -------
        SpeechRecognizer
            With the weights of the best epoch.

        Raises
        ------
        UsageError
            The files are missing or not of a recogniser, or the backbone is not the one that was adapted.
        """
        described, weights = _read_adapter(folder)
        characters = Characters(described["characters"])
        if described["recogniser"] == "echo":
            model = _load_echo(folder, described, characters, weights).to(device)
            beam_size = described["beam_size"] if described["decoding"] == "beam" else 1
            return cls(model, partial(_write_with_echo, model, beam_size))
        model = CTCModel(
            _load_backbone(folder, described), restore_method(described["method_settings"]), len(characters)
        )
        model.load_delta(weights)
        decoder = make_decoder(described["decoding"], characters, described["beam_size"])
        return cls(model.to(device), partial(_write_with_ctc, model, decoder))

    def transcribe_file(self, path: str) -> str:
        """Transcribes an audio file.

        Arguments
        ---------
        path : str
            Any file that soundfile reads, at any sample rate; channels are averaged.

        Returns
        -------
        str
            What is said.

        Raises
        ------
        UsageError
            It cannot be read.
        """
        waveform = read_audio(Clip(Path(path).stem, str(path), ""), self.model.backbone.sample_rate)
        [text] = self.transcribe_batch(waveform[None], torch.ones(1))
        return text

    @torch.no_grad()
    def transcribe_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> list[str]:
        """Transcribes a padded batch.

        Arguments
        ---------
        waveforms : torch.Tensor
            ``[batch, samples]`` at 16 kHz.
        lengths : torch.Tensor
            Share of each that is not padding, ``[batch]``.

        Returns
        -------
        list[str]
            What is said in each.
        """
        samples = (lengths * waveforms.shape[1]).round().long().tolist()
        signals = [
            self.model.backbone.extract(waveform[:count].cpu())
            for waveform, count in zip(waveforms, samples, strict=True)
        ]
        shares = torch.tensor([len(signal) for signal in signals]) / max(map(len, signals))
        device = next(self.model.parameters()).device
        return self.write(pad_sequence(signals, batch_first=True).to(device), shares.to(device))

    forward = transcribe_batch


def _write_with_ctc(model: CTCModel, decoder: Decoder, signal: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    logits, counts = model(signal, lengths)
    return decoder(logits.float().log_softmax(2), counts)


def _write_with_echo(model: EchoRecognizer, beam_size: int, signal: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    return model.write(model.hear(signal, lengths), beam_size)


def _load_echo(folder: str, described: dict, characters: Characters, weights: dict) -> EchoRecognizer:
    """The Echo that a run saved whole; else the one that it adapted, with the adapter."""
    if Path(folder, ECHO_FOLDER, "config.json").is_file():
        echo, backbone = load_echo(str(Path(folder, ECHO_FOLDER)), None, None, characters)
        echo.fold()
        return EchoRecognizer(backbone, LinearProbe(), echo, characters)
    if described["backbone"] == NEW:
        raise UsageError(
            f"The recogniser in {folder} was asked for.",
            f"It is a whole Echo, whose folder {ECHO_FOLDER} is missing there.",
            f"Copy the folder {ECHO_FOLDER} of its run too",
        )
    echo, backbone = load_echo(described["backbone"], _revision_of(described), None, characters)
    _check_revision(folder, described, backbone)
    model = EchoRecognizer(backbone, restore_method(described["method_settings"]), echo, characters)
    model.load_delta(weights)
    return model


def _load_backbone(folder: str, described: dict) -> Backbone:
    backbone = load_waveform_backbone(described["backbone"], _revision_of(described))
    _check_revision(folder, described, backbone)
    return backbone


def _revision_of(described: dict) -> str | None:
    """What pins the backbone; a folder's weights have no name but their own hash."""
    revision = described["backbone_revision"]
    return None if revision.startswith(("sha256-", "random")) else revision


def _check_revision(folder: str, described: dict, backbone: Backbone) -> None:
    revision = described["backbone_revision"]
    if backbone.revision != revision or revision == "random":
        raise UsageError(
            f"The recogniser in {folder} was asked for.",
            f"It adapts {described['backbone']}, {revision}; there is {backbone.revision}.",
            "Put the backbone's own files back; random weights are in no file",
        )


def _read_adapter(folder: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """What describes an adapter, and its weights."""
    asked = f"The recogniser in {folder} was asked for."
    try:
        described = json.loads(Path(folder, "adapter.json").read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(Path(folder, "adapter.safetensors"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        found = f"Its adapter cannot be read: {error}."
        raise UsageError(asked, found, "Name the output folder of a finished run") from error
    if "characters" not in described:
        raise UsageError(asked, "The run there classifies.", "Name the folder of a run of recipes/spoken_ctc")
    return {"recogniser": "ctc", **described}, weights
