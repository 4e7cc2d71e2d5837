"""The service: it answers as the models do, refuses what it cannot take, and opens no path of a request."""

import asyncio
import io
import re
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import schemathesis
import soundfile
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from brainplug.cli import main
from brainplug.cli.serve import read_token
from brainplug.data.windows import Windows
from brainplug.errors import CheckpointError, ConfigError
from brainplug.inference import Classifier
from brainplug.inference.events import EventSettings, find_events
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.methods.lora import LoRA
from brainplug.service.app import make_app
from brainplug.service.batching import Batcher
from brainplug.service.hubs import load_hubs, name_folders
from brainplug.service.settings import Settings
from tests.made_hubs import Made, loaded

RATE = 16000
ADAPTERS = {"birds": LoRA(rank=2), "rooms": BottleneckAdapter(reduction_rate=8)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tmp_path_factory.mktemp("service"), loaded("nano-ast"))
    for seed, (name, method) in enumerate(ADAPTERS.items()):
        made.add(name, method, 3 + seed, seed)
    return made


def client_of(made: Made, **limits: object) -> TestClient:
    return TestClient(make_app([made.hub()], Settings(**limits)), raise_server_exceptions=False)


@cache
def classifier_of(folder: Path) -> Classifier:
    return Classifier.from_run(folder)


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[TestClient]:
    with client_of(made, max_seconds=20.0, max_upload_mb=2.0, batch_size=4) as client:
        yield client


def noise(seconds: float, channels: int = 1, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * RATE), channels)).astype("float32")


