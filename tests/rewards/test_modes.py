"""What the modes of a progress F make optimal: small MDPs solved by value iteration, paid by the models themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.rewards.shaped import ClipDeltaReward, PotentialReward, SuccessReward
from vlmreward.types import Context, FrameBatch, RewardBatch


class Progress:
    """The number that an embedding is; what is at least 1 is done."""

    context: Context = "frame"
    causal = True
    needs: tuple[str, ...] = ("embeddings",)
    range = (-10.0, 10.0)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        reward = np.asarray(batch.embeddings)[:, 0].astype(np.float32)
        return RewardBatch(reward, np.isfinite(reward), success=(reward >= 1).astype(np.float32))


def pay(model, progress, ends):
    """Return what a model pays for going from each state to each, shape (S, S)."""
    count = len(progress)
    before, after = np.divmod(np.arange(count * count), count)
    x = np.asarray(progress, np.float32)[:, None]
    batch = FrameBatch(before * 0, before * 0 + 1, embeddings=x[after], previous=x[before], terminated=ends[after])
    return model.compute_reward(batch).reward.reshape(count, count).astype(np.float64)


def solve(moves, reward, ends, gamma, sweeps=600):
    """Return Q of the optimal policy by value iteration; nothing follows an end.

    Args:
        moves: Probability of each next state, shape (S, A, S).
        reward: Of going from a state to the next, shape (S, S), or of (S, A, S).
        ends: Which states are true ends, shape (S,).
        gamma: Discount factor.
    """
    reward = reward[:, None, :] if reward.ndim == 2 else reward
    q = np.zeros(moves.shape[:2])
    for _ in range(sweeps):
        q = (moves * (reward + gamma * np.where(ends, 0, q.max(axis=1)))).sum(axis=2)
    return q


def best(q, ends):
    """Return which actions are optimal in states that are no ends, shape (S', A)."""
    live = q[~ends]
    return live >= live.max(axis=1, keepdims=True) - 1e-5


GAMMA = 0.9
progresses = st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6).map(np.array)


def random_mdp(seed):
    """Return moves and the true reward of an MDP of 6 states whose last one is an end."""
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.full(6, 0.3), (6, 3))
    return moves, rng.normal(size=(6, 3, 6)), np.arange(6) == 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), progress=progresses)
def test_potential_leaves_the_optimum_whatever_the_progress(seed, progress):
    moves, gold, ends = random_mdp(seed)
    shaped = gold + pay(PotentialReward(Progress(), GAMMA), progress, ends)[:, None, :]
    plain, other = solve(moves, gold, ends, GAMMA), solve(moves, shaped, ends, GAMMA)
    chosen = np.take_along_axis(plain, other.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen[~ends], plain.max(axis=1)[~ends], atol=1e-4)
    np.testing.assert_allclose(other[~ends], plain[~ends] - progress[~ends, None], atol=1e-4)


# Time limits. A state is (s, t): which one, and how many of the LIMIT steps of an episode are gone.

LIMIT = 3


def clocked(moves, gold, bootstrap):
    """Return an MDP of episodes of at most LIMIT steps, and which of its transitions are cut off by the limit.

    With ``bootstrap`` the value of what comes after the limit is that of the same state with a new clock, which is what
    an agent takes that doesn't see the time. Without, the limit is a true end.
    """
    count = len(moves)
    size = count * LIMIT
    wide = np.zeros(
        (size + count, moves.shape[1], size + count)
    )  # the last ones: where a limit without bootstrap leads
    reward = np.zeros_like(wide)
    cut = np.zeros((size + count, size + count), bool)
    for t in range(LIMIT):
        last = t == LIMIT - 1
        here = slice(t * count, (t + 1) * count)
        to = (
            slice((t + 1) * count, (t + 2) * count) if not last else slice(0, count) if bootstrap else slice(size, None)
        )
        wide[here, :, to], reward[here, :, to] = moves, gold
        cut[here, to] = last
    return wide, reward, cut


