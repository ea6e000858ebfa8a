"""Import packages that an extra brings, with one message when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from vlmreward.errors import DependencyNotInstalled


def require_package(name: str, extra: str) -> ModuleType:
    """Import a package that belongs to an extra.

    Args:
        name: Import name, e.g. ``"sb3_contrib"``.
        extra: The extra of this project that installs it, e.g. ``"contrib"``.

    Returns:
        The imported module.

    Raises:
        DependencyNotInstalled: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name != name.split(".")[0]:
            raise  # the package is there, one of its own imports is not: show that
        raise DependencyNotInstalled(f"package {name!r} is not installed: run pip install 'vlmreward[{extra}]'") from e
