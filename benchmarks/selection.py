"""Selection at scale: duplicates across rounds and decontamination, beside datatrove's MinHash.

    python -m benchmarks.selection --out results/ [--rounds 20 --rows 50000] [--peer-python PYTHON]

Documents are windows of 88 words from the Python sources that stand in this environment, each 20 words behind
the one before it (the first eight words are the prompt). Of the rows of a round, `PLANTED` repeat a row of
this or an earlier round with one word changed (a Jaccard similarity of at least 0.92, the threshold is 0.9),
`REPEATED` repeat one exactly, and `LEAKED` quote an evaluation item. A round runs the three steps that every
chain has and one that scores a column, on what the step before kept, and stores its kept rows with their keys
as `selected_subset` does; the next round finds them there. Printed: rows per second, peak memory, how much of
what was planted was found, rounds of the beginning and the end, and the last one as if it were the first.

With `--peer-python`, an environment of its own with `datatrove[io,processing]` and spacy, the first
`--peer-rows` documents also go through datatrove's MinHash deduplication (signatures, buckets, clusters,
filter; one worker, the same n-grams and bands): rows per second, and how many rows it drops.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from selfimp_dagster import memory
from selfimp_dagster.lifecycle.selection.chain import SelectionContext, SelectionStep, corpus_rows, judge_rows
from selfimp_dagster.lifecycle.selection.models import Models
from selfimp_dagster.lifecycle.selection.row_keys import ROW_KEYS, Nearness
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame

PROMPT, RESPONSE, STEP = 8, 80, 20  # words
PLANTED, REPEATED, LEAKED = 0.02, 0.01, 0.002  # shares of the rows
ITEMS = 500
STEPS: dict[str, dict[str, Any]] = {
    "exact_duplicates": {},
    "near_duplicates": {},
    "decontamination": {},
    "length_filter": {"share": 1e-3},  # scores, and keeps nearly all
}
COPIES = ("exact_duplicates", "near_duplicates")
NEARNESS = Nearness.of(0.9, 3)

_PEER = """
import json, sys, time
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

