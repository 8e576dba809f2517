"""A real PostgreSQL server on loopback, in a folder of its own."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

_PASSWORD = "only-for-tests"
_SECONDS = "60"


@cache
def programs() -> Path | None:
    """The folder of the newest server's programs; none where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    # Debian keeps them out of PATH, a folder a version.
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


def _as_server_user() -> list[str]:
    """What precedes a command of the server, which refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def missing() -> str | None:
    """Why no server can be started here; none if one can."""
    if programs() is None:
        return "PostgreSQL is not installed"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@dataclass(frozen=True)
class PostgresServer:
    """A server that can be stopped and started again on the same data."""

    folder: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://selfimp:{_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{uuid4().hex}"
        environment = {**os.environ, "PGPASSWORD": _PASSWORD}
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "selfimp"]
        subprocess.run([_program("createdb"), *where, name], env=environment, check=True, timeout=60)
        return self.url(name)

    @property
    def is_up(self) -> bool:
        return (self.folder / "data" / "postmaster.pid").exists()

    def start(self) -> None:
        # Only loopback, no socket file; without fsync, since nothing here has to outlive the machine.
        options = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories= -c fsync=off"
        self._control("start", "-o", options, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        """Ends the connections that are open, as a restart of the service does."""
        self._control("stop", "-m", "fast")

    def _control(self, action: str, *options: str) -> None:
        _run("pg_ctl", action, "-w", "-t", _SECONDS, "-D", str(self.folder / "data"), *options)


def _program(name: str) -> str:
    folder = programs()
    assert folder is not None
    return str(folder / name)


def _run(program: str, *arguments: str) -> None:
    subprocess.run(
        [*_as_server_user(), _program(program), *arguments],
        check=True,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server with the user `selfimp`, who may create databases."""
    # Not under pytest's temporary folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        password = folder / "password"
        password.write_text(_PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, password):
                shutil.chown(path, "postgres")
        _run(
            "initdb",
            *("-D", str(folder / "data"), "-U", "selfimp", "-A", "scram-sha-256", "--no-sync"),
            *("-E", "UTF8", "--locale", "C", "--pwfile", str(password)),
        )
        server = PostgresServer(folder, _free_port())
        server.start()
        try:
            yield server
        finally:
            if server.is_up:
                server.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
