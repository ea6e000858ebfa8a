"""The command line with the fake encoder registered, for tests that need a process of their own."""

import sys
from pathlib import Path

from vlmreward.cli import main
from vlmreward.encoders import register_encoder

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out
    register_encoder("fake", "fake_encoder:FakeEncoder")
    sys.exit(main())
