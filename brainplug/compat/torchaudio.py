"""Makes ``import torchaudio`` work beside any torch.

torchaudio's wheel carries a compiled extension that wants the very CUDA libraries it was built against: beside a CPU
build of torch it does not load (``libc10_cuda.so`` is missing), and beside a torch of another CUDA version it refuses
to. All that brainplug, SpeechBrain and transformers use of torchaudio (Kaldi filter banks, resampling) is written in
Python. torchaudio itself foresees a package without the extension; this module takes that road when, and only when,
the extension fails.
"""

import importlib
import sys
from types import ModuleType


def import_torchaudio() -> ModuleType:
    """Imports torchaudio, without its compiled extension where that cannot be loaded.

    Returns
    -------
    ModuleType
        The torchaudio module.

    Raises
    ------
    ModuleNotFoundError
        torchaudio is not installed.

    Example
    -------
    >>> torchaudio = import_torchaudio()
    >>> callable(torchaudio.functional.resample)
    True
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        # A failed import leaves behind the submodules that did load. The next attempt finds this one and is told
        # what torchaudio expects where no compiled library lies in the package.
        loader = sys.modules.get("torchaudio._extension.utils")
        if loader is None:
            raise
        loader._load_lib = lambda name: False
        return importlib.import_module("torchaudio")
