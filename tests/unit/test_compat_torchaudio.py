"""torchaudio loads with and without its compiled extension, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# A package that starts as torchaudio does: first the compiled library, then the modules written in Python.
TORCHAUDIO = {
    "__init__.py": "from . import _extension, functional",
    "functional.py": "def resample(): return 'resampled'",
    "_extension/__init__.py": """
from .utils import _check_cuda_version, _load_lib

AVAILABLE = _load_lib("_torchaudio")
if AVAILABLE:
    _check_cuda_version()
""",
    "_extension/utils.py": """
ATTEMPTS = []

def _load_lib(name):
    ATTEMPTS.append(name)
    return True

def _check_cuda_version():
    pass
""",
}
MISSING_LIBRARY = {
    "_extension/utils.py": """
def _load_lib(name):
    raise OSError("libc10_cuda.so: cannot open shared object file: No such file or directory")

def _check_cuda_version():
    pass
"""
}
OTHER_CUDA = {
    "_extension/utils.py": """
def _load_lib(name):
    return True

def _check_cuda_version():
    raise RuntimeError("PyTorch and TorchAudio were compiled with different CUDA versions.")
"""
}


def run_python(code: str, *paths: Path) -> subprocess.CompletedProcess:
    """Runs code in a new process that looks for modules in the given folders first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*paths, REPOSITORY]))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def write_torchaudio(folder: Path, changes: dict[str, str]) -> Path:
    """Writes the stand-in for torchaudio with some of its files changed; returns the folder to import it from."""
    for name, text in (TORCHAUDIO | changes).items():
        path = folder / "torchaudio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def assert_silent_success(process: subprocess.CompletedProcess) -> None:
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_installed_torchaudio_works_and_is_silent():
    code = """
import brainplug.compat.torchaudio
import torch
import torchaudio.compliance.kaldi
import torchaudio.functional

clip = torch.randn(1, 16000)
assert torchaudio.functional.resample(clip, 16000, 8000).shape == (1, 8000)
assert torchaudio.compliance.kaldi.fbank(clip, num_mel_bins=128).shape == (98, 128)
"""
    assert_silent_success(run_python(code))


def test_loader_is_left_alone_where_the_extension_loads(tmp_path):
    code = """
import brainplug.compat.torchaudio
import torchaudio
from torchaudio._extension import AVAILABLE, utils

assert torchaudio.functional.resample() == "resampled"
assert AVAILABLE
assert utils.ATTEMPTS == ["_torchaudio"]
assert utils._load_lib.__code__.co_filename == utils.__file__
"""
    assert_silent_success(run_python(code, write_torchaudio(tmp_path, {})))


@pytest.mark.parametrize("changes", [MISSING_LIBRARY, OTHER_CUDA], ids=["missing library", "other CUDA"])
def test_python_part_loads_where_the_extension_does_not(tmp_path, changes):
    code = """
import brainplug.compat.torchaudio
import torchaudio
from torchaudio._extension import AVAILABLE

assert torchaudio.functional.resample() == "resampled"
assert not AVAILABLE
"""
    folder = write_torchaudio(tmp_path, changes)
    assert run_python("import torchaudio", folder).returncode == 1  # so that it is brainplug which mends it
    assert_silent_success(run_python(code, folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"__init__.py": "raise OSError('the disk is gone')"}, "OSError: the disk is gone"),
        ({"functional.py": "raise RuntimeError('broken file')"}, "RuntimeError: broken file"),
    ],
    ids=["before the extension", "after the extension"],
)
def test_failure_that_is_not_of_the_extension_is_not_hidden(tmp_path, changes, message):
    process = run_python("import brainplug.compat.torchaudio", write_torchaudio(tmp_path, changes))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == message


def test_missing_torchaudio_is_reported_as_missing():
    process = run_python("import sys; sys.modules['torchaudio'] = None; import brainplug.compat.torchaudio")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("ModuleNotFoundError:")
