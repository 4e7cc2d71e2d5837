"""Echo's encoder: two convolutions make tokens of frames; layers with rotary attention follow."""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.output_capturing import capture_outputs

from brainplug.backbones.echo.attention import SelfAttention
from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.layers import EncoderLayer
from brainplug.backbones.echo.positions import LearnedSinusoids
from brainplug.backbones.echo.pretrained import EchoPreTrainedModel
from brainplug.backbones.echo.rotary import make_rotary, rotate_heads
from brainplug.errors import DataError

FRAMES_PER_TOKEN = 2  # the second convolution's stride


class FrontEnd(torch.nn.Module):
    """Two convolutions over time that make one token of two frames."""

    def __init__(self, n_mels: int, dim: int):
        super().__init__()
        self.first = torch.nn.Conv1d(n_mels, dim, kernel_size=3, padding=1)
        self.second = torch.nn.Conv1d(dim, dim, kernel_size=3, stride=FRAMES_PER_TOKEN, padding=1)

    def forward(self, frames: torch.Tensor, present: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Turns frames ``[batch, frames, mel_bands]`` into tokens ``[batch, tokens, dim]``.

        The masks ``[batch, frames]`` and ``[batch, tokens]`` are False where there is padding.
        """
        signal = frames.transpose(1, 2)
        for convolution in (self.first, self.second):
            # Beside a clip is silence, whether it is padding or the edge of the batch.
            signal = signal if present is None else signal * present[:, None]
            signal = torch.nn.functional.gelu(convolution(signal))
            present = None if present is None else present[:, :: convolution.stride[0]]
        return signal.transpose(1, 2), present


class EchoEncoder(EchoPreTrainedModel):
    """Turns a log-mel spectrogram into tokens."""

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

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **named: Any
    ) -> BaseModelOutput:
        """Turns ``[batch, frames, mel_bands]`` into tokens ``[batch, frames / 2, dim]``.

        The mask ``[batch, frames]`` is 1 where a frame is no padding.
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
            raise DataError(
                f"Features of the shape {list(frames.shape)} were given.",
                f"This model takes {bands} mel bands.",
                f"Give [batch, frames, {bands}]",
            )
        if frames.shape[1] > most:
            raise DataError(
                f"Clips of {frames.shape[1]} frames were given.",
                f"This model takes {most} at most, two for each of its {self.config.n_audio_ctx} positions.",
                "Cut the clips, or build the model with a larger n_audio_ctx",
            )
        if mask is not None and mask.shape != frames.shape[:2]:
            raise DataError(
                f"A mask of the shape {list(mask.shape)} was given.",
                f"There are {list(frames.shape[:2])} frames, and the mask has one value for each.",
                "Give attention_mask [batch, frames], of frames and not of tokens",
            )
