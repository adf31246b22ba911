"""From problems, candidates and targets to the hybrid set of rows."""
