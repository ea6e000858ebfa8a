from __future__ import annotations

import sys

import pytest

from vlmreward.agents import progress
from vlmreward.agents.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_plain_lines_have_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", 1000, done=200) as bar:
        clock.now += 10
        bar.update(300)  # too soon for a line
        clock.now += 10
        bar.update(400, vlm_return=12.345, success=None)
        clock.now += 1
        bar.update(401)
    # 200 steps in 20 s since the start at 200: 10/s, 600 left
    assert capsys.readouterr().err == "training: 400/1000 steps, 10/s, 1:00 left  vlm_return 12.3\n"


@pytest.mark.parametrize(("seconds", "words"), [(59.9, "0:59"), (3600 + 61, "1:01:01"), (float("inf"), "?")])
def test_time_left_is_readable(seconds: float, words: str) -> None:
    assert progress._clock(seconds) == words


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("training", 10) as bar:
        bar.update(10, success=0.5)
    err = capsys.readouterr().err
    assert "training" in err
    assert "10/10" in err
    assert "success 0.5" in err
