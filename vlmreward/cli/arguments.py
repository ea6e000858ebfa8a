"""Split a command line into flags and key=value settings, before Hydra's grammar sees any of it.

Prompts and paths are taken literally: a goal may hold commas, quotes, brackets, ``=``, ``%`` or ``${x}``. A prompt
key that is repeated gives several prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vlmreward.errors import ConfigError, PromptError
from vlmreward.registry import suggest

PROMPT_KEYS = frozenset({"goal", "baseline", "mismatched", "positive", "negative", "options", "paraphrase"})
PATH_KEYS = frozenset(
    {"dataset", "frames", "run", "run_dir", "resume", "out", "weights", "path", "pretrained", "font", "cache", "runs"}
    | {"rollouts", "reference", "demos", "truth"}
)
VARY = "vary."  # before a setting of which several values are compared; prompts and paths are repeated
NONE = "null"  # a path that is not given; a file of that name is ./null
FLAGS = {"--help": "help", "-h": "help", "--cfg": "cfg", "--debug": "debug", "--dry-run": "dry_run"}

_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@:-]*")


@dataclass(frozen=True)
class Arguments:
    """What a command was told.

    Attributes:
        flags: Names of the flags given: ``help``, ``cfg``, ``debug``, ``dry_run``.
        overrides: Settings in Hydra's grammar, in order, e.g. ``("env=cartpole", "seed=1")``.
        literals: Settings whose values are text as typed: dotted key to the values given for it, in order.
        words: Arguments that are neither, e.g. ``("envs",)`` of ``vlmreward list envs``.
        config_dir: A folder with more config groups, or None.
    """

    flags: frozenset[str] = frozenset()
    overrides: tuple[str, ...] = ()
    literals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    config_dir: str | None = None

    def keys(self) -> list[str]:
        """Return the keys of all settings, without their ``+`` and ``~`` marks."""
        return [o.split("=", 1)[0].lstrip("+~") for o in self.overrides] + list(self.literals)

    def path(self, key: str) -> str | None:
        """Return a path as typed; None where it is not given or ``null``."""
        value = self.literals.get(key, (NONE,))[-1]
        return None if value == NONE else value

    def take(self, keys: Sequence[str]) -> tuple[Arguments, Arguments]:
        """Split into the settings whose first name is one of ``keys``, and the others."""

        def pick(wanted: bool) -> Arguments:
            def is_ours(key: str) -> bool:
                return (key.lstrip("+~").split(".")[0] in keys) == wanted

            return Arguments(
                flags=self.flags,
                overrides=tuple(o for o in self.overrides if is_ours(o.split("=", 1)[0])),
                literals={k: v for k, v in self.literals.items() if is_ours(k)},
                words=self.words,
                config_dir=self.config_dir,
            )

        return pick(True), pick(False)


def is_prompt(key: str) -> bool:
    """Return whether a dotted key holds a prompt: ``goal``, ``baseline``, those of ``reward``, and varied ones."""
    head, _, last = key.removeprefix(VARY).rpartition(".")
    return last in PROMPT_KEYS and (head in ("", "reward") or head.startswith("reward.parts."))


def is_path(key: str) -> bool:
    """Return whether a dotted key holds a path."""
    return key.rpartition(".")[2] in PATH_KEYS


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split a command's arguments.

    Args:
        argv: The arguments after the command's name.

    Raises:
        ConfigError: An unknown flag, a key that isn't one, or an empty path.
        PromptError: A prompt is empty.
    """
    flags: set[str] = set()
    overrides: list[str] = []
    literals: dict[str, list[str]] = {}
    words: list[str] = []
    config_dir: str | None = None
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.partition("=")
        if argument == "--config-dir" or key == "--config-dir":
            config_dir = value if equals else (rest.pop(0) if rest else "")
            if not config_dir.strip() or config_dir.startswith("--"):
                raise ConfigError("--config-dir needs a folder: give one that holds e.g. env/mine.yaml")
        elif argument in FLAGS:
            flags.add(FLAGS[argument])
        elif argument.startswith("-"):
            raise ConfigError(f"unknown option {argument!r}: {suggest(key, [*FLAGS, '--config-dir'])}")
        elif not equals and not argument.startswith("~"):
            words.append(argument)
        elif not _KEY.fullmatch(key):
            raise ConfigError(f"{argument!r} is not of the form key=value: a key is letters, digits, '_' and '.'")
        elif is_prompt(key):
            if not value.strip():
                raise PromptError(f"{key} is empty: say it in words, e.g. {key}='pole vertically upright'")
            literals.setdefault(key, []).append(value)
        elif is_path(key):
            if not value.strip():
                what = "a run folder" if key in ("run", "resume") else "a path"
                raise ConfigError(f"{key} is empty: give {what} as {key}=<path>, or leave it out")
            literals.setdefault(key, []).append(value)
        else:
            overrides.append(argument)
    return Arguments(
        flags=frozenset(flags),
        overrides=tuple(overrides),
        literals={key: tuple(values) for key, values in literals.items()},
        words=tuple(words),
        config_dir=config_dir,
    )
