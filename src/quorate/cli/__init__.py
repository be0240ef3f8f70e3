"""The command `quorate`: one file for each command group. It prints and exits; it decides nothing.

Results go to stdout, messages to stderr. Exit 0: done, 1: refused or failed, 2: wrong usage. Every error says
what happened, what was kept and what to do. Heavy imports are inside the commands, so that each starts fast.
"""

import sys

from quorate.cli.app import app
from quorate.cli.output import failed
from quorate.errors import QuorateError


def main() -> None:
    """Runs the command that `sys.argv` names, and exits."""
    from quorate._core import CoreError

    try:
        app()
    except (QuorateError, CoreError, OSError) as error:
        sys.exit(failed(error, as_json="--json" in sys.argv))
    except KeyboardInterrupt:
        sys.exit(130)
