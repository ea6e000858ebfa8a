"""Run the commands with ``python -m vlmreward.cli``."""

import sys

from vlmreward.cli import main

if __name__ == "__main__":  # processes that are spawned for environments import this file again
    sys.exit(main())
