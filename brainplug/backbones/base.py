"""The base class of all backbones: from a clip's waveform to its signal, and from a batch of signals to tokens."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
import transformers

from brainplug.backbones.hub import hash_tensors, load_extractor, weights_revision
from brainplug.backbones.spec import BackboneSpec, Checkpoint, find_module
from brainplug.data.front_ends import FrontEnd
from brainplug.data.shared_frames import Window
from brainplug.errors import ConfigError


class Backbone(torch.nn.Module, ABC):
    """A pretrained transformer with its description.

    A subclass may replace modules of the transformer, so that methods reach them or padding is left out. The weights
    keep the names that transformers has, and clips without padding have the same tokens as in transformers.

    Arguments
    ---------
    name : str
        As the user wrote it.
    revision : str
        The exact weights: the hub's commit, a hash of the files, ``seed-1``, or ``random``.
    extractor : FeatureExtractionMixin
        Turns clips into signals.
    frames : int, optional
        For families whose clips have one length: that length in frames of 10 ms, to which clips are cut or padded; by
        default the length that the model was made for.
    positions : str
        How these families fit their position embeddings, see `resize_in_time`.
    """

    spec: BackboneSpec
    extractor_name: ClassVar[str]  # of a class of transformers, which is imported when it is used
    checkpoints: ClassVar[dict[str, Checkpoint]] = {}  # by short name
    sample_rate: ClassVar[int] = 16000  # Hz
    frames: int | None = None
    fitted: ClassVar[tuple[str, ...]] = ()  # tensors that depend on the length of clips
    works_with_peft: ClassVar[bool] = True  # whether the model in transformers calls every module that peft replaces
    old_names: ClassVar[tuple[tuple[str, str], ...]] = ()  # patterns of modules' older paths, and today's
    max_tokens: int | None = None  # of a clip, for families that do not cut clips but have a longest length

    def __init__(
        self, model: Any, name: str, revision: str, extractor: Any, frames: int | None = None, positions: str = "crop"
    ):
        super().__init__()
        self.model: transformers.PreTrainedModel = model
        self.name, self.revision, self.extractor = name, revision, extractor
        self.prepare(model, frames, positions)

    @abstractmethod
    def prepare(self, model: Any, frames: int | None, positions: str) -> None:
        """Fits the transformer and the extractor to the length of clips, and replaces modules."""

    @property
    def dim(self) -> int:
        """Width of a token."""
        return int(self.model.config.hidden_size)

    def fingerprint(self) -> str:
        """A hash of the weights as they are now, but for those that were fitted to the length of clips.

        It depends neither on the format of their file nor on the names that a version of transformers gives them.
        """
        tensors = self.model.state_dict()
        return hash_tensors(tensor for name, tensor in tensors.items() if name not in self.fitted)

    @classmethod
    def load(cls, source: str, name: str, revision: str | None, **settings: Any) -> Self:
        """Loads pretrained weights from a folder or a hub id; the settings are `frames` and `positions`."""
        model = cls.load_model(source, revision)
        extractor = load_extractor(cls.extractor_class(), source, revision)
        commit = getattr(model.config, "_commit_hash", None)
        return cls(model, name, weights_revision(source, commit), extractor, **settings)

    @classmethod
    def from_config(
        cls,
        config: transformers.PreTrainedConfig,
        name: str = "random",
        extractor: transformers.FeatureExtractionMixin | None = None,
        **settings: Any,
    ) -> Self:
        """Draws random weights, in evaluation mode; under ``torch.device("meta")`` it has shapes without values."""
        model = cls.new_model(copy.deepcopy(config)).eval()
        return cls(model, name, "random", extractor or cls.new_extractor(config), **settings)

    @classmethod
    @abstractmethod
    def load_model(cls, source: str, revision: str | None) -> transformers.PreTrainedModel:
        """Loads the transformer of a folder or a hub id."""

    @classmethod
    @abstractmethod
    def new_model(cls, config: Any) -> transformers.PreTrainedModel:
        """Makes the transformer of the family's configuration, with random weights."""

    @classmethod
    def extractor_class(cls) -> type[transformers.FeatureExtractionMixin]:
        """The class that turns clips into signals."""
        return getattr(transformers, cls.extractor_name)

    @classmethod
    def new_extractor(cls, config: transformers.PreTrainedConfig) -> transformers.FeatureExtractionMixin:
        """The extractor of a model that comes without one."""
        return cls.extractor_class()()

    @classmethod
    def read_config(cls, folder: Path) -> transformers.PreTrainedConfig:
        """Reads a config.json of this family."""
        return transformers.AutoConfig.from_pretrained(folder)

    def plain_model(self) -> transformers.PreTrainedModel:
        """A copy of the transformer as transformers itself makes it, which works without brainplug.

        It computes the same tokens, except in padded batches, where padding may leak into clips. A `ConfigError` is
        raised if a method has added modules.
        """
        with torch.random.fork_rng(devices=[]):
            plain: Any = self.new_model(copy_config(self.model.config))
        try:
            plain.load_state_dict(self.model.state_dict())
        except RuntimeError as error:
            raise ConfigError(
                f"The plain model of the backbone {self.name!r} was asked for.",
                "A method has added modules to it.",
                "Merge the method first, with model.merge()",
            ) from error
        plain.to(device=self.model.device, dtype=self.model.dtype)
        return cast(transformers.PreTrainedModel, plain.eval())

    def save_pretrained(self, folder: str | Path) -> None:
        """Saves `plain_model` and the extractor as transformers does; `load_backbone` takes the folder too."""
        self.plain_model().save_pretrained(folder)
        self.extractor.save_pretrained(folder)

    @property
    @abstractmethod
    def signal_settings(self) -> dict[str, Any]:
        """All that `extract` depends on, as JSON values: the key of a feature cache."""

    @abstractmethod
    def extract(self, waveform: torch.Tensor) -> torch.Tensor:
        """Turns a clip ``[samples]`` at 16 kHz into its signal, ``[frames, mel_bands]`` or ``[samples]``."""

    def extract_windows(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Turns the windows of a recording, in order, into signals equal to those of `extract`, with their clips.

        A family whose frames depend on their own samples alone computes frames that two windows share once.
        """
        for clip, samples in windows:
            yield clip, self.extract(samples)

    def extract_batch(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Turns clips ``[batch, samples]`` into signals of one length ``[batch, frames, mel_bands]``, on their device.

        `lengths` ``[batch]`` is the fraction of each clip that is not padding. A `ConfigError` is raised for families
        that read clips one by one.
        """
        raise ConfigError(
            "--features_on_device=True was asked for.",
            f"The backbone {self.name} reads clips one by one, before they are put into a batch.",
            "Leave it out, or write --backbone=ast",
        )

    def front_end(self) -> FrontEnd:
        """What computes `extract` of a batch as a graph, for export.

        A `ConfigError` is raised for families and settings that have none.
        """
        raise ConfigError(
            f"The backbone {self.name} was to read waveforms inside an exported graph.",
            "Its family has no graph that does so.",
            "Export it without --waveform, if it can be exported",
        )

    def count_tokens(self, samples: int) -> int:
        """The number of tokens of a clip of this length, for families whose tokens follow the clip in time."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, signal: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turns a padded batch of signals, with the fraction of each that is not padding ``[batch]``, into tokens.

        The tokens are ``[batch, tokens, dim]``; the mask ``[batch, tokens]`` is True where a token is not padding, or
        None where no token is.
        """

    def after_layers(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the transformer makes of the last layer's tokens; they are the same unless it has a norm there."""
        return find_module(self.model, self.spec.final_norm)(tokens) if self.spec.final_norm else tokens


def copy_config(config: transformers.PreTrainedConfig) -> transformers.PreTrainedConfig:
    """A copy with the default attention, since a model in use may have one that its family refuses when it is made."""
    return type(config).from_dict(config.to_dict())
