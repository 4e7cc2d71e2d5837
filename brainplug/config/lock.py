"""One process works in a folder at a time: a lock file that says who does, over network file systems too."""

import contextlib
import json
import logging
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from speechbrain.utils.distributed import ddp_broadcast, if_main_process

from brainplug.errors import CheckpointError

LOCK_NAME = "run.lock"
HEARTBEAT = 10.0  # seconds between the renewals of a lock
STALE = 60.0  # seconds without one, after which a process of another machine counts as ended
UNWRITTEN = 5.0  # seconds that a lock may be empty, since it is made first and written then
POLL = 0.1  # seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The process that a lock belongs to.

    `machine` is where its number counts: a boot of a machine, and a container there. `started` tells it from a later
    process of the same number, in ticks of the kernel's clock; None where the system does not say.
    """

    host: str
    machine: str
    pid: int
    started: str | None
    since: str

    def is_this_process(self) -> bool:
        """Whether the lock belongs to whoever asks."""
        here = _this_process()
        return (self.machine, self.pid, self.started) == (here.machine, here.pid, here.started)

    def lives(self, silence: float) -> bool:
        """Whether the process still works, given the seconds since its last heartbeat.

        Of a process here that is known for sure: one that is stopped, or waits for a slow disk, lives.
        """
        if self.machine != _machine():
            return silence < STALE
        if self.started is not None:
            return _start_of(self.pid) == self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


@dataclass(frozen=True)
class Lock:
    """A lock file as it is read: its text, its holder where that is readable, seconds since the last heartbeat."""

    text: str
    holder: Holder | None
    silence: float

    def problem(self) -> str | None:
        """Who holds it, as a sentence; None where its process has ended."""
        if self.holder is None:
            return "A process that starts just now holds it." if self.silence < UNWRITTEN else None
        if not self.holder.lives(self.silence):
            return None
        who = f"Process {self.holder.pid} on {self.holder.host}"
        return f"{who} has worked there since {self.holder.since}, and gave a sign of life {self.silence:.0f} s ago."


@contextlib.contextmanager
def hold_folder(folder: str | Path) -> Iterator[None]:
    """Keeps an output folder for this process, or refuses at once with a `CheckpointError` that names its holder."""
    with hold(Path(folder, LOCK_NAME), f"The output folder {folder}", "--output_folder"):
        yield


@contextlib.contextmanager
def hold(path: Path, name: str, option: str) -> Iterator[None]:
    """Holds a lock file, which is removed at the end; what it is for is `name`, and `option` chooses another one.

    The first of several processes of a run takes it for all. A lock whose process has ended is taken over; a process
    that holds it already may hold it again.
    """
    taken = _take(path) if if_main_process() else None
    problem = ddp_broadcast(taken if isinstance(taken, str) else None)
    if problem is not None:
        raise CheckpointError(f"{name} was asked for.", problem, f"Wait until it is free, or write another {option}")
    if not isinstance(taken, int):
        yield
        return
    text, ended = path.read_text(), threading.Event()
    heart = threading.Thread(target=_beat, args=(taken, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        os.close(taken)
        lock = read_lock(path)
        if lock is not None and lock.text == text:
            path.unlink(missing_ok=True)


def is_held(folder: str | Path) -> bool:
    """Whether a process works in an output folder."""
    lock = read_lock(Path(folder, LOCK_NAME))
    return lock is not None and lock.problem() is not None


def read_lock(path: Path) -> Lock | None:
    """Reads a lock file; None where there is none.

    A file that is made now tells the time, since the clock of a file server may differ from this machine's.
    """
    try:
        with path.open(errors="replace") as file:  # opening it also asks a file server anew
            text, beat = file.read(), os.fstat(file.fileno()).st_mtime
        with tempfile.TemporaryFile(dir=path.parent) as now:
            silence = max(0.0, os.fstat(now.fileno()).st_mtime - beat)
    except FileNotFoundError:
        return None
    try:
        return Lock(text, Holder(**json.loads(text)), silence)
    except (ValueError, TypeError, RecursionError):
        return Lock(text, None, silence)


def _take(path: Path) -> int | str | None:
    """A descriptor of the new lock file; a sentence if it cannot be had; None if this process holds it already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
                os.write(descriptor, json.dumps(asdict(_this_process())).encode())
                os.fsync(descriptor)  # to a file server
                return descriptor
            lock = read_lock(path)
            if lock is None:
                continue
            if lock.holder is not None and lock.holder.is_this_process():
                return None
            problem = lock.problem()
            if problem is None:
                _remove(path, lock)
            elif lock.holder is None:
                time.sleep(POLL)
            else:
                return problem
    except OSError as error:
        return f"It cannot be written: {error}."


def _remove(path: Path, stale: Lock) -> None:
    """Removes a lock whose process has ended, unless another process has just put its own in its place."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if aside.read_text() != stale.text:
            os.rename(aside, path)
            return
        aside.unlink()
        who = f"process {stale.holder.pid} on {stale.holder.host}" if stale.holder else "a process"
        logger.warning("%s was left by %s, which has ended; it is taken over.", path, who)


def _beat(descriptor: int, ended: threading.Event) -> None:
    """Renews the time of the lock file, whatever its name is by now, so that no other one's is renewed."""
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):  # of a file server that is away for a while
            os.utime(descriptor)


def _this_process() -> Holder:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return Holder(platform.node(), _machine(), os.getpid(), _start_of(os.getpid()), since)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _start_of(pid: int) -> str | None:
    """When a process started; None if it has ended, or where the system does not say."""
    try:
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else others[18]
