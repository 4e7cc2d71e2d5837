"""What every backbone can do: read a clip's waveform as its signal, and turn a batch of signals into tokens."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from transformers import FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from brainplug.backbones.spec import BackboneSpec
from brainplug.errors import UsageError


class Backbone(torch.nn.Module, ABC):
    """A pretrained transformer with its description.

    Arguments
    ---------
    model : PreTrainedModel
        The transformer.
    name : str
        How the user called it.
    revision : str
        Which weights these are: the hub's commit, a hash of the file, ``seed-1``, or ``random``.
    """

    spec: ClassVar[BackboneSpec]
    extractor_class: ClassVar[type[FeatureExtractionMixin]]
    sample_rate = 16000  # Hz, of every family here

    def __init__(self, model: PreTrainedModel, name: str, revision: str):
        super().__init__()
        self.model, self.name, self.revision = model, name, revision

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.model.config.hidden_size

    @classmethod
    @abstractmethod
    def load(cls, source: str, name: str, revision: str | None, **settings: object) -> "Backbone":
        """Loads a pretrained one.

        Arguments
        ---------
        source : str
            A folder or a hub id.
        name : str
            How the user called it.
        revision : str, optional
            The hub's revision.
        **settings : object
            What the recipe says of the input: `frames`, `positions`.

        Returns
        -------
        Backbone
            With weights.
        """

    @classmethod
    @abstractmethod
    def from_config(
        cls,
        config: PreTrainedConfig,
        name: str = "random",
        extractor: FeatureExtractionMixin | None = None,
        **settings: object,
    ) -> "Backbone":
        """Builds one with random weights, without any file; under ``torch.device("meta")`` without memory too.

        Arguments
        ---------
        config : PreTrainedConfig
            Of this family; left as it is.
        name : str
            How the user called it.
        extractor : FeatureExtractionMixin, optional
            How clips are read; None: as the family's do unless told otherwise.
        **settings : object
            As in `load`.

        Returns
        -------
        Backbone
            In evaluation mode, as loaded ones are.
        """

    @property
    @abstractmethod
    def signal_settings(self) -> dict:
        """All that `extract` depends on, as JSON values: the key of a feature cache."""

    @abstractmethod
    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Turns a clip into the signal that the model takes.

        Arguments
        ---------
        waveform : torch.Tensor
            ``[samples]`` at 16 kHz.

        Returns
        -------
        torch.Tensor
            ``[frames, mel_bands]`` or ``[samples]``.
        """

    def extract_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Turns a padded batch of clips into signals of one length, on their device.

        Arguments
        ---------
        waveforms : torch.Tensor
            ``[batch, samples]`` at 16 kHz.
        lengths : torch.Tensor
            Share of each clip that is not padding, ``[batch]``.

        Returns
        -------
        torch.Tensor
            ``[batch, frames, mel_bands]``.

        Raises
        ------
        UsageError
            This family's signals are made clip by clip.
        """
        raise UsageError(
            "--features_on_device=True was asked for.",
            f"The signals of {self.name} are made clip by clip, before the batch.",
            "Leave it out, or write --backbone=ast",
        )

    @abstractmethod
    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turns signals into tokens.

        Arguments
        ---------
        signal : torch.Tensor
            A padded batch of what `extract` returns.
        lengths : torch.Tensor
            Share of each signal that is not padding, ``[batch]``.

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor | None]
            Tokens ``[batch, tokens, dim]`` and a mask ``[batch, tokens]`` that is True where a token is not padding;
            None where all count.
        """


def weights_revision(source: str, commit: str | None) -> str:
    """Names the weights exactly.

    Arguments
    ---------
    source : str
        A folder or a hub id.
    commit : str, optional
        The hub's commit, if it came from there.

    Returns
    -------
    str
        The commit, else a hash of the folder's weights.
    """
    if commit or not Path(source).is_dir():
        return commit or "unknown"
    digest = hashlib.sha256()
    for path in sorted([*Path(source).glob("*.safetensors"), *Path(source).glob("pytorch_model*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256-{digest.hexdigest()[:16]}"
