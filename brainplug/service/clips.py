"""Classifies the clips that requests bring: reads them in threads, and computes them in batches."""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from fastapi import UploadFile

from brainplug.data.windows import Windows
from brainplug.inference import AdapterHub
from brainplug.inference.adapter_hub import Predictions
from brainplug.service.batching import Batcher
from brainplug.service.hubs import Hubs, Item, classify, longest_clip, seconds_read
from brainplug.service.metrics import Metrics
from brainplug.service.refusal import RefusedError
from brainplug.service.results import Collected, make_answer
from brainplug.service.schema import Answer, ClassifyForm
from brainplug.service.settings import MAX_SCORES, Settings
from brainplug.service.uploads import Piece, Upload

READERS = 2  # threads that decode
OF_WINDOWS = ("hop", "threshold", "median", "shortest")
Value = TypeVar("Value")


class ClipClassifier:
    """Classifies uploaded clips with the adapters of hubs."""

    def __init__(self, hubs: Hubs, settings: Settings, metrics: Metrics):
        self.hubs, self.settings, self.metrics = hubs, settings, metrics
        self._readers = ThreadPoolExecutor(READERS, "brainplug-read")
        self._computer = ThreadPoolExecutor(1, "brainplug-compute")
        batches = (self._computer, settings.batch_size, settings.wait_ms, metrics.batches.observe)
        self._batchers: dict[AdapterHub, Batcher[Item, Predictions]] = {
            hub: Batcher(partial(classify, hub), *batches) for hub in hubs.all
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Computes batches meanwhile; at the end the threads are waited for."""
        tasks = [asyncio.create_task(batcher.run()) for batcher in self._batchers.values()]
        with tempfile.TemporaryDirectory(prefix="brainplug-") as self._folder, self._readers, self._computer:
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def classify(self, form: ClassifyForm) -> Answer:
        """Classifies a clip, or its windows, with the adapters that a form names."""
        groups = self.hubs.group(form.adapters)
        windows = self._windows(form, groups)
        async with self._stored(form.file) as upload:
            await self._read(partial(self._check, upload, windows, groups))
            collected = [await self._collect(hub, names, upload, windows) for hub, names in groups.items()]
        return await self._read(partial(make_answer, collected, form))

    def longest(self, hub: AdapterHub) -> float:
        """The longest clip or window that a hub is given, in seconds."""
        return min(self.settings.longest_clip, longest_clip(hub))

    def _windows(self, form: ClassifyForm, hubs: Mapping[AdapterHub, object]) -> Windows | None:
        """How a form asks to cut a recording."""
        if form.window is None:
            if lone := [name for name in OF_WINDOWS if name in form.model_fields_set]:
                asked = f"{', '.join(lone)} was asked for."
                raise RefusedError(
                    422, asked, "It is about windows, and there is no window.", "Send window=SECONDS too"
                )
            return None
        asked = f"Windows of {form.window:g} s were asked for."
        longest = min(min(self.longest(hub), seconds_read(hub) or self.longest(hub)) for hub in hubs)
        if form.window > longest:
            problem = f"The models of these adapters read {longest:g} s at once."
            raise RefusedError(422, asked, problem, f"Send window={longest:g} or less")
        if form.hop is not None and form.hop > form.window:
            problem = f"A hop of {form.hop:g} s leaves sound between them."
            raise RefusedError(422, asked, problem, f"Send hop={form.window:g} or less")
        return Windows(form.window, form.window / 2 if form.hop is None else form.hop)

    def _check(self, upload: Upload, windows: Windows | None, groups: Mapping[AdapterHub, Sequence[str]]) -> None:
        """Refuses a clip if its beginning shows that it cannot be classified."""
        seconds = upload.check(self.settings, windows.length if windows else self.settings.longest_clip)
        if windows and seconds:
            if seconds < windows.length:
                problem = f"It lasts {seconds:g} s, and a window {windows.length:g} s."
                raise upload.refuse(422, problem, "Send a shorter window")
            count = 1 + (seconds - windows.length) / windows.hop
            for hub, names in groups.items():
                self._check_scores(upload, hub, names, count)

    def _check_scores(self, upload: Upload, hub: AdapterHub, names: Sequence[str], windows: float) -> None:
        scores = windows * sum(len(hub.labels(name)) for name in names)
        if scores > MAX_SCORES:
            problem = f"Its windows and the classes make {scores:,.0f} scores, and at most {MAX_SCORES:,} are computed."
            raise upload.refuse(422, problem, "Send a larger hop, fewer adapters, or parts of it")

    async def _collect(
        self, hub: AdapterHub, names: Sequence[str], upload: Upload, windows: Windows | None
    ) -> Collected:
        """Computes the pieces of a clip, no more at a time than are in a batch."""
        collected = Collected(hub, names)
        pieces = self._pieces(hub, upload, windows)
        while part := await self._read(lambda: list(itertools.islice(pieces, self.settings.batch_size))):
            self._check_scores(upload, hub, names, len(collected) + len(part))
            items = [(piece.waveform, names) for piece in part]
            predictions = await asyncio.gather(*map(self._batchers[hub].submit, items))
            collected.add(part, predictions)
            for name in names:
                self.metrics.results.labels(name).inc(len(part))
        return collected

    def _pieces(self, hub: AdapterHub, upload: Upload, windows: Windows | None) -> Iterator[Piece]:
        """Yields the windows of a clip, or the clip alone; nothing is decoded before the first is asked for."""
        rate, channel = hub.backbone.sample_rate, hub.channel
        if windows is None:
            yield upload.read(rate, channel, self.longest(hub))
        else:
            yield from upload.windows(windows, rate, channel, self.settings.max_seconds)

    @contextlib.asynccontextmanager
    async def _stored(self, file: UploadFile) -> AsyncIterator[Upload]:
        """Copies an upload to a file with a name of the service's own, for the decoders."""
        path = Path(self._folder, uuid.uuid4().hex)
        try:
            with open(path, "xb") as stored:  # not in the thread, which would make it after its removal
                await self._read(partial(shutil.copyfileobj, file.file, stored, 2**20))
            yield Upload(str(path), os.path.basename(file.filename or ""))
        finally:
            path.unlink(missing_ok=True)

    async def _read(self, function: Callable[[], Value]) -> Value:
        """Calls what reads or decodes in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function)
