"""The report over HTTP: one page for this machine alone, newer whenever a run has got further."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from run_rows import MakeRun, rows_of

from fedkd.base.errors import InputError
from fedkd.results.files import append_lines
from fedkd.results.report.serve import HOST, LivePage, make_server, serve_report


@contextmanager
def served(*paths: Path) -> Iterator[int]:
    """The port of a server of the page about these paths."""
    server = make_server(LivePage(paths), 0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(port: int, path: str = "/", *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_the_page_is_newer_whenever_a_round_has_come_and_ends_asking_when_the_run_has_ended(make_run: MakeRun) -> None:
    rows = rows_of(0.1, 0.2, 0.3)
    run = make_run(rows=rows[:2])
    path = run.path
    text = (path / "experiment.toml").read_text().replace("rounds = 1", "rounds = 2")
    (path / "experiment.toml").write_text(text)
    with served(path) as port:
        status, headers, page = ask(port)
        assert status == 200 and "not finished: round 1 of 2" in page and 'data-refresh="3"' in page
        assert "connect-src 'self'" in page and headers["Content-Type"] == "text/html; charset=utf-8"
        assert ask(port, If_None_Match=headers["ETag"])[0] == 304
        append_lines(path / "metrics.jsonl", rows[2:])
        (path / "report.html").write_text("")
        status, newer, page = ask(port, If_None_Match=headers["ETag"])
        assert status == 200 and newer["ETag"] != headers["ETag"]
        assert "not finished" not in page and "data-refresh=" not in page and "30.0 %" in page


def test_it_answers_nothing_but_get_of_one_page_to_who_names_this_machine(make_run: MakeRun) -> None:
    path = make_run(rows=rows_of(0.1, 0.2)).path
    with served(path) as port:
        assert ask(port, Host=f"localhost:{port}")[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", ""):
            assert ask(port, Host=host)[0] == 421
        for other in ("/metrics.jsonl", "/../experiment.toml", "/index.html"):
            assert ask(port, other)[0] == 404
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert ask(port, method=method)[0] == 501
        assert "fedkd" in ask(port)[1]["Server"] and "Python" not in ask(port)[1]["Server"]


def test_a_run_that_is_taken_away_is_said_and_the_server_goes_on(make_run: MakeRun) -> None:
    path = make_run(rows=rows_of(0.1, 0.2)).path
    with served(path) as port:
        assert ask(port)[0] == 200
        path.rename(path.with_name("elsewhere"))
        status, _, text = ask(port)
        assert status == 503 and "holds none" in text
        path.with_name("elsewhere").rename(path)
        assert ask(port)[0] == 200


def test_what_cannot_be_shown_or_heard_is_bad_input(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="is no run and holds none"):
        serve_report([tmp_path], 0, on_start=print)
    path = make_run(rows=rows_of(0.1, 0.2)).path
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=re.escape(f"--port {port}: Address already in use: give another")):
            serve_report([path], port, on_start=print)
