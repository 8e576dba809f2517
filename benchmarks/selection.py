"""Selection at scale: a million rows against all earlier rounds, beside datatrove's MinHash.

    python -m benchmarks.selection --datatrove DATATROVE_VENV/bin/python

Rows are made up: a prompt and a story of 100 words by Zipf's law. A tenth are copies of another row, with
up to four words changed, half of them of a row of an earlier round. The chain `exact_duplicates`,
`near_duplicates`, `decontamination`, `verified`, `length_filter` judges them as a round of a campaign would:
read from Parquet, looked up in the index of a stored round of as many rows, every fate written to Parquet.

1. Both on the same documents: rows per second of the whole chain, which hashes the earlier round as well, and
   of datatrove's four stages as its examples run them (its defaults, as many workers as cores). datatrove
   lives in an environment of its own: `pip install "datatrove[io,processing]" spacy`.
2. The whole size: seconds, peak memory of the process, and the planted near-duplicates found.
3. One more round of a line of 1 to 1,000 rounds: what looking up its rows costs, its parent's hashing too.
"""

import argparse
import gzip
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import polars as pl

from selfimp_dagster.lifecycle.rewards.context import Judge
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource
from selfimp_dagster.lifecycle.selection import SelectionContext, SelectionStep, StoredRows, run_chain
from selfimp_dagster.lifecycle.selection.models import Models, Role
from selfimp_dagster.lifecycle.selection.sketches import ContentKeys, NearKeys, Shingles
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import MESSAGES, REWARDS, SAMPLES, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