def solve_clocked(seed, bootstrap, zero_at_limit, shape=True):
    """Return the optimal actions of a random MDP with a time limit, for another progress in each."""
    moves, gold, ends = random_mdp(seed)
    progress = np.random.default_rng([seed, 1]).normal(scale=3, size=6)
    wide, reward, cut = clocked(moves, gold, bootstrap)
    ends = np.concatenate([np.tile(ends, LIMIT), np.full(6, not bootstrap)])
    progress = np.tile(progress, LIMIT + 1)
    if shape:
        model = PotentialReward(Progress(), GAMMA)
        paid = pay(model, progress, np.tile(np.arange(6) == 5, LIMIT + 1))
        at_end = pay(model, progress, np.ones(len(progress), bool))
        reward = reward + np.where(cut & zero_at_limit, at_end, paid)[:, None, :]
    return best(solve(wide, reward, ends, GAMMA, 200), ends)[: 5 * LIMIT]


def moved(bootstrap, zero_at_limit):
    """Return in how many of 20 MDPs the potential changes what is optimal."""
    pairs = [
        (solve_clocked(seed, bootstrap, zero_at_limit), solve_clocked(seed, bootstrap, False, shape=False))
        for seed in range(20)
    ]
    return sum(bool((one != two).any()) for one, two in pairs)


def test_a_time_limit_that_bootstraps_keeps_the_progress_and_the_optimum():
    assert moved(bootstrap=True, zero_at_limit=False) == 0
    assert moved(bootstrap=True, zero_at_limit=True) > 5  # the limit taken for a true end by F alone


def test_a_time_limit_that_is_a_true_end_needs_zero_there():
    assert moved(bootstrap=False, zero_at_limit=True) == 0
    assert moved(bootstrap=False, zero_at_limit=False) > 5


# Loitering. From the start (F = 0) to a good place (F = .6); from there back through DETOUR places (F = .2) to the end
# (F = 1), which alone is truly paid. Actions: stay, go.

DETOUR = 10
WAY = np.array([0.0, 0.6, *[0.2] * DETOUR, 1.0])
END = np.arange(len(WAY)) == len(WAY) - 1
GOLD = np.broadcast_to(END.astype(float), (len(WAY), len(WAY)))


def loiters(reward, gamma):
    """Return whether staying in the good place is optimal, and the value of the start."""
    steps = np.zeros((len(WAY), 2, len(WAY)))
    at = np.arange(len(WAY))
    steps[at, 0, at] = steps[at, 1, np.minimum(at + 1, len(WAY) - 1)] = 1
    q = solve(steps, reward, END, gamma)
    return bool(q[1, 0] > q[1, 1]), q[0].max()


def test_discounted_deltas_make_loitering_optimal():
    delta = pay(ClipDeltaReward(Progress()), WAY, END)
    stays, value = loiters(delta, GAMMA)
    assert stays
    # -F_0 + (1 - gamma) sum_{t >= 1} gamma^(t - 1) F_t, with .6 for ever
    assert value == pytest.approx(-0.0 + (1 - GAMMA) * 0.6 / (1 - GAMMA), abs=1e-5)
    going = 0.6 - 0.4 * GAMMA + 0.8 * GAMMA ** (DETOUR + 1)  # what the same rewards pay for reaching the end
    assert going < value
    assert not loiters(delta, 1.0)[0]  # undiscounted, only where an episode ends counts


@pytest.mark.parametrize("mode", ["gold", "potential", "success"])
def test_these_modes_go_to_the_end(mode):
    model = PotentialReward(Progress(), GAMMA)
    if mode == "success":
        reward = pay(SuccessReward(Progress(), at=0.9), WAY, END)
    else:
        reward = GOLD + (pay(model, WAY, END) if mode == "potential" else 0)
    stays, value = loiters(reward, GAMMA)
    assert not stays
    assert value == pytest.approx(GAMMA ** (DETOUR + 1) - (WAY[0] if mode == "potential" else 0), abs=1e-5)


def test_progress_itself_pays_for_staying():
    stays, value = loiters(pay(Progress(), WAY, END), GAMMA)
    assert stays
    assert value == pytest.approx(0.6 / (1 - GAMMA), abs=1e-4)
