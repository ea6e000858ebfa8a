"""``encoder.precision=int8``: calibrate on the run's own environment, judge, and keep what was made with the run.

The quantised tower is stored in the run folder rather than made again by each command: what ``evaluate`` scores with
is then what the agent learned from, without minutes of calibration. Wherever it is loaded it is judged again, on the
frames stored with it and by the reward of the goal at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vlmreward.agents.policies import RandomPolicy
from vlmreward.cli.environments import explain_render_error, settle_rendering
from vlmreward.cli.settings import EnvSettings, TrainSettings
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import resolve_devices
from vlmreward.encoders.frame_hash import hash_frames
from vlmreward.encoders.int8 import Int8Tower, check_int8, fit_frames, quantise, with_int8
from vlmreward.encoders.int8_gate import Agreement, Score, judge
from vlmreward.errors import ConfigError
from vlmreward.rewards.transform import RewardTransform
from vlmreward.types import Encoder, FloatArray, Frames, RewardModel
from vlmreward.wrappers.capture_frames import capture_frame, check_pixels
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, Gathered

FILE = "int8.safetensors"  # in the run folder
EPISODES = 24  # a third of them calibrate
FRAMES_PER_EPISODE = 8  # at least, if it has as many, and less than twice as many
MOST_STEPS = 1000  # of an episode that does not end
ADVICE_NEW = "use encoder.precision=auto, or another seed, whose episodes differ"
ADVICE_STORED = (
    "the run's int8 model was accepted for the goal it was trained on: give that goal, on a processor of that kind, or "
    "train another run with encoder.precision=auto"
)
_SEED = 8  # keeps these episodes apart from those of training


@dataclass(frozen=True)
class Quantised:
    """A quantised tower that has passed.

    Attributes:
        tower: To be stored.
        agreement: How it agrees with fp32.
    """

    tower: Int8Tower
    agreement: Agreement


def is_int8(settings: TrainSettings) -> bool:
    """Return whether a run's encoder is to be quantised."""
    return settings.encoder.get("precision") == "int8"


def quantise_encoder(
    settings: TrainSettings,
    stored: Path | None,
    make_encoder: Callable[[dict[str, object]], Encoder],
    make_reward: Callable[[Encoder], tuple[RewardModel, RewardTransform]],
) -> tuple[Encoder, tuple[RewardModel, RewardTransform], Quantised]:
    """Return the encoder with its quantised tower, made now or earlier, and what ``make_reward`` made of it.

    Args:
        settings: The run's.
        stored: File of the tower that the run has learned with; None: make one.
        make_encoder: Builds the encoder from settings of its group.
        make_reward: Builds the reward model on an encoder, and its transform.

    Raises:
        ConfigError: The tower does not agree with fp32, int8 does not run here, or the frames are too few.
        WeightsError: The stored tower is missing or damaged, or was made from another encoder.
        VlmRewardError: A part can't be built.
    """
    check_int8([str(d) for d in resolve_devices(settings.device)], str(settings.encoder.get("runtime", "auto")))
    encoder = make_encoder({**settings.encoder, "precision": "fp32", "runtime": "torch"})
    if not isinstance(encoder, ClipEncoder):
        raise ConfigError(f"encoder {settings.encoder['name']} has no image tower to quantise: use precision=auto")
    if stored is not None:
        tower = Int8Tower.load(stored)
    else:
        print(f"int8: calibrating on random episodes of {settings.env.name}", flush=True)
        tower = quantise(encoder, *collect_frames(settings.env, settings.seed, partial(fit_frames, encoder)))
    quantised = with_int8(encoder, tower)
    reward = make_reward(quantised)
    score = held_out_score(reward[0], tower, " / ".join(settings.goal))
    agreement = judge(tower.reference, quantised.encode_images(tower.frames), tower.judged, score)
    agreement.check(ADVICE_NEW if stored is None else ADVICE_STORED)
    print(f"int8: {agreement}", flush=True)
    return quantised, reward, Quantised(tower, agreement)


