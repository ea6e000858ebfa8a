"""One way: cli -> agents, labelling, audit -> wrappers, video -> rewards -> encoders, data -> ground floor."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUND = {"types", "errors", "registry", "optional", "atomic"}
ANY_BELOW_AGENTS = {"encoders", "data", "rewards", "wrappers", "video", "envs", "real_robot"}
# folder -> what it may import of vlmreward, besides the ground floor
ALLOWED = {
    "vlmreward/encoders": {"encoders"},
    "vlmreward/data": {"data"},
    "vlmreward/rewards": {"rewards", "encoders", "data"},
    "vlmreward/wrappers": {"wrappers", "rewards", "encoders"},
    "vlmreward/video": {"video"},
    "vlmreward/labelling": {"labelling", "rewards", "encoders", "data", "wrappers", "video"},
    "vlmreward/audit": {"audit", "rewards", "encoders", "data", "wrappers", "video"},
    "vlmreward/testing": {"testing", *ANY_BELOW_AGENTS},
    "vlmreward/cli": {"cli", "agents", "labelling", "audit", "configs", *ANY_BELOW_AGENTS},
    "envs": {"envs"},
    "real_robot": {"real_robot"},
    "agents": {"agents", "wrappers", "video", "rewards", "encoders", "data"},
    "configs": set(),
}
# One module may reach one other: the simulated arm is built from the tabletop scene.
EXCEPTIONS = {("real_robot/sim_arm", "vlmreward.envs.mujoco.tabletop")}
# An environment does not know that a VLM exists; a reward model or encoder never sees a simulator.
FORBIDDEN_PACKAGES = {
    "envs": {"torch", "open_clip", "stable_baselines3", "sb3_contrib"},
    "real_robot": {"open_clip", "stable_baselines3", "sb3_contrib"},
    "vlmreward/encoders": {"gymnasium", "mujoco", "stable_baselines3"},
    "vlmreward/rewards": {"gymnasium", "mujoco", "stable_baselines3"},
    "vlmreward/data": {"gymnasium", "mujoco", "stable_baselines3"},
    "vlmreward/video": {"gymnasium", "mujoco", "stable_baselines3", "torch"},
}
BARE = {"envs", "agents", "real_robot", "configs", "tests"}
MODULE_NAME = re.compile(r"vlmreward(\.[A-Za-z_]\w*)+(:\w+)?")


def names_used(tree):
    """Yield (line, dotted name) of every import, and of each string that is just a module's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + f"{node.module or ''}.{alias.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            yield node.lineno, node.value.split(":")[0]


def check_file(root, path):
    """Return a line for each import of a file that goes the wrong way."""
    relative = path.relative_to(root).as_posix()
    depth = 2 if relative.startswith("vlmreward/") else 1
    parts = relative.split("/")
    ground_floor = len(parts) <= depth and parts[0] == "vlmreward"
    folder = "/".join(parts[:depth])
    if not ground_floor and folder not in ALLOWED:
        return [f"{relative}: folder {folder} stands in no layer"]
    allowed = GROUND | (set() if ground_floor else ALLOWED[folder])
    wrong = []
    for line, name in names_used(ast.parse(path.read_text(encoding="utf-8"))):
        first, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if name.startswith(".") or first in BARE or first in FORBIDDEN_PACKAGES.get(folder, ()):
            wrong.append(f"{relative}:{line}: {name}")
            continue
        fine = first != "vlmreward" or part in allowed or part.startswith("__")
        excepted = any(relative.startswith(start) and name.startswith(target) for start, target in EXCEPTIONS)
        if not (fine or excepted):
            wrong.append(f"{relative}:{line}: {name}")
    return wrong


def check_tree(root):
    files = [
        p for folder in ("vlmreward", "envs", "agents", "real_robot", "configs") for p in (root / folder).rglob("*.py")
    ]
    return files, [line for path in sorted(files) for line in check_file(root, path)]


def test_every_import_of_the_project_goes_the_allowed_way():
    files, wrong = check_tree(ROOT)
    assert len(files) > 10
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("vlmreward/encoders/x.py", "from vlmreward.rewards.clip import ClipReward"),
        ("vlmreward/encoders/x.py", "import vlmreward.data"),
        ("vlmreward/rewards/x.py", "from vlmreward import wrappers"),
        ("vlmreward/rewards/x.py", "import gymnasium as gym"),
        ("vlmreward/wrappers/x.py", "from vlmreward.video.overlay import annotate"),
        ("vlmreward/wrappers/x.py", "def f():\n    import vlmreward.agents.sb3"),
        ("vlmreward/video/x.py", "from vlmreward.wrappers import scorer"),
        ("vlmreward/audit/x.py", "from vlmreward.agents import make_agent"),
        ("vlmreward/audit/deep/er/x.py", "from vlmreward.cli import main"),
        ("vlmreward/data/x.py", 'TARGET = "vlmreward.rewards.clip:ClipReward"'),
        ("vlmreward/registry.py", "from vlmreward.rewards import list_rewards"),
        ("vlmreward/rewards/x.py", "from vlmreward.testing import FakeEncoder"),
        ("envs/classic/x.py", "from vlmreward.rewards.clip import ClipReward"),
        ("envs/x.py", "from torch import nn"),
        ("envs/x.py", "from vlmreward.agents import sb3"),
        ("agents/x.py", "from vlmreward.cli.compose import compose"),
        ("agents/x.py", "from vlmreward.envs import task"),
        ("agents/x.py", 'importlib.import_module("vlmreward.envs.classic.pictures")'),
        ("agents/fit/pictures.py", "from vlmreward.envs.classic.pictures import sample_cartpole"),
        ("agents/x.py", "from envs.task import Task"),
        ("agents/x.py", "from .fit import mini"),
        ("agents/x.py", "from tests.fakes import Fake"),
        ("real_robot/x.py", "from vlmreward.envs.mujoco.tabletop import Tabletop"),
        ("real_robot/sim_arm.py", "from vlmreward.envs.mujoco.humanoid import Humanoid"),
        ("configs/__init__.py", "import vlmreward.envs"),
        ("vlmreward/novel/x.py", "import json"),
    ],
)
def test_planted_import_the_wrong_way_is_found(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import json\n{line}\n")
    _, wrong = check_tree(tmp_path)
    assert len(wrong) == 1
    assert wrong[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("vlmreward/rewards/x.py", "from vlmreward.encoders import make_encoder"),
        ("vlmreward/wrappers/x.py", "import gymnasium\nfrom vlmreward.types import FrameBatch"),
        ("vlmreward/cli/x.py", "from vlmreward.envs import task\nfrom vlmreward import __version__"),
        ("vlmreward/cli/__init__.py", 'C = {"train": "vlmreward.cli.train"}'),
        ("real_robot/sim_arm.py", "from vlmreward.envs.mujoco.tabletop import Tabletop"),
        ("agents/fit/x.py", "from vlmreward.agents.fit import y\nfrom vlmreward.wrappers.scorer import Scorer"),
        ("envs/__init__.py", 'register("vlmreward/CartPole-v0", "vlmreward.envs.classic.cartpole:CartPole")'),
        ("vlmreward/errors.py", '"""Like vlmreward.cli.train, but shorter."""'),
    ],
)
def test_import_the_allowed_way_passes(tmp_path, file, line):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert check_tree(tmp_path)[1] == []
