"""Offline agents against numbers worked out by hand, a chain whose best policy is known, and poisoned rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vlmreward.agents.bc import BCSettings, find_top, normalise_weights, progress_weights
from vlmreward.agents.iql import IQLSettings, advantage_weights, expectile_loss
from vlmreward.agents.offline_agent import Minibatches, OfflineAgent, OfflineSettings, build_agent, restore_agent
from vlmreward.agents.offline_data import OfflineData, measure_scales, read_offline_data, settle_shape
from vlmreward.data.dataset import EpisodeDataset, Transitions
from vlmreward.errors import CheckpointError, ConfigError, DatasetError
from vlmreward.testing.datasets import ArrayDataset, ArrayEpisode

CHAIN = 5  # states of the chain; reward 1 for arriving at the last one, where an episode ends
HIDDEN = (32, 32)


def make_episode(
    observation: Any,
    action: Any,
    reward: Any = None,
    terminated: bool = False,
    labels: Any = None,
    valid: Any = None,
    success: bool | None = None,
    last_frame: bool = True,
) -> ArrayEpisode:
    rows = len(action)
    ends = np.zeros(rows, bool)
    ends[-1] = True
    columns = {}
    if labels is not None:
        columns["reward_vlm"] = np.asarray(labels, np.float32)
        columns["reward_vlm_valid"] = np.asarray(np.ones(rows) if valid is None else valid, np.float32)
    return ArrayEpisode(
        Transitions(
            np.asarray(observation, np.float32).reshape(rows + 1, -1),
            np.asarray(action, np.float32).reshape(rows, -1),
            None if reward is None else np.asarray(reward, np.float32),
            ends & terminated,
            ends & (not terminated),
        ),
        columns,
        success,
        last_frame,
    )


def walk_chain(seed: int, episodes: int = 60, right: float = 0.25, poison: float | None = None) -> ArrayDataset:
    """Return walks along the chain that mostly go left: the best policy is always right, the usual action is left."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        states, actions, rewards = [int(rng.integers(0, CHAIN - 1))], [], []
        while len(actions) < 12 and states[-1] != CHAIN - 1:
            actions.append(int(rng.random() < right))
            states.append(max(0, min(CHAIN - 1, states[-1] + (1 if actions[-1] else -1))))
            rewards.append(float(states[-1] == CHAIN - 1))
        valid = rng.random(len(actions)) > 0.2
        labels = np.array(rewards) if poison is None else np.where(valid, rewards, poison)
        made.append(
            make_episode(np.eye(CHAIN)[states], actions, rewards, states[-1] == CHAIN - 1, labels, valid.astype(float))
        )
    return ArrayDataset(made)


def fit(
    settings: OfflineSettings, data: OfflineData, updates: int, choices: int | None = 2, seed: int = 0
) -> OfflineAgent:
    weights = settings.weigh(data)
    agent = build_agent(settings, settle_shape(data, choices), seed)
    agent.set_scales(measure_scales(data, weights))
    batches = Minibatches(data, weights, agent, settings.batch_size, seed, "cpu")
    for update in range(updates):
        agent.update(batches.draw(update))
    return agent


