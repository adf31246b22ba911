"""Studies of accuracy, speed and memory. They run from a checkout; README.md lists them all."""

import train  # noqa: F401  # a command that is interrupted while it imports ends in one line
