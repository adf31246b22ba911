"""Other engines doing the same work, one runner each; `job` says what it is."""
