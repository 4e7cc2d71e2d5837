"""Collects what arrives together into batches, which are computed one after the other in a thread."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Computes items that arrive together in one batch.

    A batch begins with the first item that waits. It is computed when it is full, or after `wait_ms`; what arrives
    meanwhile is in the next one. If a batch fails, its items are computed alone, so that none fails for another.

    Arguments
    ---------
    compute : Callable
        Returns the results of a batch, in its order.
    thread : Executor
        Where it runs.
    batch_size, wait_ms : int, float
        The most items of a batch, and how many milliseconds the first one waits for others.
    observe : Callable, optional
        Called with the size of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        thread: Executor,
        batch_size: int,
        wait_ms: float,
        observe: Callable[[int], None] = lambda size: None,
    ):
        self.compute, self.thread, self.observe = compute, thread, observe
        self.batch_size, self.wait_seconds = batch_size, wait_ms / 1000
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue()

    async def submit(self, item: Item) -> Result:
        """The result of an item; an item is not computed if nobody waits for it any more."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, future))
        return await future

    async def run(self) -> None:
        """Computes what is submitted, until it is cancelled."""
        while True:
            batch = [pair for pair in await self._collect() if not pair[1].done()]
            if batch:
                self.observe(len(batch))
                await self._compute(batch)

    async def _collect(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch = [await self._queue.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.wait_seconds):
                while len(batch) < self.batch_size:
                    batch.append(await self._queue.get())
        return batch

    async def _compute(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self.thread, self.compute, [item for item, _ in batch])
        [results] = await asyncio.gather(running, return_exceptions=True)
        if isinstance(results, BaseException) and len(batch) > 1:
            for pair in batch:
                await self._compute([pair])
            return
        for number, (_, future) in enumerate(batch):
            if future.done():  # nobody waits for it any more
                continue
            if isinstance(results, BaseException):
                future.set_exception(results)
            else:
                future.set_result(results[number])
