"""Echo: a speech transformer with learned rotations, after the description of https://github.com/sine2pi/Echo.

docs/echo.md says what it computes. Importing this package registers it with transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq

from brainplug.backbones.echo.config import EchoConfig
from brainplug.backbones.echo.model import Echo

AutoConfig.register(EchoConfig.model_type, EchoConfig)
AutoModel.register(EchoConfig, Echo)
AutoModelForSpeechSeq2Seq.register(EchoConfig, Echo)

__all__ = ["Echo", "EchoConfig"]
