"""Examines the machine: packages, processors, memory, backbones that load offline, room for files."""

import contextlib
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import huggingface_hub
import soundfile
import torch
from huggingface_hub.errors import CacheNotFound
from speechbrain.utils.distributed import infer_device

from brainplug.backbones import FAMILIES
from brainplug.backbones.loading import HUB_NAMES, bundled_names
from brainplug.config.versions import package_versions
from brainplug.doctor.finding import Finding, counted, size
from brainplug.doctor.rehearsal import loads_offline
from brainplug.errors import DataError
from brainplug.files import read_json
from brainplug.tasks.results import REPORTED_PACKAGES

EXTRAS = {"matplotlib": "plot", "espeakng_loader": "demo", "sklearn": "recipes"}  # module -> extra of brainplug
LITTLE_ROOM = 10**9  # bytes


def examine_machine() -> Iterator[Finding]:
    """Lists what is installed, the devices, and the backbones that load offline."""
    yield from _packages()
    yield from _devices()
    yield from _backbones()
    for module, extra in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding("ok", f"{module} is not installed; to install it: pip install 'brainplug[{extra}]'")


def _packages() -> Iterator[Finding]:
    versions = {"Python": platform.python_version()}
    for name in REPORTED_PACKAGES:
        try:
            versions |= package_versions([name])
        except metadata.PackageNotFoundError:
            yield Finding("error", f"The package {name} is not installed, and results.json names its version: "
                          f"pip install {name}")  # fmt: skip
    versions["libsndfile"] = soundfile.__libsndfile_version__
    yield Finding("ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _devices() -> Iterator[Finding]:
    memory = memory_bytes("cpu")
    cores, threads = counted(os.cpu_count() or 1, "CPU core"), counted(torch.get_num_threads(), "thread")
    yield Finding("ok", f"{cores}, {threads} of torch, {size(memory)} memory")
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        yield Finding("ok", f"GPU cuda:{index}: {name}, {size(memory_bytes(f'cuda:{index}'))}")
    device = infer_device()
    full, half = (_product_seconds(device, kind) for kind in (torch.float32, torch.bfloat16))
    advice = "--precision=bf16 may pay" if half < full else "keep --precision=fp32"
    yield Finding("ok", f"A run takes the device {device}; a matrix product in bf16 takes {half / full:.2g} times "
                  f"the time of one in fp32: {advice}")  # fmt: skip


def _product_seconds(device: str, kind: torch.dtype) -> float:
    """Times a product of matrices as large as those of a transformer's layer, in seconds."""
    factor, seconds = torch.ones(512, 768, dtype=kind, device=device), []
    for _ in range(3):  # the first one warms up
        start = time.perf_counter()
        (factor @ factor.T).sum().item()  # waits until a GPU has finished
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def memory_bytes(device: str) -> int:
    """The memory of a device (``cpu`` or ``cuda...``) in bytes; on the CPU no more than a container may take."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return machine if text == "max" else min(machine, int(text))


def _backbones() -> Iterator[Finding]:
    offline = [name for name, source in HUB_NAMES.items() if loads_offline(source)]
    online = [name for name in HUB_NAMES if name not in offline]
    yield Finding("ok", f"Backbones that load offline: {', '.join([*bundled_names(), *offline, *_other_backbones()])}")
    if online:
        yield Finding("ok", f"Backbones that would be downloaded: {', '.join(online)}")


def _other_backbones() -> list[str]:
    """Hub ids in the local cache that have no short name, but are of a supported family."""
    try:
        repositories = huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    names = sorted(repository.repo_id for repository in repositories if repository.repo_type == "model")
    supported = {model_type for family in FAMILIES for model_type in family.spec.model_types}
    return [
        name
        for name in names
        if name not in HUB_NAMES.values() and loads_offline(name) and _model_type(name) in supported
    ]


def _model_type(hub_id: str) -> str | None:
    path = huggingface_hub.try_to_load_from_cache(hub_id, "config.json")
    with contextlib.suppress(DataError):
        return read_json(path).get("model_type") if isinstance(path, str) else None
    return None


def room(path: str) -> tuple[Path, int]:
    """The part of a path that exists, and the free bytes there.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> room(folder / "not" / "yet")[0] == folder
    True
    """
    whole = Path(path).absolute()
    existing = next(part for part in [whole, *whole.parents] if os.path.exists(part))  # False where one may not look
    return existing, shutil.disk_usage(existing).free


def examine_folders(results: str, features: str | None) -> Iterator[Finding]:
    """Checks the folder of results and the feature cache (None: it is off); neither need exist.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> [finding.level for finding in examine_folders(folder / "results", None)]
    ['ok', 'ok']
    >>> (folder / "results").touch()
    >>> [finding.level for finding in examine_folders(folder / "results", None)]
    ['error', 'ok']
    """
    folder, free = room(results)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        text = f"The results folder {results}: {folder} cannot be written to; write --output_folder=FOLDER"
        yield Finding("error", text)
    elif free < LITTLE_ROOM:
        yield Finding("warning", f"The results folder {results}: {size(free)} free; make room for checkpoints")
    else:
        yield Finding("ok", f"The results folder {results}: {size(free)} free")
    if features is None:
        yield Finding("ok", "The feature cache is off: every epoch decodes again")
        return
    folder, _ = room(features)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        text = f"The feature cache {features}: {folder} cannot be written to; write --cache_folder=FOLDER"
        yield Finding("warning", text)
    else:
        sizes = [path.stat().st_size for path in Path(features).rglob("*.npy")]
        yield Finding("ok", f"The feature cache {features}: {len(sizes):,} files, {size(sum(sizes))}")
