"""The UI's server hands out reports, and nothing else of the folder that they are in."""

import pytest
from home import Home
from starlette.applications import Starlette
from starlette.testclient import TestClient

from selfimp_dagster.report import report_path
from selfimp_dagster.webserver import WebserverWithReports


@pytest.fixture
def client(two_rounds: Home, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The server's own routes; those of Dagster's UI, which come after, need a workspace."""
    for name, value in two_rounds.environment.items():
        monkeypatch.setenv(name, value)
    server = WebserverWithReports(None)
    return TestClient(Starlette(routes=server.build_routes()[:1]))


def test_a_report_is_served_where_the_ledger_links_to(two_rounds: Home, client: TestClient) -> None:
    answer = client.get("/reports/tiny.html")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == report_path(two_rounds.store, "tiny").read_bytes()


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
def test_nothing_else_is_served(two_rounds: Home, client: TestClient, page: str) -> None:
    (report_path(two_rounds.store, "tiny").parent / "secret.txt").write_text("secret")
    assert client.get(f"/reports/{page}").status_code == 404
