"""`python -m control`: the control plane, configured by its environment; `--help` tells how."""

from __future__ import annotations

import sys

from control.app import serve
from control.config import from_environment, variables
from control.variables import usage
from mesh.io.dumps import forbid_dumps
from mesh.io.log import setup
from mesh.io.loop import run
from mesh.model.errors import ConfigError, CulvertError

HELP = (["--help"], ["-h"])


def main(arguments: list[str]) -> int:
    """0 after SIGTERM; 2 where the configuration is wrong or something that it names cannot be used."""
    if arguments in HELP:
        sys.stdout.write(usage(variables()))
        return 0
    if arguments:
        sys.stderr.write("culvert control: no argument is taken; python -m control --help tells the environment variables\n")
        return 2
    try:
        config = from_environment()
        setup(config.log_level, config.log_format)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"culvert control: {error}\n")
        return 2
    try:
        forbid_dumps()  # it signs with keys that everybody trusts
        run(serve(config))
    except (CulvertError, OSError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"culvert control: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