CAMPAIGN = "many-rows"
WORDS = 100
NEAR = 0.1  # of the rows are near-copies
CHAIN = ("exact_duplicates", "near_duplicates", "decontamination", "verified", "length_filter")
PART = 50_000  # rows made at a time
PEER = """
import os, sys
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

source, folder, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = MinhashConfig()

def run(name, pipeline, tasks):
    LocalPipelineExecutor(
        pipeline, tasks=tasks, workers=os.cpu_count(), logging_dir=f"{folder}/logs/{name}"
    ).run()

if __name__ == "__main__":
    run("1", [JsonlReader(source), MinhashDedupSignature(f"{folder}/signatures", config)], tasks)
    buckets = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
    run("2", [buckets], config.num_buckets)
    run("3", [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/removed", config=config)], 1)
    run("4", [
        JsonlReader(source), MinhashDedupFilter(f"{folder}/removed"), JsonlWriter(f"{folder}/kept"),
    ], tasks)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--datatrove", type=Path, help="the Python of an environment with datatrove[processing,io]"
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--same-rows", type=int, default=20_000, help="documents that both are given")
    parser.add_argument("--rounds", type=int, default=1000, help="the longest line")
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.judge:
        print(json.dumps(judge(arguments.judge)))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, polars {pl.__version__}, {time.strftime('%Y-%m-%d')}\n")
    print("| asked | rows | wall s | processor s | rows/s | peak MB |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="selfimp-selection-") as name:
        folder = Path(name)
        mine = in_new_process(folder / "same", arguments.same_rows)
        print(line("this project, the chain", arguments.same_rows, mine))
        if arguments.datatrove:
            wall, kept = peer(arguments.datatrove, folder / "same")
            name = f"datatrove {version(arguments.datatrove)}, MinHash (keeps {kept:,})"
            rate = arguments.same_rows / wall
            print(f"| {name} | {arguments.same_rows:,} | {wall:,.1f} | | {rate:,.0f} | |", flush=True)
        whole = in_new_process(folder / "whole", arguments.rows)
        print(line("this project, the chain", arguments.rows, whole))
        for step, seconds in whole["steps"].items():
            print(f"| of which `{step}` | | {seconds:,.1f} | | | |")
        if arguments.datatrove:
            print(f"\nRatio to datatrove on the same documents, by wall time: {wall / mine['wall']:.1f}")
        print("\n| planted, by Jaccard similarity of the responses | rows | found |\n|---|---|---|")
        for band, (count, found) in whole["recall"].items():
            print(f"| {band} | {count:,} | {found:,} ({found / max(count, 1):.5f}) |")
        print("\n| rounds of 500 rows before | seconds to look up 2,000 rows | index MB |\n|---|---|---|")
        for rounds, seconds, size in growth(folder / "line", arguments.rounds):
            print(f"| {rounds:,} | {seconds:.2f} | {size / 1e6:,.0f} |", flush=True)


def line(name: str, rows: int, measured: dict[str, float]) -> str:
    return (
        f"| {name} | {rows:,} | {measured['wall']:,.1f} | {measured['processor']:,.1f} "
        f"| {rows / measured['wall']:,.0f} | {measured['peak']:,.0f} |"
    )


def in_new_process(folder: Path, rows: int) -> dict[str, float]:
    make(folder, rows)
    command = [sys.executable, "-m", "benchmarks.selection", "--judge", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def peer(python: Path, folder: Path) -> tuple[float, int]:
    """Wall seconds of datatrove's four stages, a file for each core, and how many documents it kept."""
    documents = (
        pl.scan_parquet(folder / "samples-*.parquet")
        .select(
            id="sample_id",
            text=pl.col("messages").list.first().struct.field("content") + "\n" + pl.col("response"),
        )
        .collect()
    )
    (folder / "jsonl").mkdir()
    parts = os.cpu_count() or 1
    for number in range(parts):
        documents.gather_every(parts, number).write_ndjson(folder / "jsonl" / f"{number}.jsonl")
    script = folder / "peer.py"
    script.write_text(PEER)
    started = time.monotonic()
    done = subprocess.run(
        [python, script, folder / "jsonl", folder / "datatrove", str(parts)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    wall = time.monotonic() - started
    files = (folder / "datatrove" / "kept").glob("*.gz")
    return wall, sum(gzip.decompress(path.read_bytes()).count(b"\n") for path in files)


def version(python: Path) -> str:
    asked = "import importlib.metadata as m; print(m.version('datatrove'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def stories(random: np.random.Generator, count: int, vocabulary: np.ndarray) -> np.ndarray:
    """(count, WORDS) numbers of words."""
    return np.minimum(random.zipf(1.3, size=(count, WORDS)) - 1, vocabulary.size - 1)


def make(folder: Path, rows: int) -> None:
    """A corpus of that many rows, in parts, and a store with an earlier round of as many."""
    random = np.random.default_rng(0)
    vocabulary = np.array(["".join(letters) for letters in product(ascii_lowercase, repeat=3)])
    random.shuffle(vocabulary)
    folder.mkdir(parents=True)
    kept: list[pl.DataFrame] = []
    for start in range(0, rows, PART):
        count = min(PART, rows - start)
        old, new = stories(random, count, vocabulary), stories(random, count, vocabulary)
        copies = random.permutation(count)[: round(NEAR * count)]
        originals = np.setdiff1d(np.arange(count), copies)
        source = random.choice(originals, size=copies.size)
        earlier = np.arange(copies.size) % 2 == 0
        new[copies] = np.where(earlier[:, None], old[source], new[source])
        for _ in range(4):
            changed = random.random(copies.size) < 0.5
            place = random.integers(WORDS, size=copies.size)
            new[copies[changed], place[changed]] = random.integers(vocabulary.size, size=changed.sum())
        ids = np.array([f"b{start + place:015}" for place in range(count)])
        ids[copies] = [f"c{start + place:015}" for place in copies]  # after what they are copies of
        texts = [" ".join(vocabulary[story]) for story in new]
        of_old = [" ".join(vocabulary[story]) for story in old]
        twin = np.full(count, "", object)
        twin[copies] = np.where(earlier, np.array(of_old, object)[source], np.array(texts, object)[source])
        frame = pl.DataFrame({"sample_id": ids, "response": texts, "copy_of": twin.tolist()})
        prompt = pl.format("Tell a story with the title {}.", pl.col("response").str.slice(0, 3))
        prompt = (
            pl.when(pl.col("copy_of") == "")
            .then(prompt)
            .otherwise(pl.format("Tell a story with the title {}.", pl.col("copy_of").str.slice(0, 3)))
        )
        number = start // PART
        _samples(frame.with_columns(prompt=prompt)).write_parquet(folder / f"samples-{number:03}.parquet")
        frame.filter(pl.col("copy_of") != "").write_parquet(folder / f"planted-{number:03}.parquet")
        kept.append(
            _subset(pl.DataFrame({"response": of_old}).with_row_index("n", start), RoundKey(CAMPAIGN, 0))
        )
    write_subset(ArtifactStore(folder / "store"), RoundKey(CAMPAIGN, 0), pl.concat(kept))


def _samples(rows: pl.DataFrame) -> pl.DataFrame:
    prompt = pl.concat_list(pl.struct(role=pl.lit("user"), content="prompt")).cast(MESSAGES)
    return rows.select(
        "sample_id",
        pl.col("prompt").alias("task_id"),
        pl.lit(f"{CAMPAIGN}/0001").alias("round"),
        pl.lit("0" * 64).alias("policy_hash"),
        pl.lit("SE").alias("generation"),
        prompt.alias("messages"),
        "response",
        pl.lit(10, pl.Int64).alias("prompt_tokens"),
        pl.lit(150, pl.Int64).alias("completion_tokens"),
        pl.lit(-100.0).alias("sum_logprob"),
        pl.lit(-0.7).alias("mean_logprob"),
        pl.lit("stop").alias("finish_reason"),
        pl.lit("{}").alias("sampling"),
        pl.lit(0, pl.Int64).alias("seed"),
        pl.lit(None, pl.String).alias("parent_sample_id"),
    ).select(list(SAMPLES))


def _subset(rows: pl.DataFrame, key: RoundKey) -> pl.DataFrame:
    prompt = pl.format("Tell a story with the title {}.", pl.col("response").str.slice(0, 3))
    return rows.select(
        pl.format("a{}", pl.col("n").cast(pl.String).str.zfill(15)).alias("sample_id"),
        prompt.alias("task_id"),
        pl.lit(str(key)).alias("round"),
        pl.lit("tales").alias("skill"),
        prompt.alias("prompt"),
        pl.lit([], MESSAGES).alias("messages"),
        "response",
    ).select(list(SUBSET))


def write_subset(store: ArtifactStore, key: RoundKey, rows: pl.DataFrame) -> None:
    draft = store.draft(key, "selected_subset", parents={}, config={})
    draft.write_table("subset", rows, SUBSET)
    draft.commit(facts={}, measurements={})


def judge(folder: Path) -> dict[str, object]:
    """Runs the chain over a corpus that `make` made, in this process."""
    store, progress = ArtifactStore(folder / "store"), LogProgress(lambda line: None)
    names = [SelectionStep.of(name) for name in CHAIN]
    wall, processor = time.perf_counter(), time.process_time()
    samples = pl.read_parquet(folder / "samples-*.parquet")
    tasks = _tasks(samples.select(prompt=pl.col("task_id").unique(maintain_order=True)), "train")
    random = np.random.default_rng(1)
    items = [" ".join(f"{chr(97 + n)}item" for n in random.integers(26, size=40)) for _ in range(500)]
    context = SelectionContext(
        tasks=tasks,
        samples=samples,
        rewards=samples.select(
            "sample_id",
            pl.lit("answer").alias("reward"),
            pl.lit("V").alias("kind"),
            pl.lit(1.0).alias("value"),
            pl.lit(1.0).alias("confidence"),
            pl.lit("").alias("evidence"),
        ).select(list(REWARDS)),
        earlier=StoredRows(store, [RoundKey(CAMPAIGN, 0)], progress),
        evaluation_items=_tasks(pl.DataFrame({"prompt": items}), "anchor"),
        seed=0,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        models=Models(_no_weights, lambda folder, policy: _unused(), progress),
        judge=_no_judge,
    )
    steps: dict[str, float] = {}
    selection, _ = run_chain([timed(step, steps) for step in names], context)
    selection.write_parquet(folder / "selection.parquet")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)[0]) / 1024
    return {
        "wall": wall,
        "processor": processor,
        "peak": peak,
        "steps": steps,
        "recall": recall(folder, selection),
    }


