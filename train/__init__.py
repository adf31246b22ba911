"""Data building and the trainer; runs from a checkout."""

import os
import signal
import sys
from types import FrameType


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """End a command that has nothing to save, with one line and without a traceback."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


# `python -m train.COMMAND` imports this first, and then torch for seconds. `run_command` goes on.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave_at_once)
