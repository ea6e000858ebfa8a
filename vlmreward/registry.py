"""A registry of names that imports nothing until a name is used."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmreward.errors import ConfigError, UnknownNameError


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the nearest known names, or all of them.

    Args:
        name: What the user wrote.
        known: The names that exist.

    Returns:
        ``"did you mean 'a'?"`` or ``"known: a, b, c"``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(names)


class Registry:
    """Maps names to objects given as ``"package.module:attribute"``, imported on first use.

    Args:
        kind: What the names stand for, in the singular ("reward", "encoder"); used in error messages.
        prefix: What users write before the name of a setting ("encoder.").
    """

    def __init__(self, kind: str, prefix: str = "") -> None:
        self.kind, self.prefix = kind, prefix
        self._targets: dict[str, str] = {}

    def register(self, name: str, target: str) -> None:
        """Add a name.

        Args:
            name: The name users write.
            target: ``"package.module:attribute"``.

        Raises:
            ValueError: The name is taken, or the target has no colon.
        """
        if name in self._targets:
            raise ValueError(f"{self.kind} {name!r} is registered already, as {self._targets[name]}")
        if ":" not in target:
            raise ValueError(f"{self.kind} {name!r}: target {target!r} is not of the form 'package.module:attribute'")
        self._targets[name] = target

    def get(self, name: str) -> Any:
        """Import and return what a name stands for.

        Raises:
            UnknownNameError: The name is not registered.
        """
        module, attribute = self._target(name).split(":")
        return getattr(importlib.import_module(module), attribute)

    def make(self, name: str, given: Mapping[str, Any], prefix: str | None = None, /, **settings: Any) -> Any:
        """Build what a name stands for.

        Args:
            name: One of :meth:`names`.
            given: Arguments that the caller supplies and users can't set.
            prefix: What users write before the name of a setting here; None: what they always do.
            **settings: Arguments that users set.

        Raises:
            UnknownNameError: The name is not registered.
            ConfigError: A setting is unknown or missing.
        """
        target, at = self.get(name), self.prefix if prefix is None else prefix
        parameters = inspect.signature(target).parameters
        known = {key: p for key, p in parameters.items() if key not in given and p.kind is not p.VAR_KEYWORD}
        for key in settings:
            if key not in known:
                raise ConfigError(f"{self.kind} {name!r} has no setting {key!r}: {suggest(key, known)}")
        for key, parameter in known.items():
            if parameter.default is parameter.empty and key not in settings:
                raise ConfigError(f"{self.kind} {name!r} needs the setting {key!r}: give {at}{key}=...")
        return target(**given, **settings)

    def name_in(self, config: Mapping[str, Any]) -> str:
        """Return the name that a config group gives.

        Raises:
            ConfigError: There is none.
        """
        if "name" not in config:
            known = ", ".join(self.names())
            raise ConfigError(f"the config of {self.kind} needs 'name', got {sorted(config)}: known names: {known}")
        return config["name"]

    def summary(self, name: str) -> str:
        """Return what a name stands for: the first line of its docstring, without marks; "" if there is none.

        Its module is read and not run, so that what it needs may be missing.

        Raises:
            UnknownNameError: The name is not registered.
        """
        module, attribute = self._target(name).split(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
                return (ast.get_docstring(node) or "").partition("\n")[0].replace("``", "")
        return ""

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        return sorted(self._targets)

    def _target(self, name: str) -> str:
        if name not in self._targets:
            raise UnknownNameError(f"unknown {self.kind} {name!r}: {suggest(name, self._targets)}")
        return self._targets[name]

    def __contains__(self, name: object) -> bool:
        """Return whether a name is registered."""
        return name in self._targets
