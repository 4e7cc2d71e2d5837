"""An Echo as a recogniser: its encoder is adapted, its decoder generates characters."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from transformers import WhisperFeatureExtractor
from transformers.modeling_outputs import BaseModelOutput

from brainplug.backbones.echo import Echo, EchoConfig
from brainplug.backbones.echo_encoder import EchoBackbone
from brainplug.backbones.hub import fetch_config, load_extractor, load_model, weights_revision
from brainplug.backbones.loading import find_source
from brainplug.data.characters import BLANK, Characters
from brainplug.data.manifest import Clip
from brainplug.errors import ConfigError, DataError, UsageError, nearest
from brainplug.methods import Method
from brainplug.models.adapted import AdaptedModel

NEW = "new"  # the name of an Echo that is made, not loaded
ECHO_FOLDER = "echo"  # of a run's output folder: the whole model, as transformers saves it


def special_tokens(characters: Characters) -> dict[str, int]:
    """``vocab_size`` and the special tokens of a decoder over characters, as transformers names them.

    The blank pads, the characters follow, then an end token and a start token.

    Example
    -------
    >>> special_tokens(Characters("abc"))["eos_token_id"]
    4
    """
    end, start = len(characters), len(characters) + 1
    return {
        "vocab_size": start + 1,
        "pad_token_id": BLANK,
        "eos_token_id": end,
        "bos_token_id": start,
        "decoder_start_token_id": start,
    }


class EchoRecognizer(AdaptedModel):
    """An Echo whose encoder is adapted by a method, and whose decoder is trained.

    The backbone has the encoder of `echo`, whose vocabulary is that of the characters. A new encoder needs a method
    that trains all of it.

    Example
    -------
    >>> from brainplug.methods.full import FullFineTuning
    >>> sizes = {"n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1, "n_text_state": 8, "n_text_head": 2}
    >>> config = EchoConfig(**sizes, n_text_layer=1)
    >>> echo, backbone = load_echo("new", None, config, Characters("ab"))
    >>> model = EchoRecognizer(backbone, FullFineTuning(), echo, Characters("ab"))
    >>> tuple(model(torch.randn(1, 20, 80), torch.ones(1), torch.tensor([[1, 2, 3]])).shape)
    (1, 3, 5)
    """

    backbone: EchoBackbone

    def __init__(
        self,
        backbone: EchoBackbone,
        method: Method,
        echo: Echo,
        characters: Characters,
        gradient_checkpointing: bool = False,
    ):
        super().__init__(backbone, method, lambda dim: echo.decoder, gradient_checkpointing)
        self.echo, self.characters = echo, characters  # its two parts are backbone and head
        self.trains_encoder = all(parameter.requires_grad for parameter in backbone.parameters())
        if backbone.name == NEW:
            _check_trains_all(self.trains_encoder, method)
            self._delta_names |= {name for name, _ in self.named_buffers()}  # they are in no file yet
        elif self.trains_encoder and echo.adaptive_base is not None:
            # They move too, though not by a gradient.
            moved = (".base", ".frequencies", ".loss", ".loss_before", ".updates")
            self._delta_names |= {name for name, _ in self.named_buffers() if name.endswith(moved)}

    def forward(self, signal: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, tokens, vocabulary]`` of reference texts.

        `signal` is ``[batch, frames, mel_bands]``, `lengths` the share of each that is not padding, ``[batch]``, and
        `labels` ``[batch, tokens]``, -100 behind the end.
        """
        return self.decoder_logits(self.encode(signal, lengths), labels)

    def output_of(self, waveform: torch.Tensor) -> torch.Tensor:
        """Logits ``[1, tokens, vocabulary]`` of one clip ``[samples]``, whose text would be all characters once."""
        longest = self.echo.config.n_text_ctx
        labels = torch.arange(1, len(self.characters))[None, :longest]
        logits: torch.Tensor = self(self.backbone.extract(waveform)[None], torch.ones(1), labels)
        return logits

    def encode(self, signal: torch.Tensor, lengths: torch.Tensor) -> dict[str, Any]:
        """What the decoder attends to, without prompts, since its mask is the clip's."""
        tokens, _ = self.backbone(signal, lengths)
        return {
            "encoder_outputs": BaseModelOutput(tokens[:, self.method.prompts :]),
            "attention_mask": self.backbone.present(signal, lengths).long(),
        }

    def decoder_logits(self, encoded: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, tokens, vocabulary]`` of labels ``[batch, tokens]``, given what `encode` returned."""
        return self.echo(**encoded, decoder_input_ids=self.echo.shift_right(labels), use_cache=False).logits

    def adapt_base(self, loss: torch.Tensor) -> None:
        """Lets the rotary base follow an update's loss; a frozen encoder keeps the base that it was trained with."""
        if self.trains_encoder:
            self.echo.adapt(loss)

    @torch.no_grad()
    def generate(self, encoded: dict[str, Any], beam_size: int = 1) -> list[str]:
        """Transcripts of what `encode` returned; a `beam_size` of 1 takes the best next character."""
        config = self.echo.config
        tokens = self.echo.generate(**encoded, max_length=config.n_text_ctx, num_beams=beam_size, do_sample=False)
        return texts_of(tokens, self.characters, config.eos_token_id)


def _check_trains_all(trains_encoder: bool, method: Method) -> None:
    if not trains_encoder:
        raise ConfigError(
            f"A new Echo with {type(method).__name__} was asked for.",
            "Its encoder would stay as it was drawn.",
            "Write --method=full, or --backbone= and the folder of a trained Echo",
        )


def texts_of(tokens: torch.Tensor, characters: Characters, end: int) -> list[str]:
    """The texts of generated tokens ``[batch, tokens]``, without starts, padding, and what follows the end token.

    Example
    -------
    >>> texts_of(torch.tensor([[4, 1, 2, 3, 1]]), Characters("ab"), end=3)
    ['ab']
    """
    texts = []
    for row in tokens.tolist():
        text = row[: row.index(end)] if end in row else row
        texts.append(" ".join(characters.decode(n for n in text if 0 < n < len(characters)).split()))
    return texts


def check_texts_fit(texts: Sequence[str], longest: int) -> None:
    """Refuses texts for which the decoder has too few positions (``n_text_ctx``, one of them for the end)."""
    length = max(map(len, texts))
    if length >= longest:
        raise DataError(
            f"Transcripts of up to {length} characters were asked for.",
            f"The decoder generates at most {longest - 1}.",
            f"Write n_text_ctx: {length + 1}, or set the longer clips aside",
        )


def load_echo(
    name: str, revision: str | None, config: EchoConfig | None, characters: Characters
) -> tuple[Echo, EchoBackbone]:
    """Loads the Echo in a folder or on the hub, or makes the one called ``new``; its encoder is the backbone.

    Example
    -------
    >>> sizes = {"n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1, "n_text_state": 8, "n_text_head": 2}
    >>> echo, backbone = load_echo("new", None, EchoConfig(**sizes, n_text_layer=1), Characters("ab"))
    >>> backbone.model is echo.encoder, echo.config.vocab_size
    (True, 5)
    """
    if name == NEW:
        config = _checked_copy(config or EchoConfig())
        for field, number in special_tokens(characters).items():
            setattr(config, field, number)
        echo, extractor = Echo(config), WhisperFeatureExtractor(config.n_mels)
        return echo, EchoBackbone(echo.encoder, name, "random", extractor)
    source = find_source(name)
    family = fetch_config(source, revision).get("model_type")
    if family != EchoConfig.model_type:
        reason = f"It is of the family {family!r}, no Echo."
        raise ConfigError(f"The Echo {name!r} was asked for.", reason, "Write --backbone=new, or the folder of an Echo")
    echo = load_model(Echo, source, revision)
    extractor = load_extractor(WhisperFeatureExtractor, source, revision)
    symbols = getattr(echo.config, "characters", None)
    if symbols != characters.symbols:
        raise ConfigError(
            f"The Echo {name!r} with the characters {characters.symbols!r} was asked for.",
            f"Its characters are {symbols!r}." if symbols else "It was not trained with characters.",
            f"Write --characters={symbols!r}" if symbols else "Write --backbone=new",
        )
    weights = weights_revision(source, getattr(echo.config, "_commit_hash", None))
    return echo, EchoBackbone(echo.encoder, name, weights, extractor)


def echo_without_weights(
    config: EchoConfig, name: str, extractor: WhisperFeatureExtractor
) -> tuple[Echo, EchoBackbone]:
    """An Echo on torch's meta device: shapes, but no values."""
    with torch.device("meta"):
        echo = Echo(copy.deepcopy(config))
    return echo, EchoBackbone(echo.encoder, name, "random", extractor)


def _checked_copy(config: EchoConfig) -> EchoConfig:
    """A copy, if all its fields are known: transformers keeps unknown ones, and does nothing with them."""
    unknown = sorted(vars(config).keys() - vars(EchoConfig()).keys())
    if unknown:
        raise ConfigError(
            f"A model with {unknown[0]} was asked for.",
            "An Echo has no such field.",
            f"Write one of: {nearest(unknown[0], [field.name for field in dataclasses.fields(EchoConfig)])}",
        )
    return copy.deepcopy(config)


def name_of_parts(config: EchoConfig) -> str:
    """Names the parts of an Echo, for tables of results.

    Example
    -------
    >>> name_of_parts(EchoConfig(rotation="givens", adaptive_base=True))
    'Echo, givens rotation, adaptive base'
    """
    parts = {
        "adaptive base": config.adaptive_base,
        "local attention": config.use_hybrid_attention,
        "convolution": config.use_convolution,
    }
    return ", ".join(["Echo", f"{config.rotation} rotation", *(name for name, used in parts.items() if used)])


def why_too_long(backbone: EchoBackbone, clip: Clip) -> str | None:
    """Why an encoder cannot read a clip: it has too few positions for its tokens. None, where it can."""
    tokens, most = (
        backbone.count_tokens(round((clip.duration or 0.0) * backbone.sample_rate)),
        backbone.model.config.n_audio_ctx,
    )
    return f"has {tokens} tokens, the encoder reads {most}" if tokens > most else None


def save_echo(model: EchoRecognizer, folder: str) -> None:
    """Saves the whole Echo as transformers does, for `Echo.from_pretrained`, or as a backbone.

    The method's change goes into the encoder's own weights. Where it cannot be merged, nothing is saved: the adapter
    has it.
    """
    try:
        model.merge()
    except UsageError:
        return
    model.echo.config.characters = model.characters.symbols
    model.echo.save_pretrained(folder)
    model.backbone.extractor.save_pretrained(folder)
