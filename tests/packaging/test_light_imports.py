"""Importing a light module loads neither torch nor a simulator nor Stable-Baselines3."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "stable_baselines3", "mujoco", "open_clip", "matplotlib", "tensorboard", "transformers")
LIGHT = [
    "vlmreward",
    "vlmreward.types",
    "vlmreward.errors",
    "vlmreward.registry",
    "vlmreward.optional",
    "vlmreward.configs",
    "vlmreward.cli",
    "vlmreward.cli.arguments",
    "vlmreward.cli.groups",
    "vlmreward.cli.help",
    "vlmreward.encoders",
    "vlmreward.rewards",
    "vlmreward.wrappers",
    "vlmreward.agents",
    "vlmreward.envs",
    "vlmreward.envs.task",
    "vlmreward.video.overlay",
    "vlmreward.video.recorder",
    "vlmreward.video.film_strip",
    "vlmreward.video.episodes",
]
PROBE = """
import importlib, json, sys
heavy, blame = set(json.loads(sys.argv[1])), {}
for name in json.loads(sys.argv[2]):
    before = heavy & set(sys.modules)
    importlib.import_module(name)
    if new := (heavy & set(sys.modules)) - before:
        blame[name] = sorted(new)
print(json.dumps(blame))
"""


def loaded_by(*modules):
    """Return {module: heavy packages that its import loaded}, in a process of its own."""
    command = [sys.executable, "-c", PROBE, json.dumps(HEAVY), json.dumps(modules)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_light_modules_load_nothing_heavy():
    assert loaded_by(*LIGHT) == {}


def test_probe_notices_a_heavy_import():
    assert loaded_by("vlmreward", "mujoco") == {"mujoco": ["mujoco"]}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["no-such-command"]])
def test_help_and_mistakes_answer_without_loading_anything_heavy(arguments):
    code = (
        "import json, sys; from vlmreward.cli import main; code = main(json.loads(sys.argv[1]))\n"
        "print('LOADED', sorted(set(json.loads(sys.argv[2])) & set(sys.modules)), code)"
    )
    command = [sys.executable, "-c", code, json.dumps(arguments), json.dumps([*HEAVY, "hydra"])]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == f"LOADED [] {2 if arguments == ['no-such-command'] else 0}"


def test_import_of_the_package_changes_no_environment_variable():
    code = (
        "import gymnasium, hydra, os; before = dict(os.environ)  # gymnasium sets one of pygame's\n"
        f"import importlib\nfor name in {LIGHT!r}: importlib.import_module(name)\n"
        "print({k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)})"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "set()"
