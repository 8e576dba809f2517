"""The one partition dimension: rounds."""

import dagster as dg

ROUNDS = "rounds"

rounds = dg.DynamicPartitionsDefinition(name=ROUNDS)
"""Keys are `<campaign>/<0000>`; `RoundKey.parse` is the only reader of that grammar."""
