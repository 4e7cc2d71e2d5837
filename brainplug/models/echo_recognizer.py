"""Sequence-to-sequence recognition: an Echo whose decoder writes, character by character, what its encoder hears."""

import copy
import dataclasses
import json
from collections.abc import Sequence

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import ddp_all_reduce
from transformers import WhisperFeatureExtractor
from transformers.modeling_outputs import BaseModelOutput

from brainplug.backbones.base import weights_revision
from brainplug.backbones.echo import Echo, EchoBackbone, EchoConfig
from brainplug.backbones.echo.model import IGNORED
from brainplug.backbones.loading import fetch_config, find_source, load_pretrained
from brainplug.data.augment import distort
from brainplug.data.characters import BLANK, Characters
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError, nearest
from brainplug.methods import Method
from brainplug.models.adapted import AdaptedModel
from brainplug.training.recognition import RecognitionBrain

NEW = "new"  # the name of an Echo that is made, not loaded
ECHO_FOLDER = "echo"  # of a run's output folder: the whole model, as transformers saves it


def special_tokens(characters: Characters) -> dict[str, int]:
    """The tokens of a decoder over characters, as a configuration of transformers names them.

    The blank pads, the characters follow, then an end and a start.

    Arguments
    ---------
    characters : Characters
        The vocabulary.

    Returns
    -------
    dict[str, int]
        ``vocab_size`` and the special tokens' numbers.

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

    Arguments
    ---------
    backbone : EchoBackbone
        With the encoder of `echo`.
    method, gradient_checkpointing : Method, bool
        As in `AdaptedModel`.
    echo : Echo
        The whole; its vocabulary is that of the characters.
    characters : Characters
        What it writes.

    Raises
    ------
    UsageError
        The encoder is a new one, and the method does not train it.

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
        """Scores texts.

        Arguments
        ---------
        signal : torch.Tensor
            ``[batch, frames, mel_bands]``.
        lengths : torch.Tensor
            Share of each signal that is not padding, ``[batch]``.
        labels : torch.Tensor
            ``[batch, tokens]``; -100 behind the end.

        Returns
        -------
        torch.Tensor
            Logits ``[batch, tokens, vocabulary]``.
        """
        return self.score(self.hear(signal, lengths), labels)

    def hear(self, signal: torch.Tensor, lengths: torch.Tensor) -> dict:
        """Encodes a batch.

        Arguments
        ---------
        signal, lengths : torch.Tensor
            As in `forward`.

        Returns
        -------
        dict
            What the decoder attends to, without prompts, since its mask is the clip's.
        """
        tokens, _ = self.backbone(signal, lengths)
        return {
            "encoder_outputs": BaseModelOutput(tokens[:, self.method.prompts :]),
            "attention_mask": self.backbone.present(signal, lengths).long(),
        }

    def score(self, heard: dict, labels: torch.Tensor) -> torch.Tensor:
        """Scores texts of what was heard.

        Arguments
        ---------
        heard : dict
            As `hear` returns it.
        labels : torch.Tensor
            As in `forward`.

        Returns
        -------
        torch.Tensor
            Logits ``[batch, tokens, vocabulary]``.
        """
        return self.echo(**heard, decoder_input_ids=self.echo.shift_right(labels), use_cache=False).logits

    def adapt(self, loss: torch.Tensor) -> None:
        """Lets the rotary base follow the loss, unless the encoder is frozen, which was trained with the base it has.

        Arguments
        ---------
        loss : torch.Tensor
            Of the update, a scalar.
        """
        if self.trains_encoder:
            self.echo.adapt(loss)

    @torch.no_grad()
    def write(self, heard: dict, beam_size: int = 1) -> list[str]:
        """Writes texts.

        Arguments
        ---------
        heard : dict
            As `hear` returns it.
        beam_size : int
            Texts that are kept at a time; 1 takes the best next character.

        Returns
        -------
        list[str]
            What is said.
        """
        config = self.echo.config
        written = self.echo.generate(**heard, max_length=config.n_text_ctx, num_beams=beam_size, do_sample=False)
        return texts_of(written, self.characters, config.eos_token_id)


def _check_trains_all(trains_encoder: bool, method: Method) -> None:
    if not trains_encoder:
        raise UsageError(
            f"A new Echo with {type(method).__name__} was asked for.",
            "Its encoder would stay as it was drawn.",
            "Write --method=full, or --backbone= and the folder of a trained Echo",
        )


class EchoBrain(RecognitionBrain):
    """Trains and tests an `EchoRecognizer`; texts are written with the decoder's own best tokens, or with a beam.

    Arguments
    ---------
    characters : Characters
        The vocabulary.
    *arguments : object
        As in `RecognitionBrain`; ``hparams`` needs ``decoding``, ``beam_size`` and ``label_smoothing`` too.
    """

    def __init__(self, characters: Characters, *arguments: object):
        super().__init__(characters, *arguments)
        self.losses: list[torch.Tensor] = []  # of the batches since the last step

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Scores the texts of a batch: logits ``[batch, tokens, vocabulary]``."""
        batch = batch.to(self.device)
        self.batch_ids = batch.id
        signal, lengths = batch.signal
        characters, shares = batch.characters
        counts = (shares * characters.shape[1]).round().long()
        self.labels = labels_of(characters, counts, self.model.echo.config.eos_token_id)
        if stage == sb.Stage.TRAIN:
            return self.modules.model(distort(self.hparams.augment, signal, lengths), lengths, self.labels)
        self.heard = self.model.hear(signal, lengths)
        return self.model.score(self.heard, self.labels)

    def compute_objectives(self, logits: torch.Tensor, batch: PaddedBatch, stage: sb.Stage) -> torch.Tensor:
        """Cross-entropy, the mean over all tokens; counts errors where they are measured."""
        smoothing = self.hparams.label_smoothing if stage == sb.Stage.TRAIN else 0.0
        loss = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), self.labels, ignore_index=IGNORED, label_smoothing=smoothing
        )
        if stage == sb.Stage.TRAIN:
            self.losses.append(loss.detach())
            return loss + self.model.penalty()
        self.check_loss_isfinite(loss)
        beam_size = self.hparams.beam_size if stage == sb.Stage.TEST and self.hparams.decoding == "beam" else 1
        self.count_errors(batch, self.model.write(self.heard, beam_size))
        return loss

    def after_step(self) -> None:
        """As the method wants it; the rotary base follows the loss of all batches of the step, in all processes."""
        super().after_step()
        loss = ddp_all_reduce(torch.stack(self.losses).mean(), torch.distributed.ReduceOp.SUM)
        self.model.adapt(loss / (torch.distributed.get_world_size() if self.distributed_launch else 1))
        self.losses.clear()


