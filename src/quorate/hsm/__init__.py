"""The door to the compiled core: which of a module's commands may run in the event loop, and which may not.

Here: one worker thread, so that commands which wait for the disk keep their order and do not hold up the
loop.
Not here: secrets; a module gives out sealed bytes and statements only.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from quorate._core import Module

T = TypeVar("T")


class Hsm:
    """One open module. Quick commands are called on `module` itself, in the loop."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hsm")

    async def slow(self, command: Callable[..., T], *arguments: object) -> T:
        """Runs a command that writes to the vault, after every one that was given before."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, command, *arguments)

    def close(self) -> None:
        """Waits for what runs, then erases every lease, session and key in memory."""
        self._worker.shutdown()
        self.module.close()
