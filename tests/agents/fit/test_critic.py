"""A toy world: each task moves the embedding along a direction of its own, one that its instruction names."""

import numpy as np
import pytest
import torch

from vlmreward.agents.fit.critic import CriticFit, CriticFitSettings
from vlmreward.agents.fit.critic_episodes import CriticEpisode, progress_of_failures
from vlmreward.agents.fit.critic_pairs import PairSampler, PairSettings
from vlmreward.audit.progress_metrics import spearman
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.rewards.critic import Critic, CriticMeta
from vlmreward.rewards.critic_net import NetSettings

DIM = 12
TASKS = {f"task {i}": np.eye(DIM, dtype=np.float32)[i] for i in range(3)}
META = CriticMeta("toy", "MIT", 1, 1.0, 0.0, 5, {})


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def episode(task, progress, rng, success=None):
    """Frames of an episode that stands at ``progress``, shape (F,), with a scene of its own."""
    scene = np.zeros(DIM)
    scene[3:] = rng.standard_normal(DIM - 3)
    frames = unit(unit(scene) + np.outer(progress, TASKS[task]) * 2)
    return CriticEpisode(unit(frames + 0.01 * rng.standard_normal(frames.shape)), task, success)


def demonstrations(rng, each=8):
    done_early = np.minimum(np.linspace(0, 1.15, 30), 1)
    return [episode(task, done_early, rng) for task in TASKS for _ in range(each)]


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    failures = [episode(task, 0.3 * rng.random(30), rng, success=False) for task in TASKS for _ in range(4)]
    settings = CriticFitSettings(steps=400, groups=24, learning_rate=2e-3)
    run = CriticFit(NetSettings(DIM, width=32), demonstrations(rng) + failures, TASKS, settings)
    losses = []
    run.fit(losses.append)
    return Critic(run.model, META), losses


def test_pairs_by_hand():
    """An episode whose frame says its own number: every label follows from the two numbers in its row."""
    frames = np.zeros((21, DIM), np.float32)
    frames[:, 0] = np.arange(21)
    settings = PairSettings(mismatched=0, failures=0, shown=0)
    sampler = PairSampler([CriticEpisode(frames, "task 0")], TASKS, settings, np.random.default_rng(0))
    batch = sampler.draw(200)
    i, j, first = (x[:, 0] for x in (batch.earlier, batch.later, batch.initial))
    left = np.maximum(20 - i, 1)
    want = np.where(i == 20, np.where(j < 20, -1, 0), np.maximum((j - i) / left, -1))
    assert batch.delta == pytest.approx(want, abs=1e-6)
    assert batch.progress == pytest.approx(j / 20)
    assert (first <= np.minimum(i, j)).all()
    assert (first > 0).any()
    assert (first == 0).any()
    assert np.array_equal(batch.done[j > 19], np.ones((j > 19).sum()))
    assert np.array_equal(batch.done[j < 16], np.zeros((j < 16).sum()))
    assert np.isnan(batch.done[(j >= 16) & (j <= 19)]).all()
    groups = np.stack([i, j], axis=1).reshape(-1, 4, 2)
    assert np.array_equal(groups[:, 0], groups[:, 1, ::-1])
    assert np.array_equal(groups[:, 2], groups[:, 3, ::-1])
    assert np.array_equal(groups[:, 0, 0], groups[:, 2, 0])
    assert np.array_equal(groups[:, 0, 1], groups[:, 0, 0] + 1)


def test_frames_that_look_the_same_are_no_change():
    rng = np.random.default_rng(0)
    frames = np.zeros((18, DIM), np.float32)
    frames[:, 0] = np.repeat(np.arange(6), 3)  # the hand moves every third frame
    settings = PairSettings(mismatched=0, failures=0, shown=0, ends=0)
    batch = PairSampler([CriticEpisode(frames, "task 0")], TASKS, settings, rng).draw(100)
    same = (batch.earlier == batch.later).all(axis=1)
    assert 0 < same.sum() < len(same)
    assert (batch.delta[same] == 0).all()
    assert (batch.delta[~same] != 0).all()


