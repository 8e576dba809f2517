"""A hub model, fetched over HTTP from a server that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from selfimp_dagster.models.hashing import policy_hash

_REVISION = "0123456789abcdef0123456789abcdef01234567"
_REFUSED = {"pytorch_model.bin": b"a pickle", "modeling_tiny.py": b"raise SystemExit('code ran')"}


@dataclass
class Hub:
    """What the server has, and what it was asked for."""

    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[Hub]:
    served = Hub({path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()} | _REFUSED)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            served.asked.append(path)
            name = path.removeprefix(f"/acme/tiny/resolve/{_REVISION}/")
            if path == f"/api/models/acme/tiny/revision/{_REVISION}":
                siblings = [{"rfilename": file} for file in served.files]
                self._answer(
                    json.dumps({"id": "acme/tiny", "sha": _REVISION, "siblings": siblings}).encode(), {}
                )
            elif path == f"/api/models/acme/tiny/tree/{_REVISION}":
                entries = [
                    {"type": "file", "path": file, "size": len(content), "oid": _etag(content)}
                    for file, content in served.files.items()
                ]
                self._answer(json.dumps(entries).encode(), {})
            elif name in served.files:
                content = served.files[name]
                self._answer(content, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": _REVISION})
            else:
                self.send_error(404)

        def _answer(self, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def resolve(url: str, source: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs `resolve_model` in a process of its own: its library reads the hub's address when imported."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from selfimp_dagster.errors import SelfimpError\n"
        "from selfimp_dagster.models.source import resolve_model\n"
        "try:\n    print(resolve_model(sys.argv[1], Path(sys.argv[2])))\n"
        "except SelfimpError as error:\n    sys.exit(f'{error.where}: {error.what} -> {error.fix}')\n"
    )
    proxies = {"HTTP_PROXY": "", "http_proxy": "", "ALL_PROXY": "", "all_proxy": ""}
    environment = (
        os.environ | proxies | {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    )
    return subprocess.run(
        [sys.executable, "-c", program, source, str(cache)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_pinned_model_is_fetched_without_its_code_and_pickles(
    hub: Hub, tiny_model: Path, tmp_path: Path
) -> None:
    result = resolve(hub.url, f"acme/tiny@{_REVISION}", tmp_path)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip().splitlines()[-1])
    assert policy_hash(folder) == policy_hash(tiny_model)
    assert not any(path.endswith(name) for path in hub.asked for name in _REFUSED)
    assert not any((folder / name).exists() for name in _REFUSED)


def test_what_was_fetched_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    source = f"acme/tiny@{_REVISION}"
    first = resolve(hub.url, source, tmp_path)
    hub.asked.clear()
    assert resolve(hub.url, source, tmp_path).stdout == first.stdout
    assert not any("/resolve/" in path for path in hub.asked)


def test_a_model_that_the_hub_does_not_have_is_one_clear_message(hub: Hub, tmp_path: Path) -> None:
    source = f"acme/other@{_REVISION}"
    result = resolve(hub.url, source, tmp_path)
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(f"{source}: the hub did not deliver this model: ")
    assert "404" in message
    assert "check the name, the revision" in message
    assert "Traceback" not in result.stderr
