"""Frames scored per second of processor time: the usual way against ours, side by side in one run.

    python benchmarks/throughput.py                        # both environments, two to four minutes on two cores
    python benchmarks/throughput.py --env cartpole --rounds 3

The usual way is what a Gymnasium user writes: ``env.render()`` of the standard environment (Humanoid-v5 at 480 px,
CartPole-v1 at its own 600 x 400), open_clip's own PIL transform for each picture, and one call of the float32 model per
step. Ours is the code that ``vlmreward train`` runs: ``VecCaptureFrames`` and a ``Scorer`` with random actions, once
with as many pixels and quality "fine", once with the fast preset (pictures of the encoder's size, quality "fast",
bfloat16). Every row "without" takes one ingredient away from the fast preset.

All ways use the same weights (a ViT-B-32 with seeded random ones for the humanoid, ``mini`` for the cart-pole) and
the same number of torch threads. They run interleaved: each round takes every way once, so a busy minute slows all of
them alike, and ratios are taken within a round. The unit is processor time of this process, all threads; environments
run inside it so that its clock sees them. Wall time stands beside it and depends on what else the machine does.
Several torch threads waste processor time on the usual way's single pictures; ``--threads 1`` is the comparison that
is kindest to it (``results/throughput_one_thread.json``).

What a cheaper picture does to the reward is said by the Spearman correlation between the rewards of the fine and the
fast picture of the same states. Random weights have no opinion of a picture, so for the humanoid that of ``mini``
stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Spinning threads would count as work, and more for many small calls than for few large ones; before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium as gym
import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from scipy.stats import rankdata

import vlmreward.envs  # noqa: F401  (registers the environments)
from vlmreward.encoders import make_encoder
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import cpu_has_bf16
from vlmreward.encoders.mini import PREPROCESS, WEIGHTS, build_model, data_folder, make_tokenizer
from vlmreward.encoders.preprocess import Preprocess
from vlmreward.encoders.weights import find_source, load_model, load_tokenizer
from vlmreward.rewards import RewardTransform, make_reward
from vlmreward.types import FrameBatch, Frames
from vlmreward.wrappers import Scorer, VecCaptureFrames, VecReplaceReward
from vlmreward.wrappers.capture_frames import is_constant

USUAL, SAME, FAST = "the usual way", "ours, the same pixels", "ours, fast preset"
VIT, MINI = "ViT-B-32, random weights", "mini"
MIN_ROUNDS = 3
TARGETS = {"humanoid": 4.0, "cartpole": 3.0}  # fast preset over the usual way


@dataclass(frozen=True)
class Ours:
    """One way to score with this package.

    Attributes:
        size: Width and height of the pictures, pixels.
        quality: ``"fast"`` or ``"fine"``.
        frames: Frames scored in one round.
        precision: Of the image tower.
        batching: False: the encoder takes one frame at a time.
        batched_preprocess: False: open_clip's PIL transform, picture by picture.
        overlap: False: the environments wait while a batch is encoded.
        deferred: False: the reward of a step is asked for at once, one encoder call for all environments.
    """

    size: tuple[int, int]
    quality: str
    frames: int
    precision: str = "bf16"
    batching: bool = True
    batched_preprocess: bool = True
    overlap: bool = True
    deferred: bool = True


@dataclass(frozen=True)
class Setting:
    """What is compared in one environment.

    Attributes:
        env_id: Ours.
        kwargs: Of our environment, besides the picture.
        usual_id: Gymnasium's.
        usual_kwargs: Of Gymnasium's environment.
        encoder: Which weights.
        usual_frames: Frames that the usual way scores in one round.
        n_envs: Of ours.
        encode_batch: Of ours; the command line's default of 256 would make a round too long here.
        ways: Ours, by name.
        states: States on which rewards of fine and fast pictures are compared.
    """

    env_id: str
    kwargs: dict[str, Any]
    usual_id: str
    usual_kwargs: dict[str, Any]
    encoder: str
    usual_frames: int
    n_envs: int
    encode_batch: int
    ways: dict[str, Ours]
    states: int


def make_ways(
    full: tuple[int, int], own: int, *, same: int, fast: int, fine: int, large: int, slow: int
) -> dict[str, Ours]:
    """Return our ways for one environment.

    Args:
        full: Width and height of the usual picture.
        own: Side of the encoder's picture.
        same: Frames per round at the same pixels, fine; of half as many in the row with PIL.
        fast: Frames per round of the fast preset.
        fine: With fine pictures of the encoder's size.
        large: With large fast pictures.
        slow: With a slower encoder.
    """
    preset, at_full = Ours((own, own), "fast", fast), Ours(full, "fine", same)
    return {
        SAME: at_full,
        "- same pixels, PIL per frame instead of batched uint8 resize": replace(
            at_full, batched_preprocess=False, frames=same // 2
        ),
        FAST: preset,
        "- without the fast renderer (quality fine)": replace(preset, quality="fine", frames=fine),
        f"- without encoder-size pictures ({full[0]} x {full[1]})": replace(preset, size=full, frames=large),
        "- without bf16 (fp32)": replace(preset, precision="fp32", frames=slow),
        "- without batching (one frame per encoder call)": replace(preset, batching=False, frames=slow),
        "- without deferred scoring (one call per vec step)": replace(preset, deferred=False, frames=slow),
        "- without batched preprocessing (PIL per frame)": replace(preset, batched_preprocess=False, frames=slow),
        "- without the overlap thread (envs wait)": replace(preset, overlap=False),
    }


SETTINGS = {
    "humanoid": Setting(
        "vlmreward/Humanoid-v0",
        {},
        "Humanoid-v5",
        {"width": 480, "height": 480},
        VIT,
        usual_frames=6,
        n_envs=4,
        encode_batch=16,
        ways=make_ways((480, 480), 224, same=16, fast=48, fine=16, large=16, slow=16),
        states=48,
    ),
    "cartpole": Setting(
        "vlmreward/CartPole-v0",
        {},
        "CartPole-v1",
        {},
        MINI,
        usual_frames=60,
        n_envs=16,
        encode_batch=64,
        ways=make_ways((600, 400), PREPROCESS.size[0], same=64, fast=384, fine=256, large=64, slow=256),
        states=200,
    ),
}


class Library:
    """open_clip by itself: a float32 model, its tokenizer, and its PIL transform.

    Args:
        name: ``VIT`` or ``MINI``.
    """

    def __init__(self, name: str) -> None:
        if name == VIT:
            source = find_source("ViT-B-32", None, None, True)
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
        self.transform: Callable[[Image.Image], torch.Tensor] = image_transform_v2(config, is_train=False)

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
        self.encoders = {precision: self._encoder(setting.encoder, precision) for precision in ("fp32", "bf16")}
        self.usual = UsualReward(
            gym.make(setting.usual_id, render_mode="rgb_array", **setting.usual_kwargs), self.library, self.goal
        )
        self.usual.reset(seed=0)
        self.usual.action_space.seed(0)
        self._ours: dict[str, VecCaptureFrames] = {}

    @staticmethod
    def _encoder(name: str, precision: str) -> ClipEncoder:
        own = {"model": "ViT-B-32", "random_weights": True} if name == VIT else {}
        encoder = make_encoder("open_clip" if name == VIT else MINI, device="cpu", precision=precision, **own)
        assert isinstance(encoder, ClipEncoder)
        return encoder

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


def rewards(encoder: ClipEncoder, frames: Frames, goal: str) -> np.ndarray:
    """Return the rewards of frames, shape (N,)."""
    n = len(frames)
    batch = FrameBatch(np.zeros(n, np.int64), np.arange(n), embeddings=encoder.encode_images(frames))
    scored = make_reward("clip", encoder, goal=goal).compute_reward(batch)
    assert scored.valid.all()
    return scored.reward


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation of two arrays, both of shape (N,)."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def compare_rewards(bench: Bench) -> dict[str, Any]:
    """Return how the fast preset's rewards agree with those of the full picture in fp32, on the same states."""
    setting, goal = bench.setting, bench.goal
    same, fast = setting.ways[SAME], setting.ways[FAST]
    mini_size = PREPROCESS.size
    start = {"start": "random"} if "Humanoid" in setting.env_id else {}  # poses of every kind, not only falls
    full, small, tiny = bench.pictures([same, fast, replace(fast, size=mini_size)], **start)
    fine = rewards(bench.encoders["fp32"], full, goal)
    library_goal = bench.library.text(goal)
    usual = np.array([bench.library.reward(frame, library_goal) for frame in full[:8]])
    result: dict[str, Any] = {
        "states": len(full),
        "fine_fp32_vs_fast_bf16": spearman(fine, rewards(bench.encoders["bf16"], small, goal)),
        "fine_vs_fast_both_fp32": spearman(fine, rewards(bench.encoders["fp32"], small, goal)),
        "fine_fp32_vs_fine_bf16": spearman(fine, rewards(bench.encoders["bf16"], full, goal)),
        "reward_spread": float(np.ptp(fine)),
        "max_difference_from_the_usual_way_on_the_same_pixels_fp32": float(np.abs(usual - fine[:8]).max()),
    }
    if setting.encoder != MINI:
        minis = {precision: bench._encoder(MINI, precision) for precision in ("fp32", "bf16")}
        trained = rewards(minis["fp32"], full, goal)
        result["mini_fine_fp32_vs_fast_bf16"] = spearman(trained, rewards(minis["bf16"], tiny, goal))
        result["mini_reward_spread"] = float(np.ptp(trained))
    return result