def labels_of(characters: torch.Tensor, counts: torch.Tensor, end: int) -> torch.Tensor:
    """What the decoder is to write: the characters, an end, and nothing that counts.

    Arguments
    ---------
    characters : torch.Tensor
        Numbers ``[batch, characters]``, padded.
    counts : torch.Tensor
        How many of them are no padding, ``[batch]``.
    end : int
        Number of the end.

    Returns
    -------
    torch.Tensor
        ``[batch, characters + 1]``.

    Example
    -------
    >>> labels_of(torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1]), end=9).tolist()
    [[5, 6, 9], [7, 9, -100]]
    """
    labels = torch.nn.functional.pad(characters, (0, 1))
    places = torch.arange(labels.shape[1], device=labels.device)
    labels = torch.where(places == counts[:, None], end, labels)
    return labels.masked_fill(places > counts[:, None], IGNORED)


def texts_of(tokens: torch.Tensor, characters: Characters, end: int) -> list[str]:
    """Reads what was written.

    Arguments
    ---------
    tokens : torch.Tensor
        Numbers ``[batch, tokens]``.
    characters : Characters
        The vocabulary.
    end : int
        Number of the end; what follows it is left out, and so are starts and padding.

    Returns
    -------
    list[str]
        One text for each row.

    Example
    -------
    >>> texts_of(torch.tensor([[4, 1, 2, 3, 1]]), Characters("ab"), end=3)
    ['ab']
    """
    texts = []
    for row in tokens.tolist():
        written = row[: row.index(end)] if end in row else row
        texts.append(" ".join(characters.decode(n for n in written if 0 < n < len(characters)).split()))
    return texts


def check_texts_fit(texts: Sequence[str], longest: int) -> None:
    """Makes sure that the decoder has a place for every character.

    Arguments
    ---------
    texts : Sequence[str]
        Of all clips.
    longest : int
        ``n_text_ctx`` of the Echo; one place is the end's.

    Raises
    ------
    UsageError
        A text is longer.

    Example
    -------
    >>> check_texts_fit(["no"], longest=3)
    """
    length = max(map(len, texts))
    if length >= longest:
        raise UsageError(
            f"Transcripts of up to {length} characters were asked for.",
            f"The decoder writes {longest - 1} at most.",
            f"Write n_text_ctx: {length + 1}, or set the longer clips aside",
        )