folder, bands, ngram = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
config = MinhashConfig(n_grams=ngram, num_buckets=bands, hashes_per_bucket=128 // bands)
paths = {name: str(folder / name) for name in ("signatures", "buckets", "removed", "kept", "logs")}
reader = JsonlReader(str(folder / "documents"), compression=None)
stages = [
    ([reader, MinhashDedupSignature(output_folder=paths["signatures"], config=config)], 1),
    ([MinhashDedupBuckets(paths["signatures"], paths["buckets"], config=config)], bands),
    ([MinhashDedupCluster(paths["buckets"], paths["removed"], config=config)], 1),
    ([reader, MinhashDedupFilter(paths["removed"]), JsonlWriter(paths["kept"], compression=None)], 1),
]
started = time.monotonic()
for number, (pipeline, tasks) in enumerate(stages):
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{paths['logs']}/{number}").run()
seconds = time.monotonic() - started
kept = [json.loads(line)["id"] for file in Path(paths["kept"]).glob("*.jsonl") for line in file.open()]
print(json.dumps({"seconds": seconds, "kept": kept}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=50_000, help="of a round")
    parser.add_argument("--peer-python", type=Path, help="an environment with datatrove[processing]")
    parser.add_argument("--peer-rows", type=int, default=20_000)
    arguments = parser.parse_args()
    out = arguments.out / "selection"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    windows = documents()
    items = evaluation_items([next(windows) for _ in range(ITEMS)])
    corpus = Corpus(windows, items["prompt"].to_list())
    measured = []
    for number in range(arguments.rounds):
        rows = corpus.round(number, arguments.rows)
        if number == 0 and arguments.peer_python:
            print("datatrove", peer(arguments.peer_python, rows[: arguments.peer_rows], out / "peer"))
            print("this, on the same", alone(rows[: arguments.peer_rows], out / "alone.parquet"))
        measured.append(one_round(number, rows, items, out))
        print(json.dumps(measured[-1]), flush=True)
        with (out / "rounds.jsonl").open("a") as lines:
            lines.write(json.dumps(measured[-1]) + "\n")
    print(table(measured))
    (out / "alone").mkdir()
    print("the last round again, as if it were the first", one_round(number, rows, items, out / "alone"))


def documents() -> Iterator[tuple[str, str]]:
    """Windows of words from the sources of Python's library and of what is installed beside it."""
    seen = set()
    for root in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for file in sorted(Path(root).rglob("*.py")):
            words = re.findall(r"\S+", file.read_text(encoding="utf-8", errors="replace"))
            for start in range(0, len(words) - PROMPT - RESPONSE + 1, STEP):
                middle = start + PROMPT
                window = " ".join(words[start:middle]), " ".join(words[middle : middle + RESPONSE])
                if window not in seen and re.search(r"(?:^| )[A-Za-z]+(?: |$)", window[1]):
                    seen.add(window)
                    yield window


class Corpus:
    """The rows of the rounds; `kind` says what is planted in each: new, planted, repeated, leaked."""

    def __init__(self, windows: Iterator[tuple[str, str]], items: Sequence[str]) -> None:
        self._windows, self._items = windows, items
        self._chance = random.Random(0)
        self._earlier: list[tuple[str, str]] = []  # some rows to repeat

    def round(self, number: int, size: int) -> list[dict[str, Any]]:
        chance, rows = self._chance, []
        for place in range(size):
            lot = chance.random()
            if self._earlier and lot < PLANTED + REPEATED:
                kind = "planted" if lot < PLANTED else "repeated"
                prompt, response = chance.choice(self._earlier)
                if kind == "planted":
                    words = response.split(" ")
                    letters = [at for at, word in enumerate(words) if re.fullmatch("[A-Za-z]+", word)]
                    words[chance.choice(letters)] = "otherwise"
                    response = " ".join(words)
            else:
                kind = "leaked" if lot > 1 - LEAKED else "new"
                prompt, response = next(self._windows)
                if kind == "leaked":
                    response = f"{response[:200]} {chance.choice(self._items)}"
                elif chance.random() < 0.05:
                    self._earlier.append((prompt, response))
            rows.append(
                {"id": f"{number:03d}-{place:07d}", "kind": kind, "prompt": prompt, "response": response}
            )
        return rows


def evaluation_items(windows: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """Items (records.TASKS) whose prompts are windows that no row has."""
    return frame(
        (
            {
                "task_id": f"item-{number}",
                "pool": "anchor",
                "skill": "sources",
                "suite": "benchmark",
                "difficulty": 1.0,
                "prompt": response,
                "verifier": "exact",
                "source": "sources",
                "parent_ids": [],
                "generation_depth": 0,
            }
            for number, (_, response) in enumerate(windows)
        ),
        TASKS,
    )


def context_of(
    rows: Sequence[dict[str, Any]], items: pl.DataFrame, number: int, **told: Any
) -> SelectionContext:
    """The corpus of a round: a task and a sample per row."""
    given = pl.DataFrame(rows)
    tasks = given.select(
        task_id="id",
        pool=pl.lit("train"),
        skill=pl.lit("sources"),
        suite=pl.lit("benchmark"),
        difficulty=pl.lit(1.0),
        prompt="prompt",
        chat=pl.lit(None, TASKS["chat"]),
        answer=pl.lit(None, pl.String),
        verifier=pl.lit("exact"),
        entry=pl.lit(None, pl.String),
        source=pl.lit("sources"),
        parent_ids=pl.lit([], pl.List(pl.String)),
        generation_depth=pl.lit(0, TASKS["generation_depth"]),
    ).select(list(TASKS))
    own = {
        "sample_id": pl.col("id"),
        "task_id": pl.col("id"),
        "round": pl.lit(f"rows/{number:04d}"),
        "messages": pl.concat_list(pl.struct(role=pl.lit("user"), content="prompt")),
        "response": pl.col("response"),
        "finish_reason": pl.lit("stop"),
    }
    samples = given.select(
        own.get(name, pl.lit(None, dtype)).alias(name).cast(dtype) for name, dtype in SAMPLES.items()
    )
    return SelectionContext(
        tasks=tasks,
        samples=samples,
        rewards=REWARDS.to_frame(),
        evaluation_items=items,
        seed=0,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        models=Models(lambda role: (Path(), ""), no_engine, LogProgress(print)),
        judge=no_engine,
        **told,
    )


def no_engine(*_: Any) -> Any:
    raise AssertionError("nothing here asks a model")


def one_round(number: int, rows: Sequence[dict[str, Any]], items: pl.DataFrame, out: Path) -> dict[str, Any]:
    """What the steps took and found, and the kept rows with their keys in files."""
    folders = sorted(out.glob("round-*"))

    def stored(name: str) -> pl.LazyFrame:
        files = [pl.scan_parquet(folder / f"{name}.parquet") for folder in folders]
        return pl.concat([ROW_KEYS.to_frame().lazy(), *files])

    earlier = [pl.scan_parquet(folder / "subset.parquet") for folder in folders]
    nothing = pl.DataFrame(
        schema=dict.fromkeys(("sample_id", "task_id", "round", "prompt", "response"), pl.String)
    )
    memory.forget_peaks()
    context = context_of(
        rows,
        items,
        number,
        earlier=pl.concat([nothing.lazy(), *earlier]),
        stored_keys=lambda nearness: stored("exact_keys" if nearness is None else "near_keys"),
    )
    started = time.monotonic()
    seconds, alive = {}, corpus_rows(context)
    dropped: dict[str, set[str]] = {}
    for step, parameters in STEPS.items():
        began = time.monotonic()
        judged, _ = judge_rows(SelectionStep.of(step, **parameters), alive, context)
        alive = alive.join(judged.filter("kept"), on="sample_id", how="semi", maintain_order="left")
        dropped[step] = set(judged.filter(~pl.col("kept"))["sample_id"])
        seconds[step] = time.monotonic() - began
    began = time.monotonic()
    folder = out / f"round-{number:04d}"
    folder.mkdir()
    alive.select(*nothing.columns).write_parquet(folder / "subset.parquet")
    context.keys.of(alive, None).write_parquet(folder / "exact_keys.parquet")
    context.keys.of(alive, NEARNESS).write_parquet(folder / "near_keys.parquet")
    seconds["storing"] = time.monotonic() - began
    kinds = {
        kind: {row["id"] for row in rows if row["kind"] == kind} for kind in ("planted", "repeated", "leaked")
    }
    copies = set().union(*(dropped[step] for step in COPIES))
    return {
        "round": number,
        "rows": len(rows),
        "before": sum(
            pl.scan_parquet(one / "subset.parquet").select(pl.len()).collect().item() for one in folders
        ),
        "seconds": time.monotonic() - started,
        **{f"{step}_seconds": took for step, took in seconds.items()},
        "peak_memory_bytes": memory.peak_bytes(),
        "planted": [len(kinds["planted"] & copies), len(kinds["planted"])],
        "repeated": [len(kinds["repeated"] & copies), len(kinds["repeated"])],
        "leaked": [len(kinds["leaked"] & dropped["decontamination"]), len(kinds["leaked"])],
        "kept": alive.height,
    }


def alone(rows: Sequence[dict[str, Any]], kept: Path) -> dict[str, Any]:
    """Both steps against duplicates on these rows alone, from Python's rows to a file of those that stay."""
    started = time.monotonic()
    context = context_of(
        rows,
        TASKS.to_frame(),
        0,
        earlier=pl.DataFrame(
            schema=dict.fromkeys(("sample_id", "task_id", "round", "prompt", "response"), pl.String)
        ),
    )
    alive = corpus_rows(context)
    for step in COPIES:
        judged, _ = judge_rows(SelectionStep.of(step), alive, context)
        alive = alive.join(judged.filter("kept"), on="sample_id", how="semi", maintain_order="left")
    alive.write_parquet(kept)
    return found(rows, set(alive["sample_id"]), time.monotonic() - started)


def peer(python: Path, rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """datatrove on the same documents."""
    (folder / "documents").mkdir(parents=True)
    lines = (
        json.dumps({"id": row["id"], "text": f"{row['prompt']} {row['response']}"}) + "\n" for row in rows
    )
    (folder / "documents" / "rows.jsonl").write_text("".join(lines))
    ran = subprocess.run(
        [python, "-c", _PEER, folder, str(NEARNESS.bands), str(NEARNESS.ngram)],
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        sys.exit(ran.stderr[-2000:])
    told = json.loads(ran.stdout.splitlines()[-1])
    return found(rows, set(told["kept"]), told["seconds"])


def found(rows: Sequence[dict[str, Any]], kept: set[str], seconds: float) -> dict[str, Any]:
    """Rows per second, and how many of the rows that repeat another one were dropped.

    datatrove keeps any row of a cluster, so of a planted row and what it repeats either may go.
    """
    planted = sum(row["kind"] in ("planted", "repeated") for row in rows)
    return {
        "rows": len(rows),
        "rows_per_second": round(len(rows) / seconds, 1),
        "dropped": len(rows) - len(kept),
        "planted_or_repeated": planted,
    }


def table(rounds: Sequence[dict[str, Any]]) -> str:
    """Markdown: some of the rounds."""
    shown = [
        rounds[place] for place in sorted({0, 1, len(rounds) // 2, len(rounds) - 1}) if place < len(rounds)
    ]
    lines = [
        "| round | rows before | rows/s | exact, near, decontamination, length, storing (s) | peak memory | "
        "near found | exact found | leaks found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in shown:
        took = ", ".join(f"{row[f'{step}_seconds']:.1f}" for step in (*STEPS, "storing"))
        shares = " | ".join(f"{row[kind][0]} of {row[kind][1]}" for kind in ("planted", "repeated", "leaked"))
        lines.append(
            f"| {row['round']} | {row['before']:,} | {row['rows'] / row['seconds']:,.0f} | {took} "
            f"| {row['peak_memory_bytes'] / 2**30:.2f} GiB | {shares} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