def equal(one: Any, other: Any) -> bool:
    """Return whether two states are the same to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(torch.equal(one, other)) if isinstance(one, torch.Tensor) else bool(one == other)


def test_expectile_loss_by_hand() -> None:
    difference = torch.tensor([2.0, -1.0, 0.0])
    # .7 * 4 above, .3 * 1 below, .7 * 0 at zero
    assert float(expectile_loss(difference, 0.7)) == pytest.approx((2.8 + 0.3) / 3)
    assert float(expectile_loss(difference, 0.5)) == pytest.approx(0.5 * 5 / 3)


def test_minimum_of_the_expectile_loss_is_the_expectile() -> None:
    """The .9 expectile of {0, 1}, half each: .1 m = .9 (1 - m), m = .9."""
    guess = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([guess], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        expectile_loss(torch.tensor([0.0, 1.0]) - guess, 0.9).backward()
        optimiser.step()
    assert float(guess.detach()) == pytest.approx(0.9, abs=1e-4)


def test_advantage_weights_by_hand() -> None:
    weights = advantage_weights(torch.tensor([0.0, 0.5, -1.0, 2.0]), 3.0, 100.0)
    expected = [1.0, math.exp(1.5), math.exp(-3.0), 100.0]  # exp(6) = 403 is cut
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-5)


def test_one_update_of_iql_follows_the_formulas() -> None:
    """Gradients of one step, worked out again with networks that are tables (no hidden unit is off)."""
    episode = make_episode([[0.0], [1.0], [2.0]], [[-1.0], [1.0]], [1.0, 3.0], terminated=True)
    data = read_offline_data(ArrayDataset([episode]))
    settings = IQLSettings(hidden=(4,), batch_size=8, gamma=0.5, tau=0.25, learning_rate=1e-3)
    agent: Any = build_agent(settings, settle_shape(data), 0)
    agent.set_scales(measure_scales(data, settings.weigh(data)))
    batch = Minibatches(data, settings.weigh(data), agent, 8, 0, "cpu").draw(0)
    assert set(batch.reward.tolist()) == {1.0, 3.0}  # their standard deviation is 1
    old = {key: value.clone() for key, value in agent.state_dict().items()}
    with torch.no_grad():
        inputs = torch.cat([batch.observation, batch.action], dim=1)
        best = torch.minimum(agent.target[0].net(inputs), agent.target[1].net(inputs))[:, 0]
        value = agent.value(batch.observation)[:, 0]
        q = [net.net(inputs)[:, 0] for net in agent.q]
        mean, log_std = torch.tanh(agent.policy.net(batch.observation))[:, 0], float(agent.policy.log_std)
    told = agent.update(batch)
    u = best - value
    assert float(told["value_loss"]) == pytest.approx(float((torch.where(u < 0, 0.3, 0.7) * u**2).mean()), rel=1e-5)
    with torch.no_grad():  # policy and Q use the value after its step
        advantage = best - agent.value(batch.observation)[:, 0]
        wanted = batch.reward + 0.5 * (1 - batch.terminated) * agent.value(batch.next_observation)[:, 0]
    log_prob = -0.5 * (batch.action[:, 0] - mean) ** 2 - math.log(math.sqrt(2 * math.pi)) - log_std
    expected = -(torch.exp(3 * advantage).clamp(max=100) * log_prob).mean()
    assert float(told["policy_loss"]) == pytest.approx(float(expected), rel=1e-5)
    losses = [((one - wanted) ** 2).mean() for one in q]
    assert float(told["q_loss"]) == pytest.approx(float(sum(losses) / 2), rel=1e-5)
    for key, kept in agent.target.state_dict().items():
        expected = 0.75 * old[f"target.{key}"] + 0.25 * agent.q.state_dict()[key]
        torch.testing.assert_close(kept, expected)


def test_iql_finds_the_best_policy_where_cloning_finds_the_usual_one() -> None:
    data = read_offline_data(walk_chain(0), "reward_vlm")
    states = np.eye(CHAIN, dtype=np.float32)[:-1]
    # left is three times as usual, and at the far end a step right is worth a tenth more: beta must make up for that
    sharp = IQLSettings(hidden=HIDDEN, batch_size=64, learning_rate=3e-3, expectile=0.9, gamma=0.9, beta=10.0)
    iql = fit(sharp, data, 600)
    assert iql.act(states).tolist() == [1, 1, 1, 1]
    cloned = fit(BCSettings(hidden=HIDDEN, batch_size=64, learning_rate=3e-3), read_offline_data(walk_chain(0)), 300)
    assert cloned.act(states).tolist() == [0, 0, 0, 0]


def test_values_of_iql_are_those_of_the_chain() -> None:
    """With the expectile near 1 the value of a state is gamma to the power of the steps that are left."""
    data = read_offline_data(walk_chain(1, episodes=200, right=0.6))
    settings = IQLSettings(hidden=HIDDEN, batch_size=64, learning_rate=3e-3, expectile=0.98, gamma=0.9, tau=0.05)
    agent: Any = fit(settings, data, 1000)
    with torch.no_grad():
        inputs = agent.normalise(torch.eye(CHAIN)[:-1])
        values = agent.value(inputs)[:, 0] * agent.reward_std
    np.testing.assert_allclose(values.numpy(), [0.9**3, 0.9**2, 0.9, 1.0], atol=0.06)


@pytest.mark.parametrize("settings", [IQLSettings(hidden=(8,)), BCSettings(hidden=(8,), episodes="top")], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), 1e9, -1e9, float("inf")])
def test_what_stands_in_invalid_rows_changes_nothing(settings: Any, poison: float) -> None:
    clean, poisoned = (read_offline_data(walk_chain(0, poison=p), "reward_vlm") for p in (0.0, poison))
    assert (~clean.valid).sum() > 20
    assert clean.fingerprint() == poisoned.fingerprint()
    assert equal(fit(settings, clean, 20).capture(), fit(settings, poisoned, 20).capture())


@pytest.mark.filterwarnings("ignore:labelled progress never changes", "ignore:.* of the rows have weight 0")
@hypothesis_settings(max_examples=25, deadline=None)
@given(st.data())
def test_progress_weights_see_no_invalid_row(draw: st.DataObject) -> None:
    rows = draw.draw(st.integers(2, 12))
    valid = np.array(draw.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    labels = np.array(draw.draw(st.lists(st.floats(0, 1, width=32), min_size=rows, max_size=rows)))
    poison = draw.draw(st.sampled_from([float("nan"), 1e9, -5.0]))
    settings = BCSettings(weights="progress", lookahead=draw.draw(st.integers(1, 4)))
    found = []
    for values in (labels, np.where(valid, labels, poison)):
        episode = make_episode(np.zeros((rows + 1, 1)), np.zeros(rows), labels=values, valid=valid.astype(float))
        data = read_offline_data(ArrayDataset([episode]), "reward_vlm")
        try:
            found.append(settings.weigh(data).tolist())
        except DatasetError as e:
            found.append(str(e))
    assert found[0] == found[1]


def test_same_seed_same_weights_and_another_seed_others() -> None:
    data = read_offline_data(walk_chain(0), "reward_vlm")
    for settings in (IQLSettings(hidden=(8,)), BCSettings(hidden=(8,), episodes="top")):
        torch.manual_seed(1)
        first = fit(settings, data, 20)
        torch.manual_seed(2)  # the generator of the process has no say
        assert equal(first.capture(), fit(settings, data, 20).capture())
        assert not equal(first.capture()["parameters"], fit(settings, data, 20, seed=1).capture()["parameters"])


def test_progress_weights_by_hand() -> None:
    """Gains .5, .5, 0 and 0, -.2, 0: mean .8 / 6, and what is neither above kappa nor below 0 is in between."""
    rising, falling = np.array([0.0, 0.5, 1.0], np.float32), np.array([0.5, 0.5, 0.3], np.float32)
    weights = progress_weights([rising, falling], lookahead=1, kappa=0.01, epsilon=1e-6)
    gains = [0.5, 0.5, 0.0, 0.0, -0.2, 0.0]
    mean, std = sum(gains) / 6, math.sqrt(sum(g * g for g in gains) / 6 - (sum(gains) / 6) ** 2)
    soft = (0.0 - (mean - 2 * std)) / (4 * std + 1e-6)
    assert 0 < soft < 1
    np.testing.assert_allclose(weights[0], [1, 1, soft], atol=1e-6)
    np.testing.assert_allclose(weights[1], [soft, 0, soft], atol=1e-6)


def test_gain_below_kappa_counts_in_part() -> None:
    weights = progress_weights([np.array([0.0, 0.005, 0.0], np.float32)], lookahead=1)[0]
    gains = np.array([0.005, -0.005, 0.0])
    std = gains.std()
    assert weights[0] == pytest.approx((0.005 + 2 * std) / (4 * std + 1e-6), rel=1e-4)
    assert weights[1] == 0


def test_lookahead_stops_at_the_last_frame_of_the_same_episode() -> None:
    first, second = np.array([0.0, 0.1, 0.2], np.float32), np.array([1.0, 1.0, 1.0], np.float32)
    weights = progress_weights([first, second], lookahead=5)
    assert weights[0][:2].tolist() == [1.0, 1.0]
    assert weights[0][2] == weights[1][0] < 1  # no gain, and none from the episode that comes next


def test_unknown_progress_has_no_weight_and_constant_progress_equal_weights() -> None:
    weights = progress_weights([np.array([0.0, np.nan, 0.2, 0.3], np.float32)], lookahead=1)[0]
    assert weights.tolist()[:3] == [0.0, 0.0, 1.0]
    # mean 0 and the smallest std: (0 + 2e-6) / (4e-6 + 1e-6)
    constant = progress_weights([np.full(4, 0.5, np.float32)], lookahead=2)[0]
    np.testing.assert_allclose(constant, 0.4, rtol=1e-5)
    np.testing.assert_allclose(normalise_weights(torch.tensor(constant), 1e-6), 1.0, rtol=1e-5)


def test_weights_of_a_batch_by_hand() -> None:
    weights = normalise_weights(torch.tensor([1.0, 0.5, 0.0, 0.5]), 1e-6)
    np.testing.assert_allclose(weights, [2.0, 1.0, 0.0, 1.0], rtol=1e-5)


@pytest.mark.parametrize("last_frame", [True, False])
def test_row_is_weighted_by_what_comes_after_its_own_frame(last_frame: bool) -> None:
    """Row t's label is of frame t + 1: progress jumps in row 2, which is what moves on between frames 2 and 3."""
    labels, valid = [0.0, 0.0, 1.0, 1.0, 1.0], [1, 1, 1, 1, 1 if last_frame else 0]
    episode = make_episode(np.zeros((6, 1)), np.zeros(5), labels=labels, valid=valid, last_frame=last_frame)
    data = read_offline_data(ArrayDataset([episode]), "reward_vlm")
    weights = BCSettings(weights="progress", lookahead=1).weigh(data)
    assert weights[0] == 0  # nobody labelled frame 0
    assert weights[2] == 1
    assert 0 < weights[1] == weights[3] == weights[4] < 1


