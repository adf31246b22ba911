"""How fast an engine is on this machine, and what the machine allows."""
