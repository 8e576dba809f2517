"""Programs that try to get out of the sandbox, at every level of isolation that this machine has."""

import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.sandbox import machine
from selfimp_dagster.sandbox.levels import LEVELS, obstacle
from selfimp_dagster.sandbox.machine import leak, machine_sandbox
from selfimp_dagster.sandbox.run import Limits, Sandbox

_HELD = [level for level in LEVELS if obstacle(level) is None and leak(Sandbox(level)) is None]


@pytest.fixture(params=_HELD)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return Sandbox(request.param)


def test_a_sandbox_holds_here() -> None:
    """Without one the tests below would be left out without a word."""
    assert machine_sandbox().level in _HELD


def _attempt(sandbox: Sandbox, code: str, **limits: int) -> str:
    """What the attempt printed; an attempt that the system refused prints nothing."""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    program = f"import os, sys\ntry:\n{body}\n    print('managed')\nexcept OSError as error:\n    pass\n"
    return sandbox.run(program, limits=Limits(**limits)).stdout


def test_no_network_neither_outside_nor_on_this_machine(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)"
        assert _attempt(sandbox, connect) == ""
    assert _attempt(sandbox, "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=2)") == ""
    assert _attempt(sandbox, "import socket\nsocket.socket(socket.AF_UNIX)") == ""


def test_no_secrets_of_the_environment_or_of_the_home_folder(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    (tmp_path / "token").write_text("hunter2")
    assert "hunter2" not in sandbox.run("import os\nprint(dict(os.environ))").stdout
    assert _attempt(sandbox, f"print(open({str(tmp_path / 'token')!r}).read())") == ""
    assert _attempt(sandbox, "print(os.listdir(os.path.expanduser('~root')))") == ""
    assert _attempt(sandbox, "print(open('/etc/shadow').read())") == ""
    assert _attempt(sandbox, f"print(open('/proc/{os.getpid()}/environ', 'rb').read())") == ""


def test_no_writing_outside_its_folder_nor_by_way_of_a_link(sandbox: Sandbox, tmp_path: Path) -> None:
    target = str(tmp_path / "written")
    assert _attempt(sandbox, f"open({target!r}, 'w').write('x')") == ""
    assert (
        _attempt(sandbox, f"os.symlink({str(tmp_path)!r}, 'way')\nopen('way/written', 'w').write('x')") == ""
    )
    assert _attempt(sandbox, "open('../escaped', 'w').write('x')") == ""
    assert _attempt(sandbox, "open(sys.argv[0], 'w').write('x')") == ""
    assert list(tmp_path.iterdir()) == []


def test_its_own_folder_is_there_and_is_gone_afterwards(sandbox: Sandbox) -> None:
    said = _attempt(sandbox, "open('own', 'w').write('x')\nprint(open('own').read())")
    assert said == "x\nmanaged\n"
    assert _attempt(sandbox, "print(os.path.exists('own'))") == "False\nmanaged\n"


@pytest.mark.parametrize(
    "bomb",
    [
        "while True: os.fork()",
        "import subprocess\nsubprocess.run([sys.executable, '-c', 'print(1)'])",
        "import threading\n[threading.Thread(target=input).start() for _ in range(1000)]",
    ],
)
def test_no_further_processes(sandbox: Sandbox, bomb: str) -> None:
    before = len(psutil.pids())
    ended = sandbox.run(f"import os, sys\n{bomb}\nprint('managed')", limits=Limits(wall_seconds=10))
    assert "managed" not in ended.stdout
    assert ended.limit == "processes" or ended.status != 0
    assert len(psutil.pids()) < before + 20


def test_memory_ends_at_its_limit(sandbox: Sandbox) -> None:
    ended = sandbox.run("bytearray(2**33)\nprint('managed')", limits=Limits(memory_mib=256))
    assert (ended.stdout, ended.limit) == ("", "memory")


def test_time_ends_at_its_limit_computing_or_waiting(sandbox: Sandbox) -> None:
    started = time.monotonic()
    assert sandbox.run("while True: pass", limits=Limits(cpu_seconds=1, wall_seconds=20)).limit == "time"
    assert sandbox.run("import time\ntime.sleep(60)", limits=Limits(wall_seconds=1)).limit == "time"
    assert time.monotonic() - started < 25


def test_output_and_files_end_at_their_limits(sandbox: Sandbox) -> None:
    ended = sandbox.run("while True: print('x' * 1000)", limits=Limits(output_kib=8))
    assert ended.limit == "output"
    assert len(ended.stdout) <= 8 * 1024
    fill = "with open('big', 'wb') as big:\n    while True: big.write(bytes(65536))"
    assert "File too large" in sandbox.run(fill, limits=Limits(disk_kib=256)).stderr
    scatter = "import itertools\nfor n in itertools.count(): open(str(n), 'wb').write(bytes(65536))"
    assert sandbox.run(scatter, limits=Limits(disk_kib=256)).limit == "disk"


def test_nobody_outside_can_be_signalled(sandbox: Sandbox) -> None:
    assert _attempt(sandbox, f"os.kill({os.getpid()}, 9)") == ""
    assert _attempt(sandbox, "os.kill(os.getppid(), 9) if os.getppid() > 1 else os.kill(-1, 9)") == ""


def test_the_same_program_has_the_same_verdict(sandbox: Sandbox) -> None:
    program = (
        "import random, time, locale, os\n"
        "print({'a', 'b', 'c', 'd'}, hash('x'), time.tzname, locale.getlocale(), sorted(os.environ))"
    )
    assert sandbox.run(program) == sandbox.run(program)


def test_what_a_program_says_of_itself(sandbox: Sandbox) -> None:
    ended = sandbox.run(
        "import sys, helper\nprint(helper.twice(int(sys.stdin.read())))\nsys.exit(3)",
        "21",
        files={"helper.py": "def twice(n): return 2 * n"},
    )
    assert (ended.status, ended.stdout, ended.limit) == (3, "42\n", None)
    failed = sandbox.run("1 / 0")
    assert (failed.status, failed.limit) == (1, None)
    assert "ZeroDivisionError" in failed.stderr


def test_a_machine_on_which_nothing_holds_refuses_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "obstacle", lambda level: "it is not there")
    machine_sandbox.cache_clear()
    with pytest.raises(SelfimpError, match="cannot be shut in here") as refused:
        machine_sandbox()
    machine_sandbox.cache_clear()
    assert "install bubblewrap" in refused.value.fix


def test_a_level_that_leaks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Open(Sandbox):
        def run(self, program: str, stdin: str = "", **_: object):  # type: ignore[no-untyped-def, override]
            import subprocess
            import sys

            from selfimp_dagster.sandbox.run import Ended

            done = subprocess.run(
                [sys.executable, "-c", program], input=stdin, capture_output=True, text=True
            )
            return Ended(done.returncode, done.stdout, done.stderr, None)

    found = leak(Open("bubblewrap"))
    assert found is not None
    assert "read outside its folder" in found
    assert "open a socket" in found