def test_a_demonstration_that_stands_still_has_arrived():
    frames = np.zeros((21, DIM), np.float32)
    frames[:, 0] = np.minimum(np.arange(21), 10)
    shown = CriticEpisode(frames, "task 0")
    assert shown.progress == pytest.approx(np.minimum(np.arange(21) / 10, 1))
    assert np.array_equal(shown.way, frames[:11])
    assert np.array_equal(shown.done, np.r_[np.zeros(8), np.nan, np.nan, np.ones(11)], equal_nan=True)
    failed = CriticEpisode(shown.embeddings, "task 0", success=False)
    assert np.array_equal(failed.done, np.zeros(21))


def test_failures_are_worth_a_share_of_demonstrations_that_look_like_them():
    """Frames look like the instruction as much as they are along, so that the isotonic curve is the identity."""

    def along(progress, success=None):
        frames = np.zeros((len(progress), DIM), np.float32)
        frames[:, 0] = progress
        return CriticEpisode(frames, "task 0", success)

    demonstration, failure = along(np.linspace(0, 1, 11)), along([0.0, 0.4, 0.2, 0.2, 7.0], success=False)
    (found,) = progress_of_failures([failure], [demonstration], TASKS["task 0"], 0.8)
    assert found == pytest.approx([0, 0.32, 0.16, 0.16, 0.8], abs=1e-6)
    (unknown,) = progress_of_failures([failure], [], TASKS["task 0"], 0.8)
    assert np.isnan(unknown).all()
    settings = PairSettings(mismatched=0, failures=1, shown=0)
    batch = PairSampler([demonstration, failure], TASKS, settings, np.random.default_rng(0)).draw(100)
    pairs = {
        (i, j): (d, p)
        for i, j, d, p in zip(batch.earlier[:, 0], batch.later[:, 0], batch.delta, batch.progress, strict=True)
    }
    at = np.float32
    assert pairs[at(0.0), at(0.4)] == pytest.approx((0.32, 0.32))
    assert pairs[at(0.4), at(0.2)] == pytest.approx((-0.16 / 0.68, 0.16))
    assert (batch.done == 0).all()
    alone = PairSampler(
        [along(np.linspace(0, 1, 9)), CriticEpisode(failure.embeddings, "task 1", False)],
        TASKS,
        settings,
        np.random.default_rng(0),
    ).draw(50)
    looks_the_same = np.linalg.norm(alone.earlier - alone.later, axis=1) < 0.02 * 7
    assert np.array_equal(np.isnan(alone.delta), ~looks_the_same)
    assert np.isnan(alone.progress).all()


def test_another_instruction_is_no_progress_and_never_done():
    settings = PairSettings(mismatched=1, failures=0, shown=0)
    batch = PairSampler(demonstrations(np.random.default_rng(0)), TASKS, settings, np.random.default_rng(0)).draw(50)
    assert (batch.delta == 0).all()
    assert (batch.progress == 0).all()
    assert (batch.done == 0).all()


def test_failures_alone_teach_nothing():
    rng = np.random.default_rng(0)
    with pytest.raises(DatasetError, match="all 1 episodes are recorded as failures"):
        PairSampler([episode("task 1", np.linspace(0, 1, 9), rng, False)], TASKS, PairSettings(), rng)


def test_a_reference_is_of_the_instruction_that_is_asked_for():
    rng = np.random.default_rng(0)
    settings = PairSettings(mismatched=0.5, shown=1, reference_frames=5)
    batch = PairSampler(demonstrations(rng), TASKS, settings, rng).draw(50)
    assert batch.reference is not None
    assert batch.percent is not None
    assert batch.reference.shape == (200, 5, DIM)
    assert np.allclose(batch.percent, [0, 0.25, 0.5, 0.75, 1])
    ends = batch.reference[:, -1]  # far along the direction of the text beside it
    assert (np.einsum("nd,nd->n", ends, batch.text) > 0.7).all()


def test_the_same_seed_gives_the_same_critic():
    def fit(seed):
        episodes = demonstrations(np.random.default_rng(0), each=2)
        run = CriticFit(NetSettings(DIM, width=16), episodes, TASKS, CriticFitSettings(steps=5, groups=4, seed=seed))
        run.fit()
        return torch.cat([p.detach().flatten() for p in run.model.parameters()])

    assert torch.equal(fit(0), fit(0))
    assert not torch.equal(fit(0), fit(1))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 15])
