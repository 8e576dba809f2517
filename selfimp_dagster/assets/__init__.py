"""The artifacts of a round, one thin asset each, and the ledger over all rounds."""
