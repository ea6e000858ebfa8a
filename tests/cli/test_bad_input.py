"""What a user can get wrong: exit code 2 and one line that says what to do; nothing is left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

SHORT = (
    *("env=cartpole", "agent=ppo", "encoder=fake", "n_envs=2", "agent.n_steps=50", "agent.batch_size=50"),
    *("total_timesteps=100", "eval.episodes=1", "run_dir=run"),
)
NO_NETWORK = ("ViT-B-32/laion2b_s34b_b79k is not in the cache", "HF_HUB_OFFLINE is set", "encoder.pretrained=<file>")
# Pictures so small, and so few at a time, that the ring of frames is no obstacle.
SMALL_FRAMES = ("encode_batch=4", "env.kwargs.width=16", "env.kwargs.height=16")
RANDOM = ("record", "env=cartpole", "encoder=fake", "policy=random")


class NoPixels(gym.Env):
    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode


class SaysNothing(NoPixels):
    """Claims to draw, and returns None."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        return np.zeros(1, np.float32), {}

    def render(self) -> None:
        return None


@pytest.fixture
def strange_envs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in (("NoPixels-v0", NoPixels), ("SaysNothing-v0", SaysNothing)):
        monkeypatch.setitem(gym.registry, name, EnvSpec(name, entry_point=cls))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env=cartpol", "unknown env 'cartpol': did you mean 'cartpole'"),
        ("agent=pppo", "unknown agent 'pppo': did you mean 'ppo'"),
        ("encoder=clap", "unknown encoder 'clap'"),
        ("reward=clp", "unknown reward 'clp': did you mean 'clip'"),
        ("experiment=demo", "unknown experiment 'demo'"),
        ("env.action_repeat=0", "env.action_repeat must be a whole number >= 1, got 0"),
        ("goal=", "goal is empty"),
        ("goal=   ", "goal is empty"),
        ("baseline=", "baseline is empty"),
        ("rewrd.alpha=1", "unknown setting 'rewrd.alpha': did you mean 'reward.alpha'"),
        ("reward.alpha=2", "alpha must be a finite number in [0, 1], got 2"),
        ("agent.gama=0.9", "ppo has no hyper-parameter 'gama': did you mean 'gamma'"),
        ("agent.gamma=high", "agent.gamma of ppo must be a number"),
        ("agent=sac", "sac takes Box actions, the environment has Discrete"),
        ("agent=her", "agent=her is not supported: it asks env.compute_reward"),
        ("agent=HER", "a reward from pictures is none of the environment's; use agent=sac"),
        ("agent.name=her", "agent=her is not supported: it asks env.compute_reward"),
        ("agent.replay_buffer_class=HerReplayBuffer", "HerReplayBuffer is not supported: it asks env.compute_reward"),
        ("agent.replay_buffer_class=stable_baselines3.HerReplayBuffer", "HerReplayBuffer is not supported"),
        ("agent.replay_buffer_class=ReplayBuffer", "agent.replay_buffer_class is set by vlmreward"),
        ("env.kwargs.strat=any", "does not take env.kwargs"),
        ("env.kwargs.start=sideways", "start must be one of"),
        ("encoder.sallt=x", "encoder 'fake' has no setting 'sallt': did you mean 'salt'"),
        ("device=gpu0", "gpu0"),
        ("cartpole", "'cartpole' is not of the form key=value: write env=cartpole"),
        ("--sed=1", "unknown option '--sed=1'"),
        ("eval=3", "eval is a group of settings"),
        ("env.kwargs=3", "env.kwargs is a group of settings"),
        ("~encoder", "keys are neither added nor removed"),
        ("+foo=1", "keys are neither added nor removed"),
        ("agent=null", "agent can't be null"),
        ("env.task=3", "unknown env.task '3'"),
        ("n_envs=0", "n_envs"),
    ],
)
def test_wrong_setting(cli: Any, refused: Any, tmp_path: Path, override: str, words: str) -> None:
    if override.startswith("device"):
        arguments = [a for a in SHORT if a != "encoder=fake"] + ["encoder=mini", override]
    else:
        arguments = [*SHORT, override]
    refused(cli("train", *arguments), "train", words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("reward=soft_and",), "SoftAndReward combines two or more rewards, got 1: repeat goal=..."),
        (("reward=potential", "reward.gamma=0.5"), "reward.gamma must be the agent's gamma=0.985, got 0.5"),
        (("reward=potential", "reward.combine=replace"), "reward 'potential' alone pays every policy the same"),
        (("reward=potential", "reward.normalise=running"), "reward 'potential' needs normalise=none, got 'running'"),
        (("reward=par", "reward.of=clip"), "reward.of is a group of settings"),
        (("reward=par", "reward.of.alhpa=1"), "reward 'clip' has no setting 'alhpa': did you mean 'alpha'"),
        (("reward.of.name=clip",), "reward 'clip' has no setting 'of'"),
    ],
)
def test_wrong_shaping(cli: Any, refused: Any, tmp_path: Path, overrides: tuple[str, ...], words: str) -> None:
    refused(cli("train", *SHORT, *overrides), "train", words)
    assert list(tmp_path.iterdir()) == []


