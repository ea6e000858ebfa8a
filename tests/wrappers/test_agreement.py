"""Every way to score gives the same rewards on the same actions: buffers, per-step wrappers, other processes."""

from functools import cache, partial
from importlib import resources

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml

from vlmreward.agents.evaluation import run_episodes
from vlmreward.encoders.cached import open_cached
from vlmreward.encoders.mini import MiniEncoder
from vlmreward.envs.classic.cartpole import CartPoleEnv
from vlmreward.errors import RenderingError
from vlmreward.rewards import make_reward_from_config
from vlmreward.rewards.composite import ConstrainedReward, SoftAndReward
from vlmreward.rewards.shaped import ClipDeltaReward, ParReward, PotentialReward
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.critics import save_random_critic
from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
from vlmreward.testing.films import write_films
from vlmreward.wrappers import (
    ReplaceReward,
    ScoredReplayBuffer,
    ScoredRolloutBuffer,
    Scorer,
    VecCaptureFrames,
    VecReplaceReward,
)
from vlmreward.wrappers.scoring import FrameScorer

N_ENVS, N_STEPS = 3, 40
# A goal that some episodes reach (true ends), a limit for the others.
CLEAN = [partial(PixelEnv, length=9 + env, goal=0.75) for env in range(N_ENVS)]
# The same with a frame in each episode that can't be scored.
FLAWED = [partial(env, black_steps=[4]) for env in CLEAN]
ACTIONS = np.random.default_rng(3).integers(0, 3, (N_STEPS, N_ENVS))
ACTIONS[:, 0] = 2
PREFIX = partial(LinearReward, context="prefix")
CONFIGS = {
    path.name.removesuffix(".yaml"): config
    for path in (resources.files("vlmreward.configs") / "reward").iterdir()
    if path.name.endswith(".yaml") and "judge" not in (config := yaml.safe_load(path.read_text(encoding="utf-8")))
}
CONFIGS["potential"]["gamma"] = CONFIGS["critic"]["gamma"] = 0.97
del CONFIGS["success"]  # needs a fitted critic, and is a function of one row's success alone


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory):
    """Give models that are made from files theirs: demonstrations, and a critic with random weights."""
    folder = tmp_path_factory.mktemp("files")
    CONFIGS["perceptual"]["demos"] = str(write_films(folder / "demos", seeds=(0, 1)))
    critic = str(save_random_critic(folder / "critic.safetensors", ProjectionEncoder()))
    CONFIGS["critic_progress"]["path"] = CONFIGS["critic"]["of"]["path"] = critic


def from_config(name):
    goal, encoder = ["a dot on the right", "a dot"], ProjectionEncoder()
    return make_reward_from_config(CONFIGS[name], encoder, goal=goal, baseline=["a line"])[0]


MODELS = {
    "frame": LinearReward,
    "pair": partial(LinearReward, context="pair"),
    "initial": partial(LinearReward, needs=("embeddings", "initial")),
    "prefix": PREFIX,
    "gain of prefix": lambda: ClipDeltaReward(PREFIX(), clip_at=0.2),
    "potential of initial": lambda: PotentialReward(MODELS["initial"](), gamma=0.9, success_at=0.1),
    "potential of prefix": lambda: PotentialReward(PREFIX(), gamma=0.9),
    "par of prefix": lambda: ParReward(PREFIX()),
    "mixed": lambda: SoftAndReward({"a": LinearReward(), "b": MODELS["pair"](), "c": PREFIX()}, reference=0.0),
    "weighed": lambda: ConstrainedReward({"a": LinearReward(), "b": MODELS["pair"](), "c": PREFIX()}, [0.0, 0.1]),
    **{f"reward={name}": partial(from_config, name) for name in CONFIGS},
}


def make_transform(model):
    """Return a transform that no longer moves; of parts that are weighed, each counts."""
    make = getattr(model, "make_transform", RewardTransform)
    transform = make(scale=2.0, combine="add", env_weight=0.3, frozen=True)
    if transform.parts:
        weights = [0.5 + number for number in range(len(transform.parts))]
        transform.load_state_dict({**transform.state_dict(), "multipliers": weights})
    return transform


