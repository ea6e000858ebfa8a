"""What every registered reward model must obey, and what the registry itself promises."""

import dataclasses
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import yaml

from vlmreward.errors import ConfigError, PromptError, UnknownNameError
from vlmreward.rewards import list_rewards, make_reward, make_reward_from_config, register_reward
from vlmreward.rewards.perceptual import PerceptualReward
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.critics import save_random_critic
from vlmreward.testing.films import write_films
from vlmreward.types import FrameBatch, RewardModel

ALL = {
    path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (resources.files("vlmreward.configs") / "reward").iterdir()
    if path.name.endswith(".yaml")
}
CONFIGS = {file: config for file, config in ALL.items() if "judge" not in config}  # the others: test_judged_rewards.py
JUDGED = {config["name"] for config in ALL.values() if "judge" in config}
CASES = {f"config-{name}": config for name, config in CONFIGS.items()}
CASES |= {f"plain-{name}": {"name": name} for name in list_rewards() if name not in JUDGED}
# Alone a difference of potentials has nothing to be learned from it; its gamma is the agent's.
CONFIGS["potential"]["gamma"] = 0.97
CASES["plain-potential"]["combine"] = "add"
CASES["clip-half"] = {"name": "clip", "alpha": 0.5}
CASES["clip-full"] = {"name": "clip", "alpha": 1.0}

N, DIM = 24, 16


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory, fake_encoder):
    """Give models that are made from files theirs: demonstrations, and a critic with random weights."""
    folder = tmp_path_factory.mktemp("files")
    CASES["plain-perceptual"]["demos"] = CONFIGS["perceptual"]["demos"] = str(
        write_films(folder / "demos", seeds=(0, 1))
    )
    critic = {"path": str(save_random_critic(folder / "critic.safetensors", fake_encoder())), "estimate": "anchored"}
    CASES["plain-critic"] |= critic
    CONFIGS["critic_progress"] |= critic
    CONFIGS["critic"]["of"] |= critic
    CONFIGS["critic"]["gamma"] = 0.97
    CASES["plain-success"]["of"] = CONFIGS["success"]["of"] = {"name": "critic", **critic}


@pytest.fixture(params=sorted(CASES))
def build(request, fake_encoder):
    """Return a function from a goal to the reward model of one case; one that combines rewards gets a second goal."""
    config = CASES[request.param]
    more = ["hold still"] if config["name"] in ("soft_and", "product", "constrained") else []

    def from_goal(goal):
        return make_reward_from_config(config, fake_encoder(DIM), goal=[goal, *more], baseline=["a", "b"])[0]

    return from_goal


def make_batch(seed=0, n=N):
    rng = np.random.default_rng(seed)

    def rows():
        x = rng.normal(size=(n, DIM))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    return FrameBatch(
        episode=np.zeros(n, np.int64),
        step=np.arange(n),
        instruction="stand up",
        embeddings=rows(),
        initial=rows(),
        previous=rows(),
        terminated=np.zeros(n, bool),
        truncated=np.zeros(n, bool),
        env_reward=rng.normal(size=n).astype(np.float32),
        quantities={"speed": rng.normal(size=n).astype(np.float32)},
    )


def rows_of(batch, index):
    names = ("episode", "step", "embeddings", "initial", "previous", "terminated", "truncated", "env_reward")
    return dataclasses.replace(
        batch,
        **{name: getattr(batch, name)[index] for name in names},
        quantities={k: v[index] for k, v in batch.quantities.items()},
    )


def test_law_contract_is_declared(build):
    model = build("stand up")
    assert isinstance(model, RewardModel)
    assert model.context in ("frame", "pair", "prefix", "episode")
    low, high = model.range
    assert np.isfinite([low, high]).all()
    assert low < high
    assert set(model.needs) <= {f.name for f in dataclasses.fields(FrameBatch)}


def test_law_shapes_types_and_range(build):
    model = build("stand up")
    scored = model.compute_reward(make_batch())
    assert scored.reward.shape == scored.valid.shape == (N,)
    assert scored.reward.dtype == np.float32
    assert scored.valid.dtype == np.bool_
    assert scored.valid.all()
    assert np.isfinite(scored.reward).all()
    assert model.range[0] - 1e-5 <= scored.reward.min()
    assert scored.reward.max() <= model.range[1] + 1e-5
    for part in scored.parts.values():
        assert part.shape == (N,)
        assert part.dtype == np.float32
    if scored.success is not None:
        assert scored.success.dtype == np.float32
        assert ((scored.success >= 0) & (scored.success <= 1)).all()


