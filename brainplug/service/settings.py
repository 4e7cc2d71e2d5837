"""What a service allows, and how it collects batches."""

import math
from dataclasses import dataclass, field

from brainplug.errors import ConfigError

MAX_CHANNELS = 16
MAX_ADAPTERS = 100  # of one request
MAX_SAMPLES = 2**25  # of all channels of a clip or window, as it is decoded: 128 MiB
MAX_SCORES = 500_000  # windows times classes, of one request
FORM_BYTES = 65_536  # of an upload beside its file: the other fields, and what separates them


@dataclass(frozen=True)
class Settings:
    """The limits of a service.

    Arguments
    ---------
    batch_size : int
        The most clips, or windows, that are computed together.
    wait_ms : float
        How long the first clip of a batch waits for more, in milliseconds.
    queue : int
        The most requests that are read, wait or are computed at a time; others are told to come again.
    max_upload_mb : float
        The largest file, in units of 10^6 bytes.
    max_seconds : float
        The longest recording, in seconds.
    longest_clip : float
        The longest clip or window, in seconds; a longer recording is cut into windows.
    time_limit : float
        The most seconds from a request to its answer.
    token : str, optional
        What a request has to have in its header ``Authorization: Bearer``.
    """

    batch_size: int = 16
    wait_ms: float = 5.0
    queue: int = 64
    max_upload_mb: float = 50.0
    max_seconds: float = 600.0
    longest_clip: float = 30.0
    time_limit: float = 60.0
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_upload_mb", "max_seconds", "longest_clip", "time_limit"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"--{name}={value:g} was asked for.", "It is no limit.", "Write a number above 0")
        if not 0 <= self.wait_ms <= 1000:
            problem = "It is no time that a request should wait."
            raise ConfigError(f"--wait_ms={self.wait_ms:g} was asked for.", problem, "Write 0 to 1000")
        token = self.token
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            problem = "It is empty, or has spaces or characters that no header can have."
            raise ConfigError("A token was asked for.", problem, "Write letters and digits, 16 of them or more")

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a request."""
        return round(self.max_upload_mb * 1e6) + FORM_BYTES