def collect_frames(
    env_settings: EnvSettings, seed: int, fit: Callable[[Frames], Frames]
) -> tuple[Frames, npt.NDArray[np.int64]]:
    """Return frames of random episodes, spread evenly over each; the same settings and seed give the same ones.

    Args:
        env_settings: The environment.
        seed: Of the run.
        fit: From frames, uint8, shape (N, H, W, 3), to what is kept of them, (N, height, width, 3).

    Returns:
        What is kept of the frames, and the number of each one's episode, int64, shape (N,).

    Raises:
        ConfigError: The environment can't be made, or shows one colour only.
        RenderingError: The environment has no pictures.
    """
    settle_rendering(env_settings.id)
    seeds = np.random.SeedSequence([seed, _SEED]).generate_state(EPISODES) >> 1
    try:
        with closing(env_settings.factory()()) as env:
            check_pixels(env)
            policy = RandomPolicy(env.action_space, 1)
            episodes = [_run_episode(env, policy, int(number), fit) for number in seeds]
    except gym.error.Error as e:
        raise explain_render_error(env_settings.id, e) from e
    frames = [frame for episode in episodes for frame in episode]
    if not frames:
        raise ConfigError(f"environment {env_settings.id} shows one colour only: use encoder.precision=auto")
    return np.stack(frames), np.repeat(np.arange(EPISODES), [len(episode) for episode in episodes])


def _run_episode(env: gym.Env, policy: RandomPolicy, seed: int, fit: Callable[[Frames], Frames]) -> list[Frames]:
    """Return frames at even distances, which double whenever there are too many of them."""
    obs, _ = env.reset(seed=seed)
    policy.start(0, seed)
    kept: list[Frames] = []
    every, ended = 1, False
    for step in range(MOST_STEPS):
        if step % every == 0:
            frame, reason = capture_frame(env)
            if frame is not None and not reason:
                kept.append(fit(frame[None])[0].copy())
        if len(kept) == 2 * FRAMES_PER_EPISODE:
            kept, every = kept[::2], 2 * every
        if ended:
            break
        obs, _, terminated, truncated, _ = env.step(policy.act(obs)[0])
        ended = bool(terminated or truncated)
    return kept


def held_out_score(model: RewardModel, tower: Int8Tower, instruction: str) -> Score:
    """Return what gives the rewards of a tower's held-out frames, in the way training scores them.

    Args:
        model: The reward model.
        tower: Its frames are scored, an episode's as neighbours; each one's first is that of a reset, without reward,
            and those that are not judged are scored all the same, for others may depend on them.
        instruction: Handed to the model.
    """
    first = np.append(True, tower.episode[1:] != tower.episode[:-1])
    number = np.cumsum(first) - 1
    rows = np.zeros(len(first), ROW_DTYPE)
    rows["env"] = rows["episode"] = number
    rows["slot"] = np.arange(len(first))
    rows["step"] = np.arange(len(first)) - np.flatnonzero(first)[number]
    rows["reset"] = first
    rows["ticket"] = rows["step"] - 1
    rows["truncated"] = np.append(first[1:], True) & ~first
    gathered = Gathered(tower.frames, np.arange(len(rows)), hash_frames(tower.frames))

    def score(embeddings: FloatArray) -> npt.NDArray[np.floating]:
        scorer = FrameScorer(_Known(embeddings), model, int(number[-1]) + 1, instruction)
        scored = scorer.score(rows, gathered)
        rewards = np.full(len(rows), np.nan, np.float32)
        rewards[scored.rows["slot"][scored.valid]] = scored.raw[scored.valid]
        return rewards

    return score


class _Known:
    """Stands in for an encoder whose embeddings of one set of frames are known."""

    id, image_size, licence = "known", 0, ""

    def __init__(self, embeddings: FloatArray) -> None:
        self.embeddings, self.dim = embeddings, embeddings.shape[1]

    def encode_images(self, frames: Frames) -> FloatArray:
        return self.embeddings

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        raise NotImplementedError
