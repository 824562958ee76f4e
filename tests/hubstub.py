"""A small hub on this machine: what huggingface_hub asks for when it pulls, and failures on demand.

    with Hub({"owner/name": {"config.json": b"{}"}}) as hub:
        hub.endpoint                     # for HF_ENDPOINT
        hub.fail["model.safetensors"] = "cut"    # see FAILURES
        hub.requests                     # (method, path, Range or None)

Files are also served under /files/<name>, as a plain server would.
"""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FAILURES = (
    "cut",  # half of the file, then the server answers 500
    "wrong",  # another content of the same size
    "gated",  # 401 as for terms that are not accepted
    "forbidden",  # 403
)


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.fail: dict[str, str] = {}
        self.tags = ["license:mit"]
        self.requests: list[tuple[str, str, str | None]] = []
        self.tokens: set[str | None] = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloads(self) -> list[tuple[str, str | None]]:
        """(file, Range) of every request for a content."""
        return [
            (path.rpartition("/")[2], span)
            for method, path, span in self.requests
            if method == "GET" and ("/resolve/" in path or path.startswith("/files/"))
        ]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                if self.command == "GET":
                    with contextlib.suppress(ConnectionError):
                        self.wfile.write(body)

            def do_GET(self) -> None:
                hub.requests.append((self.command, self.path, self.headers.get("Range")))
                if self.path != "/api/agent-harnesses":  # the hub's package asks it on its own, once
                    hub.tokens.add(self.headers.get("Authorization"))
                if match := re.match(
                    r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/?]+))?(?:\?|$)", self.path
                ):
                    self.describe(match[1], match[2], match[3])
                elif match := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path):
                    files = hub.repositories.get(match[1], {})
                    self.serve(match[3], files.get(match[3]))
                elif self.path.startswith("/files/"):
                    name = self.path.removeprefix("/files/")
                    self.serve(name, hub.repositories["files"].get(name))
                else:
                    self.answer(404)

            do_HEAD = do_GET

            def describe(self, repository: str, what: str | None, revision: str | None) -> None:
                if repository not in hub.repositories:
                    return self.answer(401, X_Error_Code="RepoNotFound")
                if revision not in (None, "main", COMMIT):
                    return self.answer(404, X_Error_Code="RevisionNotFound")
                files = hub.repositories[repository]
                if what == "tree":
                    body = [self.entry(name, data) for name, data in files.items()]
                    return self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
                body = {
                    "id": repository,
                    "sha": COMMIT,
                    "tags": hub.tags,
                    "siblings": [{"rfilename": name} for name in files],
                }
                self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

            def entry(self, name: str, data: bytes) -> dict[str, object]:
                entry = {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
                if name.endswith(".safetensors"):
                    oid = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 100}
                return entry

            def serve(self, name: str, data: bytes | None) -> None:
                failure = hub.fail.get(name)
                if failure == "gated":
                    return self.answer(401, X_Error_Code="GatedRepo")
                if failure == "forbidden":
                    return self.answer(403)
                if data is None:
                    return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                large = name.endswith(".safetensors")
                etag = hashlib.sha256(data).hexdigest() if large else git_hash(data)
                headers = {"ETag": f'"{etag}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
                if failure == "wrong":
                    data = data[:-1] + bytes([data[-1] ^ 1])
                start = 0
                if span := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                    start = int(span[1])
                    if start >= len(data):
                        return self.answer(416)
                    headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                if failure == "cut" and self.command == "GET":
                    if start:
                        return self.answer(500)
                    self.send_response(200)
                    for key, value in headers.items():
                        self.send_header(key.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return None
                self.answer(206 if start else 200, data[start:], **headers)

        return Handler
