"""`python -m culvert.demo [NAME]`: no tour; the bookstore in the mesh, left running (`make up`). Default: $CULVERT_NAME or culvert."""

import sys

from culvert import demo
from culvert.cli.output import USAGE, UsageError, fail
from culvert.cli.target import layout_of

if __name__ == "__main__":
    try:
        sys.exit(demo.up(layout_of(sys.argv[1] if len(sys.argv) > 1 else None, None).name))
    except UsageError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        sys.exit(130)
