"""The ``vlmreward`` command: one module per subcommand, imported when it is used.

Exit codes: 0 done; 2 the user's input is at fault (one line on stderr); 1 a fault of ours; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from vlmreward.atomic import DISK_FULL, PLACE_REFUSED
from vlmreward.errors import ConfigError, VlmRewardError
from vlmreward.registry import suggest

# name -> (module, what it does)
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("vlmreward.cli.train", "train an agent from a text goal"),
    "audit": ("vlmreward.cli.audit", "tell before training whether a reward is any good"),
    "evaluate": ("vlmreward.cli.evaluate", "measure an agent: true success, environment return, VLM return"),
    "record": ("vlmreward.cli.record", "record evaluation videos"),
    "collect": ("vlmreward.cli.collect", "record episodes of an environment as a dataset"),
    "label": ("vlmreward.cli.label", "write rewards into a dataset of recorded episodes"),
    "fit-critic": ("vlmreward.cli.fit_critic", "train a progress critic on recorded episodes"),
    "fit-reward": ("vlmreward.cli.fit_reward", "learn a reward from answers about recorded frames"),
    "view": ("vlmreward.cli.view", "show labels beside the recorded episodes, as a page"),
    "cache": ("vlmreward.cli.cache", "show and prune stored embeddings"),
    "inspect": ("vlmreward.cli.inspect_dataset", "show what a dataset of recorded episodes holds"),
    "list": ("vlmreward.cli.listing", "list envs, tasks, encoders, rewards, judges, annotators or agents"),
    "doctor": ("vlmreward.cli.doctor", "check what this machine can run"),
    "pretrain-mini": ("vlmreward.cli.pretrain_mini", "train the embedded encoder again"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments after the program's name; None: those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        from vlmreward.cli.help import overview

        print(overview())
        return 0
    if arguments[0] == "--version":
        from vlmreward import __version__

        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    try:
        if name not in COMMANDS:
            raise ConfigError(f"unknown command {name!r}: {suggest(name, COMMANDS)}")
    except ConfigError as e:
        return _fail("vlmreward", e)
    # An idle OpenMP thread must sleep: spinning costs a small network 4-5 times the CPU on a busy machine. It is read
    # when torch loads, so it is set here and nowhere in the library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run_command(name, rest)


def run_command(name: str, rest: list[str]) -> int:
    """Run one command and turn what it raises into an exit code."""
    debug = "--debug" in rest
    label = f"vlmreward {name}"
    try:
        if "--help" in rest or "-h" in rest:
            from vlmreward.cli.help import command_page

            print(command_page(name))
            return 0
        command: Callable[[list[str]], int | None] = importlib.import_module(COMMANDS[name][0]).main
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = _show_warning(label)
            return command(rest) or 0
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"{label}: interrupted", file=sys.stderr)
        return 130
    except VlmRewardError as e:
        if debug:
            raise
        return _fail(label, e)
    except OSError as e:
        # a file that isn't there is a fault of ours: what the user names is looked for before it is opened
        place = e.errno in PLACE_REFUSED and e.errno != errno.ENOENT and e.filename is not None
        if debug or not (e.errno in DISK_FULL or place):
            raise
        where = f" ({e.filename})" if e.filename else ""
        advice = "free some space or choose another folder" if e.errno in DISK_FULL else "choose another path"
        return _fail(label, f"{(e.strerror or 'no room').lower()}{where}: {advice}")


def _show_warning(label: str) -> Callable[..., None]:
    """Return what prints a warning as one line, without the place in the source."""

    def show(message: Warning | str, *place: object, **options: object) -> None:
        print(f"{label}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    return show


def _fail(label: str, error: object) -> int:
    print(f"{label}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
