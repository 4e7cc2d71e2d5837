"""Adapters with faults: changed bytes, and changed values under checksums and a header that agree with them."""

import copy
import hashlib
import json
import pickle
import random
import shutil
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
import torch

from brainplug.adapters.file import save_adapter
from brainplug.adapters.layout import DESCRIPTION_NAME, HEADER_KEY, PROBE_NAME, WEIGHTS_NAME
from brainplug.errors import UsageError
from brainplug.inference import Classifier
from brainplug.models.classifier import AudioClassifier
from tests.made_adapters import describe_classifier

LONGEST, MOST_MEMORY = 20.0, 500 * 2**20  # seconds of a processor and bytes, for one adapter
# What a file that runs code would do.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "a", "\0", "a" * 100_000,
    "../../../etc/passwd", "/etc/passwd", "https://127.0.0.1:9/x", "os.system", "builtins.exec", "__import__",
    "torch.load", "(a+)+$", ".*", "$(touch pwned)", "!!python/object/apply:os.system ['touch pwned']", [], {}, [[]],
    [None] * 1000, ["x"] * 100_000, {"a": {}}, {"class": "Popen"}, {"__reduce__": 1}, [0.5], ["query", "(a+)+$"],
    65_536, {"(a+)+$": 7},
]  # fmt: skip
NEW_KEYS = (
    "auto_mapping", "megatron_config", "loftq_config", "runtime_config", "trust_remote_code", "modules_to_save",
    "class", "layer_replication", "trainable_token_indices", "target_parameters", "init_lora_weights", "unknown",
)  # fmt: skip
EXTREME = "[" * 100_000


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        import os

        return os.system, ("touch pwned",)


def write_adapter(model: AudioClassifier, folder: Path, method: str) -> None:
    labels = [f"class {number}" for number in range(model.head.out_features)]
    save_adapter(model, folder, describe_classifier(model, labels, method))


def change_bytes(folder: Path, draw: random.Random) -> str:
    """Changes one file, and nothing else."""
    path = folder / draw.choice([WEIGHTS_NAME, WEIGHTS_NAME, DESCRIPTION_NAME, DESCRIPTION_NAME, PROBE_NAME])
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data) if draw.random() < 0.5 else min(len(data), 400))
    how = draw.choice(["flipped", "flipped", "cut", "left out", "added", "noise", "pickled", "emptied", "nested"])
    if how == "flipped":
        data[start] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[start:]
    elif how == "left out":
        del data[start : start + draw.randint(1, 64)]
    elif how == "added":
        data[start:start] = draw.randbytes(draw.randint(1, 64))
    elif how == "noise":
        data[start : start + 64] = draw.randbytes(64)
    else:
        data = bytearray({"pickled": pickle.dumps(Payload()), "emptied": b"", "nested": EXTREME.encode()}[how])
    path.write_bytes(data)
    return f"bytes {how}"


def change_values(folder: Path, draw: random.Random) -> str:
    """Changes the description, as somebody would who wants it to be believed."""
    values = json.loads((folder / DESCRIPTION_NAME).read_text())
    locations = list(_locations(values))
    holder, key = draw.choice(locations)
    how = draw.choice(["value", "value", "value", "key left out", "key added", "value of another key"])
    if how == "value":
        holder[key] = copy.deepcopy(draw.choice(HOSTILE))
    elif how == "key left out":
        del holder[key]
    elif how == "key added":
        target = draw.choice([values, values[HEADER_KEY], values[HEADER_KEY]["method_settings"]])
        target[draw.choice(NEW_KEYS)] = copy.deepcopy(draw.choice(HOSTILE))
    else:
        other, name = draw.choice(locations)
        holder[key] = copy.deepcopy(other[name])
    sign(folder, values, safetensors.torch.load_file(folder / WEIGHTS_NAME))
    return f"description, {how}"


def change_tensors(folder: Path, draw: random.Random) -> str:
    """Changes a tensor, or what the file says of its shape, as somebody would who wants it to be believed."""
    values = json.loads((folder / DESCRIPTION_NAME).read_text())
    tensors = safetensors.torch.load_file(folder / WEIGHTS_NAME)
    name = draw.choice(list(tensors))
    tensor = tensors[name]
    how = draw.choice(["shape", "type", "NaN", "noise", "left out", "added", "renamed", "emptied", "huge", "moved"])
    if how in ("shape", "type", "NaN", "noise", "emptied"):
        tensors[name] = {
            "shape": tensor.reshape(-1)[None].contiguous(),
            "type": tensor.to(draw.choice([torch.float64, torch.float16, torch.int8, torch.bool, torch.complex64])),
            "NaN": torch.full_like(tensor.float(), float("nan")),
            "noise": torch.randn(tensor.shape),
            "emptied": torch.empty(0),
        }[how]
    elif how == "left out":
        del tensors[name]
    elif how == "added":
        tensors[draw.choice(["extra", "backbone.model.x.weight", name + ".x"])] = torch.zeros(3)
    elif how == "renamed":
        tensors[name.replace("weight", "wait") + "."] = tensors.pop(name)
    sign(folder, values, tensors)
    if how in ("huge", "moved"):
        _change_header(folder / WEIGHTS_NAME, name, how, draw)
        _set_checksums(folder, values)
    return f"tensors, {how}"


