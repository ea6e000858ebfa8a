import numpy as np
import pytest

from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.gvl import GvlReward, read_percents
from vlmreward.rewards.judges.questions import Answer
from vlmreward.rewards.judges.scripted_judge import ScriptedJudge, TruthTable
from vlmreward.types import FrameBatch


def episode(n, seed=0):
    frames = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3)).astype(np.uint8)
    return FrameBatch(np.full(n, seed), np.arange(n), frames=frames)


def shown_order(question, frames):
    """Return which frames a question shows, as numbers."""
    return [next(i for i, f in enumerate(frames) if np.array_equal(f, p)) for p in question.pictures]


def test_first_frame_is_pinned_the_others_are_shuffled_and_put_back():
    batch = episode(12)
    order = np.random.default_rng(9).random(12)  # any progress, not that of time
    truth = TruthTable(batch.frames, np.append(0, order[1:]))
    judge, asked = ScriptedJudge(truth=truth), []
    ask = judge.ask
    judge.ask = lambda questions: asked.extend(questions) or ask(questions)
    scored = GvlReward(judge, "stack", pictures=30).compute_reward(batch)
    assert scored.reward == pytest.approx(np.append(0, np.round(order[1:], 2)), abs=1e-6)
    first, *others = shown_order(asked[0], batch.frames)
    assert first == 0
    assert sorted(others) == list(range(1, 12))
    assert others != sorted(others)
    assert "Frame 11" in asked[0].parts[-1]


def test_same_episode_is_always_shuffled_in_the_same_way_and_others_otherwise(fixed_judge):
    orders = []
    for batch, settings in [(episode(9), {}), (episode(9), {}), (episode(9), {"seed": 1}), (episode(9, 4), {})]:
        judge = fixed_judge("")
        GvlReward(judge, "stack", **settings).compute_reward(batch)
        orders.append(shown_order(judge.questions[0], batch.frames))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_long_episode_is_thinned_out_and_the_rest_is_between():
    batch = episode(31)
    truth = TruthTable(batch.frames, np.linspace(0, 0.6, 31))
    scored = GvlReward(ScriptedJudge(truth=truth), "stack", pictures=4).compute_reward(batch)
    assert scored.reward == pytest.approx(np.linspace(0, 0.6, 31), abs=1e-6)  # 0, 20, 40 and 60 % were asked


def test_frame_without_a_percentage_leaves_a_gap_and_no_more(fixed_judge):
    batch = episode(31)
    probe = fixed_judge("")
    GvlReward(probe, "stack", pictures=4).compute_reward(batch)
    order = shown_order(probe.questions[0], batch.frames)[1:]
    told = {10: "20%", 20: "about half", 30: "60%"}
    text = "\n".join(f"Frame {k}: {told[place]}" for k, place in enumerate(order, 1))
    scored = GvlReward(fixed_judge(text), "stack", pictures=4).compute_reward(batch)
    assert np.flatnonzero(~scored.valid).tolist() == list(range(11, 30))
    assert scored.reward[[0, 5, 10, 30]] == pytest.approx([0, 0.1, 0.2, 0.6])
    assert "about half" in scored.reasons[15]


def test_episode_of_one_frame_asks_nothing(fixed_judge):
    judge = fixed_judge()
    assert GvlReward(judge, "stack").compute_reward(episode(1)).reward.tolist() == [0.0]
    assert judge.questions == []


@pytest.mark.parametrize(
    ("text", "percents"),
    [
        ("Frame 1: 10%\nFrame 2: 20%\nFrame 3: 30%", [10, 20, 30]),
        ("**Frame 3**: 30 %\n- frame #1 - 10.5%\n  FRAME 2: Task completion percentage: 20%.", [10.5, 20, 30]),
        ("Frame 1: The cube is near.\nTask Completion: 10%\n\nFrame 2: 20%", [10, 20, None]),
        ("Frame 1: 10%\nFrame 1: 12%\nFrame 2: 20%", [None, 20, None]),
        ("Frame 1: 10% or 15%\nFrame 2: -5%\nFrame 3: 101%", [None, None, None]),
        ("Frame 1: 10\nFrame 2: 20\nFrame 3: 30", [None, None, None]),
        ("Frame 0: 0%\nFrame 1: 10%\nFrame 2: 20%", [None, None, None]),
        ("Frame 1: 10%\nFrame 2: 20%\nFrame 3: 30%\nFrame 4: 40%", [None, None, None]),
        ("Frame 1: like Frame 2, 30%\nFrame 2: 20%", [30, 20, None]),
        ("10%, 20%, 30%", [None, None, None]),
        ("Frame 1: 10% Frame 2: 20% Frame 3: 30%", [None, None, None]),
        ("Frame 1: 1e2%\nFrame 2: 1,000%\nFrame 3: 99999%", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_percentages_are_read_strictly(text, percents):
    found, why = read_percents(Answer(text), 3)
    assert found == percents
    assert why.startswith("the reply is not a percentage for each of the frames 1 to 3: ")


def test_failure_is_the_reason_of_all_but_the_first_frame(fixed_judge):
    scored = GvlReward(fixed_judge(TimeoutError("late")), "stack").compute_reward(episode(5))
    assert scored.valid.tolist() == [True, False, False, False, False]
    assert scored.reasons == dict.fromkeys(range(1, 5), "the judge gave no answer: late")


def test_examples_are_shuffled_with_their_percentages(fixed_judge, write_dataset, tmp_path):
    path, frames = tmp_path / "shown", np.random.default_rng(8).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    write_dataset(path, frames)
    judge = fixed_judge("")
    GvlReward(judge, "stack", pictures=5, reference=path).compute_reward(episode(3))
    parts = judge.questions[0].parts
    example = parts[1:16]  # two headings and the first frame, then 3 parts a frame
    numbers = {}
    for text, picture, percent in zip(example[3::3], example[4::3], example[5::3], strict=True):
        assert text.startswith("\nFrame ")
        numbers[next(i for i, f in enumerate(frames) if np.array_equal(f, picture))] = percent
    assert numbers == {1: " 25%", 2: " 50%", 3: " 75%", 4: " 100%"}
    assert list(numbers) != [1, 2, 3, 4]
    assert judge.questions[0].about == 2
    with pytest.raises(ConfigError, match=r"reference_episode must be in \[0, 0\], got 3"):
        GvlReward(judge, "stack", reference=path, reference_episodes=[3])
    with pytest.raises(ConfigError, match="reference_episodes must be a list of numbers"):
        GvlReward(judge, "stack", reference=path, reference_episodes="0")  # type: ignore[arg-type]
