"""What every reward with a judge must obey, and that each is found by its name and its config."""

import dataclasses
from importlib import resources

import numpy as np
import pytest
import yaml

from vlmreward.errors import ConfigError, FramesError, UnknownNameError
from vlmreward.rewards import _REWARDS, make_reward, make_reward_from_config
from vlmreward.rewards.judges import list_judges, make_judge, register_judge
from vlmreward.rewards.judges.judged import JudgedReward
from vlmreward.rewards.judges.pictures import resize
from vlmreward.rewards.judges.scripted_judge import ScriptedJudge, TruthTable
from vlmreward.rewards.judges.vlac import SIZE
from vlmreward.testing.fakes import ProjectionEncoder
from vlmreward.types import FrameBatch, RewardModel

CONFIGS = {
    path.name.removesuffix(".yaml"): config
    for path in (resources.files("vlmreward.configs") / "reward").iterdir()
    if "judge" in (config := yaml.safe_load(path.read_text(encoding="utf-8")))
}
ENCODER = ProjectionEncoder()
OUTSIDE = {"name", "judge", "scale", "normalise", "combine", "env_weight"}
CASES = {name: {} for name in CONFIGS} | {
    "yes_no video": {"view": "prefix", "pictures": 3},
    "yes_no log": {"value": "log_probability"},
    "rubric video": {"view": "prefix", "pictures": 2},
    "vlac stride": {"stride": 3},
    "vlac one way": {"both_ways": False},
    "vlac done": {"asks": "done"},
}
EPISODES, LENGTH = 3, 5
N = EPISODES * LENGTH


@pytest.fixture
def batch():
    rng = np.random.default_rng(2)
    return FrameBatch(
        episode=np.repeat(np.arange(EPISODES), LENGTH),
        step=np.tile(np.arange(LENGTH), EPISODES),
        frames=rng.integers(0, 256, (N, 5, 6, 3)).astype(np.uint8),
    )


@pytest.fixture
def truth(batch):
    """True progress of the frames, and of the same in the size in which VLAC is shown them."""
    progress = np.concatenate([np.linspace(0, 1, LENGTH), np.linspace(0, 0.4, LENGTH), np.zeros(LENGTH)])
    table = TruthTable(batch.frames, progress)
    table.add(np.stack([resize(frame, SIZE) for frame in batch.frames]), progress)
    return table


@pytest.fixture(params=sorted(CASES))
def case(request):
    return request.param


@pytest.fixture
def model(case, truth):
    """Build a model as its config does, but for the judge."""
    config = {**CONFIGS[case.split()[0]], **CASES[case]}
    own = {key: value for key, value in config.items() if key not in OUTSIDE}
    return _REWARDS.make(config["name"], {"judge": ScriptedJudge(truth=truth)}, goal="stand up", **own)


def test_law_contract_is_declared(model):
    assert isinstance(model, RewardModel)
    assert model.needs == ("frames",)
    assert model.causal == (model.context != "episode")


def test_law_shapes_types_and_range(model, batch):
    scored = model.compute_reward(batch)
    assert scored.reward.dtype == np.float32
    assert scored.reward.shape == scored.valid.shape == (N,)
    assert scored.valid.all(), scored.reasons
    assert model.range[0] <= scored.reward.min() <= scored.reward.max() <= model.range[1]
    assert np.ptp(scored.reward) > 0.5
    for part in scored.parts.values():
        assert (part.dtype, part.shape) == (np.float32, (N,))
    if scored.success is not None:
        assert scored.success.dtype == np.float32


def test_law_rewards_follow_the_truth(model, batch):
    """The first episode succeeds, the second one comes less than half way, the third stays where it was."""
    rewards = model.compute_reward(batch).reward.reshape(EPISODES, LENGTH)
    assert rewards[0, -1] > rewards[0, 0]
    assert rewards[0, -1] > rewards[1, -1] >= rewards[2, -1]
    assert (np.diff(rewards[0]) >= 0).all()


