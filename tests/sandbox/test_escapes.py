"""Programs that try to get out of the sandbox, at each level of isolation. A level that this machine cannot
give is skipped with the reason; one that it can give and that leaks fails."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.sandbox import machine, run
from selfimp_dagster.sandbox.levels import LEVELS, Level, obstacle
from selfimp_dagster.sandbox.machine import leak, machine_sandbox
from selfimp_dagster.sandbox.run import Ended, Limits, Sandbox


def _why_not(level: Level) -> str | None:
    try:
        return obstacle(level) or (Sandbox(level).run("print(1)").stdout != "1\n" and "nothing ran") or None
    except SelfimpError as error:
        return error.what


_WHY_NOT = {level: _why_not(level) for level in LEVELS}


@pytest.fixture(params=LEVELS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if _WHY_NOT[request.param]:
        pytest.skip(f"this machine has no {request.param}: {_WHY_NOT[request.param]}")
    return Sandbox(request.param)


def test_this_machine_has_a_sandbox_or_says_why_not(sandbox: Sandbox) -> None:
    assert leak(sandbox) is None
    assert machine_sandbox().level == next(level for level in LEVELS if not _WHY_NOT[level])


def _tried(sandbox: Sandbox, attempts: dict[str, str], preparation: str = "") -> dict[str, str]:
    """What came of each attempt: the number of the error with which the system refused it, or `managed`.

    An attempt that fails for another reason than being refused ends the program, and the test.
    """
    program = f"import ctypes, fcntl, os, resource, signal, socket, sys\n{preparation}\n"
    for name, code in attempts.items():
        body = "".join(f"    {line}\n" for line in code.splitlines())
        program += f"try:\n{body}    print({name!r}, 'managed', sep='\\t')\n"
        program += f"except OSError as error:\n    print({name!r}, error.errno, sep='\\t')\n"
    ended = sandbox.run(program)
    assert ended.status == 0, ended.stderr
    return dict(line.split("\t") for line in ended.stdout.splitlines())


def _all_refused(tried: dict[str, str], attempts: dict[str, str]) -> bool:
    return tried.keys() == attempts.keys() and "managed" not in tried.values()


def test_no_network_neither_outside_nor_on_this_machine(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempts = {
            "loopback": f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)",
            "outside": "socket.create_connection(('192.0.2.1', 80), 2)",
            "datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "this machine": "socket.socket(socket.AF_UNIX)",
            "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "pair": "socket.socketpair()",
        }
        assert _all_refused(_tried(sandbox, attempts), attempts)


def test_no_secrets_of_the_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    assert "hunter2" not in sandbox.run("import os\nprint(dict(os.environ))").stdout


def test_no_files_of_others_can_be_read(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2")
    (tmp_path / "way").symlink_to(tmp_path / "token")
    attempts = {
        "file": f"open({str(tmp_path / 'token')!r}).read()",
        "link": f"open({str(tmp_path / 'way')!r}).read()",
        "folder": f"os.listdir({str(tmp_path)!r})",
        "users": "open('/etc/passwd').read()",
        "this project": f"open({machine.__file__!r}).read()",
        "this process": f"open('/proc/{os.getpid()}/environ', 'rb').read()",
        "own memory": "open('/proc/self/mem', 'r+b')",
        "root of a process": "os.listdir('/proc/1/root')",
        "system": "os.listdir('/sys')",
        "terminal": "open('/dev/tty')",
        "disks": "os.listdir('/dev/shm')",
    }
    assert _all_refused(_tried(sandbox, attempts), attempts)


def test_of_the_home_folder_no_more_is_seen_than_the_way_to_the_interpreter(sandbox: Sandbox) -> None:
    listing = f"import os\ntry:\n    print(*os.listdir({str(Path.home())!r}))\nexcept OSError: pass"
    seen = sandbox.run(listing).stdout.split()
    assert set(seen) <= set(Path(sys.base_prefix).parts)


def test_nothing_outside_its_folder_can_be_changed(sandbox: Sandbox, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    victim.chmod(0o640)
    before = (victim.stat().st_mtime_ns, victim.stat().st_mode)
    attempts = {
        "create": f"open({str(tmp_path / 'new')!r}, 'w')",
        "overwrite": f"open({str(victim)!r}, 'r+')",
        "truncate": f"os.truncate({str(victim)!r}, 0)",
        "truncate on opening": f"os.open({str(victim)!r}, os.O_RDONLY | os.O_TRUNC)",
        "delete": f"os.unlink({str(victim)!r})",
        "move away": f"os.rename({str(victim)!r}, 'mine')",
        "move there": f"open('own', 'w').close()\nos.rename('own', {str(tmp_path / 'new')!r})",
        "permissions": f"os.chmod({str(victim)!r}, 0o777)",
        "owner": f"os.chown({str(victim)!r}, 1, 1)",
        "times": f"os.utime({str(victim)!r})",
        "attribute": f"os.setxattr({str(victim)!r}, 'user.a', b'b')",
        "hard link": f"os.link({str(victim)!r}, 'mine')",
        "symbolic link": f"os.symlink({str(tmp_path)!r}, 'way')",
        "folder": "os.mkdir('inner')",
        "device": "os.mknod('device', 0o020666, os.makedev(1, 1))",
        "queue": "os.mkfifo('queue')",
        "above": "open('../above', 'w')",
        "program": "open(__file__, 'w')",
        "library": "open(os.__file__, 'r+')",
        "interpreter": "open(sys.executable, 'r+b')",
        "temporary": "open('/tmp/selfimp-escaped', 'w')",
        "memory file": "os.memfd_create('free')",
    }
    assert _all_refused(_tried(sandbox, attempts), attempts)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert (victim.read_text(), (victim.stat().st_mtime_ns, victim.stat().st_mode)) == ("whole", before)


def test_nobody_else_can_be_signalled_watched_or_steered(sandbox: Sandbox) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        call = (
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "def call(*arguments):\n"
            "    if libc.syscall(*arguments) < 0: raise OSError(ctypes.get_errno(), '')\n"
        )
        attempts = {
            "kill": f"os.kill({bystander.pid}, {signal.SIGKILL})",
            "kill the parent": "os.kill(os.getppid() or 1, 9)",
            "kill everybody": "os.kill(-1, 9)",
            "descriptor": f"os.pidfd_open({bystander.pid})",
            "signal by descriptor": f"fcntl.fcntl(1, fcntl.F_SETOWN, {bystander.pid})",
            "choice of that signal": "fcntl.fcntl(1, 10, 9)",  # F_SETSIG
            "limits": f"resource.prlimit({bystander.pid}, resource.RLIMIT_CPU, (1, 1))",
            "priority": f"os.setpriority(os.PRIO_PROCESS, {bystander.pid}, 19)",
            "terminal input": "fcntl.ioctl(1, 0x5412, b'x')",  # TIOCSTI
        }
        if platform.machine() == "x86_64":
            attempts |= {
                "trace": f"call(101, 16, {bystander.pid}, 0, 0)",  # ptrace, PTRACE_ATTACH
                "memory": f"call(310, {bystander.pid}, 0, 0, 0, 0, 0)",  # process_vm_readv
                "namespaces": "call(272, 0x10000000)",  # unshare, CLONE_NEWUSER
                "mount": "call(165, b'none', b'/', b'tmpfs', 0, 0)",
                "shared memory": "call(29, 0, 4096, 0o1600)",  # shmget
                "rings": "call(425, 1, 0)",  # io_uring_setup
                "another root": "call(161, b'/')",  # chroot
            }
        assert _all_refused(_tried(sandbox, attempts, call), attempts)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_limits_cannot_be_raised(sandbox: Sandbox) -> None:
    # Python makes a ValueError of this refusal.
    raised = "try: resource.setrlimit({0}, ({1}, {1}))\nexcept ValueError: raise OSError(1, '')"
    attempts = {
        "memory": raised.format("resource.RLIMIT_AS", 2**40),
        "time": raised.format("resource.RLIMIT_CPU", 1000),
        "files": raised.format("resource.RLIMIT_FSIZE", 2**40),
        "descriptors": raised.format("resource.RLIMIT_NOFILE", 10000),
    }
    assert _all_refused(_tried(sandbox, attempts), attempts)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code for x86-64")
def test_the_calls_of_another_architecture_are_refused_too(sandbox: Sandbox) -> None:
    """int 0x80 reaches the 32-bit system calls, which have other numbers: 359 is socket there."""
    socket_of_32_bits = bytes.fromhex("53 b867010000 bb02000000 b901000000 31d2 cd80 5b c3")
    program = (
        "import ctypes, mmap\n"
        f"code = {socket_of_32_bits!r}\n"
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "page.write(code)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())\n"
    )
    ended = sandbox.run(program)
    assert ended.status == -signal.SIGSEGV or int(ended.stdout) < 0, "a kernel without such calls, or refused"


@pytest.mark.parametrize(
    "bomb",
    [
        "while True: os.fork()",
        "os.posix_spawn(sys.executable, [sys.executable, '-c', 'print(1)'], {})",
        "import subprocess\nsubprocess.run([sys.executable, '-c', 'print(1)'])",
        "import threading\nthreading.Thread(target=print).start()",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "if os.fork() == 0: os.setsid()  # a daemon",
    ],
)
def test_no_further_process_or_thread_and_none_left_behind(sandbox: Sandbox, bomb: str) -> None:
    ended = sandbox.run(f"import os, sys\nprint('before')\n{bomb}\nprint('managed')")
    assert (ended.stdout, ended.limit, ended.status) == ("before\n", "processes", -signal.SIGSYS)


def test_memory_ends_at_its_limit(sandbox: Sandbox) -> None:
    at_once = sandbox.run("bytearray(2**33)\nprint('managed')", limits=Limits(memory_mib=256))
    assert (at_once.stdout, at_once.limit) == ("", "memory")
    bit_by_bit = "held = []\nwhile True: held.append(bytearray(2**20))"
    assert sandbox.run(bit_by_bit, limits=Limits(memory_mib=128)).limit == "memory"


def test_time_ends_at_its_limit_computing_waiting_or_ignoring_it(sandbox: Sandbox) -> None:
    assert sandbox.run("import time\ntime.sleep(60)", limits=Limits(wall_seconds=0.5)).limit == "time"
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert sandbox.run(deaf, limits=Limits(cpu_seconds=1)).limit == "time"
    silent = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)"
    assert sandbox.run(silent, limits=Limits(wall_seconds=0.5)).limit == "time"


def test_output_and_files_end_at_their_limits(sandbox: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        endless = f"import sys\nwhile True: sys.{stream}.write('x' * 1000)"
        ended = sandbox.run(endless, limits=Limits(output_kib=8))
        assert ended.limit == "output"
        assert len(getattr(ended, stream)) == 8 * 1024
    fill = "with open('big', 'wb') as big:\n    while True: big.write(bytes(65536))"
    assert "File too large" in sandbox.run(fill, limits=Limits(disk_kib=256)).stderr
    large = "import itertools\nfor n in itertools.count(): open(str(n), 'wb').write(bytes(65536))"
    assert sandbox.run(large, limits=Limits(disk_kib=256)).limit == "disk"
    many = "import itertools\nfor n in itertools.count(): open(str(n), 'wb')"
    assert sandbox.run(many).limit == "disk"


def test_its_own_folder_can_be_written_and_is_gone_afterwards(sandbox: Sandbox) -> None:
    program = "import os\nprint(os.listdir('.'))\nopen('own', 'w').write('x')\nprint(open('own').read())"
    for _ in range(2):
        assert sandbox.run(program).stdout == "[]\nx\n"


def test_no_program_outlives_the_process_that_started_it(sandbox: Sandbox, tmp_path: Path) -> None:
    program = "import time\nprint('x' * 17)\ntime.sleep(300)"
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom selfimp_dagster.sandbox.run import Limits, Sandbox\n"
            "Sandbox(sys.argv[1]).run(sys.argv[2], limits=Limits(wall_seconds=300))",
            sandbox.level,
            program,
        ],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        _until(lambda: [child for child in _children(starter) if "main.py" in _command(child)])
        time.sleep(0.3)  # the launcher has become the program
        children = _children(starter)
    finally:
        starter.kill()
        starter.wait()
    assert children
    assert psutil.wait_procs(children, timeout=10)[1] == []


def _children(starter: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(starter.pid).children(recursive=True)


def _command(process: psutil.Process) -> str:
    """Its command line; empty of one that has ended since it was listed, as helpers of the launcher do."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _until(found: Callable[[], list[Any]]) -> list[Any]:
    deadline = time.monotonic() + 30
    while not (what := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return what


def test_the_same_program_has_the_same_verdict(sandbox: Sandbox) -> None:
    program = (
        "import locale, os, time\n"
        "print({'a', 'b', 'c', 'd'}, hash('x'), time.tzname, locale.getlocale(), sorted(os.environ))\n"
        "print([type(n) for n in {object, int, str, list, dict, tuple, set}])"
    )
    ended = sandbox.run(program)
    assert ended.status == 0
    assert sandbox.run(program) == ended


def test_all_levels_agree_on_a_verdict() -> None:
    held = [Sandbox(level) for level in LEVELS if not _WHY_NOT[level]]
    for program in ("print(1)", "1 / 0", "import os\nos._exit(7)", "import os\nos.fork()", "input()"):
        verdicts = {(ended.status, ended.stdout, ended.limit) for ended in (s.run(program) for s in held)}
        assert len(verdicts) <= 1, program


def test_what_a_program_says_of_itself(sandbox: Sandbox) -> None:
    program = "import sys, helper\nprint(helper.twice(int(sys.stdin.read())))\nsys.exit(3)"
    ended = sandbox.run(program, "21", files={"helper.py": "def twice(n): return 2 * n"})
    assert (ended.status, ended.stdout, ended.limit) == (3, "42\n", None)
    failed = sandbox.run("1 / 0")
    assert (failed.status, failed.limit) == (1, None)
    assert "ZeroDivisionError" in failed.stderr


def test_a_sandbox_that_does_not_start_says_nothing_of_the_program(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> dict[str, Any]:
        return {"command": ["/nowhere/to/be/found"], "status": arguments[-1]}

    monkeypatch.setattr(run, "specification", broken)
    with pytest.raises(SelfimpError, match="a program could not be started"):
        sandbox.run("print(1)")


def test_a_machine_on_which_nothing_holds_refuses_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "obstacle", lambda level: "it is not there")
    machine_sandbox.cache_clear()
    with pytest.raises(SelfimpError, match="cannot be shut in here") as refused:
        machine_sandbox()
    machine_sandbox.cache_clear()
    assert "install bubblewrap" in refused.value.fix


def test_a_level_that_leaks_is_found_out(tmp_path: Path) -> None:
    class Open(Sandbox):
        def run(self, program: str, stdin: str = "", **_: Any) -> Ended:
            done = subprocess.run(
                [sys.executable, "-c", program], input=stdin, capture_output=True, text=True, cwd=tmp_path
            )
            return Ended(done.returncode, done.stdout, done.stderr, None)

    found = leak(Open("bubblewrap"))
    assert found is not None
    for escape in ("read outside its folder", "open a socket", "make a link", "start a process"):
        assert escape in found
