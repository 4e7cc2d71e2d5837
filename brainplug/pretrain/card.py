"""The card of a pre-trained model: what it is, how it was trained, what it heard, and its curves."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from brainplug.files import atomic_file

CARD = """# {name}

{title}, {parameters:.2f} million parameters, of 16 kHz audio, a token each 20 ms. Pre-trained without labels by
`recipes/pretrain_{recipe}`, which can be run again; this card is written by it. Half precision, Apache-2.0. It is what
transformers calls `{architecture}`, and loads as such.

| | |
| --- | --- |
{facts}

Measured on what was held out, by the last epoch:

| indicator | value |
| --- | --- |
{indicators}

![Health on the way](health.png)
{agreement}
## What it heard

{heard}
"""
AGREEMENT = """
How well {clusters} clusters of 20 ms frames agree with the phones of spoken clips that were held out (half of them make
the clusters, the other half is measured): purity, and the mutual information as a share of the phones' entropy.

| clusters of | purity | PNMI |
| --- | --- | --- |
{rows}
"""
SOUND = """{hours:.1f} hours, which the project makes itself (`python -m brainplug sound`): {clips}.

Not among it are the words of the spoken corpus's phrases, made-up words that sound like them, its validation and test
voices and those that sound like these ({voices}), any file of ESC-50, and recordings that match one of the 400 clips of
ESC-10.

Recordings are from these Debian packages, with the terms of their sounds. No audio is contained here.

| Debian package | licence |
| --- | --- |
{packages}
"""
TITLES = {"hubert": "A small HuBERT", "data2vec-audio": "A small data2vec"}
CURVES = (  # what is drawn: title, unit, indicators
    ("Loss", "", ("loss",)),
    ("Accuracy", "share of frames", ("masked_accuracy", "unmasked_accuracy", "copy_accuracy", "majority_accuracy")),
    ("Clusters in use", "perplexity", ("prediction_perplexity", "label_perplexity")),
    ("Standard deviation", "", ("target_deviation", "prediction_deviation")),
    ("Explained variance", "R squared", ("explained",)),
    ("Rank of the targets", "share of the width", ("target_rank_share",)),
)
AVERAGED = 15  # rows: one is of one batch
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by the colour-blind


def write_card(folder: str, results: dict, rows: list[dict[str, float]]) -> None:
    """Writes README.md and health.png beside a model.

    Arguments
    ---------
    folder : str
        Where the model is.
    results : dict
        What pretraining.json says.
    rows : list[dict[str, float]]
        The log of health.
    """
    if rows:
        draw_health(rows, str(Path(folder, "health.png")))
    family = results["family"]
    text = CARD.format(
        name=Path(folder).name,
        title=TITLES[family],
        parameters=results["parameters"] / 1e6,
        recipe=family.removesuffix("-audio"),
        architecture={"hubert": "HubertModel", "data2vec-audio": "Data2VecAudioModel"}[family],
        facts=_facts(results),
        indicators="\n".join(f"| {_words(name)} | {value:.4g} |" for name, value in results["valid"].items()),
        agreement=_agreement(results),
        heard=_heard(results),
    )
    with atomic_file(f"{folder}/README.md", encoding="utf-8") as file:
        file.write(f"{text.rstrip()}\n")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _facts(results: dict) -> str:
    facts = {
        "updates": f"{results['steps']:,}",
        "sound in a batch": f"{results['seconds_a_batch']:g} s",
        "minutes": _number(results["minutes"]),
        "updates a second": _number(results["updates_a_second"]),
        "share of the time waiting for data": _number(results["share_waiting_for_data"]),
        "alarms at the end": "; ".join(results["alarms_at_the_end"]) or "none",
        **{_words(name): str(value) for name, value in results["settings"].items()},
    }
    return "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _agreement(results: dict) -> str:
    if not results["agreement_with_phones"]:
        return ""
    rows = "\n".join(
        f"| {name} | {each['purity']:.3f} | {each['pnmi']:.3f} |"
        for name, each in results["agreement_with_phones"].items()
    )
    return AGREEMENT.format(clusters=results["compared_clusters"], rows=rows)


def _heard(results: dict) -> str:
    sound, corpus = results["sound"], results["corpus"]
    if sound is None:
        return f"{corpus['hours']:.1f} hours of {corpus['files']:,} files that are not this project's.\n"
    kinds = {"word": "speech by espeak-ng", "event": "synthetic sound events", "file": "free recordings"}
    return SOUND.format(
        hours=corpus["hours"],
        clips=", ".join(f"{count:,} clips of {kinds[kind]}" for kind, count in sorted(sound["clips"].items())),
        voices=", ".join(sound["voices_not_heard"]),
        packages="\n".join(f"| {name} | {licence} |" for name, licence in sound["packages"].items()) or "| none | |",
    )


def draw_health(rows: list[dict[str, float]], path: str) -> None:
    """Draws the log of health, a panel for each group of indicators: each row faintly, and the mean of some before it.

    Arguments
    ---------
    rows : list[dict[str, float]]
        One every so many steps.
    path : str
        Of the PNG.
    """
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
