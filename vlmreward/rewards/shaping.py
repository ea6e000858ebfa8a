"""Shape and combine rewards: pure functions on arrays of rewards, each with its source.

NaN stands for a reward that is not known and stays NaN. Work is done in float64, results are float32. What turns these
functions into reward models is in ``shaped`` (one reward) and ``composite`` (several).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vlmreward.errors import CheckpointError
from vlmreward.types import BoolArray, FloatArray

Floats = npt.NDArray[np.floating]
Steps = npt.NDArray[np.int64]


def bounded_centred(reward: Floats, reference: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Return the mean over references of ``sigmoid((reward - reference) / temperature)``.

    Preference As Reward (PAR, arXiv 2502.18770): the probability, by Bradley and Terry, that a frame is preferred to
    the reference. It is bounded, grows fastest near the reference and levels off beyond it, so that there is little to
    gain from where a reward model is far off. What differs: the reward models there are trained on preferences and
    need no temperature; a cosine moves within a few hundredths and does.

    Args:
        reward: Shape (N,).
        reference: Rewards to compare with: a number, shape (N,), or several, shape (M, N).
        temperature: Difference of rewards that counts as one unit, > 0.

    Returns:
        float32 in [0, 1], shape (N,).
    """
    against = np.atleast_2d(np.asarray(reference, np.float64))
    margins = (np.asarray(reward, np.float64) - against) / temperature
    return np.exp(_log_sigmoid(margins)).mean(axis=0).astype(np.float32)


def clip_above(reward: Floats, threshold: float) -> FloatArray:
    """Return ``min(reward, threshold) - threshold``: at most 0, and nothing to gain above the threshold.

    The clip mechanism of arXiv 2410.15115.

    Args:
        reward: Shape (N,).
        threshold: Reward that is good enough.

    Returns:
        float32, shape (N,).
    """
    return (np.minimum(np.asarray(reward, np.float64), threshold) - threshold).astype(np.float32)


def delta(reward: Floats, before: Floats) -> FloatArray:
    """Return ``reward - before``: what a step has gained. An episode's sum is its last reward less that of its reset.

    The delta mechanism of arXiv 2410.15115 is another difference: the reward of a step less that of the *next* one,
    with the last one whole, so that the return from a step on is its own reward. Both keep an episode from being paid
    for its length; theirs is known only one step later, and can't be given while an agent acts.

    Discounted, the sum is ``-r_0 + (1 - gamma) * sum_t gamma^(t-1) r_t``: with gamma < 1 an agent is paid for staying
    where the reward is high. :func:`potential` is not.

    Args:
        reward: Rewards of frames, shape (N,).
        before: Rewards of the frames before them in the same episode, shape (N,); see :func:`rewards_at`.

    Returns:
        float32, shape (N,).
    """
    return (np.asarray(reward, np.float64) - np.asarray(before, np.float64)).astype(np.float32)


def potential(reward: Floats, before: Floats, terminated: BoolArray, gamma: float) -> FloatArray:
    """Return ``gamma * F(s') - F(s)`` of a potential F, which is 0 at true ends.

    Added to any reward, this leaves the optimal policies what they are (Ng, Harada and Russell, "Policy invariance
    under reward transformations", ICML 1999), if gamma is the agent's own. Over an episode of T steps the discounted
    sum is ``gamma^T F(s_T) - F(s_0)``. At a true end nothing follows, so only F = 0 there makes it independent of the
    end that is reached; at a time limit the agent bootstraps with the value of ``s_T``, and F stays.

    Args:
        reward: Potentials of frames, shape (N,).
        before: Potentials of the frames before them in the same episode, shape (N,).
        terminated: True at true ends, not at time limits, shape (N,).
        gamma: The agent's discount factor.

    Returns:
        float32, shape (N,).
    """
    after = np.asarray(reward, np.float64)
    after = np.where(terminated & ~np.isnan(after), 0.0, after)
    return (gamma * after - np.asarray(before, np.float64)).astype(np.float32)


