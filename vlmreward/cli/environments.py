"""Find environments by their Gymnasium id, and build them in whatever process needs one."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from vlmreward.envs.task import Task
from vlmreward.errors import ConfigError, DependencyNotInstalled, RenderingError, VlmRewardError
from vlmreward.wrappers.action_repeat import ActionRepeat


@dataclass(frozen=True)
class EnvFactory:
    """A picklable function that builds one environment with pictures.

    Attributes:
        id: Gymnasium id.
        kwargs: Arguments of the environment.
        action_repeat: Steps of the environment an action.
    """

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    action_repeat: int = 1

    def __call__(self) -> gym.Env:
        """Build the environment.

        Raises:
            ConfigError: It does not take these arguments.
            DependencyNotInstalled: It needs a package that is not installed.
        """
        importlib.import_module("vlmreward.envs")  # registers ours, in a worker process too
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures need no screen, and pygame complains without one
        try:
            env = gym.make(self.id, render_mode="rgb_array", disable_env_checker=True, **self.kwargs)
        except VlmRewardError:
            raise
        except (TypeError, ValueError, AssertionError) as e:  # Gymnasium asserts what it is given
            if not self.kwargs:
                raise
            raise ConfigError(f"environment {self.id} does not take env.kwargs {dict(self.kwargs)} ({_line(e)})") from e
        except gym.error.DependencyNotInstalled as e:
            raise _missing(self.id, e) from e
        except (gym.error.Error, ImportError) as e:  # an ImportError tells of environments that have moved elsewhere
            raise ConfigError(f"environment {self.id} can't be made ({_line(e)})") from e
        return env if self.action_repeat == 1 else ActionRepeat(env, self.action_repeat)


def find_spec(env_id: str) -> Any:
    """Return Gymnasium's spec of an environment.

    Args:
        env_id: E.g. ``"Acrobot-v1"``, or ``"my_package:MyEnv-v0"`` for one that a module registers.

    Raises:
        ConfigError: There is no such environment.
    """
    if env_id in ("", "???"):
        raise ConfigError("env.id is not given: write e.g. env.id=Acrobot-v1")
    importlib.import_module("vlmreward.envs")
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gym.spec(name)
    except ImportError as e:
        raise ConfigError(f"environment id {env_id!r}: the module {module!r} can't be imported ({_line(e)})") from e
    except gym.error.Error as e:
        raise ConfigError(f"unknown environment id {env_id!r}: {_line(e)}") from e


def find_class(env_id: str) -> Any:
    """Return what builds an environment (its class, mostly), and check that it has pictures.

    Raises:
        ConfigError: There is no such environment.
        RenderingError: It has no pixels.
        DependencyNotInstalled: It needs a package that is not installed.
    """
    entry = find_spec(env_id).entry_point
    try:
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
    except gym.error.DependencyNotInstalled as e:
        raise _missing(env_id, e) from e
    except ModuleNotFoundError as e:
        raise DependencyNotInstalled(f"environment {env_id} needs the package {e.name!r}: install it with pip") from e
    modes = getattr(creator, "metadata", {}).get("render_modes")
    if modes is not None and "rgb_array" not in modes:
        raise RenderingError(
            f"environment {env_id} has no pixels to score (its render modes are {list(modes)}): "
            "choose one that has rgb_array"
        )
    return creator


def find_tasks(env_id: str) -> dict[str, Task]:
    """Return the tasks that an environment knows; none for those of other projects."""
    return dict(getattr(find_class(env_id), "TASKS", {}))


def settle_rendering(env_id: str) -> None:
    """Choose the OpenGL back end before MuJoCo is imported, where an environment draws with it.

    Raises:
        RenderingError: No back end works on this machine.
    """
    entry = str(find_spec(env_id).entry_point)
    if "mujoco" in entry.lower():
        from vlmreward.envs.mujoco.gl import ensure_gl

        ensure_gl()


def explain_render_error(env_id: str, error: Exception) -> Exception:
    """Return one line for what Gymnasium raises when an environment can't draw."""
    if isinstance(error, gym.error.DependencyNotInstalled):
        return _missing(env_id, error)
    return RenderingError(f"environment {env_id} can't draw ({_line(error)})")


def _missing(env_id: str, error: Exception) -> DependencyNotInstalled:
    said = _line(error)
    hint = ": pictures of Gymnasium's classic control come with pip install 'vlmreward[classic]'"
    return DependencyNotInstalled(
        f"environment {env_id} needs a package that is not installed ({said})" + (hint if "pygame" in said else "")
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