def test_over_long_goal(cli: Any, refused: Any, tmp_path: Path) -> None:
    goal = "the pole stands up " * 60
    refused(cli("train", *SHORT, "encoder=mini", f"goal={goal}"), "train", "tokens")
    assert list(tmp_path.iterdir()) == []


def test_environment_without_pixels(cli: Any, refused: Any, strange_envs: None) -> None:
    arguments = ("env=gym", "encoder=fake", "goal=x", "env.id=NoPixels-v0")
    refused(cli("train", *arguments), "train", "no pixels", "NoPixels-v0")


def test_environment_that_draws_nothing(cli: Any, refused: Any, strange_envs: None) -> None:
    arguments = ("env=gym", "encoder=fake", "goal=x", "env.id=SaysNothing-v0")
    refused(cli("train", *arguments), "train", "returned None")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env.id=Acrobt-v1", "unknown environment id 'Acrobt-v1'"),
        ("env.id=Acrobot-v9", "unknown environment id 'Acrobot-v9'"),
        ("seed=0", "env.id is not given"),
    ],
)
def test_unknown_gymnasium_id(cli: Any, refused: Any, override: str, words: str) -> None:
    refused(cli("train", "env=gym", "encoder=fake", "goal=x", override), "train", words)


def test_goal_is_needed_where_the_environment_has_none(cli: Any, refused: Any) -> None:
    refused(cli("train", "env=gym", "env.id=Acrobot-v1", "encoder=fake"), "train", "goal is not given")


