"""Echo itself: encoder, decoder, and both as a model that transformers can train, save, load and generate with."""

import copy
from functools import partial
from pathlib import Path
from typing import Self

import torch
import torch.utils.checkpoint
from transformers import GenerationMixin, PreTrainedModel, WhisperFeatureExtractor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, Seq2SeqLMOutput
from transformers.utils import FEATURE_EXTRACTOR_NAME, can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from brainplug.backbones.echo.attention import Attention, CrossAttention, SelfAttention
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.layers import DecoderLayer, EncoderLayer
from brainplug.backbones.echo.positions import LearnedSinusoids
from brainplug.backbones.echo.rotary import AdaptiveBase, RotaryPositions, make_rotary, rotate_heads
from brainplug.errors import UsageError

FRAMES_PER_TOKEN = 2  # the second convolution's stride
IGNORED = -100  # a label that has no loss


class FrontEnd(torch.nn.Module):
    """Two convolutions over time that make a token of two frames.

    Arguments
    ---------
    n_mels, dim : int
        Mel bands of a frame, and width of a token.

    Example
    -------
    >>> tokens, present = FrontEnd(80, 16)(torch.randn(1, 9, 80), torch.ones(1, 9, dtype=torch.bool))
    >>> tuple(tokens.shape), tuple(present.shape)
    ((1, 5, 16), (1, 5))
    """

    def __init__(self, n_mels: int, dim: int):
        super().__init__()
        self.first = torch.nn.Conv1d(n_mels, dim, kernel_size=3, padding=1)
        self.second = torch.nn.Conv1d(dim, dim, kernel_size=3, stride=FRAMES_PER_TOKEN, padding=1)

    def forward(self, frames: torch.Tensor, present: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Makes tokens.

        Arguments
        ---------
        frames : torch.Tensor
            ``[batch, frames, mel bands]``.
        present : torch.Tensor, optional
            True where a frame is no padding, ``[batch, frames]``.

        Returns
        -------
        tuple[torch.Tensor, torch.Tensor | None]
            ``[batch, tokens, dim]``, and where a token is no padding ``[batch, tokens]``.
        """
        signal = frames.transpose(1, 2)
        for convolution in (self.first, self.second):
            # What lies beside a clip is silence, whether it is padding or the edge of the batch.
            signal = signal if present is None else signal * present[:, None]
            signal = torch.nn.functional.gelu(convolution(signal))
            present = None if present is None else present[:, :: convolution.stride[0]]
        return signal.transpose(1, 2), present


class EchoPreTrainedModel(PreTrainedModel):
    """What encoder, decoder and the whole have in common."""

    config_class = EchoConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = ("audio", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["orthogonal.start", "rotary.positions", "adaptive_base"]  # noqa: RUF012
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]  # noqa: RUF012  as transformers reads it

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, *arguments: object, **named: object) -> Self:
        """Loads as all models do, but no weight is left to chance.

        Raises
        ------
        UsageError
            The file's weights are not those of the configuration.
        """
        wants_report = named.pop("output_loading_info", False)
        try:
            model, report = super().from_pretrained(
                pretrained_model_name_or_path, *arguments, output_loading_info=True, **named
            )
        except RuntimeError as error:
            if "size mismatch" not in str(error) and "mismatched" not in str(error):
                raise
            raise _other_weights(pretrained_model_name_or_path, str(error)) from error
        missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
        if missing or unexpected:
            found = f"Missing: {', '.join(missing[:3]) or 'none'}; unexpected: {', '.join(unexpected[:3]) or 'none'}."
            raise _other_weights(pretrained_model_name_or_path, found)
        there = next(module.base for module in model.modules() if isinstance(module, RotaryPositions))
        wanted = there.new_tensor(model.config.base)
        if there != wanted and not model.config.adaptive_base:
            raise _other_weights(pretrained_model_name_or_path, f"The base is {there:g} there, {wanted:g} here.")
        return (model, report) if wants_report else model

    def apply_initialization(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights anew.

        Linear maps and the first convolution: Xavier; the second convolution: Kaiming, by its outputs; biases zero;
        embeddings of tokens: normal, of `init_std`; R orthogonal; angles and relative biases zero.

        Arguments
        ---------
        generator : torch.Generator, optional
            Where random numbers come from; torch's own by default.
        """
        for module in self.modules():
            self._initialize(module, generator)

    def _init_weights(self, module: torch.nn.Module) -> None:
        self._initialize(module, None)

    @torch.no_grad()
    def _initialize(self, module: torch.nn.Module, generator: torch.Generator | None) -> None:
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=self.config.init_std, generator=generator)
        elif isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
        elif isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            if isinstance(module, torch.nn.Conv1d) and module.stride[0] > 1:
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            else:
                torch.nn.init.xavier_normal_(module.weight, generator=generator)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif hasattr(module, "reset"):
            module.reset(generator)

    def _finish(self, config: EchoConfig) -> None:
        """Draws weights and sets up checkpointing, once all parts are there."""
        self.post_init()
        if config.checkpointing:  # not by the public method, whose name transformers is about to change
            recompute = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
            self._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=recompute)


