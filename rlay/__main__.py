"""``python -m rlay``: the command line."""

import sys

from rlay.cli import main

if __name__ == "__main__":
    sys.exit(main())
