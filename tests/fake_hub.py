"""A hub of models on the loopback address: as much of its interface as uploading and downloading adapters takes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_owner"
Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repositories: name -> branch or commit -> files. Who writes needs `TOKEN`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, branch: str, files: Files) -> str:
        """Adds files to what a branch has; returns the id of the commit."""
        before = self.commits[repo].get(self.branches[repo].get(branch, ""), {})
        after = before | files
        content = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(after.items())})
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[repo][commit] = after
        self.branches[repo][branch] = commit
        return commit

    def find(self, repo: str, revision: str) -> str | None:
        """The whole id of a commit, of a branch or of an id that is cut short."""
        commits = self.commits.get(repo, {})
        named = self.branches.get(repo, {}).get(revision)
        return named or next((commit for commit in commits if commit.startswith(revision)), None)


class Handler(BaseHTTPRequestHandler):
    """Answers what huggingface_hub asks."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None: ...

    def answer(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.answer({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.server.requests.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Unauthorized")
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            new = repo not in self.server.commits
            if new:
                self.server.commits[repo], self.server.branches[repo] = {}, {}
                self.server.commit(repo, "main", {".gitattributes": b""})
            return self.answer({"url": f"{self.server.address}/{repo}"}, 200 if new else 409)
        owner, name, action, revision = path.removeprefix("/api/models/").split("/", 3)
        repo = f"{owner}/{name}"
        if action == "branch":
            self.server.branches[repo].setdefault(unquote(revision), self.server.branches[repo]["main"])
            return self.answer({})
        if action == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self.answer({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        values = [line["value"] for line in lines if line["key"] == "file"]
        files = {value["path"]: base64.b64decode(value["content"]) for value in values}
        commit = self.server.commit(repo, unquote(revision), files)
        url = f"{self.server.address}/{repo}/commit/{commit}"
        return self.answer({"commitUrl": url, "commitOid": commit, "success": True})

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        in_api = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models/" if in_api else "/").split("/")
        repo = f"{owner}/{name}"
        if repo not in self.server.commits:
            return self.refuse(404, "RepoNotFound")
        commit = self.server.find(repo, unquote(rest[1]) if len(rest) > 1 else "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        files = self.server.commits[repo][commit]
        hashes = {name: hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for name, data in files.items()}
        if in_api and rest[:1] == ["tree"]:
            return self.answer(
                [{"type": "file", "path": name, "size": len(files[name]), "oid": hashes[name]} for name in files]
            )
        if in_api:
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": repo, "sha": commit, "siblings": siblings, "private": False})
        name = "/".join(rest[2:])
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        return self.answer(files[name], headers={"ETag": f'"{hashes[name]}"', "X-Repo-Commit": commit})

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
