"""Makes ``import torchaudio`` work beside any torch: importing this module imports torchaudio.

The packages of brainplug whose modules import torchaudio, or SpeechBrain and transformers, which import it, import this
module first. A script that imports those itself does the same.

torchaudio's wheel carries a compiled extension that needs the very CUDA libraries it was built against: beside a CPU
build of torch it does not load (``libc10_cuda.so`` is missing), and beside a torch of another CUDA version it refuses
to. All that brainplug, SpeechBrain and transformers use of torchaudio (Kaldi filter banks, resampling) is written in
Python. torchaudio supports a package without the extension; this module makes it take that path if, and only if, the
extension fails.
"""

import importlib
import sys
from types import ModuleType


def import_torchaudio() -> ModuleType:
    """Imports torchaudio, without its compiled extension if that cannot be loaded.

    Example
    -------
    >>> callable(import_torchaudio().functional.resample)
    True
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        # A failed import leaves behind the submodules that did load. The next attempt finds this one, changed to say
        # that the package has no compiled library.
        loader = sys.modules.get("torchaudio._extension.utils")
        if loader is None:
            raise
        loader._load_lib = lambda name: False  # type: ignore[attr-defined]  # it has no public switch
        return importlib.import_module("torchaudio")


import_torchaudio()