def test_constant_progress_warns_and_other_labels_are_refused() -> None:
    settings = BCSettings(weights="progress")
    flat = ArrayDataset([make_episode(np.zeros((5, 1)), np.zeros(4), labels=[0.5] * 4)])
    with pytest.warns(UserWarning, match="labelled progress never changes"):
        settings.weigh(read_offline_data(flat, "reward_vlm"))
    negative = ArrayDataset([make_episode(np.zeros((5, 1)), np.zeros(4), labels=[-0.5, 0, 0.5, 1])])
    with pytest.raises(DatasetError, match=r"needs labels in \[0, 1\], reward_vlm goes from -0.5 to 1"):
        settings.weigh(read_offline_data(negative, "reward_vlm"))


def test_best_episodes_are_those_of_the_highest_return() -> None:
    """Returns 3, 4, and 6: of four rows of which three are known, 4.5, and the fourth counts as their mean."""
    episodes = [
        make_episode(np.zeros((4, 1)), np.zeros(3), labels=[1, 1, 1], success=True),
        make_episode(np.zeros((3, 1)), np.zeros(2), labels=[2, 2], success=False),
        make_episode(np.zeros((5, 1)), np.zeros(4), labels=[1.5, 1.5, 1.5, -99], valid=[1, 1, 1, 0]),
        make_episode(np.zeros((3, 1)), np.zeros(2), labels=[99, 99], valid=[0, 0]),
    ]
    data = read_offline_data(ArrayDataset(episodes), "reward_vlm")
    assert find_top(data, 0.5) == [2, 1]
    assert BCSettings(episodes="top", top=0.25).weigh(data).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert BCSettings(episodes="success").weigh(read_offline_data(ArrayDataset(episodes))).tolist() == [1] * 3 + [0] * 8


