"""Writes the card of a trained backbone: what it is, what it heard, under which licences, and its curve."""

import re
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

# isort: split
import matplotlib.pyplot as plt

from brainplug.synthetic.sound.recordings import known_packages
from brainplug.synthetic.sound.words import MADE_UP, RELATIVES, vocabulary, voices
from brainplug.synthetic.spoken import TEST_VOICES, VALID_VOICES

CARD = """# {name}

A small AST ({parameters:.2f} million parameters, {layers} layers, {dim} wide, {mel_bands} mel bands, clips of {frames}
frames; any other length works) for demos, tests and machines without a network. Made by `recipes/pretrain_ast`, which
can be run again; this card is written by it. Half precision, Apache-2.0.

It was trained with supervision, as AST was on AudioSet: from nothing, in {epochs} epochs of {steps} steps of {batch}
clips, to tag clips and to hear the phones of spoken ones. The figures below are of {valid_clips} clips that were held
out at random; they measure the progress of this training and say nothing about other data.

| | |
| --- | --- |
| training loss, last epoch | {train_loss} |
| validation loss, last epoch | {valid_loss} |
| mean average precision over tags | {precision} |

![loss and precision by epoch](curve.png)

## What it heard

| kind | clips | where from |
| --- | --- | --- |
| spoken words | {word:,} | espeak-ng: {n_words} words, {made_up:,} made-up ones, {n_voices} voices at many rates |
| synthetic sound events | {event:,} | `brainplug/synthetic/sound/events.py` |
| free recordings | {file:,} | the Debian packages below |

Not heard: any word of the spoken corpus's phrases, or a made-up one that sounds like it; its validation and test voices
({barred}) and the voices that sound like them ({relatives}).

No file of ESC-50 or ESC-10 was read. All recordings but speech were compared with the 400 clips of ESC-10
(`recipes/pretrain_ast/overlap.py`), and those that match were left out: {left_out}. The other clips of ESC-50 were not
compared.

Recordings, with the terms of their sounds; labels come from folders and file names. No audio is contained here.

| Debian package | licence |
| --- | --- |
{packages}
"""


def write_card(folder: str, hparams: dict, corpus: object, parameters: int) -> None:
    """Writes README.md and curve.png.

    Arguments
    ---------
    folder : str
        Where the backbone lies.
    hparams : dict
        The run's settings.
    corpus : TaggingCorpus
        What it was trained on.
    parameters : int
        How many it has.
    """
    log = Path(hparams["train_log"]).read_text()
    columns = {name: [float(value) for value in re.findall(rf"{name}: ([\d.e+-]+)", log)] for name in CURVES}
    _draw(columns, Path(folder, "curve.png"))
    config, packages = hparams["ast"].config, known_packages()
    used = {name: about for name, about in packages.items() if name not in corpus.missing_packages}
    card = CARD.format(
        name=Path(folder).name, parameters=parameters / 1e6, layers=config.num_hidden_layers, dim=config.hidden_size,
        mel_bands=config.num_mel_bins, frames=config.max_length, epochs=hparams["number_of_epochs"],
        steps=hparams["steps_an_epoch"], batch=hparams["batch_size"], valid_clips=hparams["valid_clips"],
        train_loss=columns["train loss"][-1], valid_loss=columns["valid loss"][-1],
        precision=columns["valid mean average precision"][-1], **Counter(corpus.kinds.tolist()),
        n_words=len(vocabulary()), made_up=MADE_UP, n_voices=len(voices()),
        barred=", ".join([*VALID_VOICES, *TEST_VOICES]),
        relatives=", ".join(sorted(RELATIVES)),
        left_out=", ".join(file for about in packages.values() for file in about.get("leave_out", ())),
        packages="\n".join(f"| {name} | {about['licence']} |" for name, about in used.items()),
    )  # fmt: skip
    Path(folder, "README.md").write_text(card)


CURVES = {
    "train loss": {"color": "#0072B2", "linestyle": "-"},
    "valid loss": {"color": "#D55E00", "linestyle": "--"},
    "valid mean average precision": {"color": "#009E73", "linestyle": "-"},
}


def _draw(columns: dict[str, list[float]], path: Path) -> None:
    """Draws losses on the left and precision on the right."""
    figure, (losses, precision) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for name, style in CURVES.items():
        axes = losses if "loss" in name else precision
        axes.plot(range(1, len(columns[name]) + 1), columns[name], marker="o", label=name, **style)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.set_ylabel("loss")
    losses.legend()
    precision.set_ylabel("mean average precision over tags")
    precision.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)
    plt.close(figure)