def rewards_at(reward: Floats, episode: Steps, step: Steps, wanted: npt.ArrayLike) -> FloatArray:
    """Return, for each row, the reward of another step of its episode.

    Args:
        reward: Shape (N,), rows in any order.
        episode: Episode of each row, int64, shape (N,).
        step: Step of each row in its episode, int64, shape (N,).
        wanted: The step whose reward is wanted, a number or shape (N,), e.g. ``step - 1``.

    Returns:
        float32, shape (N,); NaN where that step is not among the rows.
    """
    _, number = np.unique(episode, return_inverse=True)
    first = int(step.min(initial=0))
    span = int(step.max(initial=0)) - first + 1
    target = np.broadcast_to(np.asarray(wanted, np.int64), step.shape) - first
    keys = number * span + (step - first)
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys[order], number * span + target), max(len(keys) - 1, 0))
    found = (target >= 0) & (target < span) & (keys[order][place] == number * span + target)
    return np.where(found, np.asarray(reward)[order][place], np.nan).astype(np.float32)


def soft_and(rewards: Floats, references: npt.ArrayLike, temperature: float = 1.0) -> FloatArray:
    """Return the sum of ``log sigmoid((reward - reference) / temperature)``: how likely all of them are good.

    The log-sigmoid-centred transformation of arXiv 2402.00742. A sum of logarithms is the logarithm of a product: the
    probability that every reward is good, if they are independent. The worst one counts most, and one that is good
    already has little left to give. What differs: a temperature, as in :func:`bounded_centred`.

    Args:
        rewards: K rewards of N rows, shape (K, N).
        references: Reward that is as good as not, a number or shape (K, N).
        temperature: Difference of rewards that counts as one unit, > 0.

    Returns:
        float32, at most 0, shape (N,).
    """
    margins = (np.asarray(rewards, np.float64) - np.asarray(references, np.float64)) / temperature
    return _log_sigmoid(margins).sum(axis=0).astype(np.float32)


def unit_range(values: Floats, low: float, high: float) -> FloatArray:
    """Return values mapped so that ``low`` is 0 and ``high`` is 1, cut off there; float32, the shape of ``values``."""
    return np.clip((np.asarray(values, np.float64) - low) / (high - low), 0.0, 1.0).astype(np.float32)


def product(factors: Floats) -> FloatArray:
    """Return the product of K factors, shape (K, N): one that is 0 leaves nothing. float32, shape (N,)."""
    return np.prod(np.asarray(factors, np.float64), axis=0).astype(np.float32)


def driving_product(
    contrast: Floats,
    speed_kmh: Floats,
    centre_distance_m: Floats,
    angle_deg: Floats,
    centre_spread_m: Floats,
    env_reward: Floats,
    *,
    alarm: float = 0.03,
    top_speed_kmh: float = 25.0,
    half_lane_m: float = 3.0,
    most_angle_deg: float = 90.0,
    most_spread_m: float = 0.4,
) -> FloatArray:
    """Return the hierarchical reward synthesis of VLM-RL (arXiv 2412.15544): pictures set the speed to drive at.

    ``calm = 1 - clip(-contrast, 0, alarm) / alarm`` is the share of the top speed that the picture allows. The reward
    is ``(1 - |speed - calm * top_speed| / top_speed) * centring * alignment * stability``, each of the last three
    falling linearly from 1 to 0; a negative reward of the environment (the penalty of an end) takes its place. The
    defaults are those of the published code (github.com/zihaosheng/VLM-RL). There as here the speed term is below 0
    where the speed is off by more than the top speed.

    All but the contrast are states of the simulator: whoever uses them says so (``privileged``).

    Args:
        contrast: ``cos(positive) - cos(negative)``, the ``contrastive`` reward, shape (N,). The paper's code has the
            other sign.
        speed_kmh: Speed, shape (N,).
        centre_distance_m: Distance from the lane's centre, to either side, shape (N,).
        angle_deg: Angle between the velocity and the route, shape (N,).
        centre_spread_m: Standard deviation of the newest distances (30 there), shape (N,).
        env_reward: The environment's own reward, shape (N,).
        alarm: Contrast against which the car should stand, > 0; made for one camera and encoder.
        top_speed_kmh: Desired speed when nothing is in the way.
        half_lane_m: Distance from the centre at which nothing is left.
        most_angle_deg: Angle at which nothing is left.
        most_spread_m: Spread at which nothing is left.

    Returns:
        float32, shape (N,).
    """
    wanted = top_speed_kmh * unit_range(contrast, -alarm, 0.0).astype(np.float64)
    factors: list[Floats] = [
        1 - np.abs(np.asarray(speed_kmh, np.float64) - wanted) / top_speed_kmh,
        1 - unit_range(np.abs(centre_distance_m), 0.0, half_lane_m),
        1 - unit_range(np.abs(angle_deg), 0.0, most_angle_deg),
        1 - unit_range(centre_spread_m, 0.0, most_spread_m),
    ]
    own = np.asarray(env_reward, np.float32)
    return np.where(own < 0, own, product(np.stack(factors)))


