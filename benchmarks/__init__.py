"""Studies of accuracy, speed and memory. They run from a checkout; README.md lists them all."""
