"""``vlmreward train``: an agent from a text goal."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.agents.catalogue import get_agent
from vlmreward.cli.arguments import Arguments, parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.offline_settings import add_no_env
from vlmreward.cli.run_folder import RunFolder
from vlmreward.cli.settings import TrainSettings, change_for_resume, resolve
from vlmreward.errors import ConfigError

if TYPE_CHECKING:
    from vlmreward.cli.run_training import Session
    from vlmreward.cli.train_offline import OfflineSession

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # 1e6, a word in YAML


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments(argv)
    refuse_words("train", arguments)
    mode: Any = "off"  # of a run that is gone on with: see docs/audit.md
    if (resumed := arguments.path("resume")) is not None:
        run, before = RunFolder.open(resumed)
        settings = change_for_resume(before, _changes(arguments))
        if settings.total_timesteps != before.total_timesteps:
            run.check_length(settings)
        note = ""
    else:
        run = None
        composed = compose("train", add_no_env(arguments))
        mode = composed["audit"]
        settings, note = resolve(composed)
    if "cfg" in arguments.flags:
        print(yaml.safe_dump(settings.to_config(), sort_keys=False, allow_unicode=True, width=120), end="")
        return 0

    from vlmreward.cli.gate import name_audit  # loads torch

    session = make_session(settings, run)  # before the folder: what the user gets wrong leaves nothing behind
    try:
        if run is None:
            audited = session.audit(mode, name_audit(argv, " ".join(settings.goal[:1])))
            run = RunFolder.create(settings, arguments.path("run_dir"))
            run.write_audit(audited)
        else:
            run.lock()
            run.write_config(settings)
        with stop_on_signals(session.stop):
            return session.run(run, note)
    finally:
        session.close()
        if run is not None:
            run.unlock()


def make_session(settings: TrainSettings, run: RunFolder | None) -> Session | OfflineSession:
    """Return what trains: in an environment, or from a dataset.

    Raises:
        VlmRewardError: A part can't be built from the settings.
    """
    if get_agent(settings.agent["name"]).is_offline:
        from vlmreward.cli.train_offline import OfflineSession

        return OfflineSession(settings, run)
    from vlmreward.cli.run_training import Session

    return Session(settings, run)


@contextlib.contextmanager
def stop_on_signals(stop: Any) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask for a stop after the present step; one when that is asked, or later, stops at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.requested or stop.at_once:
            raise KeyboardInterrupt
        stop.requested = True
        print("\nstopping after this step and saving (once more: stop at once)", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _changes(arguments: Arguments) -> dict[str, Any]:
    """Return what the user wants changed in a run that is resumed."""
    changes: dict[str, Any] = {}
    for key in arguments.literals:
        if key != "resume" and (key != "run_dir" or arguments.path(key) is not None):
            changes[key] = None  # prompts and paths can't change; the settings say so
    for override in arguments.overrides:
        key, _, value = override.partition("=")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise ConfigError(f"can't read the value of {override!r}: give a number, a word or true/false") from e
        if isinstance(parsed, str) and _EXPONENT.fullmatch(parsed):
            parsed = float(parsed)
        head, _, last = key.lstrip("+").partition(".")
        if last and head == "eval":
            group = changes.setdefault("eval", {})
            if isinstance(group, dict):  # else eval=3 stands before it, and will be refused
                group[last] = parsed
        else:
            changes[head if not last else key] = parsed
    return changes