def test_row_without_a_successor_is_not_learned_from_unless_it_is_an_end() -> None:
    def weigh(terminated: bool) -> list[float]:
        episode = make_episode(np.zeros((4, 1)), np.zeros(3), [0, 0, 1], terminated, last_frame=False)
        return IQLSettings().weigh(read_offline_data(ArrayDataset([episode]))).tolist()

    assert weigh(terminated=False) == [1, 1, 0]
    assert weigh(terminated=True) == [1, 1, 1]


def test_observations_of_rows_are_those_of_their_own_episode() -> None:
    episodes = [make_episode([[0], [1], [2]], [0, 0]), make_episode([[10], [11]], [0])]
    data = read_offline_data(ArrayDataset(episodes))
    assert data.observation[data.at][:, 0].tolist() == [0, 1, 10]
    assert data.observation[data.at + 1][:, 0].tolist() == [1, 2, 11]


def test_numbers_are_imitated_in_their_own_range() -> None:
    """A linear law of actions between 2 and 6, cloned: most likely action, and samples within the data's range."""
    observation = np.linspace(-1, 1, 201)
    episode = make_episode(np.append(observation, 1.0), 4 + 2 * observation)
    agent = fit(
        BCSettings(hidden=(32,), learning_rate=1e-2, batch_size=64),
        read_offline_data(ArrayDataset([episode])),
        400,
        None,
    )
    probes = np.array([[-0.5], [0.0], [0.5]], np.float32)
    np.testing.assert_allclose(agent.act(probes)[:, 0], [3, 4, 5], atol=0.2)
    samples = agent.act(np.ones((500, 1), np.float32), torch.Generator().manual_seed(0))
    assert samples.min() >= 2
    assert samples.max() <= 6
    assert samples.std() > 0


