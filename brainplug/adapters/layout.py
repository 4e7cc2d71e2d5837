"""The names of an adapter's files, today and in older formats."""

from typing import NamedTuple

FOLDER = "adapter"  # in the output folder of a run
WEIGHTS_NAME, DESCRIPTION_NAME, PROBE_NAME = "adapter_model.safetensors", "adapter_config.json", "probe.safetensors"
CARD_NAME = "README.md"
HEADER_KEY = "brainplug"  # in the description, beside peft's keys, and in the header of a safetensors file
ECHO_CONFIG = "echo/config.json"  # beside a recogniser of an older format


class Layout(NamedTuple):
    """The files of one format; `key` is where the JSON has the description, None: it is all of it."""

    folder: str  # below what the user names
    description: str
    weights: str
    key: str | None


LAYOUTS = (
    Layout(FOLDER, DESCRIPTION_NAME, WEIGHTS_NAME, HEADER_KEY),  # in the output folder of a run
    Layout("", DESCRIPTION_NAME, WEIGHTS_NAME, HEADER_KEY),
    Layout("", "adapter.json", "adapter.safetensors", None),  # formats 1 and 2
)
