"""Replay buffers for off-policy algorithms whose rewards are scored every few transitions.

A row can be sampled when its reward is known and valid, so an algorithm keeps its ratio of updates to steps whatever
its ``train_freq``. Raw rewards are stored; the transform is applied when sampling.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from vlmreward.errors import ConfigError, RenderingError
from vlmreward.types import BoolArray, FloatArray
from vlmreward.wrappers.capture_frames import ENV_REWARD_KEY
from vlmreward.wrappers.relabelling import Relabelling, does_learn
from vlmreward.wrappers.replay_rows import export_rows, import_rows
from vlmreward.wrappers.score_table import INVALID, UNSCORED, VALID
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import TICKET_KEY

# What the mixin stands on; at run time it stands beside the class of Stable-Baselines3, in front of it.
if TYPE_CHECKING:
    _Base = ReplayBuffer
else:
    _Base = object

Index = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows and environments of transitions, shape (batch,) each."""

SPARSE = 0.25
"""Share of sampleable rows below which they are listed instead of drawn by rejection."""


class ScoredReplayMixin(_Base):
    """Scores the rows of a replay buffer and samples only those whose reward is known.

    After every ``score_every`` transitions the new frames are handed to the scoring thread, and the rewards of those
    handed over before are taken in: encoding runs beside stepping and learning, and a row can be sampled at most
    ``2 * score_every`` transitions after it was added, always at the same point for the same seed.

    Args:
        *args: As for the class of Stable-Baselines3.
        scorer: The scorer of the algorithm's VecCaptureFrames.
        score_every: Transitions, counted over all environments, between two hand-overs.
        optimize_memory_usage: Not supported.
        **kwargs: As for the class of Stable-Baselines3.

    Raises:
        ConfigError: ``score_every`` is below 1, or ``optimize_memory_usage`` is set.

    Attributes:
        n_added: Number of vec steps added since the run began; row ``n % buffer_size`` holds the n-th.
        status: ``UNSCORED``, ``VALID`` or ``INVALID``, shape (buffer_size, n_envs).
        rewards: Raw rewards, float32, shape (buffer_size, n_envs); 0 where not valid.
        env_rewards: The environments' own rewards, float32, shape (buffer_size, n_envs).
        parts: What the transform needs beside a reward, float32, shape (buffer_size, n_envs, number of parts).
        episode_starts: True for the first transition of an episode, shape (buffer_size, n_envs).
    """

    def __init__(
        self, *args: Any, scorer: Scorer, score_every: int = 64, optimize_memory_usage: bool = False, **kwargs: Any
    ) -> None:
        if score_every < 1:
            raise ConfigError(f"score_every must be at least 1, got {score_every}: set the transitions scored together")
        if optimize_memory_usage:
            raise ConfigError(
                f"{type(self).__name__} does not support optimize_memory_usage=True, which keeps no next observation "
                "of an episode's last row: set it to False and lower buffer_size instead"
            )
        super().__init__(*args, **kwargs)
        self.scorer = scorer
        self.score_every = score_every
        shape = (self.buffer_size, self.n_envs)
        self.n_added = 0
        self.status: npt.NDArray[np.uint8] = np.full(shape, UNSCORED, np.uint8)
        self.env_rewards: FloatArray = np.zeros(shape, np.float32)
        self.parts: FloatArray = np.zeros((*shape, len(scorer.transform.parts)), np.float32)
        self.episode_starts: BoolArray = np.zeros(shape, bool)
        self.tickets = np.full(self.buffer_size, -1, np.int64)
        self._waiting: deque[tuple[int, int]] = deque()  # (ticket, row), oldest first
        self._n_valid = 0
        self._since_post = 0
        self._posted = -1  # newest ticket handed over at the last hand-over
        self.relabelling: Relabelling | None = None
        if does_learn(scorer.reward_model):
            assert scorer.encoder is not None, "the scorer has refused a model on embeddings without an encoder"
            self.relabelling = Relabelling(scorer.reward_model, *shape, scorer.encoder.dim)
        late = self.buffer_size if scorer.reward_model.context == "episode" else 0
        scorer.require_history(max(late, 4 * (score_every // self.n_envs + 1)))

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Add the transitions of one vec step; see Stable-Baselines3. ``reward`` is a placeholder.

        Raises:
            ConfigError: The step did not come from a VecCaptureFrames.
        """
        row = self.pos
        try:
            ticket = infos[0][TICKET_KEY]
            self.env_rewards[row] = [info[ENV_REWARD_KEY] for info in infos]
        except KeyError as e:
            raise ConfigError(
                f"{type(self).__name__} got a step without {e.args[0]!r} in info: give the algorithm the "
                "VecCaptureFrames that was built with this scorer"
            ) from e
        super().add(obs, next_obs, action, reward, done, infos)
        self.rewards[row] = 0
        self._n_valid -= int((self.status[row] == VALID).sum())
        self.status[row], self.tickets[row] = UNSCORED, ticket
        self._waiting.append((ticket, row))
        if len(self._waiting) > self.buffer_size:
            self._waiting.popleft()  # its row was overwritten just now
        self.n_added += 1
        self._since_post += self.n_envs
        if self._since_post >= self.score_every:
            self._take_in(self._posted)
            self.scorer.post()
            self._posted, self._since_post = ticket, 0

    def score_now(self) -> None:
        """Score every row that can be scored, and wait for it."""
        if self._waiting:
            self._take_in(self._waiting[-1][0])
            self._posted, self._since_post = int(self.tickets[(self.pos - 1) % self.buffer_size]), 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Sample rows whose reward is known, uniformly over rows and environments.

        Args:
            batch_size: Number of transitions.
            env: Normalises observations.

        Raises:
            ConfigError: ``env`` normalises rewards, or no episode has ended that the model scores as a whole.
            RenderingError: No row could be scored.
        """
        if env is not None and env.norm_reward:
            raise ConfigError(
                "VecNormalize(norm_reward=True) has seen only placeholder rewards: set norm_reward=False and "
                "reward.normalise=running"
            )
        if self._n_valid == 0:
            self.score_now()
        if self._n_valid == 0:
            self._raise_nothing()
        self.relabel()
        return self._get_samples(self._draw(batch_size), env=env)

    def relabel(self) -> None:
        """Label the rows anew that an older version of a reward that learns has labelled, if there are any.

        The transform's statistics begin anew too: they are those of what is in the buffer.
        """
        if self.relabelling is None or not self.relabelling.is_stale():
            return
        valid = self.status == VALID
        if self.relabelling.relabel(self.rewards, valid):
            transform = self.scorer.transform
            transform.restart()
            transform.update(self.rewards, valid, self.env_rewards, self.parts)

    def rows_since(self, n_added: int) -> dict[str, np.ndarray]:
        """Return the rows added after the first ``n_added`` vec steps, for saving; see ``replay_rows.export_rows``."""
        self.score_now()
        self.relabel()
        return export_rows(self, n_added)

    def restore_rows(self, arrays: dict[str, np.ndarray]) -> None:
        """Append rows that :meth:`rows_since` returned; see ``replay_rows.import_rows``."""
        import_rows(self, arrays)
        if self.relabelling is not None:
            self.relabelling.restored()
        self._n_valid = int((self.status == VALID).sum())

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        """Gather transitions by flat index, row * n_envs + environment, shape (batch,)."""
        start = np.divmod(batch_inds, self.n_envs)
        end, rewards, discounts = self._follow(start)
        obs = self._normalize_obs(_pick(self.observations, start), env)
        next_obs = self._normalize_obs(_pick(self.next_observations, end), env)
        dones = self.dones[end] * (1 - self.timeouts[end])  # a time limit does not end the task
        samples: Any = DictReplayBufferSamples if isinstance(obs, dict) else ReplayBufferSamples
        return samples(
            observations=self._tensors(obs),
            actions=self.to_torch(self.actions[start]),
            next_observations=self._tensors(next_obs),
            dones=self.to_torch(dones.reshape(-1, 1)),
            rewards=self.to_torch(rewards.reshape(-1, 1)),
            discounts=None if discounts is None else self.to_torch(discounts.reshape(-1, 1)),
        )

    def _follow(self, start: Index) -> tuple[Index, FloatArray, FloatArray | None]:
        """Return where the transitions from ``start`` end, their rewards, and the discount of the state there.

        Rewards and discounts are float32, shape (batch,); None stands for the algorithm's own discount.
        """
        return start, self._learned(start), None

    def _tensors(self, obs: Any) -> Any:
        return (
            {key: self.to_torch(value) for key, value in obs.items()} if isinstance(obs, dict) else self.to_torch(obs)
        )

    def _learned(self, at: Index) -> FloatArray:
        """Return the rewards to learn from at these rows and environments, with the statistics of now."""
        return self.scorer.transform.apply(self.rewards[at], self.env_rewards[at], self.parts[at])

    def _draw(self, batch_size: int) -> npt.NDArray[np.int64]:
        """Return flat indices of valid rows, uniformly, with replacement."""
        size = self.size() * self.n_envs
        flat = self.status.reshape(-1)
        if self._n_valid < SPARSE * size:
            valid = np.flatnonzero(flat[:size] == VALID)
            return valid[np.random.randint(0, len(valid), batch_size)]
        drawn = np.random.randint(0, size, batch_size)
        while len(again := np.flatnonzero(flat[drawn] != VALID)):
            drawn[again] = np.random.randint(0, size, len(again))
        return drawn

    def _take_in(self, last: int) -> None:
        """Take in the rewards of tickets up to ``last``; a reward for an overwritten row is dropped."""
        if not self._waiting or self._waiting[0][0] > last:
            return
        first = self._waiting[0][0]
        scores = self.scorer.scores(first, last)
        later: deque[tuple[int, int]] = deque()
        raw, valid, env_reward, parts = [], [], [], []
        for ticket, row in self._waiting:
            if ticket > last:
                later.append((ticket, row))
                continue
            if self.tickets[row] != ticket:
                continue
            number = ticket - first
            fresh = scores.scored[number] & (self.status[row] == UNSCORED)
            self.rewards[row, fresh] = scores.raw[number, fresh]
            self.parts[row, fresh] = scores.parts[number, fresh]
            self.status[row, fresh] = np.where(scores.valid[number, fresh], VALID, INVALID)
            if self.relabelling is not None and scores.learned is not None:
                self.relabelling.store(row, scores.learned, number, fresh)
            self.episode_starts[row] = scores.step[number] == 1
            raw.append(scores.raw[number, fresh])
            valid.append(scores.valid[number, fresh])
            env_reward.append(self.env_rewards[row, fresh])
            parts.append(self.parts[row, fresh])
            if not scores.scored[number].all():
                later.append((ticket, row))
        self._waiting = later
        if raw:
            values, good = np.concatenate(raw), np.concatenate(valid)
            self._n_valid += int(good.sum())
            self.scorer.transform.update(values, good, np.concatenate(env_reward), np.concatenate(parts))

    def _raise_nothing(self) -> None:
        if (self.status[: self.size()] == UNSCORED).any():
            raise ConfigError(
                f"{type(self.scorer.reward_model).__name__} scores whole episodes, and none has ended in "
                f"{self.size() * self.n_envs} transitions: raise learning_starts above an episode's length"
            )
        reasons = ", ".join(self.scorer.stats()["reasons"]) or "unknown reason"
        raise RenderingError(
            f"none of {self.size() * self.n_envs} frames could be scored ({reasons}): look at what the environment "
            "renders"
        )


class ScoredReplayBuffer(ScoredReplayMixin, ReplayBuffer):
    """Replay buffer with scored rewards; give it as ``replay_buffer_class``, and the scorer in its kwargs."""


class ScoredDictReplayBuffer(ScoredReplayMixin, DictReplayBuffer):
    """The same for dictionary observations."""


class ScoredNStepReplayBuffer(ScoredReplayMixin, NStepReplayBuffer):
    """The same with n-step returns.

    A return sums the rewards of up to ``n_steps`` rows and stops early, with the discount that fits, after the end of
    an episode, and before a row that is unscored or invalid, belongs to another episode, or is the oldest of the ring.

    Args:
        *args: As for ScoredReplayBuffer.
        n_steps: Largest number of rewards in a return.
        gamma: Discount factor; the algorithm's own.
        **kwargs: As for ScoredReplayBuffer.

    Raises:
        ConfigError: ``n_steps`` is below 1.
    """

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any) -> None:
        if n_steps < 1:
            raise ConfigError(f"n_steps must be at least 1, got {n_steps}: set the rewards summed in a return")
        super().__init__(*args, n_steps=n_steps, gamma=gamma, **kwargs)

    def _follow(self, start: Index) -> tuple[Index, FloatArray, FloatArray]:
        rows, envs = start
        ends = rows.copy()
        returns = np.zeros(len(rows), np.float32)
        used = np.zeros(len(rows), np.int64)
        going = np.ones(len(rows), bool)
        for step in range(self.n_steps):
            at = (rows + step) % self.buffer_size, envs
            if step > 0:
                going &= (at[0] != self.pos) & (self.status[at] == VALID) & ~self.episode_starts[at]
            returns += np.where(going, self.gamma**step * self._learned(at), 0).astype(np.float32)
            used += going
            ends = np.where(going, at[0], ends)
            going &= self.dones[at] == 0
        return (ends, envs), returns, (self.gamma**used).astype(np.float32)


def choose_replay_buffer(observation_space: spaces.Space, n_steps: int = 1) -> type[ScoredReplayMixin]:
    """Return the class for these observations.

    Raises:
        ConfigError: n-step returns of dictionary observations.
    """
    if not isinstance(observation_space, spaces.Dict):
        return ScoredReplayBuffer if n_steps == 1 else ScoredNStepReplayBuffer
    if n_steps != 1:
        raise ConfigError(f"n_steps={n_steps} does not work with dictionary observations: set n_steps=1")
    return ScoredDictReplayBuffer


def _pick(stored: Any, at: Index) -> Any:
    return {key: value[at] for key, value in stored.items()} if isinstance(stored, dict) else stored[at]
