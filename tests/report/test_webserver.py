"""The UI's server hands out reports, and nothing else of the folder that they are in."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPMessage

import pytest
import uvicorn
from home import Home
from starlette.applications import Starlette

from selfimp_dagster.report import report_path
from selfimp_dagster.webserver import WebserverWithReports

Get = Callable[[str], tuple[int, HTTPMessage, bytes]]


@pytest.fixture
def get(two_rounds: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Get]:
    """Asks a real server for a path as it is written. It has the project's own routes; those of Dagster's
    UI, which come after them, need a workspace."""
    for name, value in two_rounds.environment.items():
        monkeypatch.setenv(name, value)
    application = Starlette(routes=WebserverWithReports(None).build_routes()[:1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def asked(path: str) -> tuple[int, HTTPMessage, bytes]:
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path)
            answer = connection.getresponse()
            told = answer.status, answer.headers, answer.read()
            connection.close()
            return told

        yield asked
        server.should_exit = True
        thread.join()


def test_a_report_is_served_where_the_ledger_links_to(two_rounds: Home, get: Get) -> None:
    status, headers, content = get("/reports/tiny.html")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert content == report_path(two_rounds.store, "tiny").read_bytes()


def test_the_route_comes_before_those_of_the_ui() -> None:
    paths = [getattr(route, "path", "") for route in WebserverWithReports(None).build_routes()]
    assert paths[0] == "/reports/{page}"
    assert "/graphql" in paths


@pytest.mark.parametrize(
    "page",
    [
        "nothing.html",
        "tiny",
        "tiny.html.bak",
        "secret.txt",
        "../ledger.parquet",
        "..%2Fledger.parquet",
        "%2e%2e%2fledger.parquet",
        "..%5Cledger.parquet",
        "%2Fetc%2Fpasswd",
        ".html",
        "tiny.html%00.txt",
    ],
)
def test_nothing_else_is_served(two_rounds: Home, get: Get, page: str) -> None:
    (report_path(two_rounds.store, "tiny").parent / "secret.txt").write_text("secret")
    status, _, _ = get(f"/reports/{page}")
    assert status == 404
