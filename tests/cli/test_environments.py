"""Environments by id: what can't be found or built is one line."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from vlmreward.cli.environments import EnvFactory, find_class, find_spec
from vlmreward.errors import ConfigError, DependencyNotInstalled
from vlmreward.testing.fakes import PixelEnv
from vlmreward.wrappers.capture_frames import render_frame


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module that registers an environment of its own when it is imported."""
    (tmp_path / "their_envs.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Theirs-v0', entry_point='vlmreward.testing.fakes:PixelEnv', max_episode_steps=5)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "their_envs"
    sys.modules.pop("their_envs", None)
    gym.registry.pop("Theirs-v0", None)


def test_environment_of_a_module_of_ones_own(module: str) -> None:
    assert find_spec(f"{module}:Theirs-v0").max_episode_steps == 5
    assert find_class(f"{module}:Theirs-v0") is PixelEnv
    env = EnvFactory(f"{module}:Theirs-v0", {"size": 20})()
    env.reset(seed=0)
    assert render_frame(env).shape == (20, 20, 3)


def test_module_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="the module 'no_such_module' can't be imported"):
        find_spec("no_such_module:Theirs-v0")


def test_environment_that_has_moved_elsewhere() -> None:
    with pytest.raises(ConfigError, match="environment Ant-v2 can't be made"):
        EnvFactory("Ant-v2")()


@pytest.mark.parametrize(
    "kwargs", [{"start": "x"}, {"max_episode_steps": 0}, {"colour": "red"}], ids=["value", "assertion", "name"]
)
def test_arguments_that_do_not_fit(kwargs: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        EnvFactory("vlmreward/CartPole-v0", kwargs)()
    assert "\n" not in str(caught.value)


def test_hint_names_pygame_only_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(package: str) -> None:
        def make(**_: object) -> None:
            raise gym.error.DependencyNotInstalled(f"{package} is not installed, run `pip install {package}`")

        fake = types.SimpleNamespace(make=make)
        monkeypatch.setattr("vlmreward.cli.environments.gym.make", lambda *_, **__: fake.make())

    needs("box2d")
    with pytest.raises(DependencyNotInstalled) as caught:
        EnvFactory("BipedalWalker-v3")()
    assert "vlmreward[classic]" not in str(caught.value)
    needs("pygame")
    with pytest.raises(DependencyNotInstalled, match=r"vlmreward\[classic\]"):
        EnvFactory("CartPole-v1")()
