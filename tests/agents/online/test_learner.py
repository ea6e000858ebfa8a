"""Beside an agent: nothing waits, nothing is lost unseen, the budget holds, the same seed gives the same run."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# buffers are ours, rewards learn: a test knows which they are

import threading
from dataclasses import replace

import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

from vlmreward.agents.online.learner import LEAST, OnlineLearner
from vlmreward.errors import CheckpointError
from vlmreward.rewards import make_reward
from vlmreward.rewards.annotators.answers import Answer, BothOrders
from vlmreward.rewards.annotators.scripted import ScriptedAnnotator
from vlmreward.rewards.transform import RewardTransform
from vlmreward.testing.fakes import PixelEnv, ProjectionEncoder
from vlmreward.wrappers import ScoredReplayBuffer, Scorer, VecCaptureFrames
from vlmreward.wrappers.rollout_buffer import ScoredRolloutBuffer
from vlmreward.wrappers.score_table import VALID

SCHEDULE = {"budget": 10_000, "batch": 20, "every": 40, "keep_every": 1, "fit_steps": 20, "wait": True}


class Setup:
    """An environment whose frames go to a learner; ``step`` acts at random."""

    def __init__(self, name="preference", annotator=None, seed=0, **schedule):
        annotator = {"name": "scripted", **(annotator or {})}
        self.model = make_reward(
            name, ProjectionEncoder(), goal="be right", annotator=annotator, learning={**SCHEDULE, **schedule}
        )
        self.scorer = Scorer(ProjectionEncoder(), self.model, RewardTransform(normalise="running"), encode_batch=16)
        self.venv = VecCaptureFrames([PixelEnv] * 2, scorer=self.scorer)
        self.learner = OnlineLearner(self.model, self.scorer, seed)
        self.rng = np.random.default_rng(seed)
        self.venv.seed(seed)
        self.venv.reset()
        self.steps = 0

    def run(self, steps):
        for _ in range(steps):
            self.venv.step(self.rng.integers(0, 3, 2))
            self.steps += 2
            self.learner.step(self.steps)

    def settle(self):
        """Wait for the thread and take what it has made."""
        self.learner._worker.drain()
        self.learner.step(self.steps)

    def close(self):
        self.learner.close()
        self.venv.close()
        self.scorer.close()


@pytest.fixture
def setup():
    made = []

    def make(*args, **kwargs):
        made.append(Setup(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("name", ["preference", "distilled"])
def test_the_head_learns_what_the_annotator_knows(setup, name):
    s = setup(name, annotator={"errors": 0.1}, fit_steps=60, every=80)
    s.run(200)
    report = s.learner.report()
    assert s.model.version == report["version"] >= 5
    assert report["privileged"]
    assert report["calls"] == report["questions"] * (2 if name == "preference" else 1)
    frames = s.learner._pool.take(np.arange(len(s.learner._pool)))
    reward = s.model.compute_reward(frames).reward
    assert np.corrcoef(reward, frames.env_reward)[0, 1] > 0.6


def test_the_same_seed_gives_the_same_heads(setup):
    states = []
    for seed in (0, 0, 1):
        s = setup(annotator={"errors": 0.1}, seed=seed, sampling="disagreement")
        s.run(80)
        states.append(s.learner.state_dict())
    for a, b in zip(states[0]["head"]["weights"].values(), states[1]["head"]["weights"].values(), strict=True):
        assert bool((a == b).all())
    assert np.array_equal(states[0]["x"], states[1]["x"])
    assert not np.array_equal(states[0]["x"], states[2]["x"])


@pytest.mark.parametrize("budget", [1, 2, 90, 91])
def test_the_budget_of_calls_is_never_exceeded(setup, budget):
    s = setup(budget=budget)
    s.run(150)
    calls = s.learner.report()["calls"]
    assert calls == budget - budget % 2  # a pair takes two calls
    assert s.learner._questions.calls == calls


def test_an_annotator_that_never_answers_makes_nobody_wait_and_what_it_misses_is_counted(setup):
    s = setup(wait=False, waiting=2, every=1000)
    s.run(20)
    s.scorer.flush()  # there are frames to ask about
    answer = threading.Event()
    compare = s.learner._questions.comparer.compare
    s.learner._questions.comparer.compare = lambda *pair: (answer.wait(60), compare(*pair))[1]
    s.learner.schedule = replace(s.learner.schedule, every=4)
    s.learner._next = 0
    s.run(24)  # ends, though there is no answer
    assert s.learner._waiting == 2
    report = s.learner.report()
    assert (s.learner._counts["batches"], report["dropped"]) == (2, 48 // 4 + 1 - 2)
    assert report["questions"] == s.model.version == 0
    answer.set()
    s.settle()
    assert s.learner.report()["questions"] == 40
    assert s.model.version == 2
    s.run(2)
    assert s.learner._counts["batches"] == 3  # there is room again


def test_no_head_before_there_are_answers_enough(setup):
    s = setup(batch=LEAST - 1)
    s.run(20)
    assert 0 < s.learner.report()["examples"] < LEAST
    assert s.model.version == 0
    s.run(20)
    assert s.model.version == 1


class Silent:
    """Never has an answer; or breaks."""

    calls_per_pair = 1
    privileged = False

    def __init__(self, error=None):
        self.calls, self._error = 0, error

    def compare(self, first, second):
        self.calls += len(first)
        if self._error:
            raise self._error
        return [Answer("invalid", "time-out") if row % 2 else Answer("unsure") for row in range(len(first))]


def test_answers_that_are_none_are_counted_and_make_no_head(setup):
    s = setup()
    s.learner._questions.comparer = Silent()
    s.run(100)
    report = s.learner.report()
    assert report["answers"] == {"unsure": 50, "invalid": 50}
    assert report["examples"] == 0
    assert s.model.version == 0
    assert s.learner.state_dict()["head"] is None


def test_an_error_of_the_annotator_ends_the_run(setup):
    s = setup(wait=False, every=80)
    s.learner._questions.comparer = Silent(RuntimeError("the judge is on fire"))
    s.run(40)  # handed over
    with pytest.raises(RuntimeError, match="the judge is on fire"):
        s.settle()
    with pytest.raises(RuntimeError, match="the judge is on fire"):
        s.run(1)


def test_state_comes_back(setup):
    first = setup(annotator={"errors": 0.1})
    first.run(60)
    state = first.learner.state_dict()
    second = setup(annotator={"errors": 0.1})
    second.learner.load_state_dict(state)
    assert second.model.version == first.model.version > 0
    again = second.learner.state_dict()
    assert {k: v for k, v in again.items() if k not in ("x", "target", "head")} == {
        k: v for k, v in state.items() if k not in ("x", "target", "head")
    }
    assert np.array_equal(again["x"], state["x"])
    assert again["head"]["meta"] == state["head"]["meta"]
    x = ProjectionEncoder().encode_images(np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3)).astype(np.uint8))
    assert np.array_equal(first.model.head.score(x), second.model.head.score(x))
    second.steps = first.steps
    second.run(40)  # goes on counting, and on the same budget
    assert second.learner.report()["calls"] > state["calls"]
    assert second.model.version > first.model.version
    with pytest.raises(CheckpointError, match="the learner's state is damaged"):
        second.learner.load_state_dict({"next": 3})


class StepLearner(BaseCallback):
    """Calls the learner where the callback of training calls it."""

    def __init__(self, learner):
        super().__init__()
        self._learner = learner

    def _on_rollout_start(self):
        self._learner.step(self.num_timesteps)

    def _on_step(self):
        return True


def learn(s, algorithm, **settings):
    small = {"policy_kwargs": {"net_arch": [16]}, "device": "cpu", "seed": 0}
    agent = algorithm("MlpPolicy", s.venv, **small, **settings)
    agent.learn(240, callback=StepLearner(s.learner))
    return agent


def test_an_off_policy_agent_learns_from_the_newest_head_and_the_same_again(setup):
    learned = []
    for _ in range(2):
        s = setup(annotator={"errors": 0.1})
        own = {"replay_buffer_class": ScoredReplayBuffer, "replay_buffer_kwargs": {"scorer": s.scorer}}
        agent = learn(s, DQN, learning_starts=20, batch_size=16, buffer_size=300, **own)
        buffer = agent.replay_buffer
        buffer.score_now()
        buffer.relabel()
        valid = buffer.status == VALID
        assert valid.sum() == 240
        assert s.model.version >= 4
        assert (buffer.relabelling.versions[valid] == s.model.version).all()
        np.testing.assert_allclose(
            buffer.rewards[valid], s.model.head.score(buffer.relabelling.embeddings[valid]), atol=1e-6
        )
        learned.append((buffer.rewards.copy(), agent.policy.state_dict()))
    np.testing.assert_array_equal(learned[0][0], learned[1][0])
    for name, value in learned[0][1].items():
        assert bool((value == learned[1][1][name]).all()), name


@pytest.mark.filterwarnings("ignore:.*n_steps")
def test_an_on_policy_agent_has_one_version_in_a_rollout(setup):
    s = setup()
    own = {"rollout_buffer_class": ScoredRolloutBuffer, "rollout_buffer_kwargs": {"scorer": s.scorer}}
    learn(s, PPO, n_steps=30, batch_size=20, n_epochs=1, **own)
    assert s.model.version >= 2
    last = s.scorer.last_ticket
    learned = s.scorer.scores(last - 29, last).learned
    assert learned is not None
    assert len(np.unique(learned.version)) == 1


def test_both_orders_wrap_what_is_asked(setup):
    s = setup()
    assert isinstance(s.learner._questions.comparer, BothOrders)
    assert isinstance(s.learner._questions.comparer.of, ScriptedAnnotator)
