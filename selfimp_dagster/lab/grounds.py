"""The healthy campaigns that failures are put into, and the student that all of them start from."""

from pathlib import Path
from typing import Any, Literal, get_args

Ground = Literal["verified", "voted", "judged"]
"""What a healthy campaign learns from: verdicts of the tasks' verifiers, majority votes, or a judge."""

GROUNDS: tuple[Ground, ...] = get_args(Ground)

SCHOOL = "school"
"""The campaign whose first checkpoint is the student."""

MOST_TOKENS = 11
"""Of a response: the longest right answer, its end, and two more."""

_SKILLS: dict[str, Any] = {
    "copying": {"suite": "strings", "operation": "copy", "shortest": 4, "longest": 8},
    "reversing": {"suite": "strings", "operation": "reverse", "shortest": 4, "longest": 8},
}
_GUARD: dict[str, Any] = {
    "short_copying": {"suite": "strings", "operation": "copy", "shortest": 2, "longest": 3},
}
_CHAIN: list[dict[str, Any]] = [
    {"method": "finished"},
    {"method": "decontamination"},
    {"method": "exact_duplicates"},
    {"method": "near_duplicates", "threshold": 1.0},
    {"method": "cap_per_task", "at_most": 1},
]


def school(seed: int) -> dict[str, Any]:
    """The campaign file that makes a student of a model that knows nothing: one round of demonstrations.

    The student copies and reverses up to 5 letters, and some of what is longer, so that there is something to
    gain and something to lose.
    """
    return {
        "name": SCHOOL,
        "description": "Demonstrations of copying and reversing, from nothing.",
        "model": "scratch:characters",
        "seed": seed,
        "skills": {
            "copying": {"suite": "strings", "operation": "copy", "shortest": 1, "longest": 5},
            "reversing": {"suite": "strings", "operation": "reverse", "shortest": 1, "longest": 5},
        },
        "pools": {"train": 6000, "anchor": 120, "fresh": 120, "guard": 0},
        "recipe": {
            "acquisition": {"method": "self_labelling", "demonstrated": 6, "demonstrations": 1.0},
            "selection": [{"method": "verified"}, *_CHAIN],
            "optimization": {
                "method": "sft",
                "learning_rate": 4e-3,
                "batch_size": 64,
                "epochs": 20,
                "most_steps": 1200,
                "weight_decay": 0.1,
            },
            "refinement": {"method": "self_consistency", "tasks": 0},
        },
        "evaluation": {"max_new_tokens": MOST_TOKENS, "rewordings": 0, "twins": 0},
        "promotion": {"minimum_gain": 0.1},
        "continuation": {"rounds": 1},
    }


def healthy(ground: Ground, name: str, student: Path, seed: int, judge: str = "") -> dict[str, Any]:
    """The campaign file of a healthy campaign.

    Args:
        student: the folder of the weights that it starts from.
        judge: the address of the judge, for the ground `judged`.
    """
    endpoint = {"source": "endpoint", "url": judge, "model": "lab", "concurrent": 16}
    rewards: dict[Ground, list[dict[str, Any]]] = {
        "verified": [{"method": "answer"}],
        "voted": [{"method": "majority_vote"}],
        "judged": [
            {"method": "judge", "judge": endpoint, "repeats": 1},
            {"method": "pairwise_judge", "judge": endpoint, "pairs_per_task": 2},
        ],
    }
    kept: dict[Ground, dict[str, Any]] = {
        "verified": {"method": "verified"},
        "voted": {"method": "verified", "reward": "majority_vote", "minimum_confidence": 0.75},
        "judged": {"method": "verified", "reward": "judge", "minimum": 0.6},
    }
    return {
        "name": name,
        "model": str(student),
        "seed": seed,
        "skills": _SKILLS,
        "guard": _GUARD,
        "pools": {"train": 160, "anchor": 120, "fresh": 120, "guard": 60},
        "recipe": {
            "acquisition": {
                "method": "policy_sampling",
                "samples_per_task": 4,
                "sampling": {"max_new_tokens": MOST_TOKENS, "temperature": 0.8},
            },
            "rewards": rewards[ground],
            "selection": [kept[ground], *_CHAIN],
            "optimization": {
                "method": "sft",
                "learning_rate": 5e-4,
                "batch_size": 32,
                "epochs": 4,
                "replay": 1.0,
            },
            "refinement": {"method": "self_consistency", "tasks": 48, "votes": 3},
        },
        "evaluation": {"max_new_tokens": MOST_TOKENS, "rewordings": 0, "twins": 0},
        "promotion": {"minimum_gain": 0.1},
        "continuation": {"rounds": 4, "patience": 4},
        "steering": None,
    }