def test_law_order_and_company_of_rows_change_nothing(model, batch):
    together = model.compute_reward(batch).reward
    order = np.random.default_rng(1).permutation(N)
    shuffled = FrameBatch(batch.episode[order], batch.step[order], frames=batch.frames[order])
    np.testing.assert_array_equal(model.compute_reward(shuffled).reward, together[order])
    own = slice(LENGTH, 2 * LENGTH)
    alone = FrameBatch(batch.episode[own], batch.step[own], frames=batch.frames[own])
    np.testing.assert_array_equal(model.compute_reward(alone).reward, together[own])
    if model.context == "frame":
        one = FrameBatch(batch.episode[9:10], batch.step[9:10], frames=batch.frames[9:10])
        assert model.compute_reward(one).reward[0] == together[9]


def test_law_causal_model_sees_no_later_frame(model, batch):
    if not model.causal:
        pytest.skip("sees whole episodes by contract")
    later = dataclasses.replace(batch, frames=batch.frames.copy())
    later.frames[LENGTH - 1] = 0
    before = model.compute_reward(batch).reward[: LENGTH - 1]
    np.testing.assert_array_equal(model.compute_reward(later).reward[: LENGTH - 1], before)


def test_law_unknown_frame_is_never_a_number(model, batch):
    changed = dataclasses.replace(batch, frames=batch.frames.copy())
    changed.frames[LENGTH + 2] = 7
    scored = model.compute_reward(changed)
    assert not scored.valid[LENGTH + 2]
    assert np.isnan(scored.reward[~scored.valid]).all()
    assert set(scored.reasons) == set(np.flatnonzero(~scored.valid).tolist())
    assert scored.valid[:LENGTH].all()
    assert scored.valid[2 * LENGTH :].all()


def test_law_batch_without_frames_is_refused(model, batch):
    with pytest.raises(FramesError, match="a judge looks at frames"):
        model.compute_reward(dataclasses.replace(batch, frames=None))
    with pytest.raises(FramesError, match="got 3"):
        model.compute_reward(dataclasses.replace(batch, frames=batch.frames[:3]))


def test_law_all_questions_go_to_the_judge_together(model, batch):
    asked = []
    ask = model.judge.ask
    model.judge.ask = lambda questions: asked.append(len(questions)) or ask(questions)
    model.compute_reward(batch)
    assert len(asked) == 1
    assert asked[0] >= EPISODES


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_config_names_settings_and_builds_with_a_judge(name, tmp_path, batch):
    np.savez(tmp_path / "truth.npz", frames=batch.frames, progress=np.zeros(N))
    judge = {"name": "scripted", "path": str(tmp_path / "truth.npz")}
    config = {**CONFIGS[name], "judge": judge}
    model, transform = make_reward_from_config(config, ENCODER, goal=["a", "b"], baseline=["c"])
    assert isinstance(model, JudgedReward)
    assert model.task == "a / b"
    for key in config.keys() - OUTSIDE:
        assert getattr(model, key) == config[key]
    assert transform.scale == config["scale"]
    other, _ = make_reward_from_config(config, ENCODER, goal="other")
    assert isinstance(other, JudgedReward)
    assert other.judge is model.judge


def test_judge_is_found_by_its_name():
    assert list_judges() == ["http", "scripted", "transformers"]
    with pytest.raises(UnknownNameError, match="unknown judge 'htpt': did you mean 'http'"):
        make_judge({"name": "htpt"})
    with pytest.raises(ConfigError, match=r"judge 'http' needs the setting 'url': give reward\.judge\.url="):
        make_reward("yes_no", ENCODER, goal="a", judge={"name": "http"})
    with pytest.raises(ConfigError, match="judge 'http' has no setting 'ulr': did you mean 'url'"):
        make_judge({"name": "http", "ulr": "x"})
    for nothing in (None, "http", {}):
        with pytest.raises(ConfigError, match=r"reward.judge must hold|the config of judge needs 'name'"):
            make_reward("yes_no", ENCODER, goal="a", judge=nothing)
    with pytest.raises(ValueError, match="registered already"):
        register_judge("http", "somewhere:Else")


def test_judges_with_other_settings_are_others(tmp_path, batch):
    np.savez(tmp_path / "truth.npz", frames=batch.frames, progress=np.zeros(N))
    one = {"name": "scripted", "path": str(tmp_path / "truth.npz")}
    first, second, third = make_judge(one), make_judge({**one, "seed": 1}), make_judge(dict(one))
    assert first is third
    assert first is not second
