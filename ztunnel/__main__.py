"""`python -m ztunnel`: the node tunnel. Exit status 2 for a configuration that cannot be read, 1 where it cannot start."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from mesh.io.dumps import forbid_dumps
from mesh.io.log import setup
from mesh.model.errors import ConfigError
from ztunnel.config import from_environment, prepare_process


def run() -> int:
    try:
        config = from_environment()
        levels, sink = setup(config.log_level, config.log_format)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    prepare_process()
    from ztunnel.app import main

    try:
        forbid_dumps()  # it holds the keys of every pod of the node
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(config, levels, sink))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 1
    except OSError as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
