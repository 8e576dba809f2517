"""The one error type that is written for people."""


class SelfimpError(Exception):
    """Something a person can act on.

    Args:
        what: what was wrong, as one sentence.
        where: the file, field, artifact or partition it was found in.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(f"{where}: {what}\n  -> {fix}")


class Unreachable(SelfimpError):
    """Storage elsewhere does not answer, or says that it cannot now: the same may work later."""
