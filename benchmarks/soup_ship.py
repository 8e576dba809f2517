"""Asks `soup ship` for its verdicts; run by an interpreter that has soup-cli, not by ours.

    pip install soup-cli    # in a virtual environment of its own
    python benchmarks/soup_ship.py

The first line on stdout is its version. Then each line on stdin is a JSON list of [base, tuned] task
accuracies, answered by a JSON list of booleans: ship or not. The decision is that of the function behind
`soup ship --evidence`, with its default threshold. It refuses to decide without a general benchmark, so it
is given one that the tuning did not move: what decides is its rule for the task, as for the other rules.
"""

import json
import sys
from importlib.metadata import version

from soup_cli.utils.ship_verdict import DECISION_SHIP, verdict_from_evidence


def ships(base: float, tuned: float) -> bool:
    evidence = {
        "task": {"mode": "metric", "base": base, "tuned": tuned},
        "benchmarks": {"unmoved": {"base": 0.5, "tuned": 0.5}},
    }
    return verdict_from_evidence(evidence).decision == DECISION_SHIP


if __name__ == "__main__":
    print(version("soup-cli"), flush=True)
    for line in sys.stdin:
        print(json.dumps([ships(base, tuned) for base, tuned in json.loads(line)]), flush=True)
