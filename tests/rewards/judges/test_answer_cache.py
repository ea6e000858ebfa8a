"""Answers on disk: whole or not there, whoever writes and whenever it is killed."""

import json
import math
import random
import signal
import subprocess
import sys
import time

import pytest

from vlmreward.errors import StorageError
from vlmreward.rewards.judges.answer_cache import AnswerCache
from vlmreward.rewards.judges.questions import Answer, LogProb, Usage

WRITER = """
import itertools, sys
from vlmreward.rewards.judges.answer_cache import AnswerCache
from vlmreward.rewards.judges.questions import Answer
cache = AnswerCache(sys.argv[1])
print("ready", flush=True)
for k in itertools.count():
    cache.write(f"{k % 50:040x}", Answer(f"text {k % 50} " * 2000))
"""


def test_answer_is_read_as_it_was_written(tmp_path):
    cache = AnswerCache(tmp_path)
    answer = Answer("größer \ud83d\n", (LogProb(-0.25, -0.25), LogProb(-math.inf, -9.0)), usage=Usage(1, 9))
    cache.write("ab" * 20, answer)
    found = AnswerCache(tmp_path).read("ab" * 20)
    assert found is not None
    assert (found.text, found.logprobs, found.usage) == (answer.text, answer.logprobs, Usage(cached=1))
    assert cache.read("cd" * 20) is None
    cache.write("cd" * 20, Answer(reason="no"))
    assert cache.read("cd" * 20) is None


@pytest.mark.parametrize(
    "change",
    [
        {"key": "another"},
        {"text": 3},
        {"text": None, "logprobs": None},
        {"logprobs": [[-1]]},
        {"logprobs": [[-1, "x"]]},
        {"logprobs": [[-1, math.nan]]},
        {"logprobs": [[-1, -2]]},
        {"logprobs": "x"},
    ],
    ids=str,
)
def test_file_with_anything_else_is_no_answer(tmp_path, change):
    cache, key = AnswerCache(tmp_path), "ab" * 20
    cache.write(key, Answer("yes", (LogProb(-1.0, -1.0),)))
    (path,) = tmp_path.rglob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert cache.read(key) is None


def test_folder_that_takes_no_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        AnswerCache(tmp_path / "file")


def test_answers_are_whole_whenever_writers_are_killed(tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "answers"
    for _ in range(3):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE) for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.2))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    cache = AnswerCache(folder)
    found = {k: cache.read(f"{k:040x}") for k in range(50)}
    written = list(folder.rglob("[0-9]*.json"))
    assert len(written) > 10
    assert sum(answer is not None for answer in found.values()) == len(written)
    assert all(answer is None or answer.text == f"text {k} " * 2000 for k, answer in found.items())
