"""The sandbox of this machine: tried before it is trusted, refused where none holds."""

import json
import os
import tempfile
from functools import cache
from pathlib import Path

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.sandbox.levels import LEVELS, obstacle
from selfimp_dagster.sandbox.run import Sandbox

_ATTEMPTS = """
import json, os, socket, sys

given = json.load(sys.stdin)
outside, parent = given["outside"], given["parent"]
attempts = {
    "compute": lambda: sum(range(10)),
    "read outside its folder": lambda: open(f"{outside}/secret").read(),
    "list a folder outside": lambda: os.listdir(outside),
    "write outside its folder": lambda: open(f"{outside}/written", "w"),
    "delete outside its folder": lambda: os.unlink(f"{outside}/secret"),
    "read about a process": lambda: open(f"/proc/{parent}/environ", "rb").read(),
    "signal a process": lambda: os.kill(parent, 0),
    "open a socket": lambda: socket.socket(),
    "make a link": lambda: os.symlink("/", "root"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    print(name, flush=True)
os.fork()
"""


@cache
def machine_sandbox() -> Sandbox:
    """The stricter sandbox of those that held on this machine against a program that tries to get out.

    Raises:
        SelfimpError: none held, so no program that a model wrote is run here.
    """
    reasons = []
    for level in LEVELS:
        reason = obstacle(level) or leak(Sandbox(level))
        if reason is None:
            return Sandbox(level)
        reasons.append(f"{level}: {reason}")
    raise SelfimpError(
        f"programs that a model wrote cannot be shut in here ({'; '.join(reasons)})",
        where="sandbox",
        fix="install bubblewrap (the package bubblewrap of Debian, Ubuntu, Fedora and Arch) where namespaces "
        "are allowed, or use Linux 6.2 or newer with Landlock; both need libseccomp",
    )


def leak(sandbox: Sandbox) -> str | None:
    """What a program managed in the sandbox that it must not, or why none ran; none: the sandbox holds."""
    with tempfile.TemporaryDirectory(prefix="selfimp-outside-") as outside:
        (Path(outside) / "secret").write_text("secret")
        try:
            ended = sandbox.run(_ATTEMPTS, json.dumps({"outside": outside, "parent": os.getpid()}))
        except SelfimpError as error:
            return error.what
    managed = ended.stdout.splitlines()
    if managed[:1] != ["compute"]:
        return f"a program did not run (status {ended.status}): {ended.stderr.strip()[-200:]}"
    managed += ["start a process"] if ended.limit != "processes" else []
    return f"a program could {', '.join(managed[1:])}" if managed[1:] else None
