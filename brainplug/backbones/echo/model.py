"""Echo: encoder and decoder as one model, which transformers can train, save, load and generate with."""

import copy
import os
from pathlib import Path
from typing import Any, cast

import torch
from transformers import GenerationMixin, WhisperFeatureExtractor
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import FEATURE_EXTRACTOR_NAME
from transformers.utils.generic import can_return_tuple

from brainplug.backbones.echo.attention import Attention
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.decoder import EchoDecoder
from brainplug.backbones.echo.encoder import FRAMES_PER_TOKEN, EchoEncoder
from brainplug.backbones.echo.pretrained import EchoPreTrainedModel
from brainplug.backbones.echo.rotary import AdaptiveBase, RotaryPositions
from brainplug.errors import ConfigError, DataError

IGNORED = -100  # a label that has no loss


class Echo(EchoPreTrainedModel, GenerationMixin):
    """Transcribes speech: an encoder of audio and a decoder of text.

    Example
    -------
    >>> config = EchoConfig(n_mels=8, n_audio_state=16, n_audio_head=2, n_audio_layer=1, n_text_state=16, n_text_head=2,
    ...     n_text_layer=1, vocab_size=10, bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1)
    >>> model = Echo(config).eval()
    >>> texts = model.generate(torch.randn(2, 20, 8), max_new_tokens=4)
    >>> len(texts), texts[:, 0].tolist()
    (2, [1, 1])
    """

    accepts_loss_kwargs = False  # the loss is a mean: transformers' Trainer divides it by accumulated batches

    def __init__(self, config: EchoConfig):
        config = copy.deepcopy(config)  # `fold` changes it, and other models may share it
        super().__init__(config)
        _check_special_tokens(config)
        # A method may give the encoder another attention function than the decoder has.
        self.encoder, self.decoder = EchoEncoder(copy.deepcopy(config)), EchoDecoder(config)
        self.adaptive_base = None
        if config.adaptive_base:
            self.adaptive_base = AdaptiveBase(
                config.base, config.base_factor, config.base_interval, config.base_min, config.base_max
            )
        self._finish(config)
        self.generation_config.max_length = config.n_text_ctx

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """The embeddings of the decoder's tokens, which make the logits too."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replaces the embeddings of the decoder's tokens."""
        self.decoder.embed_tokens = cast(torch.nn.Embedding, value)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **named: Any,
    ) -> Seq2SeqLMOutput:
        """Computes the logits of each next token.

        Arguments
        ---------
        input_features : torch.Tensor, optional
            ``[batch, frames, mel_bands]``; not needed with `encoder_outputs`.
        attention_mask, decoder_attention_mask : torch.Tensor, optional
            1 where a frame, or a token of the text, is no padding, ``[batch, frames]`` and ``[batch, tokens so far]``.
        decoder_input_ids : torch.Tensor, optional
            The text so far ``[batch, tokens]``; by default `shift_right` of the labels.
        labels : torch.Tensor, optional
            The text ``[batch, tokens]``; -100 has no loss.

        Returns
        -------
        Seq2SeqLMOutput
            Logits ``[batch, tokens, vocabulary]`` in float32, and with labels the mean cross-entropy as ``loss``.
        """
        if input_features is None and encoder_outputs is None:
            raise DataError("A text was asked for.", "No audio was given.", "Give input_features or encoder_outputs")
        if decoder_input_ids is None:
            if labels is None:
                raise DataError("Logits were asked for.", "No text was given.", "Give labels, or decoder_input_ids")
            decoder_input_ids = self.shift_right(labels)
        self._check_tokens(labels, decoder_input_ids)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_features, attention_mask, **named)
        audio = encoder_outputs[0]
        present = _present(attention_mask, audio)
        text = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=audio,
            encoder_attention_mask=present,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **named,
        )
        with torch.autocast(audio.device.type, enabled=False):
            logits = text.last_hidden_state.float() @ self.decoder.embed_tokens.weight.float().T
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=text.past_key_values,
            decoder_hidden_states=text.hidden_states,
            decoder_attentions=text.attentions,
            cross_attentions=text.cross_attentions,
            encoder_last_hidden_state=audio,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
        )

    def shift_right(self, labels: torch.Tensor) -> torch.Tensor:
        """The decoder's input for labels ``[batch, tokens]``: a start token, all but the last; padding for -100."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        later = torch.cat([start, labels[:, :-1]], dim=1)
        return later.masked_fill(later == IGNORED, self.config.pad_token_id)

    prepare_decoder_input_ids_from_labels = shift_right  # transformers' name for it

    def adapt(self, loss: torch.Tensor | float) -> None:
        """Lets the rotary base follow the loss, a scalar, after an update; in evaluation mode it does nothing."""
        if self.training and self.adaptive_base is not None and self.adaptive_base.update(loss):
            for module in self.modules():
                if isinstance(module, RotaryPositions):
                    module.set_base(self.adaptive_base.base)

    def fold(self) -> None:
        """Multiplies the attentions' projections by their learned rotations: the same output, faster, for inference.

        Afterwards angles and R are not parameters any more. A `ConfigError` is raised if a method has replaced a
        projection.
        """
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        for attention in attentions:  # before any is folded
            attention.check_folds()
        for attention in attentions:
            attention.fold()
        for model in (self, self.encoder, self.decoder):
            model.config.folded = True

    def generate(self, *arguments: Any, **named: Any) -> Any:
        """Generates as all models do, but in evaluation mode: without dropout, and with a cache."""
        # Modules may differ: frozen ones are never in training mode.
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            return super().generate(*arguments, **named)  # type: ignore[misc]
        finally:
            for module, training in modes:
                module.training = training

    def save_pretrained(self, save_directory: str | os.PathLike[Any], *arguments: Any, **named: Any) -> None:
        """Saves as all models do, with the current base in the configuration, and a feature extractor."""
        self.config.current_base = self.encoder.rotary.positions.base.item()
        super().save_pretrained(save_directory, *arguments, **named)
        if not Path(save_directory, FEATURE_EXTRACTOR_NAME).exists():
            WhisperFeatureExtractor(self.config.n_mels).save_pretrained(save_directory)

    def _check_tokens(self, labels: torch.Tensor | None, tokens: torch.Tensor) -> None:
        if not tokens.shape[1]:
            raise DataError("Logits were asked for.", "The text has no token.", "Begin with decoder_start_token_id")
        if tokens.device.type != "cpu" or torch.compiler.is_compiling():
            return  # reading values would stop the device at every step
        self._check_vocabulary(tokens)
        if labels is not None:
            if bool((labels == IGNORED).all()):
                raise DataError("Labels were given.", "All of them are -100, which has no loss.", "Give a text")
            self._check_vocabulary(labels[labels != IGNORED])

    def _check_vocabulary(self, tokens: torch.Tensor) -> None:
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.config.vocab_size:
            raise DataError(
                f"The token {lowest if lowest < 0 else highest} was given.",
                f"The vocabulary has the tokens 0 to {self.config.vocab_size - 1}.",
                "Give other tokens, or build the model with a larger vocab_size",
            )


def _present(mask: torch.Tensor | None, audio: torch.Tensor) -> torch.Tensor | None:
    """True where a token of the audio is no padding, ``[batch, audio tokens]``."""
    if mask is None:
        return None
    present = mask.bool()[:, ::FRAMES_PER_TOKEN]
    if present.shape != audio.shape[:2]:
        raise DataError(
            f"A mask of the shape {list(mask.shape)} was given.",
            f"The audio has {list(audio.shape[:2])} tokens, one for {FRAMES_PER_TOKEN} frames.",
            "Give attention_mask [batch, frames], of frames and not of tokens",
        )
    return present


def _check_special_tokens(config: EchoConfig) -> None:
    """The decoder starts with a special token, ends a text with one, and takes one after its end."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    special = [
        ("decoder_start_token_id", config.decoder_start_token_id),
        ("pad_token_id", config.pad_token_id),
        *(("eos_token_id", end) for end in ends if end is not None),  # without one, texts have the largest length
    ]
    for name, token in special:
        if token is None or not 0 <= token < config.vocab_size:
            raise ConfigError(
                f"{name}: {token} with vocab_size: {config.vocab_size} was asked for.",
                f"The vocabulary has the tokens 0 to {config.vocab_size - 1}.",
                f"Write {name}: 0, for example, or a larger vocab_size",
            )
