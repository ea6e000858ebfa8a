"""Run the commands with ``python -m vlmreward.cli``."""

import sys

from vlmreward.cli import main

sys.exit(main())
