"""What the parts of an Echo cost, each as a multiple of the way that stands first in its table rows.

- A training step of encoder layers with plain rotary positions, with the learned rotation as one matrix, and with it as
  the published code makes it: a product for each rotation.
- Attention over the whole, over a window, and both.

They take turns; the median of the rounds' quotients is shown, after a first round that does not count.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable

import brainplug.compat.torchaudio  # noqa: F401  before what imports torchaudio

import torch

from benchmarks.measure import Measured, describe_device, from_1_on, measure, show
from brainplug.backbones.echo import EchoConfig
from brainplug.backbones.echo.attention import LocalAttention, SelfAttention
from brainplug.backbones.echo.layers import EncoderLayer
from brainplug.backbones.echo.rotary import CombinedRotary, GivensRotations
from brainplug.errors import run_command
from brainplug.results.documents import table_marks
from brainplug.results.tables import markdown_table

MARKS = table_marks("speed", "python -m benchmarks.echo")
COLUMNS = ("what", "way", "ms", "time", "memory")


class PublishedRotary(CombinedRotary):
    """The learned rotation as the published code makes it: N dense matrices, and a product of all tokens with each.

    Example
    -------
    >>> rotary = PublishedRotary(8)
    >>> _ = torch.nn.init.normal_(rotary.givens.thetas)
    >>> states = torch.randn(2, 3, 5, 8)
    >>> torch.allclose(rotary(states)[0], CombinedRotary.forward(rotary, states)[0], atol=1e-5)
    True
    """

    def forward(self, *states: torch.Tensor, offset: int = 0) -> tuple[torch.Tensor, ...]:
        """Takes and returns what `CombinedRotary` does."""
        return tuple(self.positions(self._mixed(item), offset) for item in states)

    def _mixed(self, states: torch.Tensor) -> torch.Tensor:
        angles = self.givens.thetas * self.givens.theta_scale
        for (one, other), angle in zip(self.givens.pairs.tolist(), angles, strict=True):
            matrix = torch.eye(self.givens.head_dim, device=states.device)
            matrix[one, one] = matrix[other, other] = angle.cos()
            matrix[one, other], matrix[other, one] = -angle.sin(), angle.sin()
            states = states @ matrix
        return states @ self.orthogonal()


class Step(Measured):
    """A step: forward, and the gradients of all weights.

    Arguments
    ---------
    module : torch.nn.Module
        Takes tokens.
    tokens : torch.Tensor
        ``[batch, tokens, dim]``.
    """

    def __init__(self, module: torch.nn.Module, tokens: torch.Tensor):
        self.module, self.given = module.to(tokens.device), tokens

    def __call__(self) -> None:
        """One step."""
        self.module.zero_grad()
        self.module(self.given).square().mean().backward()

    def tensors(self) -> Iterable[torch.Tensor]:
        """Weights and tokens."""
        return [*self.module.parameters(), self.given]


class Inference(Step):
    """A forward pass without gradients."""

    @torch.no_grad()
    def __call__(self) -> None:
        """One pass."""
        self.module(self.given)


def encoder_layers(config: EchoConfig, rotary: Callable[..., CombinedRotary] | None = None) -> torch.nn.Module:
    """Layers of an encoder.

    Arguments
    ---------
    config : EchoConfig
        What they are made of.
    rotary : Callable, optional
        Makes another rotary for each attention, of the width of a head.

    Returns
    -------
    torch.nn.Module
        Takes and returns ``[batch, tokens, dim]``.
    """
    layers = torch.nn.Sequential(*(EncoderLayer(config) for _ in range(config.n_audio_layer)))
    for layer in layers if rotary else []:
        layer.attention.rotary = rotary(config.n_audio_state // config.n_audio_head)
    for module in layers.modules():
        if isinstance(module, GivensRotations):
            torch.nn.init.normal_(module.thetas, std=0.1)
    return layers


def compare(width: int, heads: int, layers: int, tokens: int, repeats: int, device: str) -> str:
    """Measures all ways.

    Arguments
    ---------
    width, heads, layers : int
        Of the encoder.
    tokens : int
        Of a clip, in the step; attention is measured with twice as many.
    repeats : int
        Rounds that count.
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    str
        A Markdown table.
    """
    sizes = {"n_audio_state": width, "n_audio_head": heads, "n_audio_layer": layers, "checkpointing": False}
    config = EchoConfig(**sizes, attn_implementation="sdpa")
    plain = EchoConfig(**sizes, rotation="plain", attn_implementation="sdpa")
    hybrid = EchoConfig(**sizes, use_hybrid_attention=True, attn_implementation="sdpa")
    clip, long = (torch.randn(1, count, width, device=device) for count in (tokens, 2 * tokens))
    rows = {
        f"training step of {layers} layers, width {width}, {tokens:,} tokens": {
            "plain rotary positions": Step(encoder_layers(plain), clip),
            "with the learned rotation": Step(encoder_layers(config), clip),
            "as published, a product a rotation": Step(encoder_layers(config, PublishedRotary), clip),
        },
        f"attention, width {width}, {2 * tokens:,} tokens": {
            "over the whole": Inference(TokensOf(SelfAttention(config, width, heads)), long),
            f"over a window of {config.window_size}": Inference(TokensOf(LocalAttention(config, width, heads)), long),
        },
        f"encoder layer, width {width}, {2 * tokens:,} tokens": {
            "over the whole": Inference(EncoderLayer(config), long),
            "both": Inference(EncoderLayer(hybrid), long),
        },
    }
    table = []
    for what, ways in rows.items():
        costs = measure(list(ways.values()), repeats, device)
        for way, cost in zip(ways, costs, strict=True):
            relative = [f"{times:.2f}" for times in cost.relative_to(costs[0])]
            table.append((what, way, f"{1000 * statistics.median(cost.seconds):,.1f}", *relative))
    return markdown_table(COLUMNS, table)


class TokensOf(torch.nn.Module):
    """The tokens that an attention returns, without its weights.

    Arguments
    ---------
    attention : torch.nn.Module
        Returns tokens and weights.
    """

    def __init__(self, attention: torch.nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Takes and returns ``[batch, tokens, dim]``."""
        return self.attention(tokens)[0]


def main(arguments: list[str]) -> None:
    """Reads the command line, measures and prints.

    Arguments
    ---------
    arguments : list[str]
        The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=from_1_on, default=1024)
    parser.add_argument("--heads", type=from_1_on, default=16)
    parser.add_argument("--layers", type=from_1_on, default=2)
    parser.add_argument("--tokens", type=from_1_on, default=1500, help="of 20 ms; attention is given twice as many")
    parser.add_argument("--repeats", type=from_1_on, default=5, help="rounds that count")
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu")
    parser.add_argument("--write", metavar="DOCUMENT", help="also puts the table into a document, between marks")
    chosen = parser.parse_args(arguments)
    table = compare(chosen.width, chosen.heads, chosen.layers, chosen.tokens, chosen.repeats, chosen.device)
    show(f"{describe_device(chosen.device)}.\n\n{table}", chosen.write, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main))
