"""`python -m culvert.demo [NAME]`: no tour; the bookstore in the mesh, left running (`make up`)."""

import sys

from culvert import demo

if __name__ == "__main__":
    sys.exit(demo.up(sys.argv[1] if len(sys.argv) > 1 else "culvert"))
