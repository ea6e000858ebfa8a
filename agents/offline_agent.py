"""What agents that learn from a dataset have in common: policy networks, minibatches, state, and how they act."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from vlmreward.agents.offline_data import OfflineData, Scales, Shape
from vlmreward.errors import CheckpointError, ConfigError
from vlmreward.types import FloatArray

LOG_STD = (-5.0, 2.0)


@dataclass(frozen=True)
class Batch:
    """Rows to learn from, B of them.

    Attributes:
        observation: Normalised, float32, shape (B, D).
        next_observation: The same of the step after.
        action: int64, shape (B,), or float32 in [-1, 1], shape (B, A).
        reward: In standard deviations of the dataset's labels, float32, shape (B,).
        terminated: float32, shape (B,): 1 at a true end.
        weight: float32, shape (B,).
    """

    observation: torch.Tensor
    next_observation: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor
    weight: torch.Tensor


class OfflineSettings(Protocol):
    """Hyper-parameters of an agent; a frozen dataclass."""

    @property
    def batch_size(self) -> int:
        """Rows of a minibatch."""
        ...

    def weigh(self, data: OfflineData) -> FloatArray:
        """Return how much each row counts, float32, shape (N,); a row of weight 0 is never seen.

        Raises:
            VlmRewardError: The data lacks what the agent learns from, or nothing is left.
        """
        ...

    def build(self, shape: Shape) -> OfflineAgent:
        """Return the agent with fresh weights."""
        ...


class OfflineAgent(nn.Module):
    """An agent that learns from minibatches of a dataset.

    Subclasses make their networks and optimisers, and define ``update``. Statistics of the data are part of the state.

    Args:
        shape: What its policy takes and gives.
        hidden: Widths of the policy's hidden layers.
    """

    def __init__(self, shape: Shape, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.policy: nn.Module = (Choice if shape.discrete else Gaussian)(shape, hidden)
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        numbers = 1 if shape.discrete else shape.actions
        for name, size, value in (
            ("mean", shape.observation, 0.0),
            ("std", shape.observation, 1.0),
            ("low", numbers, -1.0),
            ("high", numbers, 1.0),
            ("reward_std", 1, 1.0),
        ):
            self.register_buffer(name, torch.full((size,), value))

    def set_scales(self, scales: Scales) -> None:
        """Take over the statistics of a dataset."""
        for name in ("mean", "std", "low", "high"):
            cast(torch.Tensor, getattr(self, name)).copy_(torch.as_tensor(getattr(scales, name)))
        cast(torch.Tensor, self.reward_std).fill_(scales.reward)

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Take one gradient step and return what is worth a log line, each a scalar."""
        raise NotImplementedError

    def normalise(self, observation: torch.Tensor) -> torch.Tensor:
        """Return observations in standard deviations from the data's mean."""
        return (observation - cast(torch.Tensor, self.mean)) / cast(torch.Tensor, self.std)

    def scale_actions(self, action: torch.Tensor) -> torch.Tensor:
        """Return recorded actions as the policy gives them: choices, or numbers in [-1, 1] of the data's own range."""
        if self.shape.discrete:
            return action[:, 0].long()
        low, high = cast(torch.Tensor, self.low), cast(torch.Tensor, self.high)
        return (2 * (action - low) / torch.where(high > low, high - low, 1.0) - 1).clamp(-1.0, 1.0)

    @torch.no_grad()
    def act(self, observation: FloatArray, generator: torch.Generator | None = None) -> np.ndarray:
        """Return actions as they are recorded.

        Args:
            observation: float32, shape (n, D).
            generator: Draws the actions; None takes the most likely ones.

        Returns:
            int64, shape (n,), or float32, shape (n, A).
        """
        low, high = cast(torch.Tensor, self.low), cast(torch.Tensor, self.high)
        inputs = torch.as_tensor(np.asarray(observation, np.float32), device=low.device)
        given = self.policy(self.normalise(inputs))
        if self.shape.discrete:
            if generator is None:
                return given.logits.argmax(dim=1).cpu().numpy()
            return torch.multinomial(given.probs.cpu(), 1, generator=generator)[:, 0].numpy()
        action = given.mean
        if generator is not None:
            noise = torch.randn(action.shape, generator=generator).to(action.device)
            action = (action + noise * given.stddev).clamp(-1.0, 1.0)
        return (low + (action + 1) / 2 * (high - low)).cpu().numpy()

    def capture(self) -> dict[str, Any]:
        """Return everything that a checkpoint holds."""
        optimisers = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        return {
            "algorithm": type(self).__name__,
            "shape": asdict(self.shape),
            "parameters": dict(self.state_dict()),
            "optimisers": optimisers,
        }

    def restore(self, state: Mapping[str, Any], learning: bool = True) -> None:
        """Take over what ``capture`` returned; with ``learning``, the optimisers' part too.

        Raises:
            CheckpointError: The state is that of another agent or network.
        """
        if state["algorithm"] != type(self).__name__:
            raise CheckpointError(f"the checkpoint is of {state['algorithm']}, the config says {type(self).__name__}")
        try:
            self.load_state_dict(state["parameters"])
            for name, optimiser in self.optimisers.items() if learning else ():
                optimiser.load_state_dict(state["optimisers"][name])
        except (RuntimeError, ValueError, KeyError) as e:
            said = " ".join(str(e).split())
            raise CheckpointError(f"the checkpoint does not fit the config's network ({said})") from e