@dataclass(frozen=True)
class LagrangeWeights:
    """Weights of a main reward and of parts whose means must reach thresholds, learned by dual ascent.

    Maximising ``E[main]`` subject to ``E[part_k] >= threshold_k`` is the saddle point of ``E[main] + sum_k m_k
    (E[part_k] - threshold_k)`` with multipliers ``m_k >= 0``. The agent maximises it over policies; here each
    multiplier takes a step against the part's excess,

        m_k <- clip(m_k + rate * sum_rows (threshold_k - part_k), 0, limit)

    as in RCPO (Tessler, Mankowitz and Mannor, arXiv 1805.11074), which also bounds the multipliers and adds the weighed
    parts, without their thresholds, to the reward. Multipliers as the weights of composite rewards are the idea of
    arXiv 2310.04373. What differs: constraints hold on the mean over transitions; the step is a sum over rows and not
    their mean, so that how rows are cut into batches matters only where a bound is met; and the weights are divided by
    ``1 + sum_k m_k``, so that the reward keeps its scale, however large the multipliers grow.

    Attributes:
        names: Names of the parts, K.
        thresholds: What their means must reach, K.
        rate: Step of a multiplier for a row that misses its threshold by 1, > 0.
        limit: Largest multiplier, > 0.
        multipliers: The multipliers, K.
    """

    names: tuple[str, ...]
    thresholds: tuple[float, ...]
    rate: float
    limit: float
    multipliers: tuple[float, ...]

    def updated(self, parts: Floats) -> LagrangeWeights:
        """Return the weights after one step.

        Args:
            parts: Parts of valid transitions, shape (M, K).
        """
        missing = (np.asarray(self.thresholds) - np.asarray(parts, np.float64)).sum(axis=0)
        moved = np.clip(np.asarray(self.multipliers) + self.rate * missing, 0.0, self.limit)
        return replace(self, multipliers=tuple(moved.tolist()))

    def restored(self, multipliers: object) -> LagrangeWeights:
        """Return weights with multipliers from a checkpoint.

        Raises:
            CheckpointError: They are not K finite numbers in [0, limit].
        """
        try:
            values = np.asarray(multipliers, np.float64)
        except (TypeError, ValueError) as e:
            raise CheckpointError(f"multipliers of the reward must be numbers, got {multipliers!r}") from e
        if values.shape != (len(self.names),) or not ((values >= 0) & (values <= self.limit)).all():
            raise CheckpointError(
                f"multipliers of the reward must be {len(self.names)} numbers in [0, {self.limit:g}], got "
                f"{multipliers!r}: the checkpoint is damaged or of another reward"
            )
        return replace(self, multipliers=tuple(values.tolist()))

    def shares(self) -> dict[str, float]:
        """Return the weight of each part, by name; the main reward has the rest of 1."""
        total = 1 + sum(self.multipliers)
        return {name: m / total for name, m in zip(self.names, self.multipliers, strict=True)}

    def combine(self, main: Floats, parts: Floats) -> npt.NDArray[np.float64]:
        """Return the weighed mean of the main reward, any shape, and its parts, the same shape and K behind it."""
        weighed = np.asarray(parts, np.float64) @ np.asarray(self.multipliers)
        return (np.asarray(main, np.float64) + weighed) / (1 + sum(self.multipliers))


def _log_sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # NaN is a reward that is not known
        return -np.logaddexp(0.0, -x)
