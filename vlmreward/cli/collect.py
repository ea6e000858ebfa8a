"""``vlmreward collect``: record episodes of an environment as a dataset, with what is true of them in a file apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.registry import suggest

if TYPE_CHECKING:
    import gymnasium as gym

    from vlmreward.agents.policies import Policy
    from vlmreward.cli.settings import EnvSettings
    from vlmreward.data.dataset import Recording

MOST_STEPS = 2_000
"""Steps of one episode at most: an environment without a time limit is left there."""

TRIVIAL = ("random", "zero", "hold", "agent")
_NOISY = re.compile(r"(?P<name>[\w-]+)@(?P<noise>0?\.\d+|[01](\.0*)?)")


@dataclass(frozen=True)
class Actor:
    """Who acts in an episode.

    Attributes:
        name: Of the policy.
        noise: Share of its actions that random ones replace.
    """

    name: str
    noise: float = 0.0

    @property
    def words(self) -> str:
        """Return the name as it is given on the command line."""
        return f"{self.name}@{self.noise:g}" if self.noise else self.name


@dataclass(frozen=True)
class Truth:
    """What is true of an episode's T + 1 frames, by the environment's own judgement; NaN where it has none."""

    progress: np.ndarray
    success: np.ndarray


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code.

    Args:
        argv: The arguments after the command's name.

    Raises:
        VlmRewardError: A setting is wrong, the folder is taken, a picture can't be made, ...
    """
    arguments = parse_arguments(argv)
    refuse_words("collect", arguments)
    around, own = arguments.take(("env",))
    options = compose("collect", own)
    if not around.overrides:
        raise ConfigError("env is not given: write env=<name>, see vlmreward list envs")
    page = compose("train", around)["env"]
    if "cfg" in arguments.flags:
        print(yaml.safe_dump({**options, "env": page}, sort_keys=False, allow_unicode=True), end="")
        return 0
    from vlmreward.cli.environments import find_tasks
    from vlmreward.cli.goals import settle_goal
    from vlmreward.cli.settings import settle_env

    tasks = find_tasks(str(page["id"]))
    asked = None if options["goal"] is None else " / ".join(options["goal"])
    task = page.get("task") or page.get("default_task")
    goal = settle_goal(tasks, asked, None, task, page.get("default_task"))
    env = settle_env(page, goal.task, bool(tasks))
    return collect(options, env, " / ".join(goal.goal))


def collect(options: dict[str, Any], settings: EnvSettings, instruction: str) -> int:
    """Record the episodes.

    Raises:
        VlmRewardError: See ``main``.
    """
    from vlmreward.agents.progress import Progress
    from vlmreward.cli.environments import settle_rendering
    from vlmreward.cli.run_folder import slug
    from vlmreward.cli.values import flag, whole
    from vlmreward.data import find_format
    from vlmreward.data.staging import is_taken

    episodes, seed = whole("episodes", options["episodes"], 1), whole("seed", options["seed"], 0)
    tell = flag("success", options["success"])
    actors = parse_actors(options["policy"])
    format = find_format(str(options["format"]))
    if format.create is None:
        raise ConfigError(f"format {format.name} is only read: collect writes another one")
    out = Path(options["out"] or f"datasets/{settings.name}__{slug(settings.task or instruction)}")
    settle_rendering(settings.id)
    env = settings.factory()()
    try:
        policies = {actor: make_policy(actor, env, settings, options) for actor in dict.fromkeys(actors)}
        fps = float(env.metadata.get("render_fps", 30))  # of what is seen, however long actions are held
        writer = format.create(out, fps=fps, env_id=settings.id)
        path = out.with_name(f"{out.name}.truth.npz")
        if path.exists():
            raise DatasetError(f"{path} exists: move it away, or give another place for the new dataset")
        truths: list[Truth] = []
        with Progress("collecting", episodes, unit="episodes") as progress:
            for number in range(episodes):
                policy = policies[actors[number % len(actors)]]
                recording, truth = record_episode(env, policy, seed + number, settings.task, instruction)
                ended = truth.success[-1]
                if tell and np.isfinite(ended):
                    recording = replace(recording, success=bool(ended))
                writer.add(recording)
                truths.append(truth)
                progress.update(number + 1)
        write_truth(path, truths, [actors[number % len(actors)].words for number in range(episodes)])
        try:
            writer.finish()  # last: whatever kills this, no dataset is left without its truth
        except BaseException:
            if not is_taken(out):  # what failed may be what comes after the dataset has its name
                path.unlink(missing_ok=True)
            raise
    finally:
        env.close()
    good = sum(bool(truth.success[-1] == 1) for truth in truths)
    print(f"{episodes} episodes, {good} of them successful in the last frame: {out}\ntruth:   {path}")
    return 0


def parse_actors(given: Any) -> list[Actor]:
    """Return who acts, from ``random``, ``agent@0.3`` or a list of such.

    Raises:
        ConfigError: One is not of that form.
    """
    names = given if isinstance(given, (list, tuple)) else [given]
    if not names:
        raise ConfigError("policy is empty: name who acts, e.g. policy=[random]")
    actors = []
    for name in map(str, names):
        noisy = _NOISY.fullmatch(name)
        if noisy is None and not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"policy must be a name or name@<share of random actions, 0 to 1>, got {name!r}")
        actors.append(Actor(name) if noisy is None else Actor(noisy["name"], float(noisy["noise"])))
    return actors


