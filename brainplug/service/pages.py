"""The files of the page, which need no token and are read once."""

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Response

PAGE = Path(__file__).with_name("page")
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js", "/sound.js": "sound.js"}
FILES |= {"/docs": "docs.html", "/docs.js": "docs.js", "/icon.svg": "icon.svg"}
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src blob:; frame-ancestors 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def add_pages(app: FastAPI) -> None:
    """The files of the page are read once; no path of a request is opened."""

    def make_route(content: bytes, media_type: str) -> Callable[[], Response]:
        return lambda: Response(content, media_type=media_type, headers=PAGE_HEADERS)

    for path, name in FILES.items():
        route = make_route((PAGE / name).read_bytes(), TYPES[Path(name).suffix])
        app.get(path, include_in_schema=False)(route)