def test_missing_package_of_an_environment(cli: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # an import of it fails as if it were not installed
    arguments = ("env=gym", "env.id=Acrobot-v1", "encoder=fake", "goal=x", "n_envs=1")
    refused(cli("train", *arguments), "train", "pip install 'vlmreward[classic]'")


def test_missing_gl(cli: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vlmreward.envs.mujoco import gl

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv(gl.CHECKED, raising=False)
    monkeypatch.setattr(gl, "loaded_backend", lambda: None)
    monkeypatch.setattr(gl, "preflight", lambda backend: "library not found")
    refused(cli("train", "env=humanoid", "encoder=fake"), "train", "no OpenGL back end", "apt-get install")
    assert list(tmp_path.iterdir()) == []


def test_small_shared_memory(cli: Any, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmreward.wrappers import frame_ring

    monkeypatch.setattr(frame_ring, "free_bytes", lambda directory: 1000)
    refused(cli("train", *SHORT), "train", "frame ring", "needs", "lower encode_batch")


def test_unreadable_weights(cli: Any, refused: Any, tmp_path: Path) -> None:
    weights = tmp_path / "weights, v=1.safetensors"
    weights.write_bytes(b"these are no weights")
    arguments = ("encoder=open_clip", "encoder.model=RN50", f"encoder.pretrained={weights}", "encoder.like=openai")
    refused(cli("train", "env=cartpole", *arguments), "train", "weights, v=1.safetensors")


def test_missing_weights_file(cli: Any, refused: Any) -> None:
    arguments = ("encoder=open_clip", "encoder.model=RN50", "encoder.pretrained=/nowhere/x.safetensors")
    refused(cli("train", "env=cartpole", *arguments), "train", "/nowhere/x.safetensors")


def test_no_network(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads the variable when it is imported."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "vlmreward.cli", "train", "env=cartpole", "encoder=vit-b-32"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("vlmreward train: error: ")
    assert all(words in line for words in NO_NETWORK), line


def damage(folder: Path, name: str = "tensors.safetensors") -> None:
    newest = sorted(folder.glob("checkpoints/step_*"))[-1] / name
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    newest.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "command", [("train", "resume=run", "total_timesteps=200"), ("evaluate", "run=run"), ("record", "run=run")]
)
def test_corrupted_checkpoint(cli: Any, refused: Any, tmp_path: Path, command: tuple[str, ...]) -> None:
    assert cli("train", *SHORT).code == 0
    damage(tmp_path / "run")
    refused(cli(*command), command[0], "is damaged (tensors.safetensors has changed)")


@pytest.mark.parametrize("content", ["", "just text", "env: [1", "env: {}\n"])
def test_damaged_config(cli: Any, refused: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    refused(cli("train", "resume=run"), "train", "config.yaml")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", "resume=nowhere"), "nowhere is not a run folder"),
        (("evaluate", "run=nowhere"), "nowhere is not a run folder"),
        (("evaluate",), "run is not given"),
        (("record",), "run is not given"),
        (("evaluate", "env=cartpole", "policy=nobody"), "unknown policy 'nobody'"),
        (
            ("evaluate", "env=cartpole", "policy=random", "encoder=fake", "episodes=0"),
            "episodes must be a whole number >= 1",
        ),
        (("evaluate", "epsodes=1"), "unknown setting 'epsodes': did you mean 'episodes'"),
        ((*RANDOM, "formats=mpeg4"), "unknown video format 'mpeg4': did you mean 'mp4'"),
        ((*RANDOM, "formats=[mp4,giff]"), "unknown video format 'giff': did you mean 'gif'"),
        ((*RANDOM, "formats=[]"), "formats must be some of mp4, gif, png, got []"),
        ((*RANDOM, "formats=null"), "formats must be some of mp4, gif, png, got None"),
        ((*RANDOM, "formats=4"), "formats must be some of mp4, gif, png, got 4"),
        (("doctor", "foo=1"), "doctor has no settings, got 'foo'"),
        (("list", "envs", "foo=1"), "list takes no settings, got 'foo'"),
        (("train", "env=cartpole", "resume="), "resume is empty: give a run folder"),
        (("evaluate", "run=null"), "run is not given"),
        (("doctor", "now"), "'now' is not of the form key=value"),
    ],
)
def test_wrong_command_line(cli: Any, refused: Any, command: tuple[str, ...], words: str) -> None:
    refused(cli(*command), command[0], words)


def test_a_run_keeps_its_settings(cli: Any, refused: Any, tmp_path: Path) -> None:
    assert cli("train", *SHORT).code == 0
    refused(cli("train", "resume=run", "seed=1"), "train", "seed can't change when a run is resumed")
    refused(cli("train", "resume=run", "goal=x"), "train", "goal can't change when a run is resumed")
    refused(cli("train", *SHORT), "train", "holds a run already: go on with resume=run")
    refused(cli("evaluate", "run=run", "env=gym"), "evaluate", "env belongs to the run and can't change")
    refused(cli("evaluate", "run=run", "checkpoint=best"), "evaluate", "has no best checkpoint")
    refused(cli("evaluate", "run=run", "checkpoint=7"), "evaluate", "has no checkpoint '7'")
    refused(cli("record", "run=run", "formats=[avi]"), "record", "unknown video format 'avi': known: gif, mp4, png")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), ("the frame ring of 516 frames", "File too large", "free some room, set TMPDIR, or lower encode_batch")),
        (SMALL_FRAMES, ("checkpoint step_000000000100 can't be written to run/checkpoints", "free some space")),
    ],
    ids=["frame ring", "checkpoint"],
)
def test_full_disk(tmp_path: Path, settings: tuple[str, ...], words: tuple[str, ...]) -> None:
    """No file may grow beyond 20 kB."""
    fakes = Path(__file__).parent / "fakes"
    done = subprocess.run(
        [sys.executable, str(fakes / "run_cli.py"), "train", *SHORT, *settings, "--config-dir", str(fakes / "configs")],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    # a line of progress tells of slow work, another one how a run that ends early goes on
    told = ("training: ", "interrupted, nothing was saved yet: ")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(told)]
    assert line.startswith("vlmreward train: error: ")
    assert all(word in line for word in words), line


def test_folder_that_cannot_be_written(cli: Any, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(cli("train", *[a for a in SHORT if not a.startswith("run_dir")], "run_dir=file/run"), "train", "file/run")
