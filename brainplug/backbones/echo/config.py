"""The configuration of an Echo."""

import math
from typing import Any

from transformers import PreTrainedConfig

from brainplug.errors import ConfigError, nearest

ROTATIONS = ("plain", "givens", "combined")
COUNTS = (
    "n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state",
    "n_text_head", "n_text_layer", "vocab_size", "base_interval", "window_size", "convolution_kernel",
)  # fmt: skip
LOWEST = {**dict.fromkeys(COUNTS, 1), "max_rel_dist": 0}  # of whole numbers


class EchoConfig(PreTrainedConfig):
    """Sizes and options of an Echo; the first fifteen fields and their defaults are those of the published description.

    `check` raises a `ConfigError` if the values do not make a model.
    """

    model_type = "echo"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  as transformers reads it
    attribute_map = {  # noqa: RUF012  as transformers reads it
        "hidden_size": "n_audio_state",
        "num_attention_heads": "n_audio_head",
        "num_hidden_layers": "n_audio_layer",
    }

    n_mels: int = 80  # mel bands of a frame of 10 ms
    # The largest number of tokens (one for two frames of audio), width, heads and layers of encoder and decoder.
    n_audio_ctx: int = 1500
    n_audio_state: int = 1024
    n_audio_head: int = 16
    n_audio_layer: int = 24
    n_text_ctx: int = 448
    n_text_state: int = 1024
    n_text_head: int = 16
    n_text_layer: int = 20
    vocab_size: int = 51865
    max_rel_dist: int = 15  # D: all distances of D - 1 and more share a bias; 0 leaves the bias out
    base: float = 10000.0  # b, of the rotary frequencies b^(-2i/h)
    cross_attention: bool = True
    checkpointing: bool = True  # computes each layer a second time in training instead of storing its activations
    init_std: float = 0.02  # of the token embeddings at the start
    rotation: str = "combined"  # before rotary positions: x (G_1 ... G_N) R, without R ("givens"), or x ("plain")
    n_rotations: int | None = None  # N; by default half of a head's width
    train_orthogonal: bool = False  # trains R, which is orthogonal either way
    folded: bool = False  # the attentions' rotations are part of their projections; `Echo.fold` sets it
    adaptive_base: bool = False  # the base follows the loss, see `AdaptiveBase`; its other values come next
    base_factor: float = 1.0025
    base_interval: int = 25
    base_min: float | None = None
    base_max: float | None = None
    current_base: float | None = None  # when the model was saved; for readers, since the weights have it too
    use_hybrid_attention: bool = False  # layers attend to a window beside all tokens
    window_size: int = 64  # tokens to each side
    use_convolution: bool = False  # encoder layers have a convolution beside their attention
    convolution_kernel: int = 3  # tokens, odd
    embedding_gain: float = 1.0  # length of a position's embedding
    dropout: float = 0.0  # of each sub-layer's output
    # Computes what the description says also where it seems a mistake: rotates in cross-attention, and gives each
    # encoder layer a second self-attention.
    card_parity: bool = False
    use_cache: bool = True
    is_encoder_decoder: bool = True
    bos_token_id: int | None = 50257
    eos_token_id: int | list[int] | None = 50257
    pad_token_id: int | None = 50257
    decoder_start_token_id: int | None = 50258

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raises a `ConfigError` if the values, which may have been changed later, do not make a model."""
        for name, lowest in LOWEST.items():
            value = getattr(self, name)
            if type(value) is not int or value < lowest:
                write = f"Write {name}: {getattr(EchoConfig, name)}, for example"
                raise ConfigError(
                    f"{name}: {value!r} was asked for.", f"It is no whole number from {lowest} on.", write
                )
        for part in ("audio", "text"):
            _check_heads(part, getattr(self, f"n_{part}_state"), getattr(self, f"n_{part}_head"))
        if self.rotation not in ROTATIONS:
            write = f"Write one of: {nearest(self.rotation, ROTATIONS)}"
            raise ConfigError(f"rotation: {self.rotation!r} was asked for.", "It does not exist.", write)
        if self.convolution_kernel % 2 == 0:
            asked = f"convolution_kernel: {self.convolution_kernel} was asked for."
            raise ConfigError(asked, "An even one would not keep the number of tokens.", "Write an odd one, such as 3")
        self._check_base()
        if not self.cross_attention:
            problem = "The decoder would not depend on the audio."
            raise ConfigError("cross_attention: False was asked for.", problem, "Write cross_attention: True")

    def _check_base(self) -> None:
        lowest, highest = bounds_of(self.base, self.base_min, self.base_max)
        if not 1 <= self.base_factor < math.inf:
            problem = "A base that follows the loss grows by a factor of 1 at least."
            raise ConfigError(f"base_factor: {self.base_factor:g} was asked for.", problem, "Write base_factor: 1.0025")
        if not 0 < lowest <= self.base <= highest:
            asked = f"base: {self.base:g} between base_min: {lowest:g} and base_max: {highest:g}"
            raise ConfigError(f"{asked} was asked for.", "It is not between them, above 0.", "Leave the bounds out")


def bounds_of(base: float, lowest: float | None, highest: float | None) -> tuple[float, float]:
    """Lowest and highest value of an adaptive base: by default a tenth of the first base, and ten times as much."""
    return base / 10 if lowest is None else lowest, base * 10 if highest is None else highest


def _check_heads(part: str, width: int, heads: int) -> None:
    if width % heads or (width // heads) % 2:
        suitable = [number for number in range(1, width + 1) if width % number == 0 and width // number % 2 == 0]
        best = min(suitable, key=lambda number: abs(number - heads), default=None)
        raise ConfigError(
            f"n_{part}_state: {width} with n_{part}_head: {heads} was asked for.",
            f"A head would have {width / heads:g} values, and rotary positions turn pairs of them.",
            f"Write n_{part}_head: {best}" if best else f"Write an even n_{part}_state",
        )
