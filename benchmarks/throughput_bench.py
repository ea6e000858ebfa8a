"""The two sides of benchmarks/throughput.py: the usual way of scoring frames by open_clip alone, and this package's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file
from throughput_ways import MINI, NATIVE, RANDOM, Ours, Setting

import vlmreward.envs  # noqa: F401  (registers the environments)
from vlmreward.encoders import make_encoder
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.mini import PREPROCESS, WEIGHTS, build_model, data_folder, make_tokenizer
from vlmreward.encoders.preprocess import Preprocess
from vlmreward.encoders.weights import find_source, load_model, load_tokenizer
from vlmreward.rewards import RewardTransform, make_reward
from vlmreward.types import Frames
from vlmreward.wrappers import Scorer, VecCaptureFrames, VecReplaceReward


class Library:
    """open_clip by itself: a float32 model, its tokenizer, and its PIL transform.

    Args:
        name: ``MINI``, or a model of open_clip with CLIP's tokenizer and ``", random weights"``, such as ``VIT``.
    """

    def __init__(self, name: str) -> None:
        if name != MINI:
            source = find_source(name.removesuffix(RANDOM), None, None, True)
            self.model: Any = load_model(source)  # seeded: the same weights as the encoder's
            self.tokenizer: Any = load_tokenizer(source)
            config = PreprocessCfg(**self.model.visual.preprocess_cfg)
        else:
            state = load_file(data_folder() / WEIGHTS)
            self.model, self.tokenizer = build_model(), make_tokenizer()
            self.model.load_state_dict({k: v.float() for k, v in state.items() if not k.startswith("domain.")})
            config = PreprocessCfg(
                size=PREPROCESS.size, interpolation=PREPROCESS.interpolation, resize_mode=PREPROCESS.resize_mode
            )
        self.model.eval()
        self.transform = cast(Callable[[Image.Image], torch.Tensor], image_transform_v2(config, is_train=False))

    @torch.no_grad()
    def text(self, prompt: str) -> torch.Tensor:
        """Return a prompt's unit embedding, shape (D,)."""
        return torch.nn.functional.normalize(self.model.encode_text(self.tokenizer([prompt])), dim=-1)[0]

    @torch.no_grad()
    def reward(self, frame: Frames, goal: torch.Tensor) -> float:
        """Return the cosine between a picture, uint8 (H, W, 3), and a goal, shape (D,)."""
        pixels = self.transform(Image.fromarray(frame)).unsqueeze(0)
        image = torch.nn.functional.normalize(self.model.encode_image(pixels), dim=-1)[0]
        return float(image @ goal)


class UsualReward(gym.Wrapper):
    """The usual way: render, preprocess and encode inside every step."""

    def __init__(self, env: gym.Env, library: Library, goal: str) -> None:
        super().__init__(env)
        self.library = library
        self.goal = library.text(goal)
        self.frame: Any = None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, and replace the reward by that of the picture."""
        obs, _, terminated, truncated, info = self.env.step(action)
        self.frame = self.env.render()
        return obs, self.library.reward(self.frame, self.goal), terminated, truncated, info


class LibraryPreprocess(Preprocess):
    """open_clip's PIL transform in the place of ours."""

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor], like: Preprocess) -> None:
        super().__init__(like.config, like.dtype)
        self._transform = transform

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the tower's input, shape (N, 3, *size)."""
        return torch.stack([self._transform(Image.fromarray(frame)) for frame in frames.numpy()]).to(self.dtype)


def make_clip_encoder(name: str, precision: str, runtime: str = "torch") -> ClipEncoder:
    """Return our encoder with the weights of ``Library``.

    Args:
        name: As for ``Library``.
        precision: Of the image tower.
        runtime: Of the image tower; ``benchmarks/encoders.py`` compares them.
    """
    own = {} if name == MINI else {"model": name.removesuffix(RANDOM), "random_weights": True}
    kind = MINI if name == MINI else "open_clip"
    encoder = make_encoder(kind, device="cpu", precision=precision, runtime=runtime, **own)
    assert isinstance(encoder, ClipEncoder)
    return encoder


