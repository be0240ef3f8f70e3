"""`python -m quorate.demo [--file FILE]`: exit 0 when every step of the tour held, 1 when one did not."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from quorate._core import CoreError
from quorate.cli.output import failed
from quorate.demo.tour import tour
from quorate.errors import QuorateError


async def _until_done(file: Path | None) -> None:
    """Runs the tour; SIGTERM ends it as Ctrl-C does, with everything cleaned up."""
    running = asyncio.ensure_future(tour(file))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await running


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m quorate.demo", description=__doc__)
    options.add_argument("--file", type=Path, help="the file to encrypt; without it, one of this machine")
    try:
        asyncio.run(_until_done(options.parse_args().file))
    except (QuorateError, CoreError, OSError) as error:
        return failed(error, as_json=False)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    return 0


sys.exit(main())
