"""The service's routes."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

import brainplug
from brainplug.errors import UsageError
from brainplug.inference import AdapterHub
from brainplug.service.clips import ClipClassifier
from brainplug.service.gate import CLASSIFY, Gate, refuse_stopping
from brainplug.service.hubs import Hubs
from brainplug.service.metrics import Metrics
from brainplug.service.pages import add_pages
from brainplug.service.refusal import RefusedError
from brainplug.service.schema import Answer, ClassifyForm, Health, Problem, ServedAdapter
from brainplug.service.settings import MAX_ADAPTERS, Settings

REASONS = {
    400: "The form cannot be read",
    401: "The token is missing, or another one",
    404: "An adapter is not served",
    413: "The file is too large",
    415: "The file is no audio that can be read",
    422: "A field, the clip, or both together cannot be used",
    429: "Too many clips are under way",
    503: "The service stops",
    504: "The time limit was reached",
}


def make_app(hubs: Iterable[AdapterHub], settings: Settings) -> FastAPI:
    """The service as an ASGI application, with the adapters of hubs."""
    metrics = Metrics()
    clips = ClipClassifier(Hubs(hubs), settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with clips.running():
            yield

    app = FastAPI(
        title="brainplug",
        version=brainplug.__version__,
        description="Classifies clips with adapters.",
        lifespan=lifespan,
        docs_url=None,  # those of FastAPI load their scripts from the network
        redoc_url=None,
        form_limits={
            "max_files": 1,
            "max_fields": MAX_ADAPTERS + len(ClassifyForm.model_fields),
            "max_part_size": 4096,
        },
    )
    app.state.stopping = False
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    add_pages(app)
    _add_routes(app, clips)
    for kind, handler in ((RefusedError, _refused), (UsageError, _unusable), (RequestValidationError, _invalid)):
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(Exception, _failed)
    return app


def _add_routes(app: FastAPI, clips: ClipClassifier) -> None:
    settings, hubs = clips.settings, clips.hubs
    protected: dict[str, Any] = {"responses": _problems(401)} if settings.token else {}
    if settings.token:
        protected["dependencies"] = [Depends(HTTPBearer(auto_error=False))]  # described here, checked by the gate

    @app.get("/health", responses=_problems(503))
    async def health(request: Request) -> Health:
        """Says whether the service takes clips, and its limits."""
        if request.app.state.stopping:
            raise refuse_stopping()
        limits = {name: getattr(settings, name) for name in ("max_upload_mb", "max_seconds", "queue")}
        return Health(status="ok", needs_token=settings.token is not None, **limits)

    @app.get("/adapters", **protected)
    async def adapters() -> list[ServedAdapter]:
        """Lists the adapters, with their classes."""
        return [
            ServedAdapter(
                name=name, labels=hub.labels(name), backbone=Path(hub.name).name, longest_clip=clips.longest(hub)
            )
            for name, hub in hubs.by_name.items()
        ]

    @app.get("/metrics", response_class=Response, **protected)
    async def metrics() -> Response:
        """Counts requests, seconds, results and batches, in the text format of Prometheus."""
        return Response(clips.metrics.text(), media_type="text/plain; version=0.0.4")

    protected["responses"] = _problems(*(status for status in REASONS if status != 401 or settings.token))

    @app.post(CLASSIFY, **protected)
    async def classify(form: Annotated[ClassifyForm, Form(media_type="multipart/form-data")]) -> Answer:
        """Classifies a clip with one adapter or several; with `window`, a recording of any length in windows."""
        return await clips.classify(form)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": REASONS[status]} for status in statuses}


def _refused(request: Request, error: Exception) -> JSONResponse:
    return error.answer() if isinstance(error, RefusedError) else _failed(request, error)


def _unusable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Names all fields that are wrong, in one text as other errors are."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    texts = [f"{'.'.join(map(str, fault['loc'][1:]))[:80] or 'the form'}: {fault['msg']}" for fault in faults]
    problem = f"It has faults: {'; '.join(texts)}."
    return RefusedError(422, "A form was sent.", problem, "Correct them; /docs lists the fields").answer()


def _failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "The service failed. Its log says why."}, 500)