def measure(bench: Bench, rounds: int, deadline: float) -> dict[str, list[tuple[float, float]]]:
    """Time every way once in each round.

    Args:
        bench: The environment.
        rounds: How many rounds at most; the first three are made whatever the time.
        deadline: ``time.perf_counter()`` that a further round must not exceed.

    Returns:
        For each way, frames per CPU second and per wall second of each round.
    """
    setting = bench.setting
    slices: dict[str, tuple[Callable[[int], int], int]] = {USUAL: (bench.run_usual, setting.usual_frames)}
    slices |= {name: (partial(bench.run_ours, name), way.frames) for name, way in setting.ways.items()}
    for run, _ in slices.values():
        run(setting.n_envs)  # builds what is built lazily
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in slices}
    took = 0.0
    for turn in range(rounds):
        start = time.perf_counter()
        if turn >= MIN_ROUNDS and start + took > deadline:
            break
        for name, (run, frames) in slices.items():
            cpu, wall = time.process_time(), time.perf_counter()
            done = run(frames)
            rates[name].append((done / (time.process_time() - cpu), done / (time.perf_counter() - wall)))
        if is_constant(bench.usual.frame):  # what gym's renderer gives when it has lost its context
            raise RuntimeError("gymnasium's picture is one constant colour")
        took = time.perf_counter() - start
    return rates