def test_any_number_of_steps_is_a_fit(steps):
    episodes = demonstrations(np.random.default_rng(0), each=1)
    run = CriticFit(NetSettings(DIM, width=8), episodes, TASKS, CriticFitSettings(steps=steps, groups=1))
    losses: list[dict[str, float]] = []
    run.fit(losses.append)
    assert len(losses) == steps
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())


def test_new_episodes_are_followed_up_and_down(fitted):
    critic, losses = fitted
    assert losses[-1]["delta"] < losses[0]["delta"]
    rng = np.random.default_rng(5)
    truth = np.concatenate([np.linspace(0, 0.8, 20), np.linspace(0.8, 0.3, 15)])
    for task, text in TASKS.items():
        frames = episode(task, truth, rng).embeddings
        first = np.tile(frames[0], (len(frames), 1))
        seen = critic.compare(text, first, first, frames, both_ways=False)
        assert spearman(seen.delta, truth) > 0.95
        assert np.abs(seen.delta - truth).mean() < 0.2
        assert spearman(seen.progress, truth) > 0.95
        step = critic.compare(text, first[1:], frames[:-1], frames[1:])
        assert (step.delta[:19] > 0).mean() > 0.9
        assert (step.delta[19:] < 0).mean() > 0.9


def test_another_instruction_sees_no_progress(fitted):
    critic, _ = fitted
    frames = episode("task 0", np.linspace(0, 1, 20), np.random.default_rng(6)).embeddings
    first = np.tile(frames[0], (20, 1))
    other = critic.compare(TASKS["task 2"], first, first, frames)
    own = critic.compare(TASKS["task 0"], first, first, frames)
    assert np.abs(other.delta).max() < 0.25
    assert other.progress.max() < 0.25
    assert own.delta[-1] > 0.8
    assert other.done.max() < 0.3
    assert own.done[-1] > 0.7 > 0.3 > own.done[5]


def test_scores_are_antisymmetric_and_the_residual_says_how_far_they_were_not(fitted):
    critic, _ = fitted
    rng = np.random.default_rng(7)
    a, b = (episode("task 1", np.sort(rng.random(9)), rng).embeddings for _ in range(2))
    there, back = critic.compare(TASKS["task 1"], a, a, b), critic.compare(TASKS["task 1"], a, b, a)
    assert np.allclose(there.delta, -back.delta, atol=1e-6)
    assert np.allclose(there.residual, back.residual, atol=1e-6)
    assert (there.residual > 0).all()
    same = critic.compare(TASKS["task 1"], a, a, a)
    assert np.array_equal(same.delta, np.zeros(9, np.float32))


def test_a_lost_frame_is_not_judged_and_costs_no_other(fitted):
    critic, _ = fitted
    frames = episode("task 0", np.linspace(0, 1, 6), np.random.default_rng(8)).embeddings
    first = np.tile(frames[0], (6, 1))
    lost = frames.copy()
    lost[3] = np.nan
    whole, seen = (
        critic.compare(TASKS["task 0"], first, first, frames),
        critic.compare(TASKS["task 0"], first, first, lost),
    )
    assert np.isnan([seen.delta[3], seen.done[3], seen.residual[3], seen.progress[3]]).all()
    kept = np.arange(6) != 3
    assert np.allclose(seen.delta[kept], whole.delta[kept], atol=1e-5)


def test_push_back_needs_rollouts_and_lowers_what_they_seem():
    rng = np.random.default_rng(0)
    episodes = demonstrations(rng, each=4)
    with pytest.raises(ConfigError, match="rollouts"):
        CriticFit(NetSettings(DIM), episodes, TASKS, CriticFitSettings(push_back=1.0))
    odd = [CriticEpisode(unit(rng.standard_normal((30, DIM)) + 1.5 * TASKS["task 0"]), "task 0") for _ in range(8)]
    seen = []
    for push_back in (0.0, 20.0):
        settings = CriticFitSettings(steps=80, groups=8, learning_rate=1e-2, push_back=push_back)
        run = CriticFit(NetSettings(DIM, width=32, layers=1), episodes, TASKS, settings, odd)
        run.fit()
        critic = Critic(run.model, META)
        frames = odd[0].embeddings
        seen.append(critic.compare(TASKS["task 0"], np.tile(frames[0], (30, 1)), np.tile(frames[0], (30, 1)), frames))
    assert np.abs(seen[1].delta).mean() < np.abs(seen[0].delta).mean()
    assert seen[1].progress.mean() < seen[0].progress.mean() / 2
