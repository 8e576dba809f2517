"""Row lineage at scale: `selfimp trace` and `selfimp sql` over 1,000 rounds and 10 million rows.

    python -m benchmarks.lineage

Writes a store of made-up rounds that is true to the schemas (`synthetic_store.py`) into a temporary folder,
asks it everything, each time in a new process, and deletes it. Prints wall and processor seconds without
imports, and the peak memory of the process. Cold means that the files of the store were dropped from the page
cache before.

The peers do the first part of a trace of the same sample, finding its rows in five tables, over the same
files: `polars.scan_parquet` with a filter, and DuckDB over a glob. `trace` does that and tells what followed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl

from benchmarks.synthetic_store import make_store
from selfimp_dagster.lifecycle.ledger import read_fates, read_ledger, write_ledger
from selfimp_dagster.lineage.row_index import FOLDER
from selfimp_dagster.lineage.trace import trace
from selfimp_dagster.lineage.views import ask, connect
from selfimp_dagster.store import ArtifactStore

PAGE = Path(__file__).parent.parent / "docs" / "lineage.md"
BYTES_PER_ROUND = 500_000  # on disk, with room to spare
FIND = {  # what a trace of a sample looks for, as a condition on a table
    "generated_corpus/*/samples": "sample_id = '{id}'",
    "generated_corpus/*/rewards": "sample_id = '{id}'",
    "selected_subset/*/selection": "sample_id = '{id}' OR contains(evidence, '{id}')",
    "checkpoint/*/training": "sample_id = '{id}'",
    "refined_outputs/*/samples": "sample_id = '{id}'",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--store", type=Path, help="a store that was made before; it is kept")
    parser.add_argument("--ask", nargs=2, metavar=("WHAT", "ID"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        what, id_ = arguments.ask
        print(json.dumps(measured(lambda: ASKED[what](arguments.store, id_))))
        return
    with tempfile.TemporaryDirectory(prefix="selfimp-lineage-") as folder:
        store = arguments.store or made(Path(folder) / "artifacts", arguments.rounds)
        print(f"\n{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
        print("| asked | wall s | processor s | peak MB |\n|---|---|---|---|")
        for name, what, id_, cold in plan(store):
            if cold:
                drop_from_cache(store)
            wall, processor, peak = asked(store, what, id_)
            print(f"| {name} | {wall:.2f} | {processor:.2f} | {peak:,.0f} |", flush=True)


def made(folder: Path, rounds: int) -> Path:
    """A new store of that many rounds, with its ledger.

    Raises:
        SystemExit: the disk has too little room.
    """
    free = shutil.disk_usage(folder.parent).free
    if free < 2 * rounds * BYTES_PER_ROUND:
        raise SystemExit(f"{free / 1e9:.1f} GB free: too little for {rounds} rounds")
    started, rows = time.monotonic(), 0
    for number, written in enumerate(make_store(folder, rounds)):
        rows += written
        if (number + 1) % 100 == 0:
            print(f"{number + 1} rounds, {rows:,} rows, {time.monotonic() - started:.0f} s", flush=True)
    store = ArtifactStore(folder)
    ledger = read_ledger(store)
    write_ledger(store, ledger, read_fates(store, ledger["round"]))
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"{rows:,} rows in {len(files):,} files, {sum(files) / 1e6:,.0f} MB")
    return folder


def plan(store: Path) -> list[tuple[str, str, str, bool]]:
    """What is asked, in order: how the table names it, what it is, the id, and whether the cache is cold."""
    connection = connect(ArtifactStore(store))
    middle = connection.execute("SELECT median(round) FROM rounds").fetchone() or ()
    row = connection.execute("SELECT sample_id, task_id FROM subset WHERE in_round = ?", list(middle))
    sample, task = row.fetchone() or ("", "")
    row = connection.execute(
        "SELECT min(item_id) FILTER (suite = 'anchor'), min(item_id) FILTER (suite = 'fresh') "
        "FROM evaluations WHERE in_round = ?",
        list(middle),
    )
    anchor, fresh = row.fetchone() or ("", "")
    shutil.rmtree(store / FOLDER, ignore_errors=True)
    questions = list(_questions())
    return [
        ("trace of a sample, which makes the index", "trace", sample, False),
        ("trace of a sample", "trace", sample, False),
        ("trace of a sample, cold", "trace", sample, True),
        ("trace of a task", "trace", task, False),
        ("trace of an item of one round", "trace", fresh, False),
        ("trace of an item of every round", "trace", anchor, False),
        ("polars `scan_parquet`, the sample's rows", "polars", sample, False),
        ("polars `scan_parquet`, the sample's rows, cold", "polars", sample, True),
        ("DuckDB over a glob, the sample's rows", "duckdb", sample, False),
        ("DuckDB over a glob, the sample's rows, cold", "duckdb", sample, True),
        ("`connect`", "connect", "", False),
        ("`connect`, cold", "connect", "", True),
        *((f"question {title}", "question", str(place), False) for place, title in enumerate(questions)),
    ]


def _questions() -> dict[str, str]:
    text = PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r"^### (\d+\. [^\n]*)$.*?```sql\n(.*?)```", text, re.M | re.S))


def asked(store: Path, what: str, id_: str) -> tuple[float, float, float]:
    """Wall and processor seconds and peak memory (MB) of a new process that asks that."""
    command = [sys.executable, "-m", "benchmarks.lineage", "--store", str(store), "--ask", what, id_]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, processor, peak = json.loads(done.stdout.splitlines()[-1])
    return wall, processor, peak


def measured(call: Callable[[], None]) -> tuple[float, float, float]:
    """Wall and processor seconds of a call, and the peak memory (MB) of this process after it."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that started this one
    peak = int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)[0]) / 1024
    return wall, processor, peak


def drop_from_cache(store: Path) -> None:
    os.sync()
    for path in store.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def ask_trace(store: Path, id_: str) -> None:
    trace(ArtifactStore(store), id_)


def ask_connect(store: Path, _: str) -> None:
    connect(ArtifactStore(store))


def ask_question(store: Path, place: str) -> None:
    for _ in ask(ArtifactStore(store), list(_questions().values())[int(place)]).rows():
        pass


def ask_polars(store: Path, id_: str) -> None:
    for table, condition in FIND.items():
        predicate = pl.col("sample_id") == id_
        if "evidence" in condition:
            predicate |= pl.col("evidence").str.contains(id_, literal=True)
        pl.scan_parquet(store / "*" / "*" / f"{table}.parquet", include_file_paths="file").filter(
            predicate
        ).collect(engine="streaming")


def ask_duckdb(store: Path, id_: str) -> None:
    connection = duckdb.connect()
    for table, condition in FIND.items():
        connection.execute(
            f"SELECT * FROM read_parquet('{store}/*/*/{table}.parquet', filename = true) "
            f"WHERE {condition.format(id=id_)}"
        ).fetchall()


ASKED: dict[str, Callable[[Path, str], None]] = {
    "trace": ask_trace,
    "connect": ask_connect,
    "question": ask_question,
    "polars": ask_polars,
    "duckdb": ask_duckdb,
}


if __name__ == "__main__":
    main()