class Bench:
    """Everything that one environment's rounds need, built once.

    Args:
        setting: What to compare.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        task = next(iter(gym.make(setting.env_id, render_mode=None).unwrapped.TASKS.values()))  # type: ignore[attr-defined]
        self.goal: str = task.goal
        self.library = Library(setting.encoder)
        self.encoders = {precision: make_clip_encoder(setting.encoder, precision) for precision in {"fp32", NATIVE}}
        self.usual = UsualReward(
            gym.make(setting.usual_id, render_mode="rgb_array", **setting.usual_kwargs), self.library, self.goal
        )
        self.usual.reset(seed=0)
        self.usual.action_space.seed(0)
        self._ours: dict[str, VecCaptureFrames] = {}

    def env_fn(self, way: Ours, **kwargs: Any) -> Callable[[], gym.Env]:
        """Return a function that makes our environment with a way's pictures."""
        width, height = way.size
        picture = {"width": width, "height": height, "quality": way.quality}
        return partial(gym.make, self.setting.env_id, **self.setting.kwargs, **picture, **kwargs)

    def run_usual(self, frames: int) -> int:
        """Score that many frames in the usual way, and return their number."""
        env = self.usual
        for _ in range(frames):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        return frames

    def run_ours(self, name: str, frames: int) -> int:
        """Score that many frames in one of our ways, and return how many were scored."""
        way, venv = self.setting.ways[name], self._venv(name)
        scorer = venv.scorer
        stepper = venv if way.deferred else VecReplaceReward(venv)
        steps = max(1, frames // venv.num_envs)
        wait_every = max(1, scorer.encode_batch // venv.num_envs)
        scorer.require_history(steps)
        first = scorer.last_ticket + 1
        with self._ingredients(way):
            for step in range(1, steps + 1):
                stepper.step(np.stack([venv.action_space.sample() for _ in range(venv.num_envs)]))
                if not way.overlap and step % wait_every == 0:
                    scorer.flush()
            scores = scorer.scores(first, first + steps - 1)
        if not scores.valid.all():
            raise RuntimeError(f"{name}: {(~scores.valid).sum()} of {scores.valid.size} frames were not scored")
        return scores.raw.size

    def _venv(self, name: str) -> VecCaptureFrames:
        if name not in self._ours:
            way, setting = self.setting.ways[name], self.setting
            encoder = self.encoders[way.precision]
            reward = make_reward("clip", encoder, goal=self.goal)
            batch = setting.encode_batch if way.batching else 1
            scorer = Scorer(encoder, reward, RewardTransform(), encode_batch=batch)
            env_fn = self.env_fn(way, render_mode="rgb_array")
            venv = VecCaptureFrames([env_fn] * setting.n_envs, scorer)
            venv.action_space.seed(0)
            venv.reset()
            self._ours[name] = venv
        return self._ours[name]

    @contextlib.contextmanager
    def _ingredients(self, way: Ours) -> Iterator[None]:
        """Take ingredients away from the encoder for a while; no batch is under way before or after."""
        replica = self.encoders[way.precision].replicas[0]
        saved = replica.batch_size, replica.preprocess
        if not way.batching:
            replica.batch_size = 1
        if not way.batched_preprocess:
            replica.preprocess = LibraryPreprocess(self.library.transform, replica.preprocess)
        try:
            yield
        finally:
            replica.batch_size, replica.preprocess = saved

    def pictures(self, ways: list[Ours], **kwargs: Any) -> list[Frames]:
        """Return pictures of the same states for each way, uint8 (N, H, W, 3) each."""
        envs = [self.env_fn(way, render_mode="rgb_array", **kwargs)() for way in ways]
        rng = np.random.default_rng(0)
        actions = envs[0].action_space
        actions.seed(0)
        shown: list[list[Any]] = [[] for _ in ways]
        for seed in range(self.setting.states):
            moves = [actions.sample() for _ in range(int(rng.integers(1, 60)))]
            observations = []
            for env, pictures in zip(envs, shown, strict=True):
                obs, _ = env.reset(seed=seed)
                for move in moves:
                    obs = env.step(move)[0]
                observations.append(obs)
                pictures.append(env.render())
            if any((obs != observations[0]).any() for obs in observations):
                raise RuntimeError("the two environments are not in the same state")
        for env in envs:
            env.close()
        return [np.stack(pictures) for pictures in shown]

    def close(self) -> None:
        """Close every environment."""
        for venv in self._ours.values():
            venv.close()
            venv.scorer.close()
        self.usual.close()
