"""Curricula: which train tasks a round samples, from what earlier rounds saw (survey sections 3.2.2 and 3.3).

Importing it registers them.
"""

from selfimp_dagster.lifecycle.curriculum import adarft, adastar, dump, sec  # noqa: F401  registers them
