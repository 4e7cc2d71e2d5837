"""brainplug serve as a process: it answers over a socket, and finishes what runs when it is told to stop."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from brainplug.methods.lora import LoRA
from tests.made_hubs import Made, loaded
from tests.processes import until
from tests.unit.test_service import encoded, noise

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Made(tmp_path_factory.mktemp("serve"), loaded("nano-ast"))
    return made.add("birds", LoRA(rank=2), 3)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process of a service, and its address."""
    command = [sys.executable, "-m", "brainplug", "serve", str(folder), "--port=0"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield process, re.search(r"Serving birds at (http://127\.0\.0\.1:\d+)", line)[1]
        finally:
            process.kill()


def classify(address: str, seconds: float, **fields: object) -> httpx.Response:
    files = {"file": ("a.wav", encoded(noise(seconds)))}
    return httpx.post(f"{address}/classify", files=files, data={"adapters": "birds", **fields}, timeout=100)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished(number, folder):
    with serving(folder) as (process, address), ThreadPoolExecutor(1) as thread:
        assert classify(address, 0.4).json()["results"][0]["adapter"] == "birds"
        slow = thread.submit(classify, address, 30.0, window=0.3, hop=0.03)
        until(lambda: "brainplug_running 1.0" in httpx.get(f"{address}/metrics").text)
        process.send_signal(number)
        until(lambda: is_closed(address))
        assert slow.result().status_code == 200
        assert len(slow.result().json()["results"][0]["windows"]) == 991
        assert process.wait(30) == 0


def is_closed(address: str) -> bool:
    """Whether the service takes no more clips."""
    try:
        return classify(address, 0.4).status_code == 503
    except httpx.TransportError:
        return True
