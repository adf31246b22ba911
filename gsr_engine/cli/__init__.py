"""The command `gsr`: demo, solve, generate, bench, serve, env.

This module imports almost nothing, so that a Ctrl-C is answered in one line from the start: what
the commands need takes seconds to import.
"""

import io
import os
import signal
import sys
import types

INTERRUPTED = 130
"""Exit status after a Ctrl-C, as shells count it."""


def main() -> None:
    """Entry point: errors of ours or of the system, and interrupts are one line, no traceback."""
    signal.signal(signal.SIGINT, leave)
    from gsr_engine.cli.commands import app
    from gsr_engine.cli.options import with_flags
    from gsr_engine.errors import GsrError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in any locale; what a model wrote is UTF-8
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except GsrError as error:
        print(f"gsr: {with_flags(str(error))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk behind stdout, say; at exit Python would flush it again
        print(f"gsr: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def leave(_signal: int, _frame: types.FrameType | None) -> None:
    """End the process at once, also in the middle of an import."""
    os.write(2, b"gsr: interrupted\n")
    os._exit(INTERRUPTED)
