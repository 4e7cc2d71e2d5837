"""brainplug serve: a service over HTTP that classifies clips with adapters."""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from brainplug.errors import ConfigError, UsageError

TOKEN = "BRAINPLUG_TOKEN"  # the environment's variable
LOOPBACK = ("127.0.0.1", "::1", "localhost")
NUMBERS = {
    "batch_size": (int, "the most clips or windows that are computed together"),
    "wait_ms": (float, "milliseconds that the first clip of a batch waits for others"),
    "queue": (int, "the most requests at a time; others are answered with 429"),
    "max_upload_mb": (float, "the largest file, in MB"),
    "max_seconds": (float, "the longest recording"),
    "longest_clip": (float, "the longest clip or window; a longer recording is cut into windows"),
    "time_limit": (float, "the most seconds of a request"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("runs", nargs="+", metavar="DIR", help="a run, an adapter or a hub id OWNER/NAME; or NAME=DIR")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1: only this machine reaches the service")
    parser.add_argument("--port", type=int, default=8000, help="8000; 0: any that is free")
    parser.add_argument("--device", default="cpu", help="such as cuda:0")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument("--backbone", help="the folder of the runs' backbone, if it has moved")
    parser.add_argument("--token_file", help=f"a file with the token of requests; or set {TOKEN}")
    for name, (kind, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    try:
        import uvicorn

        from brainplug.service.app import make_app
    except ImportError as error:
        asked, problem = "A service was asked for.", f"{error.name} is not installed."
        raise UsageError(asked, problem, "Install the extra: pip install 'brainplug[serve]'") from error
    from brainplug.service.hubs import load_hubs, name_folders
    from brainplug.service.settings import Settings

    given = {name: getattr(arguments, name) for name in NUMBERS if getattr(arguments, name) is not None}
    settings = Settings(**given, token=read_token(arguments.token_file))
    folders = name_folders(arguments.runs)
    with listen(arguments.host, arguments.port) as listening:
        app = make_app(load_hubs(folders, arguments.device, arguments.precision, arguments.backbone), settings)

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                app.state.stopping = True
                super().handle_exit(sig, frame)

        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=round(settings.time_limit) + 5
        )
        server = Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):  # from now on; uvicorn raises again at the end what stopped it
            signal.signal(number, server.handle_exit)
        if settings.token is None and arguments.host not in LOOPBACK:
            print(f"{arguments.host} is open to other machines, and there is no token: {TOKEN}", file=sys.stderr)
        host, port = listening.getsockname()[:2]
        print(f"Serving {', '.join(folders)} at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        server.run([listening])
    return 0


def read_token(file: str | None) -> str | None:
    """The token of a file, or of the environment; None without one."""
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = f"It cannot be read: {error}."
        raise ConfigError(f"--token_file={file} was asked for.", problem, "Name a text file with the token") from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        problem = f"It cannot be listened at: {str(error).rstrip('.')}."
        raise ConfigError(f"--host={host} --port={port} was asked for.", problem, "Write another --port") from error
