"""What stands at the root, the links for the type checkers, and no path of anybody's machine in any file."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folders of one machine or one person; the places that are the same on every Linux are fine.
MACHINE_PATH = re.compile(
    r"(?<![\w.$}])(?:/(?:home|root|work|Users|workspace|data\d?|scratch|private)/[\w.]|[A-Za-z]:\\\\?Users)"
)
FOLDERS = {
    *(
        ".ci",
        "agents",
        "benchmarks",
        "configs",
        "docs",
        "envs",
        "real_robot",
        "tests",
        "typings",
        "videos",
        "vlmreward",
    ),
}
FILES = {
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "NOTICE", "README.md", "constraints.txt", "setup.py"),
    *("pyproject.toml", ".gitignore", ".gitattributes"),
}


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts():
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:8000]:
            yield path, content.decode("utf-8")


def test_no_path_of_a_machine_in_any_tracked_file():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in texts()
        for match in [MACHINE_PATH.search(text)]
        if match
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users"])
def test_pattern_finds_planted_paths(folder):
    assert MACHINE_PATH.search(f'open("/{folder}/someone/file")')
    assert not MACHINE_PATH.search(f"docs/{folder}/file")


def test_root_holds_what_the_design_lists_and_nothing_else():
    names = {path.relative_to(ROOT).parts for path in tracked()}
    assert {parts[0] for parts in names if len(parts) > 1} <= FOLDERS
    assert {parts[0] for parts in names if len(parts) == 1} <= FILES


@pytest.mark.parametrize("folder", ["envs", "agents", "real_robot", "configs"])
def test_link_shows_the_folder_to_type_checkers_under_its_true_name(folder):
    link = ROOT / "typings" / "vlmreward" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder
    assert link.readlink() == Path("..", "..", folder)


def test_modules_stay_readable():
    """Up to 300 lines is the habit; at 700 a module has to be split."""
    for path in tracked():
        if path.suffix == ".py":
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 700, path.relative_to(ROOT)


def test_no_module_is_named_for_nothing():
    assert [p for p in tracked() if p.stem in {"utils", "helpers", "misc", "common"} and p.suffix == ".py"] == []


def test_no_test_is_silently_skipped_for_its_name():
    for path in tracked():
        inside = path.relative_to(ROOT)
        if inside.parts[0] == "tests" and path.suffix == ".py" and "def test_" in path.read_text(encoding="utf-8"):
            assert path.name.startswith("test_"), inside
