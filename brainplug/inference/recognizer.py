"""What a run left behind, ready to be used; after SpeechBrain's inference interfaces."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from brainplug.adapters.description import RecognizerDescription
from brainplug.adapters.file import read_adapter
from brainplug.data.audio import read_audio
from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError
from brainplug.models.adapted import AdaptedModel
from brainplug.models.ctc import CTCModel
from brainplug.models.decoding import Decoder, make_decoder
from brainplug.models.echo_recognizer import EchoRecognizer
from brainplug.tasks import find_task


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
        adapter = read_adapter(folder)
        description = adapter.description
        if not isinstance(description, RecognizerDescription):
            raise UsageError(
                f"The recogniser in {folder} was asked for.", "The run there classifies.", "Name a run that transcribes"
            )
        model = find_task(description.task).restore(adapter, folder).to(device)
        if description.task == "seq2seq":
            beam_size = description.beam_size if description.decoding == "beam" else 1
            return cls(model, partial(_write_with_echo, model, beam_size))
        decoder = make_decoder(description.decoding, Characters(description.characters), description.beam_size)
        return cls(model, partial(_write_with_ctc, model, decoder))

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
    return model.generate(model.encode(signal, lengths), beam_size)