def capture(model, envs=CLEAN, encode_batch=16, **kwargs):
    built = model()
    scorer = Scorer(ProjectionEncoder(), built, make_transform(built), encode_batch)
    venv = VecCaptureFrames(envs, scorer=scorer, **kwargs)
    venv.seed(11)
    return scorer, venv


class Witness(gym.Wrapper):
    """Remembers how the last step ended, also when the wrapper outside refuses it."""

    ended = False

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.ended = terminated or truncated
        return obs, reward, terminated, truncated, info


def one_by_one(model, envs=CLEAN):
    """Plain Gymnasium: every environment by itself, every step scored alone. Returns rewards, valid and raw rewards."""
    rewards, raw = np.zeros((N_STEPS, N_ENVS)), np.zeros((N_STEPS, N_ENVS))
    valid = np.zeros((N_STEPS, N_ENVS), bool)
    for index, make in enumerate(envs):
        witness = Witness(make())
        built = model()
        env = ReplaceReward(witness, ProjectionEncoder(), built, make_transform(built))
        env.reset(seed=11 + index)
        for step in range(N_STEPS):
            try:
                _, rewards[step, index], _, _, info = env.step(ACTIONS[step, index])
                raw[step, index], valid[step, index] = info["vlm_reward"], True
            except RenderingError:
                pass  # the step was taken, and has no reward
            if witness.ended:
                env.reset()
    return rewards, valid, raw


@cache
def plainly(name):
    """What every way is held against; it is the same each time."""
    return one_by_one(MODELS[name])


def through_vec_replace(model):
    _, inner = capture(model)
    venv = VecReplaceReward(inner)
    venv.reset()
    rewards = np.array([venv.step(actions)[1] for actions in ACTIONS])
    return rewards, np.ones(rewards.shape, bool)


def through_rollouts(model, rollout=10, **kwargs):
    scorer, venv = capture(model, **kwargs)
    space = venv.observation_space, venv.action_space
    buffer = ScoredRolloutBuffer(rollout, *space, n_envs=N_ENVS, scorer=scorer)
    obs, rewards, valid = venv.reset(), [], []
    starts = np.ones(N_ENVS)
    for step, actions in enumerate(ACTIONS):
        new_obs, reward, dones, _ = venv.step(actions)
        buffer.add(obs, actions, reward, starts, th.zeros(N_ENVS), th.zeros(N_ENVS))
        obs, starts = new_obs, dones
        if step % rollout == rollout - 1:
            buffer.compute_returns_and_advantage(th.zeros(N_ENVS), dones)
            rewards.append(buffer.rewards)
            valid.append(buffer.valid)
            buffer.reset()
    venv.close()
    return np.concatenate(rewards), np.concatenate(valid)


def through_replay(model, score_every=7, **kwargs):
    scorer, venv = capture(model, **kwargs)
    space = venv.observation_space, venv.action_space
    buffer = ScoredReplayBuffer(
        N_STEPS * N_ENVS, *space, n_envs=N_ENVS, scorer=scorer, score_every=score_every, device="cpu"
    )
    obs = venv.reset()
    for actions in ACTIONS:
        new_obs, reward, dones, infos = venv.step(actions)
        buffer.add(obs, new_obs, actions, reward, dones, infos)
        obs = new_obs
    buffer.score_now()
    learned = buffer._get_samples(np.arange(N_STEPS * N_ENVS)).rewards.numpy().reshape(N_STEPS, N_ENVS)
    valid = buffer.status == 1
    return np.where(valid, learned, 0), valid


class Replay:
    """A policy that takes the fixed actions, each environment its own column."""

    def __init__(self, column):
        self.column, self.step = column, 0

    def start(self, slot, seed):
        pass

    def act(self, obs):
        self.step += 1
        return ACTIONS[self.step - 1, [self.column]]


