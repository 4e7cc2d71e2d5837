"""The keys of the pre-training recipes: one schema each, with types and ranges."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, FiniteFloat, PositiveInt, model_validator
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from transformers import ASTModel, Data2VecAudioModel, HubertModel, PreTrainedModel

from brainplug.config.schema import Settings
from brainplug.pretrain.health import HealthLog

Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
PositiveNumber = Annotated[FiniteFloat, Field(gt=0)]
Weight = Annotated[FiniteFloat, Field(ge=0)]
SoundKey = Literal["spoken_clips", "event_clips", "recordings_folder", "recordings", "seed"]


class PretrainSettings(Settings):
    """The keys that all pre-training recipes share."""

    seed: Seed
    output_folder: str
    save_folder: str
    train_log: str
    corpus_folder: str
    number_of_epochs: PositiveInt
    steps_per_epoch: PositiveInt
    batch_size: PositiveInt
    lr: PositiveNumber
    precision: Literal["fp32", "fp16", "bf16"]
    optimizer: Callable[..., torch.optim.Optimizer]
    epoch_counter: EpochCounter
    train_logger: Any
    checkpointer: Checkpointer


class MaskedSettings(PretrainSettings):
    """The keys of recipes that predict masked frames of any audio."""

    results_folder: str
    model_folder: str
    data_folder: str | None
    sound_folder: str | None
    sound: dict[SoundKey, Count | str | None] | None
    crop_seconds: PositiveNumber
    valid_fraction: Annotated[FiniteFloat, Field(ge=0, lt=1)]
    valid_batches: PositiveInt
    noise: Callable[..., Any] | None
    gain: Callable[..., Any] | None
    augment: list[Any]
    compared_clusters: Annotated[int, Field(ge=2)]
    mask_probability: PositiveNumber
    mask_length: PositiveInt
    mask_minimum: Count
    mask_same_count: bool
    lr_schedule: Callable[[int, int], float]
    max_grad_norm: Annotated[float, Field(ge=0)]
    health_interval: PositiveInt
    alarms_after: Count
    ckpt_interval_minutes: Weight
    eval_precision: Literal["fp32", "fp16", "bf16"]
    model: PreTrainedModel
    health_log: HealthLog

    @property
    def audio_folder(self) -> str:
        """The folder of the audio files."""
        return str(self.sound_folder) if self.data_folder is None else self.data_folder

    @model_validator(mode="after")
    def _has_audio(self) -> Self:
        if self.data_folder is None and (self.sound_folder is None or self.sound is None):
            raise ValueError("data_folder is null; then sound_folder and sound must have values")
        return self


class HubertSettings(MaskedSettings):
    """The keys of ``recipes/pretrain_hubert``."""

    iteration: PositiveInt
    iterations: Annotated[list[dict[str, Any]], Field(min_length=1)]
    labels_folder: str
    labels_from: str
    label_layer: PositiveInt
    clusters: Annotated[int, Field(ge=2, lt=2**15)]  # labels have 16 bits
    clustered_frames: PositiveInt
    cluster_starts: PositiveInt
    alpha: Fraction
    projection: PositiveInt
    feature_penalty: Weight
    feature_gradient: Fraction
    model: HubertModel


class Data2VecSettings(MaskedSettings):
    """The keys of ``recipes/pretrain_data2vec``."""

    top_layers: PositiveInt
    beta: Weight
    tau_start: Fraction
    tau_end: Fraction
    tau_steps: Count
    model: Data2VecAudioModel


class AstSettings(PretrainSettings):
    """The keys of ``recipes/pretrain_ast``."""

    export_folder: str
    recordings_folder: str
    spoken_clips: Count
    event_clips: Count
    valid_clips: PositiveInt
    frames: Annotated[int, Field(ge=16)]  # at least a patch
    crop: Annotated[int, Field(ge=16)]
    mel_bands: Annotated[int, Field(ge=16)]
    mean: FiniteFloat
    std: PositiveNumber
    kind_fractions: dict[Literal["word", "event", "file"], Fraction]
    mix_probability: Fraction
    mask_bands: Count
    mask_frames: Count
    warm_up_steps: PositiveInt
    hidden_size: PositiveInt
    ast: ASTModel

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.frames:
            raise ValueError(f"crop is {self.crop}, which is more than the {self.frames} frames of a clip")
        return self