def test_law_batch_equals_one_by_one_in_any_order(build):
    model = build("stand up")
    if model.context in ("prefix", "episode"):
        pytest.skip("rows of this model depend on other rows by contract")
    batch = make_batch()
    together = model.compute_reward(batch).reward
    alone = np.concatenate([model.compute_reward(rows_of(batch, slice(i, i + 1))).reward for i in range(N)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(together[order], model.compute_reward(rows_of(batch, order)).reward, rtol=0, atol=1e-6)


def test_law_another_goal_scores_otherwise(build):
    batch = make_batch()
    if isinstance(build("stand up"), PerceptualReward):
        pytest.skip("demonstrations are the goal of this model")
    difference = build("stand up").compute_reward(batch).reward - build("wave a hand").compute_reward(batch).reward
    assert np.ptp(difference) > 1e-3  # more than a shift of every frame by one constant


def test_law_pictures_matter(build):
    assert np.ptp(build("stand up").compute_reward(make_batch()).reward) > 1e-3


def test_law_scoring_twice_gives_the_same_and_changes_nothing(build):
    model, batch = build("stand up"), make_batch()
    assert batch.embeddings is not None
    before = batch.embeddings.copy()
    np.testing.assert_array_equal(model.compute_reward(batch).reward, model.compute_reward(batch).reward)
    np.testing.assert_array_equal(batch.embeddings, before)


def test_law_the_environment_is_never_read(build):
    model, batch = build("stand up"), make_batch()
    assert batch.env_reward is not None
    assert not {"env_reward", "truncated", "quantities"} & set(model.needs)
    expected = model.compute_reward(batch).reward
    other = {
        "env_reward": -batch.env_reward,
        "terminated": np.ones(N, bool),
        "truncated": np.ones(N, bool),
        "quantities": {"speed": np.full(N, 9, np.float32), "success": np.ones(N, np.float32)},
    }
    none = {"env_reward": None, "terminated": None, "truncated": None, "quantities": {}}
    for changes in (other, none):
        for field in set(changes) & set(model.needs):  # true ends, where a model declares that it reads them
            del changes[field]
        np.testing.assert_array_equal(model.compute_reward(dataclasses.replace(batch, **changes)).reward, expected)


def test_law_a_broken_embedding_is_never_a_number(build):
    model, batch = build("stand up"), make_batch()
    assert batch.embeddings is not None
    batch.embeddings[5] = np.nan
    scored = model.compute_reward(batch)
    assert not scored.valid[5]
    assert scored.reasons[5]
    assert np.isnan(scored.reward[5])
    assert scored.valid.sum() == N - 1


@pytest.mark.parametrize("name", list_rewards())
def test_every_reward_has_a_config(name):
    assert name in {config["name"] for config in ALL.values()}


@pytest.mark.parametrize("file", sorted(CONFIGS))
def test_config_names_every_setting_of_the_transform(file, fake_encoder):
    config = CONFIGS[file]
    model, transform = make_reward_from_config(config, fake_encoder(), goal=["a", "c"], baseline="b")
    assert isinstance(transform, RewardTransform)
    for key in ("scale", "normalise", "combine", "env_weight"):
        assert getattr(transform, key) == config[key]
    # inner models are settings of the registry, not of a model
    outside = {"name", "of", "parts", "scale", "normalise", "combine", "env_weight"}
    if config["name"] == "critic":  # it keeps what is in the files that these name, or what they leave to it
        outside |= {"path", "stride", "reference", "reference_episode", "reference_camera"}
    for key in config.keys() - outside:
        assert getattr(model, key) == config[key]


def test_unknown_reward_names_the_nearest(fake_encoder):
    with pytest.raises(UnknownNameError, match="unknown reward 'clipp': did you mean 'clip'"):
        make_reward("clipp", fake_encoder(), goal="a")


def test_unknown_setting_names_the_nearest(fake_encoder):
    with pytest.raises(ConfigError, match="reward 'clip' has no setting 'alhpa': did you mean 'alpha'"):
        make_reward("clip", fake_encoder(), goal="a", alhpa=0.5)
    with pytest.raises(ConfigError, match="reward 'clip' has no setting 'encoder'"):
        make_reward_from_config({"name": "clip", "encoder": "mini"}, fake_encoder(), goal="a")


def test_missing_goal_and_missing_name_are_rejected(fake_encoder):
    with pytest.raises(ConfigError, match="reward 'clip' needs the setting 'goal'"):
        make_reward("clip", fake_encoder())
    with pytest.raises(PromptError, match="goal must"):
        make_reward("clip", fake_encoder(), goal=None)
    with pytest.raises(ConfigError, match="the config of reward needs 'name'"):
        make_reward_from_config({"alpha": 0.5}, fake_encoder(), goal="a")


def test_names_are_not_overwritten():
    with pytest.raises(ValueError, match="registered already"):
        register_reward("clip", "somewhere:Else")


def test_import_loads_neither_torch_nor_a_simulator():
    code = (
        "import sys; import vlmreward.rewards.clip, vlmreward.rewards.contrastive, vlmreward.rewards.composite, "
        "vlmreward.rewards.perceptual; "
        "print(sorted({'torch', 'open_clip', 'gymnasium', 'mujoco', 'stable_baselines3'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
