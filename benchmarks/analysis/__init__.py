"""Every figure of a run, as pure functions of its samples: no model, no files."""
