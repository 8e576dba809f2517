"""The one partition dimension: rounds."""

import dagster as dg

rounds = dg.DynamicPartitionsDefinition(name="rounds")
"""Keys are `<campaign>/<0000>`; `RoundKey.parse` is the only reader of that grammar."""