def summarise(rates: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """Return one row per way: medians, and ratios to the usual way and to the fast preset within each round."""
    rows = []
    for name, values in rates.items():
        row: dict[str, Any] = {"way": name}
        for clock, unit in enumerate(("cpu", "wall")):
            own = [value[clock] for value in values]
            over_usual = [value / usual[clock] for value, usual in zip(own, rates[USUAL], strict=True)]
            row[f"frames_per_{unit}_second"] = round(statistics.median(own), 2)
            row[f"{unit}_ratio"] = round(statistics.median(over_usual), 2)
            row[f"{unit}_ratio_range"] = [round(min(over_usual), 2), round(max(over_usual), 2)]
            of_fast = [value / fast[clock] for value, fast in zip(own, rates[FAST], strict=True)]
            row[f"{unit}_share_of_fast_preset"] = round(statistics.median(of_fast), 3)
        rows.append(row)
    return rows


def machine(threads: int) -> dict[str, Any]:
    """Describe what was measured on, without names of hosts, users or folders."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    packages = ("vlmreward", "torch", "open-clip-torch", "gymnasium", "mujoco", "pygame", "pillow", "numpy")
    return {
        "cpu": names[0] if names else platform.machine(),
        "logical_cpus": os.cpu_count(),
        "cpu_has_bf16": cpu_has_bf16(),
        "torch_threads": threads,
        "gl": os.environ["MUJOCO_GL"],
        "load_average_at_start": [round(load, 1) for load in os.getloadavg()[:2]],
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
    }


def show(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table of ways."""
    heads = ("frames / CPU s", "x usual (range)", "of fast preset", "frames / wall s", "x usual (range)")
    table = Table(title, box=MARKDOWN)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        ratios = []
        for unit in ("cpu", "wall"):
            low, high = row[f"{unit}_ratio_range"]
            ratios.append(f"{row[f'{unit}_ratio']:.2f} ({low:.2f}-{high:.2f})")
        share = f"{row['cpu_share_of_fast_preset']:.2f}"
        cpu, wall = (f"{row[f'frames_per_{unit}_second']:.1f}" for unit in ("cpu", "wall"))
        table.add_row(row["way"], cpu, ratios[0], share, wall, ratios[1])
    console.print(table)


def run(name: str, rounds: int, deadline: float) -> dict[str, Any]:
    """Return every figure of one environment."""
    bench = Bench(SETTINGS[name])
    agreement = compare_rewards(bench)
    rates = measure(bench, rounds, deadline)
    bench.close()
    rows = summarise(rates)
    ratio = next(row["cpu_ratio"] for row in rows if row["way"] == FAST)
    setting = bench.setting
    return {
        "encoder": setting.encoder,
        "encoder_id": bench.encoders["bf16"].id,
        "goal": bench.goal,
        "usual_env": setting.usual_id,
        "our_env": setting.env_id,
        "n_envs": setting.n_envs,
        "encode_batch": setting.encode_batch,
        "rounds": len(rates[USUAL]),
        "target": TARGETS[name],
        "fast_preset_over_usual": ratio,
        "target_met": ratio >= TARGETS[name],
        "spearman": {key: round(value, 6) for key, value in agreement.items()},
        "ways": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", choices=tuple(SETTINGS), help="repeat for several; default: both")
    parser.add_argument(
        "--rounds", type=int, default=7, help="at most (default 7); the first three take what time they need"
    )
    parser.add_argument("--seconds", type=float, default=210, help="no further round after this many (default 210)")
    parser.add_argument("--threads", type=int, help="of torch, for every way (default: one for each core, as torch)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are known here
    # torch's own default, said aloud: OMP_NUM_THREADS of the shell would change it
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    console = Console(width=160)
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/throughput.py", *sys.argv[1:]]),
        "unit": "environment frames scored per second of this process's CPU time, and of wall time",
        "machine": machine(torch.get_num_threads()),
        "environments": {},
    }
    begin, names = time.perf_counter(), args.env or list(SETTINGS)
    for number, name in enumerate(names, 1):
        # the humanoid's frames cost a hundred times as much as the cart-pole's: three quarters of the time
        share = 0.75 if number < len(names) else 1.0
        figures = run(name, args.rounds, begin + share * args.seconds)
        result["environments"][name] = figures
        show(console, f"{name}, {figures['encoder']}, {figures['rounds']} rounds", figures["ways"])
        verdict = "met" if figures["target_met"] else "NOT met"
        console.print(
            f"fast preset over the usual way: {figures['fast_preset_over_usual']:.2f} x CPU, "
            f"target {figures['target']:g} x {verdict}"
        )
        for key, value in figures["spearman"].items():
            console.print(f"  {key.replace('_', ' ')}: {value:.4g}")
        console.print()
    result["seconds"] = round(time.perf_counter() - begin, 1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(figures["target_met"] for figures in result["environments"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
