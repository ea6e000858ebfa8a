"""A gripper above a table that is told in words what to do with cubes, targets, a bin and a drawer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np

from vlmreward.envs.mujoco.env import MujocoEnv
from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.scene import place_parts
from vlmreward.envs.mujoco.tabletop.constants import (
    CUBE_SIZE,
    CUBES,
    CUBES_START,
    DRAWER,
    FINGER_CLOSED,
    FINGER_OPEN,
    GRIPPER,
    NQ,
    TARGETS_START,
    WORKSPACE,
)
from vlmreward.envs.mujoco.tabletop.facts import compute_facts, describe
from vlmreward.envs.mujoco.tabletop.goals import holds, progress
from vlmreward.envs.mujoco.tabletop.layouts import SPLITS, make_rng, sample_layout, sample_look
from vlmreward.envs.mujoco.tabletop.model import TIME_STEP
from vlmreward.envs.mujoco.tabletop.scene import TabletopScene
from vlmreward.envs.mujoco.tabletop.state import State, check_state, empty_state, read_state, write_state
from vlmreward.envs.mujoco.tabletop.states import sample_states, state_at, way
from vlmreward.envs.mujoco.tabletop.tasks import GOALS, HOLD_SECONDS, TASKS, instructions
from vlmreward.envs.task import HoldCounter, Task, find_task
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest
from vlmreward.types import Axis, Frames, Sweep

mujoco = import_mujoco()

__all__ = ["FRAME_SKIP", "MAX_DELTA", "TabletopEnv", "describe"]

FRAME_SKIP = 10  # physics steps of 5 ms per step
MAX_DELTA = 0.02  # m, that the commanded place of the gripper moves in a step
_LEASH = 0.03  # m, that it may be ahead of the gripper: pushing against something winds nothing up
_GRIP_DEADBAND = 0.2
_LOW, _HIGH = (np.array([limits[i] for limits in WORKSPACE]) for i in (0, 1))


class TabletopEnv(MujocoEnv):
    """A gripper above a table, told in words what to do.

    ## Description
    On the table lie four cubes (red, blue, green, yellow; 5 cm) and two flat targets (green, white); there is a bin on
    the right and a cabinet with a drawer on the left. All of them are there in every episode: what a task doesn't name
    distracts. The gripper moves along x, y and z and has two fingers; it does not turn. The arm that carries it is
    drawn and has no physics.

    | task | goal |
    |---|---|
    | `push` | push the red cube onto the green target |
    | `lift` | lift the blue cube |
    | `bin` | put the red cube in the bin |
    | `open_drawer` | open the drawer |
    | `close_drawer` | close the drawer |
    | `stack` | stack the red cube on the blue cube |
    | `touch` | touch the yellow cube |

    ## Action space
    `Box(-1, 1, (4,), float32)`, 20 actions a second.

    | index | action | unit |
    |---|---|---|
    | 0 | how far the commanded place of the gripper moves along x (right), 1 being 2 cm | 2 cm |
    | 1 | the same along y (away from the front camera) | 2 cm |
    | 2 | the same along z (up) | 2 cm |
    | 3 | above 0.2 closes the gripper, below -0.2 opens it, anything between leaves it | 1 |

    Zeros hold everything as it is. The commanded place stays within the workspace (x -31 to 31 cm, y -24 to 17 cm,
    z 2.2 to 24 cm) and within 3 cm of the gripper.

    ## Observation space
    `observe="state"` (default): `Box(-inf, inf, (56,), float32)`; `observe="proprio"`: its first 9 numbers.

    | index | observation | unit |
    |---|---|---|
    | 0-2 | place of the gripper (the point between the finger pads), x y z | m |
    | 3 | opening between the fingers | m |
    | 4-6 | velocity of the gripper | m/s |
    | 7 | velocity of the opening | m/s |
    | 8 | 1 if the gripper is told to be open, 0 if closed | 1 |
    | 9 | how far the drawer is open | m |
    | 10-21 | place of each cube, x y z; red, blue, green, yellow | m |
    | 22-33 | the same, seen from the gripper | m |
    | 34-49 | orientation of each cube, a quaternion | 1 |
    | 50-53 | place of each target, x y; green, white | m |
    | 54-55 | place of the bin, x y | m |

    ## Rewards
    The environment's own reward is the task's true progress, in [0, 1] (`goals.progress`): coming near, holding,
    carrying, letting go; 1 exactly where the predicate holds. With `reward="sparse"` it is 1 in a step with success and
    0 in others. It is 0 with `task=None`. It is there to compare with and knows nothing of pictures.

    ## Starting state
    Everything at rest, cubes and targets at random places that don't overlap, cubes turned by up to 15 degrees, the
    gripper open at a random place above the table, the drawer open in three of ten episodes (always where it has to be
    closed, never where it has to be opened). `split` says from where starts are drawn; no two splits share a start,
    whatever the seeds:

    | split | |
    |---|---|
    | `seen` | for training |
    | `unseen` | the same distribution, other starts |
    | `new_colours` | cubes, targets and table of other colours; the instruction names them |
    | `new_positions` | what the task names lies where nothing lies otherwise; gripper, bin, drawer start elsewhere |
    | `moved_camera` | the camera stands 12 to 28 degrees aside, up to 10 degrees higher or lower, nearer or farther |

    ## Instructions
    `info["instruction"]` is the sentence that asks for the task. `instruction="goal"` gives the one above,
    `instruction="paraphrase"` another one of six each episode; `reset(options={"instruction": "..."})` sets one for an
    episode: one of those two words, or the sentence itself.

    ## Success
    `info["success"]` is True when the predicate of the task (`TASKS[task].success`) held without a break in the last
    half second; it turns False again when the state is left. `info["progress"]` is the progress of this moment.

    ## Episode end
    Never terminates. Truncated after 150 steps of 0.05 s (7.5 s) by `TimeLimit`.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | `task` | `"push"` | one of `TASKS`, or None: no success, no reward |
    | `render_mode` | `"rgb_array"` | or None: no pictures, and no OpenGL needed |
    | `width`, `height` | 96 | size of the pictures in pixels |
    | `quality` | `"fast"` | or `"fine"`: shadows and antialiasing; rewards differ |
    | `camera` | `"front"` | or `"top"`, or `"wrist"`, which moves with the gripper |
    | `observe` | `"state"` | or `"proprio"`: nothing of the things on the table |
    | `split` | `"seen"` | see above |
    | `instruction` | `"goal"` | or `"paraphrase"` |
    | `reward` | `"progress"` | or `"sparse"` |

    ## Version history
    - v0: first version.
    """

    TASKS: ClassVar[dict[str, Task]] = TASKS
    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "never_terminates": True,
    }

    def __init__(
        self,
        task: str | None = "push",
        render_mode: str | None = "rgb_array",
        width: int = 96,
        height: int = 96,
        quality: str = "fast",
        camera: str = "front",
        observe: Literal["state", "proprio"] = "state",
        split: str = "seen",
        instruction: Literal["goal", "paraphrase"] = "goal",
        reward: Literal["progress", "sparse"] = "progress",
    ) -> None:
        super().__init__(render_mode)
        for name, value, known in (
            ("observe", observe, ("state", "proprio")),
            ("split", split, SPLITS),
            ("instruction", instruction, ("goal", "paraphrase")),
            ("reward", reward, ("progress", "sparse")),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}: {suggest(str(value), known)}")
        self.task = find_task(TASKS, task)
        self.split = split
        self.goal = GOALS[self.task.name] if self.task else None
        self.scene = TabletopScene(width, height, quality, camera)
        self.model = self.scene.model
        self.data = mujoco.MjData(self.model)
        self.dt = TIME_STEP * FRAME_SKIP
        self._proprio_only, self._say, self._sparse = observe == "proprio", instruction, reward == "sparse"
        self._instruction = ""
        self._state, self._facts = empty_state(), dict[str, float]()
        self._hold = HoldCounter(HOLD_SECONDS, self.dt)
        self._drawn = False
        self.set_state(sample_layout(np.random.default_rng(0)))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self._observe().size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see the class for the distribution of starting states and for the option.

        Raises:
            ConfigError: There is another option than ``instruction``, or it is no text.
        """
        say = _read_options(options, self._say)
        fresh = seed is not None or self._np_random is None
        super().reset(seed=seed)
        if fresh:
            self._np_random = make_rng(self.np_random_seed, self.split)
        rng = self.np_random
        self.scene.apply(sample_look(rng, self.split))
        self.set_state(sample_layout(rng, self.goal, self.split))
        self._instruction = self._choose_instruction(say, int(rng.integers(2**31)))
        return self._observe(), self._info(held=False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action for 0.05 s.

        Args:
            action: float, shape (4,); values outside [-1, 1] are clipped.

        Raises:
            ConfigError: The action has another shape.
            NonFiniteError: The action is not finite.
        """
        action = self._read_action(action)
        data = self.data
        here = data.qpos[GRIPPER]
        goal = data.ctrl[:3] + MAX_DELTA * np.clip(action[:3], -1.0, 1.0)
        data.ctrl[:3] = np.clip(np.clip(goal, here - _LEASH, here + _LEASH), _LOW, _HIGH)
        if abs(action[3]) > _GRIP_DEADBAND:
            data.ctrl[3:] = FINGER_CLOSED if action[3] > 0 else FINGER_OPEN
        mujoco.mj_step(self.model, data, FRAME_SKIP)
        self._look_at_state()
        obs = self._observe()
        held = self.goal is not None and self._hold.update(holds(self.goal, self._facts))
        info = self._info(held)
        reward = float(held) if self._sparse else info["progress"] if self.goal else 0.0
        return obs, reward, False, False, info

    def render(self) -> Frames:
        """Return a picture of the present state, uint8, shape (height, width, 3).

        Raises:
            RenderingError: The environment was made with ``render_mode=None``, or no picture can be made.
        """
        self._check_has_pictures()
        if not self._drawn:  # mj_step leaves the places of the parts one physics step behind
            place_parts(self.model, self.data)
            self._drawn = True
        return self.scene.render(self.data)

    @property
    def state(self) -> State:
        """The true state, float64, shape (STATE_SIZE,); its layout stands in ``constants``."""
        return self._state.copy()

    @property
    def instructions(self) -> tuple[str, ...]:
        """The sentences that ask for the task in the colours that are drawn, the goal first; none without a task."""
        if self.task is None:
            return ()
        return instructions(self.task.name, self.scene.look.cubes, self.scene.look.targets)

    @property
    def scripted_policies(self) -> dict[str, Callable[[TabletopEnv, np.random.Generator], Callable[[], np.ndarray]]]:
        """Policies for the present task, by name: called in a begun episode, one gives what chooses its actions."""
        from vlmreward.envs.mujoco.tabletop.experts import BEHAVIOURS, make_behaviour  # they look into this class

        if self.task is None:
            return {}
        task = self.task.name

        def begin(name: str, env: TabletopEnv, rng: np.random.Generator) -> Callable[[], np.ndarray]:
            policy = make_behaviour(name, task, rng)
            policy.reset(env)
            return partial(policy.act, env)

        return {name: partial(begin, name) for name in BEHAVIOURS}

    def facts(self) -> dict[str, float]:
        """Return the true facts of the present state; see ``facts.FACTS``."""
        return dict(self._facts)

    def judge(self, task: str) -> tuple[bool, float]:
        """Return whether a task's predicate is true of the present state, and its progress in [0, 1]."""
        found = find_task(TASKS, task)
        assert found is not None
        goal = GOALS[found.name]
        return holds(goal, self._facts), progress(goal, self._facts)

    def sample_states(self, rng: np.random.Generator, count: int, task: str | None) -> np.ndarray:
        """Draw states: six of ten on the way to a task's goal or at it, the others to any goal.

        Returns:
            float64, shape (count, STATE_SIZE).
        """
        return sample_states(rng, count, GOALS[task] if task is not None else None)

    def set_state(self, state: np.ndarray) -> None:
        """Put the environment into a state, at rest; what was held before is forgotten, the look stays.

        Args:
            state: float64, shape (STATE_SIZE,); its layout stands in ``constants``.

        Raises:
            ConfigError: It is not ``STATE_SIZE`` finite numbers.
        """
        checked = check_state(state)
        mujoco.mj_resetData(self.model, self.data)
        write_state(self.data, checked)
        mujoco.mj_forward(self.model, self.data)
        self._hold.reset()
        self._look_at_state()
        self._drawn = True

    def sweeps(self, task: str | None) -> tuple[Sweep, ...]:
        """Return the way from a start to a task's goal, and the same with the gripper moved aside."""
        if task is None:
            return ()
        goal = GOALS[task]
        keys = way(goal, sample_layout(np.random.default_rng(0), goal))
        share, aside = Axis("way from the start to the goal", 0.0, 1.0), Axis("gripper aside", -10.0, 10.0, "cm")

        def moved(along: float, cm: float) -> np.ndarray:
            state = state_at(keys, along)
            state[GRIPPER.start] = np.clip(state[GRIPPER.start] + cm / 100, _LOW[0], _HIGH[0])
            return state

        return Sweep((share,), lambda along: state_at(keys, along)), Sweep((share, aside), moved)

    def close(self) -> None:
        """Free the renderer."""
        self.scene.close()

    def _look_at_state(self) -> None:
        """Take over the present state and its facts."""
        self._state = read_state(self.data)
        self._facts = compute_facts(self._state)
        self._drawn = False

    def _observe(self) -> np.ndarray:
        """Return the observation, float32, shape (9,) or (56,)."""
        state, qvel = self._state, self.data.qvel
        proprio = (state[GRIPPER], (state[3] + state[4],), qvel[:3], (qvel[3] + qvel[4],), state[NQ : NQ + 1])
        if self._proprio_only:
            return np.concatenate(proprio).astype(np.float32)
        cubes = state[CUBES_START:NQ].reshape(len(CUBES), CUBE_SIZE)
        places = cubes[:, :3]
        rest = (state[DRAWER : DRAWER + 1], places.ravel(), (places - state[GRIPPER]).ravel(), cubes[:, 3:].ravel())
        return np.concatenate((*proprio, *rest, state[TARGETS_START:])).astype(np.float32)

    def _info(self, held: bool) -> dict[str, Any]:
        """Return the info of the present state."""
        if self.goal is None:
            return {"success": None, "instruction": self._instruction}
        return {"success": held, "progress": progress(self.goal, self._facts), "instruction": self._instruction}

    def _choose_instruction(self, say: str, draw: int) -> str:
        """Return the sentence of an episode; ``draw`` is taken from the stream whether it is needed or not."""
        known = self.instructions
        if say == "paraphrase":
            return known[draw % len(known)] if known else ""
        if say == "goal":
            return known[0] if known else ""
        return say


def _read_options(options: dict[str, Any] | None, usual: str) -> str:
    """Return what to say in this episode.

    Raises:
        ConfigError: There is another option than ``instruction``, or it is no text.
    """
    given = dict(options or {})
    say = given.pop("instruction", usual)
    if given:
        raise ConfigError(f"unknown option of reset {next(iter(given))!r}: the only one is 'instruction'")
    if not isinstance(say, str) or not say.strip():
        raise ConfigError(f"the option instruction must be a text, got {say!r}")
    return say
