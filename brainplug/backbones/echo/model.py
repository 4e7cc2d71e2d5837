"""Echo itself: encoder and decoder as one model that transformers can train, save, load and generate with."""

import copy
from pathlib import Path

import torch
from transformers import GenerationMixin, WhisperFeatureExtractor
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import FEATURE_EXTRACTOR_NAME, can_return_tuple

from brainplug.backbones.echo.attention import Attention
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.decoder import EchoDecoder
from brainplug.backbones.echo.encoder import FRAMES_PER_TOKEN, EchoEncoder
from brainplug.backbones.echo.pretrained import EchoPreTrainedModel
from brainplug.backbones.echo.rotary import AdaptiveBase, RotaryPositions
from brainplug.errors import UsageError

IGNORED = -100  # a label that has no loss


class Echo(EchoPreTrainedModel, GenerationMixin):
    """Writes down what is said: an encoder of audio and a decoder of text.

    Arguments
    ---------
    config : EchoConfig
        What it is made of.

    Example
    -------
    >>> config = EchoConfig(n_mels=8, n_audio_state=16, n_audio_head=2, n_audio_layer=1, n_text_state=16, n_text_head=2,
    ...     n_text_layer=1, vocab_size=10, bos_token_id=1, eos_token_id=2, pad_token_id=0, decoder_start_token_id=1)
    >>> model = Echo(config).eval()
    >>> texts = model.generate(torch.randn(2, 20, 8), max_new_tokens=4)
    >>> len(texts), texts[:, 0].tolist()
    (2, [1, 1])
    """

    accepts_loss_kwargs = False  # the loss is a mean: transformers' Trainer has to divide it by accumulated batches

    def __init__(self, config: EchoConfig):
        super().__init__(copy.deepcopy(config))  # it says later what was folded, and others may be made of the same
        config = self.config
        _check_special_tokens(config)
        # The encoder may be given another attention function, by a method, than the decoder has.
        self.encoder, self.decoder = EchoEncoder(copy.deepcopy(config)), EchoDecoder(config)
        self.adaptive_base = None
        if config.adaptive_base:
            bounds = {"lowest": config.base_min, "highest": config.base_max}
            self.adaptive_base = AdaptiveBase(config.base, config.base_factor, config.base_interval, **bounds)
        self._finish(config)
        self.generation_config.max_length = config.n_text_ctx

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """Of the decoder's tokens; the logits are made with them too."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: torch.nn.Embedding) -> None:
        """Takes others."""
        self.decoder.embed_tokens = value

    def get_encoder(self, *arguments: object, **named: object) -> EchoEncoder:
        """The encoder."""
        return self.encoder

    @can_return_tuple
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
        **named: object,
    ) -> Seq2SeqLMOutput:
        """Scores every token of the vocabulary for every place of the text.

        Arguments
        ---------
        input_features : torch.Tensor, optional
            ``[batch, frames, mel bands]``; not needed with `encoder_outputs`.
        attention_mask : torch.Tensor, optional
            1 where a frame is no padding, ``[batch, frames]``.
        decoder_input_ids : torch.Tensor, optional
            The text so far ``[batch, tokens]``; by default the labels, one place later.
        decoder_attention_mask : torch.Tensor, optional
            1 where a token of the text is no padding, ``[batch, tokens so far]``.
        encoder_outputs : BaseModelOutput, optional
            What the encoder made of the clips before.
        past_key_values : EncoderDecoderCache, optional
            What the decoder read before.
        labels : torch.Tensor, optional
            The text ``[batch, tokens]``; -100 where there is none.
        use_cache : bool, optional
            Whether to keep what the decoder reads.
        **named : object
            What transformers says to all models, such as ``output_attentions`` (with the implementation ``eager``).

        Returns
        -------
        Seq2SeqLMOutput
            Logits ``[batch, tokens, vocabulary]`` in float32, with labels the mean cross-entropy as ``loss`` too.

        Raises
        ------
        UsageError
            A clip or a text does not fit the model, or no label counts. Tokens are looked at where they are on the
            CPU; elsewhere it would stop the device at every step.
        """
        self._check_given(input_features, encoder_outputs, decoder_input_ids, labels)
        if decoder_input_ids is None:
            decoder_input_ids = self.shift_right(labels)
        self._check(labels, decoder_input_ids)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_features, attention_mask, **named)
        audio = encoder_outputs[0]
        present = self._present(attention_mask, audio)
        read = self.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=audio,
            encoder_attention_mask=present,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **named,
        )
        with torch.autocast(audio.device.type, enabled=False):
            logits = read.last_hidden_state.float() @ self.decoder.embed_tokens.weight.float().T
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=read.past_key_values,
            decoder_hidden_states=read.hidden_states,
            decoder_attentions=read.attentions,
            cross_attentions=read.cross_attentions,
            encoder_last_hidden_state=audio,
            encoder_hidden_states=getattr(encoder_outputs, "hidden_states", None),
            encoder_attentions=getattr(encoder_outputs, "attentions", None),
        )

    def _present(self, mask: torch.Tensor | None, audio: torch.Tensor) -> torch.Tensor | None:
        """True where a token of the audio is no padding, ``[batch, audio tokens]``."""
        if mask is None:
            return None
        present = mask.bool()[:, ::FRAMES_PER_TOKEN]
        if present.shape != audio.shape[:2]:
            raise UsageError(
                f"A mask of the shape {list(mask.shape)} was given.",
                f"The audio has {list(audio.shape[:2])} tokens, one for {FRAMES_PER_TOKEN} frames.",
                "Give attention_mask [batch, frames], of frames and not of tokens",
            )
        return present

    def shift_right(self, labels: torch.Tensor) -> torch.Tensor:
        """What the decoder reads to write labels: a start, then all but the last, padding where there is no label.

        Arguments
        ---------
        labels : torch.Tensor
            ``[batch, tokens]``.

        Returns
        -------
        torch.Tensor
            Of the same shape.
        """
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        later = torch.cat([start, labels[:, :-1]], dim=1)
        return later.masked_fill(later == IGNORED, self.config.pad_token_id)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """As transformers' trainers and collators call `shift_right`."""
        return self.shift_right(labels)

    def adapt(self, loss: torch.Tensor | float) -> None:
        """Lets the rotary base follow the loss; to be called after each update. In evaluation mode it does nothing.

        Arguments
        ---------
        loss : torch.Tensor
            Of the update, a scalar.
        """
        if self.training and self.adaptive_base is not None and self.adaptive_base.update(loss):
            for module in self.modules():
                if isinstance(module, RotaryPositions):
                    module.set_base(self.adaptive_base.base)

    def fold(self) -> None:
        """Gives the attentions' learned rotations to their projections: what is computed stays the same, and is faster.

        For inference; afterwards angles and R are no parameters any more.

        Raises
        ------
        UsageError
            A method has put something around a projection, which the rotation would not reach.
        """
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        for attention in attentions:  # all or none: half of it would be another model
            attention.check_folds()
        for attention in attentions:
            attention.fold()
        for model in (self, self.encoder, self.decoder):
            model.config.folded = True

    def generate(self, *arguments: object, **named: object) -> torch.Tensor:
        """Generates as all models do, in evaluation mode: recomputed layers keep nothing, and dropout has no place."""
        modes = [(module, module.training) for module in self.modules()]  # frozen ones are never in training mode
        self.eval()
        try:
            return super().generate(*arguments, **named)
        finally:
            for module, training in modes:
                module.training = training

    def save_pretrained(self, save_directory: str, **named: object) -> None:
        """Saves as all models do; the configuration says where the base is, and a feature extractor lies beside it."""
        self.config.current_base = self.encoder.rotary.positions.base.item()
        super().save_pretrained(save_directory, **named)
        if not Path(save_directory, FEATURE_EXTRACTOR_NAME).exists():
            WhisperFeatureExtractor(self.config.n_mels).save_pretrained(save_directory)

    def _check_given(self, audio: object, encoded: object, text: object, labels: object) -> None:
        if audio is None and encoded is None:
            raise UsageError("A text was asked for.", "No audio was given.", "Give input_features or encoder_outputs")
        if text is None and labels is None:
            raise UsageError("Scores were asked for.", "No text was given.", "Give labels, or decoder_input_ids")

    def _check(self, labels: torch.Tensor | None, tokens: torch.Tensor) -> None:
        """Looks at tokens where that stops no device."""
        if not tokens.shape[1]:
            raise UsageError("Scores were asked for.", "The text has no token.", "Begin with decoder_start_token_id")
        if tokens.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if labels is not None and bool((labels == IGNORED).all()):
            raise UsageError("Labels were given.", "All of them are -100, which has no loss.", "Give a text")
        for given in (tokens, labels):
            if given is not None:
                self._check_vocabulary(given[given != IGNORED] if given is labels else given)

    def _check_vocabulary(self, tokens: torch.Tensor) -> None:
        lowest, highest = int(tokens.min()), int(tokens.max())
        if lowest < 0 or highest >= self.config.vocab_size:
            raise UsageError(
                f"The token {lowest if lowest < 0 else highest} was given.",
                f"The vocabulary has the tokens 0 to {self.config.vocab_size - 1}.",
                "Give other tokens, or build the model with a larger vocab_size",
            )


def _check_special_tokens(config: EchoConfig) -> None:
    """The decoder begins with one, ends a text with one, and reads one behind it."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    given = [
        ("decoder_start_token_id", config.decoder_start_token_id),
        ("pad_token_id", config.pad_token_id),
        *(("eos_token_id", end) for end in ends if end is not None),  # without one texts end where they have to
    ]
    for name, token in given:
        if token is None or not 0 <= token < config.vocab_size:
            raise UsageError(
                f"{name}: {token} with vocab_size: {config.vocab_size} was asked for.",
                f"The vocabulary has the tokens 0 to {config.vocab_size - 1}.",
                f"Write {name}: 0, for one, or a larger vocab_size",
            )