class EchoEncoder(EchoPreTrainedModel):
    """From a log-mel spectrogram to tokens.

    Arguments
    ---------
    config : EchoConfig
        What it is made of.

    Example
    -------
    >>> encoder = EchoEncoder(EchoConfig(n_mels=8, n_audio_state=16, n_audio_head=2, n_audio_layer=1)).eval()
    >>> tuple(encoder(torch.randn(1, 20, 8)).last_hidden_state.shape)
    (1, 10, 16)
    """

    _can_record_outputs = {"hidden_states": EncoderLayer, "attentions": SelfAttention}  # noqa: RUF012

    def __init__(self, config: EchoConfig):
        super().__init__(config)
        config.check()
        dim, heads = config.n_audio_state, config.n_audio_head
        self.front_end = FrontEnd(config.n_mels, dim)
        self.rotary = make_rotary(config, dim // heads)
        self.positions = LearnedSinusoids(config.n_audio_ctx, dim, config.embedding_gain)
        self.layers = torch.nn.ModuleList([EncoderLayer(config) for _ in range(config.n_audio_layer)])
        self.norm = torch.nn.LayerNorm(dim)
        self._finish(config)

    @capture_outputs
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **named: object
    ) -> BaseModelOutput:
        """Reads clips.

        Arguments
        ---------
        input_features : torch.Tensor
            ``[batch, frames, mel bands]``.
        attention_mask : torch.Tensor, optional
            1 where a frame is no padding, ``[batch, frames]``.
        **named : object
            What transformers says to all models, such as ``output_hidden_states``.

        Returns
        -------
        BaseModelOutput
            Tokens ``[batch, frames / 2, dim]`` as ``last_hidden_state``.

        Raises
        ------
        UsageError
            Other mel bands, or longer clips than the model is made for.
        """
        self._check(input_features, attention_mask)
        present = None if attention_mask is None else attention_mask.bool()
        tokens, present = self.front_end(input_features, present)
        tokens = rotate_heads(self.rotary, tokens, self.config.n_audio_head)
        tokens = tokens + self.positions(tokens.shape[1])
        for layer in self.layers:
            tokens = layer(tokens, attention_mask=present)
        return BaseModelOutput(self.norm(tokens))

    def _check(self, frames: torch.Tensor, mask: torch.Tensor | None) -> None:
        bands, most = self.config.n_mels, FRAMES_PER_TOKEN * self.config.n_audio_ctx
        if frames.dim() != 3 or frames.shape[2] != bands or not frames.shape[1]:
            raise UsageError(
                f"Features of the shape {list(frames.shape)} were given.",
                f"This model reads {bands} mel bands.",
                f"Give [batch, frames, {bands}]",
            )
        if frames.shape[1] > most:
            raise UsageError(
                f"Clips of {frames.shape[1]} frames were given.",
                f"This model reads {most} at most, two for each of its {self.config.n_audio_ctx} positions.",
                "Cut the clips, or build the model with a larger n_audio_ctx",
            )
        if mask is not None and mask.shape != frames.shape[:2]:
            raise UsageError(
                f"A mask of the shape {list(mask.shape)} was given.",
                f"There are {list(frames.shape[:2])} frames, and it says of each whether it is one of the clip.",
                "Give attention_mask [batch, frames], of frames and not of tokens",
            )


