"""The card of a trained backbone: README.md with its training, data and licences, and a figure."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from brainplug.pretrain.schema import AstSettings
from brainplug.synthetic.sound.recordings import known_packages
from brainplug.synthetic.sound.words import MADE_UP, RELATIVES, vocabulary, voices
from brainplug.synthetic.spoken import TEST_VOICES, VALID_VOICES

CARD = """# {name}

A small AST with {parameters:.2f} million parameters ({layers} layers, {dim} wide, {mel_bands} mel bands, clips of
{frames} frames; any other length works) for demos, tests and machines without a network. `recipes/pretrain_ast` made it
and wrote this card. Weights are in half precision, under Apache-2.0.

It was trained with supervision, as AST was on AudioSet: from random weights, in {epochs} epochs of {steps} steps of
{batch} clips, to tag clips and to recognise the phones of spoken ones. The figures below are of {valid_clips} random
held-out clips; they measure the progress of this training and say nothing about other data.

| | |
| --- | --- |
| training loss, last epoch | {train_loss} |
| validation loss, last epoch | {valid_loss} |
| mean average precision over tags | {precision} |

![loss and precision by epoch](curve.png)

## Training data

| kind | clips | source |
| --- | --- | --- |
| spoken words | {word:,} | espeak-ng: {n_words} words, {made_up:,} made-up ones, {n_voices} voices at many rates |
| synthetic sound events | {event:,} | `brainplug/synthetic/sound/events.py` |
| free recordings | {file:,} | the Debian packages below |

Left out are the words of the spoken corpus's phrases and made-up words that sound like them, that corpus's validation
and test voices ({barred}) and voices that sound like them ({relatives}).

No file of ESC-50 or ESC-10 was read. `recipes/pretrain_ast/overlap.py` compared all recordings but speech with the 400
clips of ESC-10; those that match were left out: {left_out}. The other clips of ESC-50 were not compared.

Labels of the recordings come from folders and file names. Their sounds are under these licences; no audio is included
here.

| Debian package | licence |
| --- | --- |
{packages}
"""


CURVES: dict[str, dict[str, Any]] = {
    "train loss": {"color": "#0072B2", "linestyle": "-"},
    "valid loss": {"color": "#D55E00", "linestyle": "--"},
    "valid mean average precision": {"color": "#009E73", "linestyle": "-"},
}


def write_card(settings: AstSettings, kinds: list[str], missing_packages: list[str], parameters: int) -> None:
    """Writes README.md and curve.png beside the model.

    Arguments
    ---------
    kinds : list[str]
        The kind of each clip: word, event or file.
    missing_packages : list[str]
        Packages of recordings that were not installed.
    parameters : int
        Number of the model's parameters.
    """
    folder, config, packages = Path(settings.export_folder), settings.ast.config, known_packages()
    log = Path(settings.train_log).read_text()
    columns = {name: [float(value) for value in re.findall(rf"{name}: ([\d.e+-]+)", log)] for name in CURVES}
    _draw(columns, folder / "curve.png")
    licences = {name: about["licence"] for name, about in packages.items() if name not in missing_packages}
    card = CARD.format(
        name=folder.name, parameters=parameters / 1e6, layers=config.num_hidden_layers, dim=config.hidden_size,
        mel_bands=config.num_mel_bins, frames=config.max_length, epochs=settings.number_of_epochs,
        steps=settings.steps_per_epoch, batch=settings.batch_size, valid_clips=settings.valid_clips,
        train_loss=columns["train loss"][-1], valid_loss=columns["valid loss"][-1],
        precision=columns["valid mean average precision"][-1],
        **{"word": 0, "event": 0, "file": 0, **Counter(kinds)},
        n_words=len(vocabulary()), made_up=MADE_UP, n_voices=len(voices()),
        barred=", ".join([*VALID_VOICES, *TEST_VOICES]),
        relatives=", ".join(sorted(RELATIVES)),
        left_out=", ".join(file for about in packages.values() for file in about.get("leave_out", ())),
        packages="\n".join(f"| {name} | {licence} |" for name, licence in licences.items()) or "| none | |",
    )  # fmt: skip
    (folder / "README.md").write_text(card)


def _draw(columns: dict[str, list[float]], path: Path) -> None:
    """Draws losses on the left and precision on the right."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    losses, precision = figure.subplots(1, 2)
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