def encoded(samples: np.ndarray, form: str = "WAV", rate: int = RATE, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def send(client: TestClient, content: bytes, name: str = "a.wav", **fields: object):
    data = {"adapters": ["birds"], **fields}
    return client.post("/classify", files={"file": (name, content)}, data=data)


# Answers


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_a_clip_has_the_labels_of_each_adapter(form, client, made, tmp_path):
    content = encoded(noise(0.45), form)
    (tmp_path / "clip").write_bytes(content)
    answer = send(client, content, adapters=["rooms", "birds"], top_k=2)
    assert answer.status_code == 200, answer.text
    assert [result["adapter"] for result in answer.json()["results"]] == ["rooms", "birds"]
    for result in answer.json()["results"]:
        expected = classifier_of(made.folder / result["adapter"]).classify_file(str(tmp_path / "clip"))
        assert [(label["label"], pytest.approx(label["probability"], abs=1e-5)) for label in result["labels"]] == [
            (label, probability) for label, probability in expected.top(2)
        ]
    assert answer.json()["seconds"] == pytest.approx(0.45, abs=0.01)


def test_windows_and_events_are_those_of_predict(client, made, tmp_path):
    content = encoded(noise(3.0) * np.linspace(0.1, 3, 3 * RATE)[:, None])
    (tmp_path / "long.wav").write_bytes(content)
    answer = send(client, content, window=0.4, hop=0.2, threshold=0.3, median=3).json()["results"][0]
    windows = [str(tmp_path / "long.wav")], 16, None, Windows(0.4, 0.2)
    expected = list(classifier_of(made.folder / "birds").classify_files(*windows))
    assert [(window["start"], window["label"]) for window in answer["windows"]] == [
        (prediction.start, prediction.label) for prediction in expected
    ]
    events = find_events(expected, EventSettings(0.3, 3, 0.0))
    assert [(event["start"], event["stop"], event["label"]) for event in answer["events"]] == [
        (event.start, event.stop, event.label) for event in events
    ]
    assert events


def test_what_is_odd_is_remarked(client):
    assert "silent" in send(client, encoded(np.zeros(4000))).json()["remarks"][0]
    assert "reads the first 0.48 s; window=0.48" in send(client, encoded(noise(2.0))).json()["remarks"][0]


def test_the_service_says_what_it_has(client):
    assert client.get("/health").json()["status"] == "ok"
    adapters = {adapter["name"]: adapter for adapter in client.get("/adapters").json()}
    assert adapters["rooms"]["labels"] == ["rooms-0", "rooms-1", "rooms-2", "rooms-3"]
    assert adapters["birds"]["backbone"] == "nano-ast"
    text = client.get("/metrics").text
    assert re.search(r'brainplug_requests_total{route="/adapters",status="200"} \d', text)


# Batches


def test_requests_that_come_together_are_one_batch():
    sizes: list[int] = []

    def compute(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [item**2 for item in items]

    async def submit_all() -> list[int]:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(compute, thread, batch_size=8, wait_ms=50)
            running = asyncio.create_task(batcher.run())
            results = await asyncio.gather(*map(batcher.submit, range(20)))
            running.cancel()
            return results

    assert asyncio.run(submit_all()) == [number**2 for number in range(20)]
    assert sizes == [8, 8, 4]


def test_one_that_fails_fails_no_other():
    def compute(items: list[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return items

    async def submit_all() -> list[object]:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(compute, thread, batch_size=8, wait_ms=50)
            running = asyncio.create_task(batcher.run())
            results = await asyncio.gather(*map(batcher.submit, range(6)), return_exceptions=True)
            running.cancel()
            return results

    results = asyncio.run(submit_all())
    assert [result for result in results if isinstance(result, int)] == [0, 1, 2, 4, 5]
    assert str(results[3]) == "three"


# What is refused


REFUSED = {
    "unknown adapter": ({"adapters": ["brids"]}, 404, "Name one of: birds"),
    "an adapter twice": ({"adapters": ["birds", "birds"]}, 422, "named 2 times"),
    "no adapter": ({"adapters": []}, 422, "adapters"),
    "unknown field": ({"colour": 1}, 422, "colour"),
    "hop 0": ({"window": 1, "hop": 0}, 422, "hop: "),
    "a negative window": ({"window": -1}, 422, "window: "),
    "a hop without a window": ({"hop": 1}, 422, "there is no window"),
    "a hop beyond the window": ({"window": 0.3, "hop": 0.4}, 422, "leaves sound between"),
    "a window beyond the clip": ({"window": 0.45}, 422, "lasts 0.3 s, and a window 0.45"),
    "a window beyond the model": ({"window": 5}, 422, "read 0.48 s at once"),
    "an even median": ({"window": 0.2, "median": 2}, 422, "median: "),
    "text": ({"content": b"this is no audio" * 50}, 415, "cannot be read"),
    "nothing": ({"content": b""}, 415, "cannot be read"),
    "a picture": ({"content": b"\x89PNG\r\n\x1a\n" + bytes(500)}, 415, "cannot be read"),
    "0 s": ({"content": encoded(noise(0.0))}, 422, "cannot be read"),
    "10 h": ({"content": encoded(np.zeros(3_600_000), "FLAC", rate=100)}, 422, "lasts 36,000"),
    "too long": ({"content": encoded(noise(21.0))}, 422, "lasts 21"),
    "64 channels": ({"content": encoded(noise(0.1, 64))}, 422, "64 channels"),
    "NaN": ({"content": encoded(np.full(4000, np.nan), subtype="FLOAT")}, 422, "NaN"),
    "cut": ({"content": encoded(noise(1.0), "FLAC")[:9000]}, 422, "cannot be read"),
    "too large": ({"content": bytes(3_000_000)}, 413, "more than 2 MB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_classified_is_refused(case, client):
    fields, status, words = REFUSED[case]
    content = fields.get("content", encoded(noise(0.3)))
    answer = send(client, content, **{name: value for name, value in fields.items() if name != "content"})
    assert answer.status_code == status, answer.text
    assert re.search(words, answer.json()["detail"]), answer.text
    assert "/tmp" not in answer.text


def test_a_body_without_a_length_is_cut_at_the_limit(client):
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(100_000)

    answer = client.post("/classify", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (answer.status_code, "more than 2 MB" in answer.text) == (413, True)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "a\\..\\b", "%2e%2e%2fpasswd", "a" * 5000])
def test_no_path_of_a_request_is_opened(name, client):
    opened: list[str] = []
    watching = True

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(note)
    answer = send(client, encoded(noise(0.3)), name)
    watching = False
    assert answer.status_code in (200, 400)
    assert [path for path in opened if "passwd" in path or name in path] == []
    assert client.get(f"/{name}").status_code in (404, 405)


def test_nothing_remains(made, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with client_of(made) as client:
        send(client, encoded(noise(0.3)))
        send(client, b"no audio")
        [folder] = tmp_path.iterdir()
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_more_than_fit_are_told_to_come_again(made, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def wait(*arguments: object) -> None:
        begun.set()
        go_on.wait(20)

    monkeypatch.setattr("brainplug.service.uploads.Upload.check", wait)
    with client_of(made, queue=1) as client, ThreadPoolExecutor(1) as thread:
        first = thread.submit(send, client, encoded(noise(0.3)))
        assert begun.wait(20)
        second = send(client, encoded(noise(0.3)))
        go_on.set()
        assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
        assert first.result().status_code == 200
        assert send(client, encoded(noise(0.3))).status_code == 200


def test_a_request_that_takes_too_long_ends(made, monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr("brainplug.service.uploads.Upload.check", lambda *arguments: stop.wait(20))
    with client_of(made, time_limit=0.2) as client:
        answer = send(client, encoded(noise(0.3)))
        stop.set()
    assert (answer.status_code, "not done after 0.2 s" in answer.text) == (504, True)


def test_a_service_that_stops_takes_no_more(made):
    with client_of(made) as client:
        client.app.state.stopping = True
        for answer in (send(client, encoded(noise(0.3))), client.get("/health")):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")


# The token


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401), ("Bearer wrong", 401), ("Basic secret-1", 401), ("Bearer", 401), ("Bearer secret-1", 200),
        ("bearer secret-1", 200),
    ],
)  # fmt: skip
def test_a_token_is_asked_for(header, status, made):
    with client_of(made, token="secret-1") as client:
        headers = {} if header is None else {"Authorization": header}
        answer = client.get("/adapters", headers=headers)
        assert answer.status_code == status
        assert "secret-1" not in answer.text
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert client.get("/").status_code == client.get("/health").status_code == 200
        assert client.get("/health").json()["needs_token"]
    assert "secret-1" not in repr(Settings(token="secret-1"))


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINPLUG_TOKEN", "of the environment")
    assert read_token(None) == "of the environment"
    (tmp_path / "token").write_text("of the file\n")
    assert read_token(str(tmp_path / "token")) == "of the file"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no header can have"):
        Settings(token="é")


# The start


def test_names_are_those_of_folders():
    assert name_folders(["runs/birds", "street=runs/7"]) == {"birds": "runs/birds", "street": "runs/7"}
    with pytest.raises(ConfigError, match="The name birds is that of runs/birds too"):
        name_folders(["runs/birds", "other/birds"])
    with pytest.raises(ConfigError, match="no name, or no folder"):
        name_folders(["=runs/birds"])


def test_hubs_are_as_few_as_can_hold_all(made, tmp_path):
    other = Made(tmp_path, loaded("nano-hubert", None))
    other.add("speech", LoRA(rank=2), 2)
    folders = {
        "birds": str(made.folder / "birds"),
        "speech": str(tmp_path / "speech"),
        "rooms": str(made.folder / "rooms"),
    }
    hubs = load_hubs(folders)
    assert [hub.names for hub in hubs] == [["birds", "rooms"], ["speech"]]
    with TestClient(make_app(hubs, Settings())) as client:
        answer = send(client, encoded(noise(0.4)), adapters=["speech", "rooms"]).json()
    assert [result["adapter"] for result in answer["results"]] == ["speech", "rooms"]
    with pytest.raises(CheckpointError, match="There is no such folder"):
        load_hubs({"a": str(tmp_path / "none")})


def test_a_port_in_use_is_told(made):
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as taken,
        pytest.raises(ConfigError, match="cannot be listened at"),
    ):
        main(["serve", str(made.folder / "birds"), f"--port={taken.getsockname()[1]}"])
    with pytest.raises(ConfigError, match="--queue=0 was asked for"):
        main(["serve", str(made.folder / "birds"), "--queue=0"])


# What a generator of requests finds


@pytest.mark.parametrize("mode", GenerationMode)
def test_requests_of_all_kinds_get_the_answers_that_are_described(mode, made):
    app = make_app([made.hub()], Settings(max_upload_mb=1.0))
    operations = [result.ok() for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()]
    assert len(operations) == 4
    clip = encoded(noise(0.3))
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # there is nothing to send

        @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode), is_real=st.booleans())
        def call(case: schemathesis.Case, is_real: bool) -> None:
            if is_real and isinstance(case.body, dict):
                case.body |= {"file": clip, "adapters": ["birds"]}
            # A file of any bytes fits its description, and is refused all the same.
            case.call_and_validate(excluded_checks=[positive_data_acceptance, negative_data_rejection])

        call()
