import math

import numpy as np
import pytest

from vlmreward.rewards.judges.rubric import RubricReward
from vlmreward.types import FrameBatch


def batch(n):
    frames = np.arange(n * 48, dtype=np.uint64).astype(np.uint8).reshape(n, 4, 4, 3)
    return FrameBatch(np.zeros(n, np.int64), np.arange(n), frames=frames)


GRADES = {
    "1": 0.0,
    "5": 1.0,
    " 3.\n": 0.5,
    "**4**": 0.75,
    "Grade: 2": 0.25,
    "**Score:** 4/5": 0.75,
    "The cube is 10 cm from the bin; 2 of 3 are in.\nAnswer: 4": 0.75,
    "final answer is 5": 1.0,
    "(3)": 0.5,
}


def test_grade_is_read_and_turned_into_a_reward(fixed_judge):
    scored = RubricReward(fixed_judge(*GRADES), "stack").compute_reward(batch(len(GRADES)))
    assert scored.valid.all(), scored.reasons
    assert scored.reward == pytest.approx(list(GRADES.values()))


def test_anything_else_is_no_grade_and_its_text_is_kept(fixed_judge):
    texts = ["0", "6", "3.5", "2 or 3", "I see 2 cubes", "-3", "4/10", "", "Frame 3", "3 cubes", "five", "1 2"]
    scored = RubricReward(fixed_judge(*texts), "stack").compute_reward(batch(len(texts)))
    assert not scored.valid.any()
    assert np.isnan(scored.reward).all()
    assert all(scored.reasons[row].endswith(text) for row, text in enumerate(texts))


def test_expected_grade(fixed_judge):
    logs = [math.log(p) for p in (0.1, 0.1, 0.2, 0.4, 0.2)]
    model = RubricReward(fixed_judge(logs, ValueError("no log-probabilities")), "stack", estimate="expected")
    scored = model.compute_reward(batch(2))
    assert scored.reward[0] == pytest.approx((0.1 + 0.2 + 0.6 + 1.6 + 1.0 - 1) / 4)
    assert scored.reasons == {1: "the judge gave no answer: no log-probabilities"}
