"""What is known of the backbones that have a name of their own: their licence, and how they were made."""

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Where a backbone comes from.

    Arguments
    ---------
    licence : str
        As its published page states it.
    made : str
        Training objective and corpus.
    """

    licence: str
    made: str


ABOUT = {
    "nano-ast": About(
        "Apache-2.0", "tags of spoken words, synthetic events and free recordings, from nothing; recipes/pretrain_ast"
    ),
    "nano-hubert": About(
        "Apache-2.0",
        "clusters of masked frames of spoken words, synthetic events and free recordings; recipes/pretrain_hubert",
    ),
    "nano-data2vec": About(
        "Apache-2.0",
        "a teacher's features of masked frames of spoken words, synthetic events and free recordings; "
        "recipes/pretrain_data2vec",
    ),
    "ast": About("BSD-3-Clause", "tags of AudioSet, starting from a vision transformer of ImageNet"),
    "wav2vec2": About("Apache-2.0", "contrastive, then CTC on letters; 960 h of LibriSpeech for both"),
    "hubert": About("Apache-2.0", "clusters of masked frames; 960 h of LibriSpeech"),
    "data2vec": About(
        "Apache-2.0", "a teacher's features of masked frames, then CTC on letters; 960 h of LibriSpeech for both"
    ),
    "wavlm": About("see its page", "clusters of masked frames in mixed and noisy speech; 960 h of LibriSpeech"),
    "whisper": About("Apache-2.0", "transcripts and translations of 680,000 h of speech from the web"),
}
