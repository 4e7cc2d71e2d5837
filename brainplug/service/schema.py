"""What requests and answers hold; the OpenAPI page lists it."""

from typing import Annotated

from fastapi import UploadFile
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from brainplug.service.settings import MAX_ADAPTERS

Name = Annotated[str, Field(min_length=1, max_length=500)]
Seconds = Annotated[float, Field(ge=0.01, le=86_400)]


def _check_odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("it is even")
    return number


Odd = Annotated[int, AfterValidator(_check_odd)]


class Problem(BaseModel):
    """Why a request is not fulfilled."""

    detail: Annotated[str, Field(description="What was asked, what was found, what to write instead")]


class ClassifyForm(BaseModel):
    """A clip, its adapters, and how a long one is cut; the options are those of `brainplug predict`."""

    model_config = ConfigDict(extra="forbid")

    file: Annotated[UploadFile, Field(description="An audio file")]
    adapters: Annotated[
        list[Name],
        Field(min_length=1, max_length=MAX_ADAPTERS, description="Names of those that are served, each once"),
    ]
    top_k: Annotated[int, Field(ge=1, le=10_000, description="The most labels in the answer of each adapter")] = 5
    window: Annotated[Seconds | None, Field(description="Classify windows of so many seconds")] = None
    hop: Annotated[Seconds | None, Field(description="Seconds from one window to the next; half a window")] = None
    threshold: Annotated[float, Field(ge=0, le=1, description="The probability from which a class is an event")] = 0.5
    median: Annotated[Odd, Field(ge=1, le=1001, description="Smooth over so many windows, an odd number")] = 1
    shortest: Annotated[float, Field(ge=0, le=1e6, description="Leave out shorter events, in seconds")] = 0.0


class Label(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(from_attributes=True)

    label: str
    probability: float


class Window(Label):
    """The most probable class from `start` to `stop`, in seconds."""

    start: float
    stop: float


class FoundEvent(BaseModel):
    """A class from `start` to `stop`, in seconds, and the mean of its probability there."""

    model_config = ConfigDict(from_attributes=True)

    start: float
    stop: float
    label: str
    score: float


class Result(BaseModel):
    """What one adapter says of a clip; of windows, `labels` has the means over all."""

    adapter: str
    labels: Annotated[list[Label], Field(description="The most probable first")]
    windows: list[Window] = []
    events: list[FoundEvent] = []


class Answer(BaseModel):
    """What was computed of a clip."""

    seconds: Annotated[float, Field(description="The clip's length")]
    remarks: Annotated[list[str], Field(description="What is odd: a silent clip, or one that is read in part")]
    results: list[Result]


class ServedAdapter(BaseModel):
    """An adapter that the service has loaded."""

    name: str
    labels: list[str]
    backbone: str
    longest_clip: Annotated[float, Field(description="The longest clip or window that is read, in seconds")]


class Health(BaseModel):
    """Whether requests are taken, and their limits."""

    status: str
    needs_token: bool
    max_upload_mb: float
    max_seconds: float
    queue: int
