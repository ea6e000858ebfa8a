"""The HTTP judge against a server in a process of its own, which errs in every way and is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vlmreward.rewards.judges.http_judge import HttpJudge
from vlmreward.rewards.judges.questions import Answer, Question

# What it does with question k depends on k alone, but for those that go well when they are asked again.
SERVER = """
import re, sys, time
from vlmreward.testing.chat_server import ChatServer

seen = {}

def behave(handler, request, number):
    k = int(re.search(r"question (\\d+):", request.parts[0])[1])
    again = seen[k] = seen.get(k, 0) + 1
    fault = k % 8
    if fault == 1 and again == 1:
        handler.reply(429, b"slow down", Retry_After="0")
    elif fault == 2 and again == 1:
        handler.reply(503, b"")
    elif fault == 3 and again == 1:
        handler.connection.close()
    elif fault == 4 and again == 1:
        time.sleep(5)
    elif fault == 5:
        handler.reply(200, b'{"choices": [{"message": {"content": ' + b"[" * 2000)
    elif fault == 6:
        handler.reply(200, b'{"choices": [{"message": {"content": null}}], "usage": {"total_tokens": -9}}')
    elif fault == 7:
        handler.reply(400, b"no such model")
    else:
        time.sleep(SLOW)
        handler.say(f"answer {k}", tokens=10)

server = ChatServer()
server.behave = behave
print(server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[[float], tuple[subprocess.Popen[str], str]]]:
    """Return a function that starts a server, as slow as it is told, and returns the process and its address."""
    made: list[subprocess.Popen[str]] = []

    def run(slow: float) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", SERVER.replace("SLOW", str(slow))]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield run
    for process in made:
        process.kill()
        process.communicate(timeout=20)


def test_every_answer_is_the_right_one_or_none(start, make_question: Callable[..., Question]):
    _, url = start(0)
    judge = HttpJudge(url, "tiny-vlm", timeout=1.0, retries=2, max_wait=1.0, budget_calls=60)
    answers = judge.ask([make_question(k) for k in range(24)])
    for k, answer in enumerate(answers):
        assert answer.text == (f"answer {k}" if k % 8 < 5 else None), answer.reason
        assert bool(answer.reason) == (answer.text is None)
    assert judge.usage.calls <= 60


def test_a_server_that_is_killed_leaves_reasons_and_nothing_hangs(start, make_question: Callable[..., Question]):
    process, url = start(0.2)
    judge = HttpJudge(url, "tiny-vlm", timeout=2.0, retries=1, max_wait=0.5, concurrency=8, budget_calls=60)
    answers: list[Answer] = []
    asked = threading.Thread(target=lambda: answers.extend(judge.ask([make_question(8 * k) for k in range(40)])))
    asked.start()
    time.sleep(0.5)
    process.kill()
    asked.join(60)
    assert not asked.is_alive()
    told = [k for k, answer in enumerate(answers) if answer.text is not None]
    assert 0 < len(told) < 40
    assert all(answers[k].text == f"answer {8 * k}" for k in told)
    assert all(answer.reason for answer in answers if answer.text is None)
    assert judge.usage.calls <= 60
