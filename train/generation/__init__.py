"""Drawing samples at any scale: jobs, workers, drawers and the shards that they fill."""
