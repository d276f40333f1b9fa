"""The page over HTTP on this machine alone, newly written whenever a run has got further."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, final

from fedkd.base.errors import InputError
from fedkd.results.recorded import RecordedRun, find_runs
from fedkd.results.report.page import render
from fedkd.results.report.sources import refuse_mixed

HOST = "127.0.0.1"
#: Seconds after which an open page asks for a newer one.
REFRESH = 3
#: The files of a run whose growth makes a new page.
WATCHED = ("experiment.toml", "metrics.jsonl", "clients.jsonl", "flow.jsonl", "changes.jsonl", "report.html")


@final
class LivePage:
    """The page about some paths, and what tells one version of it from the next."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._lock, self._tag, self._page = list(paths), Lock(), "", b""

    def read(self) -> tuple[str, bytes]:
        """The page's tag and content, rendered again only where a file has changed. InputError where no run can be read."""
        with self._lock:
            runs = find_runs(self._paths)
            if (tag := _tag(runs)) != self._tag:
                refuse_mixed(runs)
                refresh = 0 if all(run.finished or run.failure for run in runs) else REFRESH
                self._tag, self._page = tag, render(runs, refresh=refresh).encode()
            return self._tag, self._page


def serve_report(paths: Sequence[Path], port: int, *, on_start: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. ``on_start`` is given its address. InputError where nothing can be shown, or heard."""
    page = LivePage(paths)
    page.read()
    try:
        server = make_server(page, port)
    except OSError as error:
        raise InputError(f"--port {port}: {error.strerror or error}: give another, or none for any free one") from None
    with server:
        try:
            on_start(f"http://{HOST}:{server.server_port}/")
            server.serve_forever()
        except KeyboardInterrupt:
            return


def make_server(page: LivePage, port: int) -> ThreadingHTTPServer:
    """The server, listening, not yet serving."""
    server = ThreadingHTTPServer((HOST, port), _handler_of(page))
    server.daemon_threads = True
    return server


def _tag(runs: Sequence[RecordedRun]) -> str:
    stats = []
    for file in (run.path / name for run in runs for name in WATCHED):
        stats.append((str(file), (found.st_size, found.st_mtime_ns) if file.exists() and (found := file.stat()) else None))
    return f'"{hashlib.sha256(repr(stats).encode()).hexdigest()[:20]}"'


def _handler_of(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET / and nothing else, and only to who asks for this machine by its own name."""

        server_version, sys_version = "fedkd", ""
        protocol_version = "HTTP/1.1"
        timeout = 30  # of a connection that says nothing

        def do_GET(self) -> None:
            _, port = self.connection.getsockname()
            if self.headers.get("Host", "") not in (
                f"{HOST}:{port}",
                f"localhost:{port}",
            ):  # a name that was bound to this address
                self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"this page is served to 127.0.0.1 and localhost only\n")
            elif self.path.partition("?")[0] != "/":
                self._answer(HTTPStatus.NOT_FOUND, b"there is one page here: /\n")
            else:
                self._show()

        def _show(self) -> None:
            try:
                tag, content = page.read()
            except (InputError, OSError) as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
                return
            if self.headers.get("If-None-Match") == tag:
                self._answer(HTTPStatus.NOT_MODIFIED, b"", tag)
            else:
                self._answer(HTTPStatus.OK, content, tag, kind="text/html; charset=utf-8")

        def _answer(
            self, status: HTTPStatus, content: bytes, tag: str = "", *, kind: str = "text/plain; charset=utf-8"
        ) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
            headers |= {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
            headers |= {"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} | ({"ETag": tag} if tag else {})
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status is not HTTPStatus.NOT_MODIFIED:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing is logged: the terminal shows the address."""

    return Handler
