"""The folder of one run: its config, numbers, checkpoints and result."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from vlmreward.agents.checkpoint import CheckpointStore
from vlmreward.atomic import storage_errors, temporary_pattern, write_bytes
from vlmreward.cli.settings import TrainSettings
from vlmreward.errors import CheckpointError, ConfigError, StorageError

CONFIG, RESULT, METRICS, AUDIT = "config.yaml", "result.json", "metrics.jsonl", "audit.json"
PACKAGES = (
    "vlmreward",
    "torch",
    "open-clip-torch",
    "stable-baselines3",
    "sb3-contrib",
    "gymnasium",
    "mujoco",
    "numpy",
)


class RunFolder:
    """A run's folder on disk.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = CheckpointStore(path / "checkpoints")
        self._lock: int | None = None

    @classmethod
    def create(cls, settings: TrainSettings, path: str | None) -> RunFolder:
        """Make a new run's folder and write its config.

        Args:
            settings: The run's settings.
            path: The folder, empty or not there yet; None makes ``runs/<name>``.

        Raises:
            StorageError: The folder holds another run or can't be written.
        """
        folder = Path(path) if path else _free_path(Path("runs") / run_name(settings, with_time=True))
        if (folder / CONFIG).exists():
            raise StorageError(f"run_dir {folder} holds a run already: go on with resume={folder}, or choose another")
        with storage_errors(folder, making=True):
            folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        run.lock()
        run.write_config(settings)
        return run

    @classmethod
    def open(cls, path: str) -> tuple[RunFolder, TrainSettings]:
        """Open the folder of an earlier run.

        Raises:
            CheckpointError: It is no run folder, or its config is damaged.
        """
        run = cls(Path(path))
        file = run.path / CONFIG
        if not file.is_file():
            raise CheckpointError(f"{path} is not a run folder (no {CONFIG}): give one that vlmreward train made")
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise CheckpointError(f"{file} can't be read ({' '.join(str(e).split())})") from e
        if not isinstance(config, dict):
            raise CheckpointError(f"{file} is damaged: it holds no settings")
        return run, TrainSettings.from_config(config)

    def lock(self) -> None:
        """Keep other processes from training in this folder; the lock ends with the process.

        Raises:
            StorageError: Another process has it, or the folder can't be written.
        """
        with storage_errors(self.path):
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(descriptor)
            raise StorageError(f"{self.path} is being trained by another process: wait for it or stop it") from e
        except OSError as e:
            os.close(descriptor)
            raise StorageError(
                f"{self.path} can't be locked ({(e.strerror or str(e)).lower()}): use a local disk"
            ) from e
        self._lock = descriptor
        for name in (CONFIG, RESULT, AUDIT):  # what a kill left of a file that was being replaced
            for half in self.path.glob(temporary_pattern(Path(name))):
                half.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Let others train in this folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_config(self, settings: TrainSettings) -> None:
        """Write ``config.yaml``."""
        text = yaml.safe_dump(settings.to_config(), sort_keys=False, allow_unicode=True, width=120)
        write_bytes(self.path / CONFIG, text.encode())

    def check_length(self, settings: TrainSettings) -> None:
        """Refuse settings that end before what has been learned: the run's config and result would disagree.

        Raises:
            ConfigError: They do.
        """
        names = self.checkpoints.names()
        done = int(names[-1].removeprefix("step_")) if names else 0
        if settings.total_timesteps < done:
            raise ConfigError(
                f"total_timesteps={settings.total_timesteps} is less than the {done} steps that {self.path} has done: "
                "give more, or leave it out"
            )

    def remove_result(self) -> None:
        """Remove ``result.json``, if there is one."""
        (self.path / RESULT).unlink(missing_ok=True)

    def write_result(self, result: Mapping[str, Any]) -> Path:
        """Write ``result.json``."""
        path = self.path / RESULT
        write_json(path, result)
        return path

    def write_audit(self, audited: Mapping[str, Any] | None) -> None:
        """Write what was seen of the reward before training, if anything was."""
        if audited is not None:
            write_json(self.path / AUDIT, audited)

    def read_audit(self) -> dict[str, Any] | None:
        """Return what :meth:`write_audit` wrote; None if there was nothing."""
        path = self.path / AUDIT
        return json.loads(path.read_text()) if path.exists() else None


def run_name(settings: TrainSettings, agent: str = "", with_time: bool = False) -> str:
    """Return ``<env>__<reward>__<agent>__seed<k>``, and the time if wanted; ``agent`` may stand for the run's own."""
    env = settings.env.name if settings.env.name != "gym" else settings.env.id.replace("/", "-")
    # what an agent learned from must show: a baseline on the environment's own reward is no text goal
    reward = {"env": "env_reward", "add": f"{settings.reward['name']}_and_env"}.get(
        settings.reward.get("combine", "replace"), settings.reward["name"]
    )
    if settings.dataset is not None:
        reward = settings.labels or "recorded"
    name = f"{env}__{reward}__{agent or settings.agent['name']}__seed{settings.seed}"
    return f"{name}__{time.strftime('%Y%m%d-%H%M%S')}" if with_time else name


def slug(text: str, most: int = 40) -> str:
    """Return a text as part of a file name, in at most so many characters; what is cut leaves a sum in its place."""
    words = "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
    if words and len(words) <= most:
        return words
    return f"{words[: most - 7]}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}".lstrip("-")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in one step."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def describe_machine() -> dict[str, Any]:
    """Return what a result depends on besides its settings: versions, git commit, platform."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "git_commit": _git_commit(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with ``+`` if files differ; None if none.

    A package installed somewhere inside another project's checkout is not tracked there: that commit says nothing.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*") or None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints about a folder; None if it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _free_path(path: Path) -> Path:
    """Return the path, or the path with a number if it is taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
