"""Other engines and trainers doing the same work, one runner each; `job` defines the work."""