def load_echo(name: str, revision: str | None, config: EchoConfig, characters: Characters) -> tuple[Echo, EchoBackbone]:
    """Loads an Echo, or makes a new one.

    Arguments
    ---------
    name : str
        ``new``, or the folder of a trained one.
    revision : str, optional
        Of the hub, where it comes from there.
    config : EchoConfig, optional
        What a new one is made of.
    characters : Characters
        What it is to write.

    Returns
    -------
    tuple[Echo, EchoBackbone]
        The whole, and its encoder as a backbone.

    Raises
    ------
    UsageError
        It is no Echo, or was trained with other characters.

    Example
    -------
    >>> sizes = {"n_audio_state": 8, "n_audio_head": 2, "n_audio_layer": 1, "n_text_state": 8, "n_text_head": 2}
    >>> echo, backbone = load_echo("new", None, EchoConfig(**sizes, n_text_layer=1), Characters("ab"))
    >>> backbone.model is echo.encoder, echo.config.vocab_size
    (True, 5)
    """
    if name == NEW:
        config = _known_fields(config)
        for field, number in special_tokens(characters).items():
            setattr(config, field, number)
        echo, extractor = Echo(config), WhisperFeatureExtractor(config.n_mels)
        return echo, EchoBackbone(echo.encoder, name, "random", extractor)
    source = find_source(name)
    family = json.loads(fetch_config(source, revision).read_text()).get("model_type")
    if family != EchoConfig.model_type:
        found = f"It is of the family {family!r}, no Echo."
        raise UsageError(f"The Echo {name!r} was asked for.", found, "Write --backbone=new, or the folder of an Echo")
    echo, extractor = (
        load_pretrained(Echo, source, revision),
        load_pretrained(WhisperFeatureExtractor, source, revision),
    )
    known = getattr(echo.config, "characters", None)
    if known != characters.symbols:
        raise UsageError(
            f"The Echo {name!r} with the characters {characters.symbols!r} was asked for.",
            f"It writes {known!r}." if known else "It was not trained with characters.",
            f"Write --characters={known!r}" if known else "Write --backbone=new",
        )
    weights = weights_revision(source, getattr(echo.config, "_commit_hash", None))
    return echo, EchoBackbone(echo.encoder, name, weights, extractor)


def _known_fields(config: EchoConfig) -> EchoConfig:
    """A copy, if all of it is known: transformers keeps what it does not know, and does nothing with it."""
    unknown = sorted(vars(config).keys() - vars(EchoConfig()).keys())
    if unknown:
        raise UsageError(
            f"A model with {unknown[0]} was asked for.",
            "An Echo has no such field.",
            f"Write one of: {nearest(unknown[0], [field.name for field in dataclasses.fields(EchoConfig)])}",
        )
    return copy.deepcopy(config)


def parts_of(config: EchoConfig) -> str:
    """Names the parts that an Echo has.

    Arguments
    ---------
    config : EchoConfig
        What it is made of.

    Returns
    -------
    str
        For tables of results.

    Example
    -------
    >>> parts_of(EchoConfig(rotation="givens", adaptive_base=True))
    'Echo, givens rotation, adaptive base'
    """
    parts = {
        "adaptive base": config.adaptive_base,
        "local attention": config.use_hybrid_attention,
        "convolution": config.use_convolution,
    }
    return ", ".join(["Echo", f"{config.rotation} rotation", *(name for name, there in parts.items() if there)])


def why_too_long(backbone: EchoBackbone, clip: Clip) -> str | None:
    """Says why an encoder cannot read a clip.

    Arguments
    ---------
    backbone : EchoBackbone
        The encoder.
    clip : Clip
        With its duration.

    Returns
    -------
    str | None
        Nothing, where it can.
    """
    tokens, most = backbone.count_tokens(round(clip.duration * backbone.sample_rate)), backbone.model.config.n_audio_ctx
    return f"has {tokens} tokens, the encoder reads {most}" if tokens > most else None


def save_echo(model: EchoRecognizer, folder: str) -> None:
    """Saves the whole Echo as transformers does, to be loaded by `Echo.from_pretrained`, or as a backbone.

    Arguments
    ---------
    model : EchoRecognizer
        Trained; what its method changed goes into the encoder's own weights, and what it writes into its configuration.
    folder : str
        Where to. Where a method's change is not one of weights nothing is saved: the adapter has it.
    """
    try:
        model.merge()
    except UsageError:
        return
    model.echo.config.characters = model.characters.symbols
    model.echo.save_pretrained(folder)
    model.backbone.extractor.save_pretrained(folder)
