"""The grammar of a round's name: `<campaign>/<0000>`."""

import re
from dataclasses import dataclass

from selfimp_dagster.errors import SelfimpError

CAMPAIGN_PATTERN = r"[a-z0-9][a-z0-9-]{0,40}"
_ROUND_KEY = re.compile(rf"({CAMPAIGN_PATTERN})/([0-9]{{4}})")


@dataclass(frozen=True, order=True)
class RoundKey:
    """One round of one campaign. `str(key)` is its Dagster partition key and its folder in the store."""

    campaign: str
    number: int

    @classmethod
    def parse(cls, text: str) -> "RoundKey":
        """Reads `<campaign>/<0000>` and refuses everything else, since Dagster accepts any partition key.

        Raises:
            SelfimpError: the text is not a round key.
        """
        key = cls.match(text)
        if key is None:
            raise SelfimpError(
                f"{text!r} is not a round",
                where="partition key",
                fix="write <campaign>/<four digits>, for example arithmetic/0000 "
                "(campaign: lower-case letters, digits and dashes)",
            )
        return key

    @classmethod
    def match(cls, text: str) -> "RoundKey | None":
        """The round of that name, or none where the text names no round."""
        match = _ROUND_KEY.fullmatch(text)
        return None if match is None else cls(match.group(1), int(match.group(2)))

    @property
    def next(self) -> "RoundKey":
        return RoundKey(self.campaign, self.number + 1)

    def __str__(self) -> str:
        return f"{self.campaign}/{self.number:04d}"
