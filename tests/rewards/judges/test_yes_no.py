import math

import numpy as np
import pytest
from PIL import Image

from vlmreward.errors import ConfigError, PromptError
from vlmreward.rewards.judges.yes_no import LEAST, YesNoReward
from vlmreward.types import FrameBatch

LOG = math.log
FRAMES = np.arange(5 * 48, dtype=np.uint8).reshape(5, 4, 4, 3)
BATCH = FrameBatch(np.zeros(5, np.int64), np.arange(5), frames=FRAMES)


def two():
    return FrameBatch(np.zeros(2, np.int64), np.arange(2), frames=FRAMES[:2])


def test_probability_is_that_of_true_among_the_two(fixed_judge):
    judge = fixed_judge([LOG(0.3), LOG(0.1)], [-900.0, -901.0])
    scored = YesNoReward(judge, "stand up").compute_reward(two())
    assert scored.reward == pytest.approx([0.75, 1 / (1 + math.exp(-1))], abs=1e-6)
    assert scored.success == pytest.approx(scored.reward)


def test_log_probability_is_that_of_true_alone_and_bounded(fixed_judge):
    judge = fixed_judge([LOG(0.3), LOG(0.1)], [-900.0, -901.0])
    scored = YesNoReward(judge, "stand up", value="log_probability").compute_reward(two())
    assert scored.reward == pytest.approx([LOG(0.3), LEAST], abs=1e-6)
    assert scored.success == pytest.approx([0.75, 1 / (1 + math.exp(-1))], abs=1e-6)


def test_bounds_count_where_they_are_narrow(fixed_judge):
    narrow, wide = [LOG(0.9), (-math.inf, LOG(0.001))], [LOG(0.9), (-math.inf, LOG(0.09))]
    scored = YesNoReward(fixed_judge(narrow, wide), "stand up").compute_reward(two())
    assert scored.reward[0] == pytest.approx(1 - 0.5 * 0.001 / 0.901, abs=1e-6)
    assert list(scored.valid) == [True, False]
    assert "does not list True and False" in scored.reasons[1]
    unlisted = [(-math.inf, LOG(0.001)), LOG(0.9)]
    logs = YesNoReward(fixed_judge(unlisted, wide), "stand up", value="log_probability").compute_reward(two())
    assert list(logs.valid) == [False, True]  # log P(True) is unknown below 0.001, though P(True) nearly isn't
    assert logs.reward[1] == pytest.approx(LOG(0.9), abs=1e-6)


def test_failure_is_a_reason(fixed_judge):
    judge = fixed_judge(RuntimeError("the budget of 3 calls is used up"), [LOG(0.5), LOG(0.5)])
    scored = YesNoReward(judge, "stand up").compute_reward(two())
    assert list(scored.valid) == [False, True]
    assert scored.reasons == {0: "the judge gave no answer: the budget of 3 calls is used up"}


def test_question_is_topreward_s(fixed_judge):
    judge = fixed_judge(*[[LOG(0.5), LOG(0.5)]] * 5)
    YesNoReward(judge, "lift the cube.", view="prefix", pictures=3).compute_reward(BATCH)
    last = judge.questions[-1]
    assert last.parts[-1] == (
        "The above video shows a robot manipulation trajectory that completes the following task: lift the cube. "
        "Decide whether the above statement is True or not. The answer is:"
    )
    np.testing.assert_array_equal(last.pictures, FRAMES[[0, 2, 4]])
    np.testing.assert_array_equal(judge.questions[1].pictures, FRAMES[[0, 1]])
    assert last.continuations == ("True", "False")


def test_picture_of_the_goal_is_shown_first_and_is_not_what_is_judged(fixed_judge, tmp_path):
    goal = np.full((9, 7, 3), 99, np.uint8)
    Image.fromarray(goal).save(tmp_path / "goal.png")
    judge = fixed_judge(*[[LOG(0.5), LOG(0.5)]] * 2)
    YesNoReward(judge, "lift the cube", reference_picture=tmp_path / "goal.png").compute_reward(two())
    question = judge.questions[1]
    np.testing.assert_array_equal(question.pictures[0], goal)
    np.testing.assert_array_equal(question.pictures[1], FRAMES[1])
    assert question.about == 1
    assert question.parts[-1].startswith("The first picture above shows the following task completed")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for name in ("bad.png", "missing.png"):
        with pytest.raises(ConfigError, match="reference_picture must be a picture file"):
            YesNoReward(judge, "lift", reference_picture=tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": "movie"}, "view must be one of frame, prefix"),
        ({"pictures": 1}, "pictures must be a whole number >= 2"),
        ({"value": "logit"}, "value must be one of probability, log_probability"),
    ],
)
def test_setting_that_is_none_is_refused(fixed_judge, settings, message):
    with pytest.raises(ConfigError, match=message):
        YesNoReward(fixed_judge(), "a", **settings)
    with pytest.raises(PromptError, match="goal must"):
        YesNoReward(fixed_judge(), " ")