def make_policy(actor: Actor, env: gym.Env, settings: EnvSettings, options: dict[str, Any]) -> Policy:
    """Return the policy of an actor, for one environment.

    Raises:
        UnknownNameError: Neither the environment nor this package knows it.
    """
    from vlmreward.agents.policies import HoldPolicy, NoisyPolicy, RandomPolicy, ScriptedPolicy, ZeroPolicy
    from vlmreward.cli.load_run import load_agent

    scripted = env.get_wrapper_attr("scripted_policies") if env.has_wrapper_attr("scripted_policies") else {}
    trivial: dict[str, Callable[[], Policy]] = {
        "random": lambda: RandomPolicy(env.action_space, 1),
        "zero": lambda: ZeroPolicy(env.action_space, 1),
        "hold": lambda: HoldPolicy(env, 1),
        "agent": lambda: load_agent(options["run"], settings, env, str(options["checkpoint"])),
    }
    if actor.name in trivial:
        policy = trivial[actor.name]()
    elif actor.name in scripted:
        policy = ScriptedPolicy(env, scripted[actor.name])
    else:
        from vlmreward.errors import UnknownNameError

        raise UnknownNameError(f"unknown policy {actor.name!r}: {suggest(actor.name, [*TRIVIAL, *scripted])}")
    return NoisyPolicy(policy, env.action_space, actor.noise) if actor.noise else policy


def record_episode(
    env: gym.Env, policy: Policy, seed: int, task: str | None, instruction: str
) -> tuple[Recording, Truth]:
    """Play one episode with pictures.

    Args:
        env: With ``render_mode="rgb_array"``.
        policy: Of one environment.
        seed: Of the reset and of the policy.
        task: What the environment judges; None for none.
        instruction: Recorded as the task.
    """
    from vlmreward.data.dataset import Recording
    from vlmreward.types import Surveyable
    from vlmreward.wrappers.capture_frames import render_frame

    bare = env.unwrapped

    def judge(info: dict[str, Any]) -> tuple[float, float]:
        if task is not None and isinstance(bare, Surveyable):
            done, progress = bare.judge(task)
            return float(progress), float(done)
        said = info.get("success")
        return float("nan"), float("nan") if said is None else float(said)

    obs, info = env.reset(seed=seed)
    policy.start(0, seed)
    said = info.get("instruction") if task is not None else None  # where an environment has several ways to put it
    frames, seen = [render_frame(env)], [_flat(obs)]
    actions: list[np.ndarray] = []
    rewards, truth = [], [judge(info)]
    terminated = truncated = False
    while not (terminated or truncated) and len(actions) < MOST_STEPS:
        action = policy.act(_stack(obs))[0]
        obs, reward, terminated, truncated, info = env.step(action)
        frames.append(render_frame(env))
        seen.append(_flat(obs))
        actions.append(np.atleast_1d(np.asarray(action, np.float32)))
        rewards.append(reward)
        truth.append(judge(info))
    recording = Recording(
        frames={str(getattr(bare, "camera", "main")): frames},
        observation=np.stack(seen),
        action=np.stack(actions),
        reward=np.array(rewards, np.float32),
        terminated=bool(terminated),
        truncated=bool(truncated) or not terminated,
        instruction=said if isinstance(said, str) else instruction,
    )
    progress, success = np.array(truth, np.float64).T
    return recording, Truth(progress, success)


def write_truth(path: Path, truths: Sequence[Truth], actors: Sequence[str]) -> None:
    """Write what is true of every frame beside a dataset, where no reader looks.

    Args:
        path: ``<dataset>.truth.npz``. It gets ``episode``, ``frame`` int64, ``progress``, ``success`` float64 (NaN:
            nobody knows), each of shape (N,), and ``policy``, a text for each episode.
        truths: Of each episode.
        actors: Who acted in each.
    """
    import io

    from vlmreward.atomic import write_bytes

    lengths = [len(truth.progress) for truth in truths]
    content = io.BytesIO()
    np.savez(
        content,
        episode=np.repeat(np.arange(len(lengths)), lengths),
        frame=np.concatenate([np.arange(length) for length in lengths]),
        progress=np.concatenate([truth.progress for truth in truths]),
        success=np.concatenate([truth.success for truth in truths]),
        policy=np.array(actors),
    )
    write_bytes(path, content.getvalue())


def _flat(obs: Any) -> np.ndarray:
    """Return an observation as one vector; pictures in it are left out, they are recorded as frames."""
    if isinstance(obs, dict):
        parts = [_flat(obs[key]) for key in sorted(obs)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
    array = np.asarray(obs)
    return np.zeros(0, np.float32) if array.ndim >= 3 else array.astype(np.float32).ravel()


def _stack(obs: Any) -> Any:
    return {key: value[None] for key, value in obs.items()} if isinstance(obs, dict) else np.asarray(obs)[None]
