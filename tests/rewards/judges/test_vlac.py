import math

import numpy as np
import pytest
from PIL import Image

from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.vlac import PERCENTS, VlacReward
from vlmreward.types import FrameBatch


def batch(n):
    frames = np.random.default_rng(0).integers(0, 256, (n, 8, 12, 3)).astype(np.uint8)
    return FrameBatch(np.zeros(n, np.int64), np.arange(n), frames=frames)


def pictures_of(made):
    assert made.frames is not None
    return made.frames


def text_of(question):
    return "".join(part if isinstance(part, str) else "<image>" for part in question.parts)


PAIR = (
    "Image-1: <image>\nImage-2: <image>\nCompare two images and evaluate whether the second image is closer to "
    "achieving task objectives compared to the first image. + score means the second image is closer, - score means "
    "the first image is closer\nResponse the relative progressing of target task follow <score>. The target task is: "
    "<task> open the drawer </task> <score>"
)


def test_steps_are_added_up_by_the_bounded_rule(fixed_judge):
    judge = fixed_judge("50", "+50%", "-20")
    scored = VlacReward(judge, "open", both_ways=False).compute_reward(batch(4))
    assert scored.reward == pytest.approx([0, 0.5, 0.75, 0.6])
    assert scored.parts["progress"] == pytest.approx(scored.reward)


def test_both_orders_are_averaged_and_what_they_disagree_on_is_told(fixed_judge):
    judge = fixed_judge("60", "-20", "10", "10")
    scored = VlacReward(judge, "open").compute_reward(batch(3))
    assert scored.reward == pytest.approx([0, 0.4, 0.4])
    assert scored.parts["residual"] == pytest.approx([0, 0.4, 0.2])
    assert scored.parts["delta"] == pytest.approx([0, 0.4, 0])
    one, other = (q.pictures for q in judge.questions[:2])
    np.testing.assert_array_equal(one[0], other[1])
    np.testing.assert_array_equal(one[1], other[0])


def test_pair_is_asked_in_the_form_of_the_weights(fixed_judge):
    judge, frames = fixed_judge("0", "0"), batch(3)
    VlacReward(judge, "open the drawer", both_ways=False, stride=2).compute_reward(frames)
    assert [text_of(q) for q in judge.questions] == [PAIR, PAIR]
    small = [np.asarray(Image.fromarray(f).resize((448, 448), Image.Resampling.LANCZOS)) for f in pictures_of(frames)]
    for question, rows in zip(judge.questions, [(0, 1), (0, 2)], strict=True):
        for shown, row in zip(question.pictures, rows, strict=True):
            np.testing.assert_array_equal(shown, small[row])
    assert judge.questions[0].continuations == ()


def test_one_shot_form_has_the_trajectory_then_the_start_then_the_pair(fixed_judge, write_dataset, tmp_path):
    shown = np.random.default_rng(5).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    write_dataset(tmp_path / "shown", shown)
    judge, frames = fixed_judge("0", "0"), batch(3)
    reference = {"reference": tmp_path / "shown", "reference_frames": 4}
    VlacReward(judge, "open the drawer", both_ways=False, **reference).compute_reward(frames)
    assert text_of(judge.questions[1]) == (
        "<trajectory> <task> open the drawer </task>: 0% <image>\n 33% <image>\n 66% <image>\n 100% <image>\n"
        "</trajectory>0% <image>\nThis image is the trajectory beginning of the following two images\n" + PAIR
    )
    expected = [*shown[[0, 2, 4, 6]], *pictures_of(frames)[[0, 1, 2]]]
    for picture, frame in zip(judge.questions[1].pictures, expected, strict=True):
        np.testing.assert_array_equal(
            picture, np.asarray(Image.fromarray(frame).resize((448, 448), Image.Resampling.LANCZOS))
        )


@pytest.mark.parametrize(
    "reply", ["", "closer", "101", "-100.5", "Image 2 is closer", "20 30", "4.27.0", "1e1", "nan", "--5", "<score>"]
)
def test_reply_that_is_no_percentage_makes_this_and_later_rows_invalid(fixed_judge, reply):
    scored = VlacReward(fixed_judge("50", reply, "50"), "open", both_ways=False).compute_reward(batch(4))
    assert scored.valid.tolist() == [True, True, False, False]
    assert scored.reasons[2] == f"the reply is not a percentage from -100 to 100: {reply}"
    assert scored.reasons[3] == "a step of the episode so far is not known"
    assert np.isnan(scored.reward[2:]).all()


def test_failure_of_one_order_is_the_reason_of_the_row(fixed_judge):
    scored = VlacReward(fixed_judge("50", TimeoutError("late")), "open").compute_reward(batch(2))
    assert scored.valid.tolist() == [True, False]
    assert scored.reasons == {1: "the judge gave no answer: late"}
    assert np.isnan(scored.parts["residual"][1])


@pytest.mark.parametrize("reply", ["-100", "100", "<score> +7.5 %</score>", " 12.\n"])
def test_ends_and_decorations_are_percentages(fixed_judge, reply):
    assert VlacReward(fixed_judge(reply), "open", both_ways=False).compute_reward(batch(2)).valid.all()


def test_expected_value_is_over_whole_numbers(fixed_judge):
    logs = [math.log(1e-12)] * len(PERCENTS)
    for percent, probability in ((-10, 0.2), (5, 0.3), (40, 0.4)):
        logs[PERCENTS.index(percent)] = math.log(probability)
    judge = fixed_judge(logs)
    scored = VlacReward(judge, "open", both_ways=False, estimate="expected").compute_reward(batch(2))
    assert scored.reward[1] == pytest.approx((-2 + 1.5 + 16) / 0.9 / 100, abs=1e-6)
    (question,) = judge.questions
    assert question.whole
    assert question.continuations == tuple(str(n) for n in range(-100, 101))


def test_done_is_asked_of_single_frames(fixed_judge):
    judge = fixed_judge("1", "0", "2", "0.5", "yes")
    scored = VlacReward(judge, "open the drawer", asks="done").compute_reward(batch(5))
    assert scored.valid.tolist() == [True, True, False, False, False]
    assert scored.reward[:2].tolist() == np.asarray(scored.success)[:2].tolist() == [1, 0]
    assert scored.reasons[4] == "the reply is not 0 or 1: yes"
    assert text_of(judge.questions[0]) == (
        "<image>\nThe 1 means yes, the 0 means no. Check if the robot has completed its task: "
        "<task> open the drawer </task> <done>"
    )
    likely = VlacReward(fixed_judge([math.log(0.6), math.log(0.2)]), "open", asks="done", estimate="expected")
    assert likely.compute_reward(batch(1)).reward[0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"asks": "delta"}, "asks must be one of pair, done"),
        ({"stride": 0}, "stride must be a whole number >= 1"),
        ({"rule": "sum"}, "rule must be one of"),
        ({"estimate": "digits"}, "estimate must be one of text, expected"),
        ({"reference_frames": 1}, "reference_frames must be a whole number >= 2"),
        ({"reference_frames": 12}, "reference_frames must be at most 11"),
        ({"both_ways": "no"}, "both_ways must be true or false"),
    ],
)
def test_setting_that_is_none_is_refused(fixed_judge, settings, message):
    with pytest.raises(ConfigError, match=message):
        VlacReward(fixed_judge(), "a", **settings)