CHANGES = (change_bytes, change_bytes, change_bytes, change_values, change_values, change_tensors)


def sign(folder: Path, values: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Writes weights whose header says what the description does, and a description with their checksums."""
    inner = values.get(HEADER_KEY) if isinstance(values, dict) else None
    in_header = copy.deepcopy(values)
    if isinstance(inner, dict):
        in_header[HEADER_KEY].pop("weights_sha256", None)
    metadata = {HEADER_KEY: json.dumps(in_header)}
    safetensors.torch.save_file(tensors, folder / WEIGHTS_NAME, metadata=metadata)
    _set_checksums(folder, values)


def _set_checksums(folder: Path, values: Any) -> None:
    if isinstance(values.get(HEADER_KEY), dict):
        values[HEADER_KEY]["weights_sha256"] = hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest()
    (folder / DESCRIPTION_NAME).write_text(json.dumps(values))


def _change_header(path: Path, name: str, how: str, draw: random.Random) -> None:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if how == "huge":
        header[name]["shape"] = draw.choice([[2**40], [2**31, 2**31], [10**18, 10**18], [0, 2**60], [-1], [2**64]])
        if draw.random() < 0.5:
            header[name]["data_offsets"] = [0, 2**50]
    else:
        header[name]["data_offsets"] = [
            value + draw.choice([-8, 4, 8, 2**40]) for value in header[name]["data_offsets"]
        ]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", draw.choice([len(text), len(text), 2**62])) + text + data[8 + size :])


def _locations(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every location in JSON values, as the list or object that holds it and its key there."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield values, key
        yield from _locations(value)


@contextmanager
def watched(events: list[str]) -> Iterator[None]:
    """Notes what runs code or leaves the machine."""
    active = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if active and event.startswith(FORBIDDEN):
            events.append(event)

    sys.addaudithook(note)  # which stays for the life of the process
    try:
        yield
    finally:
        active = False


def attack(good: Path, scratch: Path, seed: int, signal: torch.Tensor, expected: torch.Tensor) -> tuple[str, str]:
    """Changes a copy of an adapter and loads it; returns what was changed, and what happened.

    `expected` are the logits that the good one gives for `signal`.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(good, scratch)
    draw = random.Random(seed)
    change = draw.choice(CHANGES)(scratch, draw)
    process, begun = psutil.Process(), time.process_time()
    before = process.memory_info().rss
    try:
        model = Classifier.from_run(scratch).model
        with torch.no_grad():
            same = torch.allclose(model(signal, torch.ones(len(signal))), expected, atol=1e-3)  # the probe: 1e-4
        outcome = "loaded, the same" if same else "FAULT: loaded, and computes something else"
    except UsageError:
        outcome = "refused"
    except Exception as error:  # noqa: BLE001  what is left is what this looks for
        outcome = f"FAULT: {type(error).__name__}: {str(error)[:200]}"
    if (seconds := time.process_time() - begun) > LONGEST:
        outcome = f"FAULT: {seconds:.0f} s ({outcome})"
    if (memory := process.memory_info().rss - before) > MOST_MEMORY:
        outcome = f"FAULT: {memory / 2**20:.0f} MiB ({outcome})"
    return change, outcome


def attack_often(good: dict[Path, torch.Tensor], scratch: Path, seeds: range) -> tuple[Counter[str], list[str]]:
    """Attacks adapters in turn; `good` has a signal for each. Returns how often what happened, and the faults."""
    outcomes: Counter[str] = Counter()
    faults, events = [], []
    expected = {}
    for folder, signal in good.items():
        with torch.no_grad():
            expected[folder] = Classifier.from_run(folder).model(signal, torch.ones(len(signal)))
    folders = list(good)
    with watched(events):
        for seed in seeds:
            folder = folders[seed % len(folders)]
            change, outcome = attack(folder, scratch, seed, good[folder], expected[folder])
            outcomes[f"{change}: {outcome.partition(':')[0]}"] += 1
            if outcome.startswith("FAULT"):
                faults.append(f"seed {seed}, {folder.name}, {change}: {outcome}")
    faults += [f"code was run: {event}" for event in events]
    faults += ["code was run: there is a file pwned"] if Path("pwned").exists() else []
    return outcomes, faults
