"""Asset checks, per round: what must hold before the next stage may build on an artifact."""
