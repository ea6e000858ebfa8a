"""Put the parts of a run together from its settings: the only place where all of them meet."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from vlmreward.agents.catalogue import AgentSpec, get_agent
from vlmreward.agents.hyperparameters import check_hyperparameters
from vlmreward.agents.online.learner import OnlineLearner
from vlmreward.agents.sb3 import load_algorithm, make_algorithm, prepare_env
from vlmreward.cli.calibration import FILE as INT8_FILE
from vlmreward.cli.calibration import Quantised, is_int8, quantise_encoder
from vlmreward.cli.environments import explain_render_error, settle_rendering
from vlmreward.cli.settings import TrainSettings
from vlmreward.encoders import make_encoder_from_config
from vlmreward.encoders.cached import CachedEncoder, open_cached
from vlmreward.encoders.device import resolve_devices
from vlmreward.errors import ConfigError
from vlmreward.rewards import make_reward_from_config
from vlmreward.rewards.head import HEAD_FILE, Head
from vlmreward.rewards.learned import LearnedReward
from vlmreward.rewards.transform import RewardTransform
from vlmreward.types import Encoder, RewardModel
from vlmreward.wrappers.checks import check_context
from vlmreward.wrappers.frame_gate import FrameGate
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames

MOST_THREADS = 8


@dataclass(frozen=True)
class Scoring:
    """What turns frames into reward.

    Attributes:
        encoder: Frozen encoder.
        model: The reward model, its prompts encoded.
        transform: From the model's rewards to what is learned.
        quantised: The encoder's int8 tower; None in the other precisions.
    """

    encoder: Encoder
    model: RewardModel
    transform: RewardTransform
    quantised: Quantised | None = None

    @property
    def cache(self) -> CachedEncoder | None:
        """The encoder, if it keeps embeddings on disk."""
        return self.encoder if isinstance(self.encoder, CachedEncoder) else None


@dataclass
class Training:
    """The parts of a training run.

    Attributes:
        scoring: From frames to reward.
        scorer: Scores the training frames.
        vec_env: The environments with the wrappers of the algorithm.
        model: The algorithm.
        learner: Learns the reward beside training; None for a reward that does not learn.
    """

    scoring: Scoring
    scorer: Scorer
    vec_env: VecEnv
    model: BaseAlgorithm
    learner: OnlineLearner | None = None

    def close(self) -> None:
        """Stop the environments and the threads."""
        if self.learner is not None:
            self.learner.close()
        self.vec_env.close()
        self.scorer.close()


def build_scoring(settings: TrainSettings, folder: Path | None = None) -> Scoring:
    """Load the encoder, open its store of embeddings if there is to be one, and encode the prompts.

    Args:
        settings: The run's.
        folder: Of a run that has learned; where its encoder is quantised, the tower is taken from there, and where its
            reward has learned, the head.

    Raises:
        VlmRewardError: Weights are missing, a prompt is bad, a setting is unknown, the store can't be written, ...
    """
    prompts: dict[str, Any] = {"goal": list(settings.goal)}
    if settings.baseline:
        prompts["baseline"] = list(settings.baseline)
    make_encoder = partial(make_encoder_from_config, device=settings.device)
    make_reward = partial(make_reward_from_config, settings.reward, **prompts)
    made: tuple[RewardModel, RewardTransform] | None = None
    quantised: Quantised | None = None
    if is_int8(settings):
        stored = None if folder is None else folder / INT8_FILE
        encoder, made, quantised = quantise_encoder(settings, stored, make_encoder, make_reward)
    else:
        encoder = make_encoder(settings.encoder)
    if settings.encoder["name"] == "mini" and not settings.env.id.startswith("vlmreward/"):
        warnings.warn(
            f"the embedded encoder has never seen pictures of {settings.env.id}: its reward may mean nothing; use "
            "encoder=siglip2 or another open_clip model",
            stacklevel=2,
        )
    if settings.cache is not None:
        encoder = open_cached(encoder, settings.cache, settings.cache_dtype)
    model, transform = made or make_reward(encoder)
    if isinstance(model, LearnedReward) and model.learns and folder is not None and (folder / HEAD_FILE).is_file():
        model.use(Head.load(folder / HEAD_FILE))
    return Scoring(encoder, model, transform, quantised)


def make_gate(settings: TrainSettings) -> FrameGate | None:
    """Return the gate that leaves frames out, if there is to be one."""
    return None if settings.frame_gate is None else FrameGate(settings.frame_gate)


def check_agent(settings: TrainSettings) -> None:
    """Check the algorithm and its hyper-parameters.

    Raises:
        VlmRewardError: The algorithm is unknown or not installed, or a hyper-parameter is wrong.
    """
    spec = get_agent(settings.agent["name"])
    given = {key: value for key, value in settings.agent.items() if key != "name"}
    check_hyperparameters(spec.name, load_algorithm(spec), given)


def build_training(settings: TrainSettings, scoring: Scoring) -> Training:
    """Build environments, scorer and algorithm.

    Raises:
        VlmRewardError: The parts do not fit each other, or an environment has no pictures.
    """
    settle_rendering(settings.env.id)
    spec = get_agent(settings.agent["name"])
    goal, gate = " / ".join(settings.goal), make_gate(settings)
    scorer = Scorer(scoring.encoder, scoring.model, scoring.transform, settings.encode_batch, goal, gate)
    factories = [settings.env.factory()] * settings.n_envs
    try:
        frames = VecCaptureFrames(factories, scorer=scorer, subprocess=settings.subprocess)
    except gym.error.Error as e:
        raise explain_render_error(settings.env.id, e) from e
    try:
        vec_env = prepare_env(frames, spec, settings.normalise_obs)
        model = make_algorithm(settings.agent, vec_env, scorer, settings.seed, policy_device(settings))
        if spec.scoring == "rollout":
            never_ends = bool(frames.get_attr("metadata", [0])[0].get("never_terminates"))
            fixed_length = settings.env.time_limit if never_ends else None
            check_context(scoring.model, int(getattr(model, "n_steps", 1)), fixed_length)
        learner = make_learner(spec, scoring.model, scorer, settings.seed)
    except BaseException:
        frames.close()
        scorer.close()
        raise
    return Training(scoring, scorer, vec_env, model, learner)


def make_learner(spec: AgentSpec, model: RewardModel, scorer: Scorer, seed: int) -> OnlineLearner | None:
    """Return what learns the reward beside training; None for a reward that does not learn.

    Raises:
        ConfigError: The algorithm's buffer can't be labelled anew, or the annotator does not fit the reward.
    """
    if not (isinstance(model, LearnedReward) and model.learns):
        return None
    if spec.scoring == "step":
        raise ConfigError(
            f"{spec.name} gets its rewards step by step, and they can't be labelled anew when the reward has "
            "learned: choose agent=dqn, sac or ppo, or give reward.path=<head.safetensors of a run>"
        )
    if model.schedule.input == "frames":
        raise ConfigError(
            "reward.learning.input=frames needs pictures to label rows anew, and buffers keep none: write embeddings "
            "instead, or fit a head on a dataset with vlmreward fit-reward"
        )
    return OnlineLearner(model, scorer, seed)


def seed_envs(vec_env: VecEnv, seed: int, num_timesteps: int) -> None:
    """Seed the environments' next resets.

    The seeds are drawn from the run's seed and the step it goes on from: neighbouring run seeds share no episode, and
    a resumed run does not repeat the episodes it began with.
    """
    vec_env.seed(int(np.random.SeedSequence([seed, num_timesteps]).generate_state(1)[0] >> 1))


def policy_device(settings: TrainSettings) -> str:
    """Return where the policy lives: the first device asked for, or the CPU, where a small network is faster.

    Raises:
        ConfigError: The device is unknown, or this machine has it not.
    """
    if settings.agent.get("policy", "MlpPolicy") in ("MlpPolicy", "LinearPolicy"):
        return "cpu"
    return str(resolve_devices(settings.device)[0])


def set_threads(threads: str | int, beside_updates: bool = False) -> int:
    """Set how many threads torch uses in this process, and return the number.

    Args:
        threads: A number, or ``"auto"``: all cores; half of them ``beside_updates``. A small network has no use for
            many.
        beside_updates: An algorithm updates on one thread while frames are encoded on another, as with a replay buffer.
    """
    automatic = max(1, min(torch.get_num_threads() // (2 if beside_updates else 1), MOST_THREADS))
    torch.set_num_threads(automatic if threads == "auto" else int(threads))
    return torch.get_num_threads()