WAYS = {
    "rollout buffer": through_rollouts,
    "rollout buffer, batches of 1": partial(through_rollouts, encode_batch=1),
    "replay buffer": through_replay,
    "replay buffer, scored at every step": partial(through_replay, score_every=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_ways_agree_to_1e_5(name):
    want, want_valid, raw = plainly(name)
    assert want_valid.all()
    assert np.unique(want).size > 60  # the rewards tell frames apart
    assert np.unique(raw).size > 20  # without the environment's own, too
    for way, score in {**WAYS, "VecReplaceReward": through_vec_replace}.items():
        rewards, valid = score(MODELS[name])
        np.testing.assert_array_equal(valid, want_valid, err_msg=way)
        np.testing.assert_allclose(rewards, want, atol=1e-5, err_msg=way)


@pytest.mark.parametrize("name", MODELS)
def test_buffers_leave_out_the_frames_that_can_not_be_scored(name):
    want, want_valid, _ = one_by_one(MODELS[name], FLAWED)
    assert 3 < (~want_valid).sum() < 40
    for way, score in WAYS.items():
        rewards, valid = score(MODELS[name], envs=FLAWED)
        np.testing.assert_array_equal(valid, want_valid, err_msg=way)
        np.testing.assert_allclose(rewards, want, atol=1e-5, err_msg=way)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("encode_batch", [1, 5, 256])
def test_evaluation_scores_the_first_episodes_alike(name, encode_batch):
    _, _, want = plainly(name)
    for index, make in enumerate(CLEAN):
        scorer = FrameScorer(ProjectionEncoder(), MODELS[name](), 1)
        (episode,) = run_episodes([make()], Replay(index), 1, 11 + index, scorer, encode_batch)
        np.testing.assert_allclose(episode.vlm_rewards, want[: episode.length, index], atol=1e-5)


@pytest.mark.parametrize("name", ["frame", "pair"])
def test_no_way_encodes_a_frame_that_any_way_has_encoded_before(tmp_path, monkeypatch, name):
    """And all rewards are the very same, those of the ways that have encoded none of the frames included."""
    ways = {**WAYS, "one by one": one_by_one, "VecReplaceReward": through_vec_replace}
    plain = plainly(name)[0]
    inner, refusing = ProjectionEncoder(), ProjectionEncoder(fail_at=0)

    def score(way, encoder):
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "ProjectionEncoder", lambda: encoder)
            return ways[way](MODELS[name])[0]

    for first in ("one by one", "rollout buffer"):
        del inner.batches[:]
        cached = open_cached(inner, tmp_path / first)
        found = {"at first": score(first, cached)}
        encoded = sum(inner.batches)
        assert 60 < encoded == len(cached.store)
        for way in ways:
            found[way] = score(way, cached)
            again = open_cached(refusing, tmp_path / first)  # as in another run
            np.testing.assert_array_equal(score(way, again), found[way], err_msg=way)
        assert sum(inner.batches) == encoded
        for way, rewards in found.items():
            np.testing.assert_allclose(rewards, found["at first"], atol=1e-6, err_msg=way)
            # the scale is 2, and a "pair" has two embeddings
            np.testing.assert_allclose(rewards, plain, atol=2 * 2 * 2**-11 + 1e-5, err_msg=way)


def test_the_embedded_encoder_scores_a_frame_alike_in_any_batch():
    encoder = MiniEncoder(precision="fp32")
    env = CartPoleEnv(width=96, height=96)
    env.reset(seed=0)
    env.action_space.seed(0)
    frames = []
    for _ in range(70):
        env.step(env.action_space.sample())
        frames.append(env.render().copy())
    frames = np.stack(frames)
    whole = encoder.encode_images(frames)
    for size in (1, 7, 64):
        parts = [encoder.encode_images(frames[i : i + size]) for i in range(0, len(frames), size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_processes_agree_to_1e_5(start_method):
    model = MODELS["weighed"]
    want, want_valid, _ = one_by_one(model, FLAWED)
    rewards, valid = through_rollouts(model, envs=FLAWED, subprocess=True, start_method=start_method)
    np.testing.assert_array_equal(valid, want_valid)
    np.testing.assert_allclose(rewards, want, atol=1e-5)


def test_the_environments_own_rewards_are_those_of_the_plain_environments():
    scorer, venv = capture(MODELS["frame"])
    venv.reset()
    for actions in ACTIONS:
        venv.step(actions)
    got = scorer.scores(N_STEPS - 30, N_STEPS - 1).env_reward
    for index, make in enumerate(CLEAN):
        env = make()
        env.reset(seed=11 + index)
        for step in range(N_STEPS):
            _, reward, terminated, truncated, _ = env.step(ACTIONS[step, index])
            if step >= N_STEPS - 30:
                assert got[step - N_STEPS + 30, index] == pytest.approx(reward, abs=1e-6)
            if terminated or truncated:
                env.reset()
