from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from vlmreward import encoders
from vlmreward.cli import main

FAKES = Path(__file__).parent / "fakes"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register an encoder that needs no weights, for this test alone."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setitem(encoders._ENCODERS._targets, "fake", "fake_encoder:FakeEncoder")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_encoder: None) -> Cli:
    """Run a command in this process, in an empty working directory, with the fake encoder within reach."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Outcome:
        capsys.readouterr()
        code = main([*argv, "--config-dir", str(FAKES / "configs")] if argv else [])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def start_process(*argv: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own, with the fake encoder registered."""
    return subprocess.Popen(
        [sys.executable, str(FAKES / "run_cli.py"), *argv, "--config-dir", str(FAKES / "configs")],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen[str]]:
    return start_process


def assert_refused(outcome: Outcome, command: str, *words: str) -> None:
    """Check exit code 2 and exactly one line on standard error that holds some words."""
    assert outcome.code == 2, outcome
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"vlmreward {command}: error: ")
    for word in words:
        assert word in lines[0], (word, lines[0])


@pytest.fixture
def refused() -> Callable[..., None]:
    return assert_refused
