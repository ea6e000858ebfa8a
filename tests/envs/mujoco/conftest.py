"""What the tests of pictures need of the machine."""

import ctypes.util

import pytest


@pytest.fixture
def osmesa() -> None:
    """Skip where the fallback is not installed."""
    if ctypes.util.find_library("OSMesa") is None:
        pytest.skip("OSMesa, the fallback, is not installed (apt-get install libosmesa6)")
