"""The card of a pre-trained model: README.md with its training, data and results, and a figure."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from brainplug.files import atomic_file

CARD = """# {name}

{title} with {parameters:.2f} million parameters, for 16 kHz audio, with a token every 20 ms. It was pre-trained without
labels by `recipes/pretrain_{recipe}`, which also wrote this card. Weights are in half precision, under Apache-2.0.
Transformers loads it as `{architecture}`.

| | |
| --- | --- |
{facts}

Held-out audio after the last epoch:

| indicator | value |
| --- | --- |
{indicators}

![Indicators over the updates](health.png)
{agreement}
## Training data

{data}
"""
AGREEMENT = """
Agreement of {clusters} clusters of 20 ms frames with the phones of held-out spoken clips (k-means is fitted to one half
of the clips and measured on the other): purity, and mutual information divided by the entropy of the phones (PNMI).

| clusters of | purity | PNMI |
| --- | --- | --- |
{rows}
"""
SOUND = """{hours:.1f} hours of synthetic and free audio, made by `python -m brainplug sound`: {clips}.

It contains no word of the spoken corpus's phrases, no made-up word that sounds like one, none of that corpus's
validation and test voices or voices that sound like them ({voices}), no file of ESC-50, and no recording that matches
one of the 400 clips of ESC-10.

The recordings come from these Debian packages, under these licences. No audio is included here.

| Debian package | licence |
| --- | --- |
{packages}
"""
TITLES = {"hubert": "A small HuBERT", "data2vec-audio": "A small data2vec"}
ARCHITECTURES = {"hubert": "HubertModel", "data2vec-audio": "Data2VecAudioModel"}
KINDS = {"word": "speech by espeak-ng", "event": "synthetic sound events", "file": "free recordings"}
CURVES = (  # title, unit, indicators
    ("Loss", "", ("loss",)),
    ("Accuracy", "fraction of frames", ("masked_accuracy", "unmasked_accuracy", "copy_accuracy", "majority_accuracy")),
    ("Clusters in use", "perplexity", ("prediction_perplexity", "label_perplexity")),
    ("Standard deviation", "", ("target_std", "prediction_std")),
    ("Explained variance", "R squared", ("explained_variance",)),
    ("Rank of the targets", "fraction of the width", ("target_rank_fraction",)),
)
AVERAGED = 15  # rows; each is of a single batch
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: distinct for the colour-blind


def write_card(folder: str, results: dict[str, Any], rows: list[dict[str, float]]) -> None:
    """Writes README.md and health.png beside a model, from ``pretraining.json`` and the rows of the health log."""
    if rows:
        draw_health(rows, str(Path(folder, "health.png")))
    family = results["family"]
    text = CARD.format(
        name=Path(folder).name,
        title=TITLES[family],
        parameters=results["parameters"] / 1e6,
        recipe=family.removesuffix("-audio"),
        architecture=ARCHITECTURES[family],
        facts=_facts(results),
        indicators="\n".join(f"| {_words(name)} | {value:.4g} |" for name, value in results["valid"].items()),
        agreement=_agreement(results),
        data=_data(results),
    )
    with atomic_file(f"{folder}/README.md", encoding="utf-8") as file:
        file.write(f"{text.rstrip()}\n")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _facts(results: dict[str, Any]) -> str:
    facts = {
        "updates": f"{results['steps']:,}",
        "audio in a batch": f"{results['seconds_per_batch']:g} s",
        "minutes": _number(results["minutes"]),
        "updates per second": _number(results["updates_per_second"]),
        "fraction of the time waiting for data": _number(results["data_wait_fraction"]),
        "alarms at the end": "; ".join(results["alarms_at_the_end"]) or "none",
        **{_words(name): str(value) for name, value in results["settings"].items()},
    }
    return "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _agreement(results: dict[str, Any]) -> str:
    agreements = results["agreement_with_phones"] or {}
    rows = [f"| {name} | {values['purity']:.3f} | {values['pnmi']:.3f} |" for name, values in agreements.items()]
    return AGREEMENT.format(clusters=results["compared_clusters"], rows="\n".join(rows)) if rows else ""


def _data(results: dict[str, Any]) -> str:
    sound, corpus = results["sound"], results["corpus"]
    if sound is None:
        return f"{corpus['hours']:.1f} hours in {corpus['files']:,} files, which are not part of this project.\n"
    return SOUND.format(
        hours=corpus["hours"],
        clips=", ".join(f"{count:,} clips of {KINDS[kind]}" for kind, count in sorted(sound["clips"].items())),
        voices=", ".join(sound["voices_not_heard"]),
        packages="\n".join(f"| {name} | {licence} |" for name, licence in sound["packages"].items()) or "| none | |",
    )


def draw_health(rows: list[dict[str, float]], path: str) -> None:
    """Draws the health log as a PNG: a panel for each group of indicators, with every row and a running mean."""
    curves = [curve for curve in CURVES if curve[2][0] in rows[0]]
    figure = Figure(figsize=(4.2 * len(curves), 3.2), layout="constrained")
    steps = [row["step"] for row in rows]
    for axes, (title, unit, names) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            values = [row[name] for row in rows]
            means = [np.mean(values[max(0, end - AVERAGED) : end]) for end in range(1, len(values) + 1)]
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7)
            axes.plot(steps, means, color=colour, label=_words(name))
        axes.set(title=title, xlabel="updates", ylabel=unit)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
