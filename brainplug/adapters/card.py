"""The model card of an adapter: what it is, how it was made, what it reached, and how to use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from brainplug.adapters.description import AdapterDescription, ClassifierDescription
from brainplug.adapters.layout import CARD_NAME
from brainplug.backbones.loading import HUB_NAMES
from brainplug.files import atomic_file

# Key of results.json -> what the card calls it.
SHARES = {
    "test_accuracy": "test accuracy",
    "valid_accuracy": "validation accuracy",
    "test_wer": "test word error rate",
    "test_cer": "test character error rate",
    "valid_wer": "validation word error rate",
}
COUNTS = {"trainable": "trained parameters", "total": "parameters with the backbone"}
SUMMARY = (
    *("seed", "fold", "few_shot", "optimizer", "lr", "epochs", "best_epoch", "precision"),
    *("n_train", "n_valid", "n_test", *COUNTS, *SHARES),
)  # the same for the same command: neither seconds nor bytes
MOST_LABELS = 50


def training_summary(results: Mapping[str, Any]) -> dict[str, Any]:
    """The part of results.json that an adapter's description keeps."""
    return {key: results[key] for key in SUMMARY if results.get(key) is not None}


def write_card(description: AdapterDescription, folder: Path, results: Mapping[str, Any]) -> None:
    """Writes README.md."""
    with atomic_file(folder / CARD_NAME, encoding="utf-8") as file:
        file.write(card(description, results))


def card(description: AdapterDescription, results: Mapping[str, Any]) -> str:
    """The card's text, with the hub's own fields at its head."""
    is_classifier = isinstance(description, ClassifierDescription)
    head = {
        "library_name": "brainplug",
        "pipeline_tag": "audio-classification" if is_classifier else "automatic-speech-recognition",
        "license": description.licence or "unknown",
        "base_model": HUB_NAMES.get(description.backbone, description.backbone),
        "tags": ["audio", "adapter", description.method],
    }
    dataset = description.dataset or "unnamed data"
    classes = []
    if isinstance(description, ClassifierDescription):
        shown = ", ".join(f"`{_plain(label)}`" for label in description.labels[:MOST_LABELS])
        more = len(description.labels) - MOST_LABELS
        classes = [f"{len(description.labels)} classes: {shown}{f' and {more} more' if more > 0 else ''}."]
    text = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(description.method)} on {_plain(description.backbone)}, trained on {_plain(dataset)}",
        f"An adapter for {'classification' if is_classifier else 'speech recognition'} with brainplug "
        f"{description.versions.get('brainplug', '')}. It holds what was trained and not the backbone, "
        f"`{_plain(description.backbone)}`, revision `{description.backbone_revision}`.",
        f"```sh\nbrainplug predict FOLDER clip.wav\n```\n\n```python\nimport brainplug\n\n{_usage(is_classifier)}\n```",
        *classes,
        "## Results",
        _table({**_formatted(SHARES, results, "{:.2%}"), **_formatted(COUNTS, results, "{:,}")}) or "not run",
        "## Training",
        _table({key: str(value) for key, value in training_summary(results).items() if key not in {*SHARES, *COUNTS}})
        or "not run",
        f"## Licence\n\n{description.licence or 'Not stated.'} That of the backbone and of the data holds beside it.",
    ]
    return "\n\n".join(text) + "\n"


def _usage(is_classifier: bool) -> str:
    call = 'classify_file("clip.wav")' if is_classifier else 'transcribe_file("clip.wav")'
    return f'print(brainplug.load_run("FOLDER").{call})'


def _formatted(names: Mapping[str, str], results: Mapping[str, Any], form: str) -> dict[str, str]:
    return {name: form.format(results[key]) for key, name in names.items() if results.get(key) is not None}


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(
        ["| | |", "| --- | --- |", *(f"| {name} | {_plain(text)} |" for name, text in rows.items())] if rows else []
    )


def _plain(text: str) -> str:
    """Text without what Markdown reads as more than text."""
    return "".join(" " if letter in "`|<>\n\r" else letter for letter in text)
