"""Lets requests in that the service can fulfil, and ends those that take too long."""

import asyncio
import secrets
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from brainplug.service.metrics import Metrics
from brainplug.service.pages import FILES
from brainplug.service.refusal import RefusedError
from brainplug.service.settings import Settings

CLASSIFY = "/classify"
NEEDS_NO_TOKEN = frozenset(("/health", "/openapi.json", *FILES))
ROUTES = NEEDS_NO_TOKEN | {CLASSIFY, "/adapters", "/metrics"}


class Gate:
    """Checks the token of a request, and of a clip also its size and the number of those that are under way."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics):
        self.app, self.settings, self.metrics = app, settings, metrics
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, and counts it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, begun = time.perf_counter(), 500, False
        route = scope["path"] if scope["path"] in ROUTES else "other"

        async def send_and_see(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
            await send(message)

        try:
            self._check_token(scope)
            await (self._clip if route == CLASSIFY else self.app)(scope, receive, send_and_see)
        except RefusedError as refusal:
            if begun:  # the client reads its answer too slowly: the server closes the connection
                raise
            await refusal.answer()(scope, receive, send_and_see)
        finally:
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)

    async def _clip(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self.settings
        if scope["app"].state.stopping:
            raise refuse_stopping()
        self._check_bytes(int(header(scope, b"content-length") or 0))
        if self.running >= settings.queue:
            problem = f"{self.running} others are under way, and more do not fit."
            raise RefusedError(429, "A clip was sent.", problem, "Send it again after a second")
        self._count(1)
        try:
            async with asyncio.timeout(settings.time_limit):
                await self.app(scope, self._limited(receive), send)
        except TimeoutError as error:
            problem = f"It was not done after {settings.time_limit:g} s."
            raise RefusedError(504, "A clip was sent.", problem, "Send a shorter one, or a larger hop") from error
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.running += change
        self.metrics.running.set(self.running)

    def _limited(self, receive: Receive) -> Receive:
        """Refuses a body once it is too large, whatever its header announces."""
        count = 0

        async def receive_and_count() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            try:
                self._check_bytes(count)
            except RefusedError as refusal:  # FastAPI lets no other exception out of reading a form
                raise HTTPException(refusal.status, str(refusal)) from refusal
            return message

        return receive_and_count

    def _check_bytes(self, count: int) -> None:
        if count > self.settings.max_body_bytes:
            limit = self.settings.max_upload_mb
            raise RefusedError(
                413, "A clip was sent.", f"It has more than {limit:g} MB.", "Send a smaller file, such as FLAC"
            )

    def _check_token(self, scope: Scope) -> None:
        token = self.settings.token
        if token is None or scope["path"] in NEEDS_NO_TOKEN:
            return
        scheme, _, given = header(scope, b"authorization").partition(b" ")
        is_bearer = scheme.lower() == b"bearer"
        if not (is_bearer and secrets.compare_digest(given.strip(), token.encode())):
            problem = "It has another token than the service." if is_bearer else "It has no token."
            raise RefusedError(
                401, f"{scope['path']} was asked for.", problem, "Send the header Authorization: Bearer TOKEN"
            )


def refuse_stopping() -> RefusedError:
    """The refusal of a service that stops."""
    return RefusedError(
        503, "The service was asked.", "It stops, after the clips that are under way.", "Come again later"
    )


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of a name; empty without one."""
    return next((value for key, value in scope["headers"] if key == name), b"")
