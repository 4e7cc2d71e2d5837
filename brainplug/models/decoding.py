"""From scores to text: the best path, or a beam of prefixes; SpeechBrain's decoders."""

from collections.abc import Callable
from functools import partial

import torch
from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode

from brainplug.data.characters import BLANK, Characters
from brainplug.errors import ConfigError, nearest

DECODINGS = ("greedy", "beam")
Decoder = Callable[[torch.Tensor, torch.Tensor], list[str]]


def make_decoder(decoding: str, characters: Characters, beam_size: int = 20) -> Decoder:
    """Makes a function from log-probabilities ``[batch, tokens, characters]`` and token counts ``[batch]`` to texts.

    ``greedy`` takes the best character of each token; ``beam`` the text with the highest probability over all its
    alignments, as far as a search that keeps `beam_size` prefixes finds it.

    Example
    -------
    >>> best = torch.tensor([[1, 1, 0, 1, 2, 0]])
    >>> decode = make_decoder("greedy", Characters("ab"))
    >>> decode(torch.nn.functional.one_hot(best).float(), torch.tensor([6]))
    ['aab']
    """
    check_decoding(decoding)
    if decoding == "greedy":
        return partial(_best_paths, characters)
    # Its pruning of the history takes beams for equal whose last words are.
    searcher = CTCBeamSearcher(blank_index=BLANK, vocab_list=characters.names, beam_size=beam_size, prune_history=False)
    return partial(_best_texts, searcher)


def check_decoding(decoding: str) -> None:
    """Raises a `ConfigError` if there is no such decoding."""
    if decoding not in DECODINGS:
        raise ConfigError(
            f"The decoding {decoding!r} was asked for.",
            "It does not exist.",
            f"Write --decoding= one of: {nearest(decoding, DECODINGS)}",
        )


def _best_paths(characters: Characters, log_probs: torch.Tensor, counts: torch.Tensor) -> list[str]:
    numbers = ctc_greedy_decode(log_probs, counts / log_probs.shape[1], blank_id=BLANK)
    return [_words(characters.decode(path_numbers)) for path_numbers in numbers]


def _best_texts(searcher: CTCBeamSearcher, log_probs: torch.Tensor, counts: torch.Tensor) -> list[str]:
    # Clip by clip without padding: of lengths as shares the searcher would round some down.
    clips = [scores[None, :count] for scores, count in zip(log_probs, counts.tolist(), strict=True)]
    return [_words(searcher(clip)[0][0].text) for clip in clips]


def _words(text: str) -> str:
    return " ".join(text.split())
