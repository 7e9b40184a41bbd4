"""`culvert`, also as `python -m culvert`."""

from __future__ import annotations

import sys


def main() -> None:
    from culvert.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
