"""Which samples go on from which: what a dialogue came to."""

import polars as pl


class Descent:
    """The trees that the samples of a corpus form by their parents."""

    def __init__(self, samples: pl.DataFrame) -> None:
        known = set(samples["sample_id"])
        self._parents: dict[str, str] = {
            id_: parent
            for id_, parent in samples.select("sample_id", "parent_sample_id").iter_rows()
            if parent in known
        }
        self._children: dict[str, list[str]] = {}
        for id_, parent in self._parents.items():
            self._children.setdefault(parent, []).append(id_)

    def has_parent(self, id_: str) -> bool:
        """Whether a sample goes on from another one."""
        return id_ in self._parents

    def is_end(self, id_: str) -> bool:
        """Whether nothing goes on from a sample."""
        return id_ not in self._children

    def ends(self, id_: str) -> list[str]:
        """What a sample led to: the ends of all dialogues that go through it, itself where it is one."""
        found, waiting = [], [id_]
        while waiting:
            here = waiting.pop()
            children = self._children.get(here, [])
            waiting += children
            if not children:
                found.append(here)
        return found
