"""Published programs of parallel refinement as data: prompts, parameters, sources."""
