"""The scripted judge: right from the truth, wrong as often as it should be, the same in any order."""

import time

import numpy as np
import pytest

from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.questions import Question, VisionLanguageModel
from vlmreward.rewards.judges.scripted_judge import ScriptedJudge, TruthTable

N = 2000
FRAMES = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3)).astype(np.uint8)
PROGRESS = np.random.default_rng(1).random(N)
TABLE = TruthTable(FRAMES, PROGRESS)


def pairs():
    return [Question((FRAMES[i], FRAMES[i + 1], "?"), "delta", about=2) for i in range(N - 1)]


def test_answers_follow_from_the_truth():
    judge = ScriptedJudge(truth=TruthTable(FRAMES[:4], [0.0, 0.25, 0.5, 1.0]))
    assert isinstance(judge, VisionLanguageModel)
    a, b, c, d = FRAMES[:4]
    asked = [
        Question((a, "?", d), "yes_no"),
        Question((d, a), "yes_no"),
        Question((a, b), "delta", about=2),
        Question((d, b, c), "delta", about=2),
        Question((d, c), "delta", about=2),
        Question((d, c, a, b), "percents", about=3),
        Question((c,), "rubric"),
        Question((c,), "yes_no", continuations=("True", "False")),
    ]
    *texts, last = judge.ask(asked)
    assert [t.text for t in texts] == ["1", "0", "+25", "+25", "-50", "Frame 1: 50%\nFrame 2: 0%\nFrame 3: 25%", "3"]
    assert last.text == "False"
    assert last.logprobs is not None
    assert [np.exp(p.low) for p in last.logprobs] == pytest.approx([0.5, 0.5])
    assert judge.usage.calls == 8


def test_it_errs_as_often_as_it_should_whatever_the_order():
    judge = ScriptedJudge(truth=TABLE, error_rate=0.1, seed=3)
    asked = pairs()
    texts = [a.text for a in judge.ask(asked)]
    signs = np.sign([int(text or "no answer") for text in texts])
    right = np.sign(np.round(100 * PROGRESS[1:]) - np.round(100 * PROGRESS[:-1]))
    wrong = (signs != right)[(right != 0) & (signs != 0)].mean()
    assert abs(wrong - 0.1) < 4 * np.sqrt(0.09 / N)
    order = np.random.default_rng(5).permutation(N - 1)
    again = ScriptedJudge(truth=TABLE, error_rate=0.1, seed=3).ask([asked[i] for i in order])
    assert [a.text for a in again] == [texts[i] for i in order]
    assert [a.text for a in ScriptedJudge(truth=TABLE, error_rate=0.1, seed=4).ask(asked)] != texts


def test_calls_take_their_time_and_nothing_costs_none():
    judge = ScriptedJudge(truth=TABLE, latency=0.1)
    began = time.perf_counter()
    judge.ask(pairs()[:50])
    assert 0.1 <= time.perf_counter() - began < 0.5
    began = time.perf_counter()
    assert judge.ask([]) == []
    assert time.perf_counter() - began < 0.1


def test_what_it_does_not_know_is_a_reason():
    judge = ScriptedJudge(truth=TruthTable(FRAMES[:1], [0.5]))
    unknown, known, text = judge.ask(
        [Question((FRAMES[1],), "rubric"), Question((FRAMES[0],), "rubric"), Question((FRAMES[0],))]
    )
    assert (unknown.text, known.text, text.text) == (None, "3", None)
    assert "doesn't know the truth" in unknown.reason


def test_truth_is_read_from_a_file_and_may_grow(tmp_path):
    np.savez(tmp_path / "truth.npz", frames=FRAMES[:5], progress=PROGRESS[:5])
    table = TruthTable.load(tmp_path / "truth.npz")
    assert [table(f) for f in FRAMES[:6]] == [*PROGRESS[:5].tolist(), None]
    table.add(FRAMES[5:6], [0.25])
    assert table(FRAMES[5]) == 0.25
    with pytest.raises(ValueError, match="1 frames need as many numbers"):
        table.add(FRAMES[:1], [np.nan])
    with pytest.raises(ConfigError, match="needs the truth"):
        ScriptedJudge()
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    np.savez(tmp_path / "other.npz", frames=FRAMES[:5])
    for name in ("bad.npz", "other.npz", "missing.npz"):
        with pytest.raises(ConfigError, match="must be an npz file with frames and progress"):
            ScriptedJudge(path=tmp_path / name)
