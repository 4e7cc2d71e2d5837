"""Pooling: the mean over some of the tokens of a clip."""

from typing import Literal, get_args

import torch

from brainplug.errors import ConfigError, nearest

Pooling = Literal["ALL", "CLS", "SPECIAL", "PROMPTS", "SPEECH", "PROMPTS+SPEECH"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def check_pooling(pooling: str, special_tokens: int, prompts: int) -> None:
    """Raises a `ConfigError` if there is no such pooling, or if it has no tokens in this model."""
    possible = [name for name in POOLINGS if prompts or "PROMPTS" not in name]
    possible = [name for name in possible if special_tokens or name not in ("CLS", "SPECIAL")]
    if pooling not in possible:
        reason = "It does not exist."
        if pooling in POOLINGS:
            reason = (
                "This backbone has no [CLS] token." if pooling in ("CLS", "SPECIAL") else "This method has no prompts."
            )
        raise ConfigError(
            f"The pooling {pooling!r} was asked for.", reason, f"Write one of: {nearest(pooling, possible)}"
        )


def pool(
    tokens: torch.Tensor, mask: torch.Tensor | None, pooling: str, special_tokens: int, prompts: int
) -> torch.Tensor:
    """Means ``[batch, dim]`` over the tokens that one of the `POOLINGS` names, without padding.

    Arguments
    ---------
    tokens : torch.Tensor
        ``[batch, special tokens + prompts + tokens of the clip, dim]``.
    mask : torch.Tensor, optional
        ``[batch, special tokens + tokens of the clip]``, False where a token is padding.
    """
    start, end = {
        "ALL": (0, None),
        "CLS": (0, 1),
        "SPECIAL": (0, special_tokens),
        "PROMPTS": (special_tokens, special_tokens + prompts),
        "SPEECH": (special_tokens + prompts, None),
        "PROMPTS+SPEECH": (special_tokens, None),
    }[pooling]
    if mask is None:
        return tokens[:, start:end].mean(1)
    prompt_mask = mask.new_ones(mask.shape[0], prompts)
    mask = torch.cat([mask[:, :special_tokens], prompt_mask, mask[:, special_tokens:]], dim=1)
    weights = mask[:, start:end, None].to(tokens.dtype)
    return (tokens[:, start:end] * weights).sum(1) / weights.sum(1).clamp(min=1)
