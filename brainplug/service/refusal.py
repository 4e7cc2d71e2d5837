"""What the service answers to a request that it does not fulfil."""

from fastapi.responses import JSONResponse

from brainplug.errors import UsageError

HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "10"}}


class RefusedError(UsageError):
    """A request that is not fulfilled, with the status of the answer; the sentences are those of a `UsageError`."""

    def __init__(self, status: int, asked: str, problem: str, write: str):
        super().__init__(asked, problem, write)
        self.status = status

    def answer(self) -> JSONResponse:
        """The answer, as `Problem` describes it."""
        return JSONResponse({"detail": str(self)}, self.status, HEADERS.get(self.status))


def quoted(text: object, most: int = 80) -> str:
    """What a client sent, as an error shows it: on one line, and not longer than `most`.

    Example
    -------
    >>> quoted("a" * 100, most=5)
    "'aaaaa...'"
    """
    whole = str(text)
    return repr(whole if len(whole) <= most else f"{whole[:most]}...")
