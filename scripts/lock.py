"""Turns the report of `pip install --dry-run --report` (standard input) into constraints (standard output).

Left out: the project itself, and what comes with torch on some platforms only (CUDA libraries, triton).
Local version labels such as +cpu are dropped, so that every build of a version satisfies its pin.
"""

import json
import re
import sys

HEADER = """\
# Every package that the project's runtime and development dependencies lead to, at the version that
# was tested. Made by `make lock`; do not edit. Not pinned: CUDA libraries and triton, which torch
# itself pins where it needs them.
"""
PLATFORM_ONLY = re.compile(r"nvidia-|cuda-|triton")
PROJECT = "selfimp-dagster"


def main() -> None:
    report = json.load(sys.stdin)
    pins = {}
    for entry in report["install"]:
        name = re.sub(r"[-_.]+", "-", entry["metadata"]["name"]).lower()
        if name != PROJECT and not PLATFORM_ONLY.match(name):
            pins[name] = entry["metadata"]["version"].partition("+")[0]
    sys.stdout.write(HEADER)
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(pins.items()))


if __name__ == "__main__":
    main()
