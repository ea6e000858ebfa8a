"""constraints.txt pins what pyproject.toml asks for, and names no index."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line), f"not a plain pin: {line!r}"
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines), "a package is pinned twice"
    return found


def test_everything_asked_for_is_pinned_to_a_version_that_it_allows():
    pinned = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), (
            f"{name}=={pinned[name]} is outside {requirement.specifier}"
        )


def test_no_machine_or_index_is_named():
    for name in ("constraints.txt", "pyproject.toml", "setup.py", "Makefile", ".ci/run", ".ci/setup.sh"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index-url|find-links|https?:|file:|\+cpu|\+cu\d", text), name


def test_torch_and_torchvision_are_a_pair():
    pinned = pins()
    torch, vision = (pinned[name].split(".") for name in ("torch", "torchvision"))
    assert (int(vision[1]), vision[2]) == (int(torch[1]) + 15, torch[2])
