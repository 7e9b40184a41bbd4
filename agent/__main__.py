"""`python -m agent` runs the node agent; `python -m agent uninstall` takes its instance off the node.

Exit codes: 0 after SIGTERM or SIGINT; 1 where the node did not allow the work; 2 where the configuration or the kernel lacks something,
each thing said in one sentence on standard error.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from agent import config
from agent.app import App
from agent.config import Config
from agent.probe import missing
from agent.uninstall import uninstall
from mesh.io import log
from mesh.model.errors import ConfigError, CulvertError


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["uninstall"]):
        return _complain(2, "usage: python -m agent [uninstall]")
    try:
        settings = config.load()
        levels, _ = log.setup(settings.log_level, settings.log_format)
    except (ConfigError, ValueError) as error:
        return _complain(2, *str(error).splitlines())
    lacking = missing()
    if lacking:
        return _complain(2, *lacking)
    try:
        if arguments:
            problems = uninstall(settings)
            return _complain(1, *problems) if problems else 0
        return _run(settings, levels)
    except (OSError, CulvertError, ValueError) as error:
        return _complain(1, f"The agent cannot work here: {error}")


def _run(settings: Config, levels: log.Levels) -> int:
    async def serve() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await App(settings, levels).run(stopping)

    asyncio.run(serve())
    return 0


def _complain(code: int, *sentences: str) -> int:
    for sentence in sentences:
        sys.stderr.write(f"{sentence}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