def build_agent(settings: OfflineSettings, shape: Shape, seed: int, device: str = "cpu") -> OfflineAgent:
    """Return an agent whose first weights depend on the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return settings.build(shape).to(device)


def restore_agent(settings: OfflineSettings, state: Mapping[str, Any]) -> OfflineAgent:
    """Return the agent of a checkpoint, on the CPU, to act with.

    Raises:
        CheckpointError: The state is that of another agent or network.
    """
    if "shape" not in state:
        raise CheckpointError("the checkpoint is of an agent that learned in an environment, the config says otherwise")
    agent = build_agent(settings, Shape(**state["shape"]), seed=0)
    agent.restore(state, learning=False)
    return agent


class Minibatches:
    """Draws minibatches of the rows that count.

    The rows of update k depend on the seed and k alone, so that a resumed run draws what it would have drawn.

    Args:
        data: The dataset; put on the agent's device as a whole.
        weights: Of its rows.
        agent: Its statistics scale what is drawn.
        batch_size: Rows of a minibatch.
        seed: The run's.
        device: Where the agent lives.
    """

    def __init__(
        self, data: OfflineData, weights: FloatArray, agent: OfflineAgent, batch_size: int, seed: int, device: str
    ) -> None:
        rows = np.flatnonzero(weights > 0)
        self.size, self.seed, self._kept = batch_size, seed, len(rows)

        def put(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, device=device)

        self._observation = agent.normalise(put(data.observation))
        self._at = put(data.at[rows])
        self._action = agent.scale_actions(put(data.action[rows]))
        label = np.zeros(len(rows), np.float32) if data.label is None else data.label[rows]
        self._reward = put(label) / cast(torch.Tensor, agent.reward_std)
        self._terminated = put(data.terminated[rows].astype(np.float32))
        self._weight = put(weights[rows])

    def draw(self, update: int) -> Batch:
        """Return the minibatch of an update, drawn with replacement."""
        drawn = np.random.default_rng((self.seed, update)).integers(0, self._kept, self.size)
        rows = torch.as_tensor(drawn, device=self._at.device)
        at = self._at[rows]
        return Batch(
            self._observation[at],
            self._observation[at + 1],
            self._action[rows],
            self._reward[rows],
            self._terminated[rows],
            self._weight[rows],
        )


def make_mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return a network of linear layers with ReLU between them."""
    widths = (inputs, *hidden)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class Choice(nn.Module):
    """A policy that chooses among actions.

    Args:
        shape: What it takes and gives.
        hidden: Widths of its hidden layers.
    """

    def __init__(self, shape: Shape, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = make_mlp(shape.observation, hidden, shape.actions)

    def forward(self, observation: torch.Tensor) -> Categorical:
        """Return the distribution of actions."""
        return Categorical(logits=self.net(observation), validate_args=False)


class Gaussian(nn.Module):
    """A policy of numbers: normal noise of learned size around the hyperbolic tangent of a network's outputs.

    As in the original code of IQL, the mean is squashed and the distribution isn't: recorded actions at the very ends
    of their range have a finite likelihood.

    Args:
        shape: What it takes and gives.
        hidden: Widths of its hidden layers.
    """

    def __init__(self, shape: Shape, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.net = make_mlp(shape.observation, hidden, shape.actions)
        self.log_std = nn.Parameter(torch.zeros(shape.actions))

    def forward(self, observation: torch.Tensor) -> Independent:
        """Return the distribution of actions in [-1, 1]."""
        mean = torch.tanh(self.net(observation))
        std = self.log_std.clamp(*LOG_STD).exp().expand_as(mean)
        return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


def check_network(hidden: Any, learning_rate: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers.

    Raises:
        ConfigError: They are no list of whole numbers above 0, or the learning rate is no number above 0.
    """
    if not isinstance(learning_rate, (int, float)) or not learning_rate > 0:
        raise ConfigError(f"agent.learning_rate of an offline agent must be a number above 0, got {learning_rate!r}")
    widths = tuple(hidden) if isinstance(hidden, (list, tuple)) else ()
    if not widths or any(not isinstance(width, int) or isinstance(width, bool) or width < 1 for width in widths):
        raise ConfigError(f"agent.hidden must be a list of whole numbers such as [256,256], got {hidden!r}")
    return widths


def count_choices(space: gym.Space) -> int | None:
    """Return how many actions a space has to choose from; None where actions are numbers."""
    return int(space.n) if isinstance(space, gym.spaces.Discrete) else None


def check_fits(shape: Shape, env: gym.Env) -> None:
    """Check that an agent of a dataset can act in an environment.

    Raises:
        ConfigError: Its observations or actions are of another kind or size.
    """
    seen, acted = env.observation_space, env.action_space
    wanted = f"Box({shape.observation},) observations and "
    wanted += f"Discrete({shape.actions}) actions" if shape.discrete else f"Box({shape.actions},) actions"
    fits = isinstance(seen, gym.spaces.Box) and seen.shape == (shape.observation,)
    if shape.discrete:
        fits &= isinstance(acted, gym.spaces.Discrete) and int(acted.n) == shape.actions and int(acted.start) == 0
    else:
        fits &= isinstance(acted, gym.spaces.Box) and int(np.prod(acted.shape)) == shape.actions
    if not fits:
        raise ConfigError(
            f"the dataset has {wanted}, the environment {seen} and {acted}: choose the environment that it is of"
        )


class OfflinePolicy:
    """An offline agent as the policy of an evaluation.

    Args:
        agent: The agent.
        space: The environments' action space.
        seed: Of sampled actions.
        deterministic: Its most likely action rather than a sample.
    """

    def __init__(self, agent: OfflineAgent, space: gym.Space, seed: int = 0, deterministic: bool = True) -> None:
        self._agent, self._space = agent, space
        self._generator = None if deterministic else torch.Generator().manual_seed(seed)

    def start(self, slot: int, seed: int) -> None:
        """Do nothing: the policy has no memory."""

    def act(self, obs: Any) -> np.ndarray:
        """Return one action per environment."""
        actions = self._agent.act(obs, self._generator)
        if not isinstance(self._space, gym.spaces.Box):
            return actions
        shaped = actions.reshape(len(actions), *self._space.shape).astype(self._space.dtype)
        return np.clip(shaped, self._space.low, self._space.high)