class EchoDecoder(EchoPreTrainedModel):
    """From the text so far, and the audio, to what comes next.

    Arguments
    ---------
    config : EchoConfig
        What it is made of.

    Example
    -------
    >>> sizes = {"n_audio_state": 16, "n_audio_head": 2, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1}
    >>> decoder = EchoDecoder(EchoConfig(**sizes, vocab_size=10)).eval()
    >>> audio, text = torch.randn(1, 9, 16), torch.tensor([[1, 2, 3]])
    >>> tuple(decoder(text, encoder_hidden_states=audio).last_hidden_state.shape)
    (1, 3, 16)
    """

    main_input_name = "input_ids"
    _can_record_outputs = {  # noqa: RUF012  as transformers reads it
        "hidden_states": DecoderLayer,
        "attentions": SelfAttention,
        "cross_attentions": CrossAttention,
    }

    def __init__(self, config: EchoConfig):
        super().__init__(config)
        config.check()
        dim, heads = config.n_text_state, config.n_text_head
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, dim)
        self.positions = LearnedSinusoids(config.n_text_ctx, dim, config.embedding_gain)
        self.rotary = make_rotary(config, dim // heads)
        self.layers = torch.nn.ModuleList([DecoderLayer(config, index) for index in range(config.n_text_layer)])
        self.norm = torch.nn.LayerNorm(dim)
        self._finish(config)

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        **named: object,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Reads texts.

        Arguments
        ---------
        input_ids : torch.Tensor
            Numbers of tokens ``[batch, tokens]``; with a cache, of those that are new.
        attention_mask : torch.Tensor, optional
            1 where a token of the text so far is no padding, ``[batch, tokens so far]``.
        encoder_hidden_states : torch.Tensor
            Of the audio, ``[batch, audio tokens, audio dim]``.
        encoder_attention_mask : torch.Tensor, optional
            True where a token of the audio is no padding, ``[batch, audio tokens]``.
        past_key_values : EncoderDecoderCache, optional
            What was read before.
        use_cache : bool, optional
            Whether to keep what is read.
        **named : object
            What transformers says to all models.

        Returns
        -------
        BaseModelOutputWithPastAndCrossAttentions
            ``last_hidden_state`` ``[batch, tokens, dim]``, and the cache.
        """
        use_cache = self.config.use_cache if use_cache is None else use_cache
        use_cache = use_cache and not self.training  # what is computed twice would be kept twice
        offset = past_key_values.get_seq_length() if past_key_values is not None else 0
        if use_cache and not offset:
            past_key_values = _empty_cache(past_key_values)
        present = None if attention_mask is None else attention_mask.bool()
        tokens = self.embed_tokens(input_ids) + self.positions(input_ids.shape[1], offset)
        tokens = rotate_heads(self.rotary, tokens, self.config.n_text_head, offset)
        for layer in self.layers:
            tokens = layer(
                tokens,
                present,
                encoder_hidden_states,
                encoder_attention_mask,
                past_key_values=past_key_values if use_cache or offset else None,
                offset=offset,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            self.norm(tokens), past_key_values=past_key_values if use_cache else None
        )


def _empty_cache(given: EncoderDecoderCache | None) -> EncoderDecoderCache:
    """The cache that was given, or one in its place: transformers makes as many slots as the encoder has layers."""
    if given is None or (type(given.self_attention_cache) is DynamicCache and given.self_attention_cache.layers):
        return EncoderDecoderCache(DynamicCache(), DynamicCache())
    if type(given.self_attention_cache) is not DynamicCache:
        found = f"It reads a DynamicCache alone, no {type(given.self_attention_cache).__name__}."
        raise UsageError("A cache was given.", found, "Leave cache_implementation out")
    return given


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
            self.adaptive_base = AdaptiveBase(config.base, config.base_factor, config.base_interval, *config.bounds())
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
        present = None if attention_mask is None else attention_mask.bool()[:, ::FRAMES_PER_TOKEN]
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
        """
        for module in self.modules():
            if isinstance(module, Attention):
                module.fold()
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
    """The decoder begins with one, and reads one behind the end of a text."""
    for name in ("decoder_start_token_id", "pad_token_id"):
        token = getattr(config, name)
        if token is None or not 0 <= token < config.vocab_size:
            raise UsageError(
                f"{name}: {token} with vocab_size: {config.vocab_size} was asked for.",
                f"The vocabulary has the tokens 0 to {config.vocab_size - 1}.",
                f"Write {name}: 0, for one, or a larger vocab_size",
            )


def _other_weights(source: str, found: str) -> UsageError:
    return UsageError(
        f"The Echo of {source!r} was asked for.",
        f"Its weights are not those of its configuration. {found}",
        "Leave config out, or name the folder that the weights were saved in",
    )
