"""IEMOCAP: acted dialogues of ten speakers in five sessions, with the emotion of every turn.

Busso et al., "IEMOCAP: interactive emotional dyadic motion capture database", Language Resources and Evaluation 42,
2008. Each session has a woman and a man of its own.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path

from brainplug.data.corpora.layout import check_fold, check_layout, readable
from brainplug.data.manifest import Clip
from brainplug.errors import DataError, nearest

SESSIONS = range(1, 6)
FOLDS = range(1, 11)
LABELS = {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"}
OTHER_LABELS = ("dis", "exc", "fea", "fru", "oth", "sur", "xxx")
# [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
TURN = re.compile(
    r"\[[\d.]+ - [\d.]+\]\t(?P<name>(?P<dialogue>Ses\d\d[FM]_\w+)_(?P<speaker>[FM])\w+)\t(?P<emotion>\w+)\t"
)


def list_clips(data_folder: str, fold: int, excited: bool = False, **_: object) -> list[Clip]:
    """Lists the angry, happy, neutral and sad turns for one of the ten folds, by session and dialogue.

    Their group is the speaker, their fold the one in which they are tested.

    Arguments
    ---------
    data_folder : str
        Folder with ``Session1/`` to ``Session5/``, each with ``dialog/EmoEvaluation/`` and ``sentences/wav/``.
    fold : int
        1 to 10: in the folds 1 and 2 session 1 is tested, in 3 and 4 session 2, and so on. In the odd one the woman
        tests and the man validates, in the even one the man tests. The four other sessions train.
    excited : bool
        Whether excited turns count as happy; they are left out without it.
    """
    check_fold("IEMOCAP", fold, FOLDS)
    parts = [f"Session{session}/{part}/" for session in SESSIONS for part in ("dialog/EmoEvaluation", "sentences/wav")]
    folder = check_layout("IEMOCAP", data_folder, parts)
    labels = LABELS | ({"exc": "happy"} if excited else {})
    return [
        Clip(
            id=turn["name"],
            path=str(folder / f"Session{session}/sentences/wav" / turn["dialogue"] / f"{turn['name']}.wav"),
            label=labels[turn["emotion"]],
            split=split_of(session, turn["speaker"], fold),
            fold=_fold_of(session, turn["speaker"]),
            group=f"Session{session} {turn['speaker']}",
        )
        for session in SESSIONS
        for turn in _turns(folder / f"Session{session}/dialog/EmoEvaluation")
        if turn["emotion"] in labels
    ]


def _turns(folder: Path) -> Iterator[re.Match[str]]:
    """The rated turns of a session; what individual raters said stands on other lines."""
    with readable(folder):
        names = sorted(fnmatch.filter(os.listdir(folder), "Ses*.txt"))
    for path in (folder / name for name in names):
        with readable(path):
            lines = path.read_text(errors="replace").splitlines()
        for line in lines:
            turn = TURN.match(line)
            if turn and turn["emotion"] not in (*LABELS, *OTHER_LABELS):
                known = nearest(turn["emotion"], (*LABELS, *OTHER_LABELS))
                raise DataError(
                    f"The emotions of {path} were asked for.",
                    f"{turn['name']} has {turn['emotion']!r}.",
                    f"Take the official file, which has {known}",
                )
            if turn:
                yield turn


def split_of(session: int, speaker: str, test_fold: int) -> str:
    """The split of a speaker (``F`` or ``M``) of a session, in one of the ten folds.

    Example
    -------
    >>> split_of(1, "M", test_fold=1), split_of(1, "M", test_fold=2), split_of(1, "M", test_fold=3)
    ('valid', 'test', 'train')
    """
    if _fold_of(session, speaker) == test_fold:
        return "test"
    return "valid" if test_fold in (_fold_of(session, "F"), _fold_of(session, "M")) else "train"


def _fold_of(session: int, speaker: str) -> int:
    return 2 * session - (speaker == "F")