def test_state_goes_through_a_checkpoint_and_refuses_another_network(tmp_path: Any) -> None:
    from vlmreward.agents.checkpoint_tree import read_tree, write_tree

    data = read_offline_data(walk_chain(0), "reward_vlm")
    settings = IQLSettings(hidden=(8,))
    agent = fit(settings, data, 10)
    write_tree(agent.capture(), tmp_path)
    state = read_tree(tmp_path)
    states = np.eye(CHAIN, dtype=np.float32)
    twin = restore_agent(settings, state)
    assert equal(agent.policy.net(torch.eye(CHAIN)), twin.policy.net(torch.eye(CHAIN)))  # type: ignore[operator, union-attr]
    assert agent.act(states).tolist() == twin.act(states).tolist()
    with pytest.raises(CheckpointError, match="does not fit the config's network"):
        restore_agent(IQLSettings(hidden=(16,)), state)
    with pytest.raises(CheckpointError, match="the checkpoint is of IQL, the config says BC"):
        restore_agent(BCSettings(hidden=(8,)), state)


@pytest.mark.parametrize(
    ("episodes", "column", "words"),
    [
        ([], None, "has no episodes"),
        ([make_episode(np.zeros((3, 1)), np.zeros(2))], "reward_vlm", "has no column 'reward_vlm'"),
        ([make_episode(np.zeros((3, 0)), np.zeros(2))], None, "observations of 0 numbers"),
        (
            [make_episode(np.zeros((3, 1)), np.zeros(2)), make_episode(np.zeros((3, 2)), np.zeros(2))],
            None,
            "of 1 and 2",
        ),
        ([make_episode([[0], [np.nan], [0]], np.zeros(2))], None, "an observation that is not finite"),
        ([make_episode(np.zeros((3, 1)), [0, np.inf])], None, "an action that is not finite"),
        (
            [make_episode(np.zeros((3, 1)), [0, 0], labels=[0, np.nan])],
            "reward_vlm",
            "counts as valid and is not finite",
        ),
        ([make_episode(np.zeros((3, 1)), [0, 0], [0, np.nan])], None, "a reward that counts as valid"),
    ],
)
def test_what_can_not_be_learned_from_is_one_line(episodes: Any, column: str | None, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        read_offline_data(ArrayDataset(episodes), column)
    assert "\n" not in str(caught.value)


def test_labels_without_validity_are_refused() -> None:
    episode = make_episode(np.zeros((3, 1)), np.zeros(2), labels=[0, 1])
    del episode.columns["reward_vlm_valid"]  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match="no column reward_vlm_valid that says which rows hold one"):
        read_offline_data(ArrayDataset([episode]), "reward_vlm")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IQLSettings(expectile=1.0), "agent.expectile of iql must be above 0 and below 1"),
        (lambda: IQLSettings(hidden=()), "agent.hidden must be a list"),
        (lambda: IQLSettings(learning_rate=0.0), "agent.learning_rate of an offline agent must be a number above 0"),
        (lambda: BCSettings(episodes="best"), r"unknown agent.episodes='best'"),  # type: ignore[arg-type]
        (lambda: BCSettings(top=0.0), "agent.top of bc must be above 0"),
        (lambda: BCSettings(lookahead=0), "agent.lookahead must be at least 1"),
    ],
)
def test_wrong_hyperparameters_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_dataset_in_memory_has_the_whole_contract() -> None:
    assert isinstance(walk_chain(0, episodes=1), EpisodeDataset)
