"""Random histories: whatever happens to an engine, no page, request or token is lost."""