def timed(step: SelectionStep, seconds: dict[str, float]) -> SelectionStep:
    """The step, whose wall seconds are put down under its name."""
    function = step.method.function

    def call(*given: object) -> object:
        started = time.perf_counter()
        try:
            return function(*given)
        finally:
            seconds[step.method.name] = time.perf_counter() - started

    return replace(step, method=replace(step.method, function=call))


def recall(folder: Path, selection: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """How many planted copies there are, by exact similarity, and how many were dropped as duplicates."""
    planted = pl.read_parquet(folder / "planted-*.parquet")
    texts = Shingles.of(pl.concat([planted["response"], planted["copy_of"]]), 3)
    similarity = []
    for place in range(planted.height):
        one, other = texts.of_text(place), texts.of_text(place + planted.height)
        similarity.append(len(one & other) / len(one | other))
    dropped = selection.filter(~pl.col("kept") & pl.col("step").is_in(CHAIN[:2])).select("sample_id")
    found = planted["sample_id"].is_in(dropped["sample_id"].implode())
    table = planted.select(similarity=pl.Series(similarity), found=found)
    bands = {"1": (1.0, 1.01), "0.95 to 1": (0.95, 1.0), "0.9 to 0.95": (0.9, 0.95), "below 0.9": (0.0, 0.9)}
    counts = {}
    for name, (low, high) in bands.items():
        of_band = table.filter((pl.col("similarity") >= low) & (pl.col("similarity") < high))
        counts[name] = (of_band.height, int(of_band["found"].sum()))
    return counts


def growth(folder: Path, most: int) -> Iterator[tuple[int, float, int]]:
    """For lines of 1, 10, 100 ... rounds: seconds of one more round's look-ups, bytes of the index."""
    store, progress = ArtifactStore(folder), LogProgress(lambda line: None)
    random, vocabulary = np.random.default_rng(2), np.array([f"word{n}" for n in range(20_000)])
    kinds = [ContentKeys(), NearKeys.at(0.9, 3)]

    def look_up(keys: list[RoundKey]) -> float:
        texts = [" ".join(vocabulary[story]) for story in stories(random, 2000, vocabulary)]
        rows = pl.DataFrame({"prompt": "Tell a story.", "response": texts})
        started = time.perf_counter()
        earlier = StoredRows(store, keys, progress)
        for kind in kinds:
            earlier.sharing(kind, kind.keys(rows))
        return time.perf_counter() - started

    keys: list[RoundKey] = []
    size = 1
    while size <= most:
        while len(keys) < size:
            keys.append(RoundKey(CAMPAIGN, len(keys)))
            texts = [" ".join(vocabulary[story]) for story in stories(random, 500, vocabulary)]
            numbered = pl.DataFrame({"response": texts}).with_row_index("n", 500 * len(keys))
            write_subset(store, keys[-1], _subset(numbered, keys[-1]))
            if len(keys) == size - 1:
                look_up(keys)  # what rounds before this one have left
        yield size, look_up(keys), sum(path.stat().st_size for path in folder.glob(".duplicates/*"))
        size *= 10


def _tasks(prompts: pl.DataFrame, pool: str) -> pl.DataFrame:
    return prompts.select(
        pl.col("prompt").alias("task_id"),
        pl.lit(pool).alias("pool"),
        pl.lit("tales").alias("skill"),
        pl.lit("benchmark").alias("suite"),
        pl.lit(1.0).alias("difficulty"),
        "prompt",
        pl.lit(None, pl.String).alias("answer"),
        pl.lit("exact").alias("verifier"),
        pl.lit("{}").alias("entry"),
        pl.lit("benchmark").alias("source"),
        pl.lit([], pl.List(pl.String)).alias("parent_ids"),
        pl.lit(0, pl.Int64).alias("generation_depth"),
    ).select(list(TASKS))


def _no_weights(role: Role) -> tuple[Path, str]:
    raise AssertionError("no step of the chain needs a model")


def _unused() -> None:
    raise AssertionError("no step of the chain needs an engine")


def _no_judge(source: JudgeSource) -> Judge:
    raise AssertionError("no step of the chain needs a judge")


if __name__ == "__main__":
    main()
