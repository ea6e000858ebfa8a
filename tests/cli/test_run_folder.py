from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vlmreward.cli import run_folder
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.run_folder import describe_machine, run_name, slug
from vlmreward.cli.settings import resolve


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@x")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's file lies in a virtual environment inside the checkout of another project."""
    (tmp_path / "theirs.py").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "theirs.py")
    git(tmp_path, "commit", "-qm", "theirs")
    file = tmp_path / "venv" / "lib" / "run_folder.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(run_folder, "__file__", str(file))
    return file


def test_commit_of_another_project_is_not_ours(installed: Path) -> None:
    assert describe_machine()["git_commit"] is None


def test_commit_is_that_of_the_checkout_which_tracks_the_package(installed: Path) -> None:
    folder = installed.parents[2]
    git(folder, "add", str(installed))
    git(folder, "commit", "-qm", "ours")
    head = git(folder, "rev-parse", "HEAD")
    assert describe_machine()["git_commit"] == head
    installed.write_text("changed")
    assert describe_machine()["git_commit"] == f"{head}+"


def test_no_checkout_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))
    assert describe_machine()["git_commit"] is None


@pytest.mark.parametrize(("combine", "reward"), [("replace", "clip"), ("env", "env_reward"), ("add", "clip_and_env")])
def test_name_of_a_run_says_what_was_learned_from(combine: str, reward: str) -> None:
    arguments = parse_arguments(["env=cartpole", f"reward.combine={combine}", "seed=3"])
    assert run_name(resolve(compose("train", arguments))[0]) == f"cartpole__{reward}__ppo__seed3"


def test_slug_is_short_and_tells_long_texts_apart() -> None:
    assert slug("Pole vertically  upright!") == "pole-vertically-upright"
    long = "the cart stands still at the left end of the track"
    slugs = {slug(long), slug(f"{long} and the pole hangs"), slug("%"), slug("??")}
    assert len(slugs) == 4
    assert all(0 < len(text) <= 40 and text.replace("-", "").isalnum() for text in slugs)
