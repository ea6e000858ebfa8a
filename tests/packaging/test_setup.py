"""The set-up script and the Makefile, run with stand-ins for Python, apt-get and sudo that log what they are told."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = (
    "sh",
    "env",
    "dirname",
    "touch",
    "rm",
    "ls",
    "mkdir",
    "cat",
    "date",
    "grep",
    "sed",
    "make",
    "cp",
    "chmod",
    "bash",
)

# Stands for the system's Python and, copied by `-m venv`, for the one in the virtual environment.
PYTHON = """#!/bin/sh
case "$*" in
    *"import sys; sys.exit("*) exit "${OLD:-0}";;
    *"import ensurepip"*) [ "${NO_ENSUREPIP:-}" != 1 ] || [ -e "$STATE/python3.11-venv" ];;
    *'print(f"python'*) echo python3.11-venv;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/pyvenv.cfg";;
    "-m pip --version") exit 0;;
    "-m pip install "*) echo "pip $*" >>"$STATE/log"; exit "${PIP_FAILS:-0}";;
    "-") cat >/dev/null; echo "render $MUJOCO_GL" >>"$STATE/log"
        [ "$MUJOCO_GL" = "${WORKS:-egl}" ] || { [ "$MUJOCO_GL" = egl ] && [ -e "$STATE/libegl1" ]; };;
    *) echo "unexpected: $*" >>"$STATE/log"; exit 9;;
esac
"""
APT = """#!/bin/sh
echo "apt-get $*" >>"$STATE/log"
[ "${APT_FAILS:-0}" = 0 ] || exit 100
for word; do touch "$STATE/$word"; done
"""


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A copy of the files that set-up reads, and a PATH with nothing but stand-ins and a few basic tools."""
    project, programs, state = tmp_path / "a project", tmp_path / "bin", tmp_path / "state"
    for folder in (project / ".ci", programs, state):
        folder.mkdir(parents=True)
    for name in (
        "Makefile",
        "pyproject.toml",
        "setup.py",
        "constraints.txt",
        ".ci/setup.sh",
        ".ci/browser.sh",
        ".ci/run",
    ):
        shutil.copy(ROOT / name, project / name)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, f"{tool} is needed by this test"
        (programs / tool).symlink_to(found)
    write_program(programs / "python3", PYTHON)
    write_program(programs / "id", "#!/bin/sh\necho ${USER_ID:-1000}\n")
    return Machine(project, programs, state)


class Machine:
    def __init__(self, project, programs, state):
        self.project, self.programs, self.state = project, programs, state

    def run(self, *command, **environment):
        full = {"PATH": str(self.programs), "STATE": str(self.state), **environment}
        return subprocess.run(command, cwd=self.project, env=full, capture_output=True, text=True, timeout=60)

    def setup(self, **environment):
        return self.run("sh", ".ci/setup.sh", **environment)

    def log(self):
        path = self.state / "log"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def ready(self):
        return (self.project / ".venv" / ".ready").exists()


def one_line(result):
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_everything_is_done_in_order_where_nothing_is_missing(machine):
    result = machine.setup()
    assert result.returncode == 0, result.stderr
    assert machine.log() == [
        "pip -m pip install --disable-pip-version-check -c constraints.txt setuptools",
        "pip -m pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e .[dev,contrib]",
        "render egl",
    ]
    assert machine.ready


def test_second_run_keeps_the_environment(machine):
    machine.setup()
    (machine.project / ".venv" / "keep").touch()
    assert machine.setup().returncode == 0
    assert (machine.project / ".venv" / "keep").exists()


def test_root_gets_what_is_missing_by_apt(machine):
    write_program(machine.programs / "apt-get", APT)
    result = machine.setup(USER_ID="0", NO_ENSUREPIP="1", WORKS="none")
    assert result.returncode == 0, result.stderr
    wanted = [line for line in machine.log() if not line.startswith("pip")]
    assert wanted == [
        "apt-get -qq update",
        "apt-get -qq install -y --no-install-recommends python3.11-venv",
        "render egl",
        "render osmesa",
        "apt-get -qq update",
        "apt-get -qq install -y --no-install-recommends libegl1 libgl1-mesa-dri",
        "render egl",
    ]
    assert machine.ready


def test_sudo_is_used_when_it_asks_for_no_password(machine):
    write_program(machine.programs / "apt-get", APT)
    write_program(
        machine.programs / "sudo", '#!/bin/sh\n[ "$1" = -n ] || exit 1\nshift\necho sudo >>"$STATE/log"\nexec "$@"\n'
    )
    (machine.programs / "true").symlink_to(shutil.which("true"))
    assert machine.setup(WORKS="none").returncode == 0
    assert "sudo" in machine.log()
    assert "apt-get -qq install -y --no-install-recommends libegl1 libgl1-mesa-dri" in machine.log()


@pytest.mark.parametrize("sudo", [None, "#!/bin/sh\nexit 1\n"])
@pytest.mark.parametrize(
    ("missing", "package"), [({"WORKS": "none"}, "libegl1 libgl1-mesa-dri"), ({"NO_ENSUREPIP": "1"}, "python3.11-venv")]
)
def test_user_who_may_not_install_is_told_what_to_install_in_one_line(machine, sudo, missing, package):
    write_program(machine.programs / "apt-get", APT)
    if sudo:
        write_program(machine.programs / "sudo", sudo)
    assert f"install it with 'apt-get install {package}'" in one_line(machine.setup(**missing))
    assert not machine.ready
    assert not any("apt-get" in line for line in machine.log())


def test_machine_without_apt_is_told_in_one_line(machine):
    assert "libegl1" in one_line(machine.setup(USER_ID="0", WORKS="none"))


def test_failing_apt_ends_in_one_line(machine):
    write_program(machine.programs / "apt-get", APT)
    assert "failed" in one_line(machine.setup(USER_ID="0", WORKS="none", APT_FAILS="1"))
    assert not machine.ready


def test_osmesa_is_enough(machine):
    assert machine.setup(WORKS="osmesa").returncode == 0
    assert machine.log()[-2:] == ["render egl", "render osmesa"]


@pytest.mark.parametrize("environment", [{"OLD": "1"}, {"PYTHON": "no-such-python"}])
def test_missing_python_is_told_in_one_line(machine, environment):
    line = one_line(machine.setup(**environment))
    assert "no Python 3.11 or newer found" in line
    assert environment.get("PYTHON", "") in line


def test_newer_python_is_preferred_to_an_old_default(machine):
    write_program(machine.programs / "python3", "#!/bin/sh\nexit 1\n")
    write_program(machine.programs / "python3.12", PYTHON)
    result = machine.run("sh", "-c", ". .ci/setup.sh; find_python", SETUP_ONLY_DEFINE="1")
    assert result.stdout.strip() == str(machine.programs / "python3.12")


def test_failing_pip_ends_in_one_line_and_is_tried_again(machine):
    assert "could not be installed" in one_line(machine.setup(PIP_FAILS="1"))
    assert not machine.ready
    assert machine.setup().returncode == 0


def test_environment_whose_python_is_gone_is_made_anew(machine):
    machine.setup()
    (machine.project / ".venv" / "bin" / "python").unlink()
    (machine.project / ".venv" / "stale").touch()
    assert machine.setup().returncode == 0
    assert not (machine.project / ".venv" / "stale").exists()


def test_folder_that_is_no_environment_is_never_deleted(machine):
    (machine.project / ".venv").mkdir()
    (machine.project / ".venv" / "thesis.tex").touch()
    assert "no virtual environment" in one_line(machine.setup())
    assert (machine.project / ".venv" / "thesis.tex").exists()


def fake_tools(machine, failing=None):
    folder = machine.project / ".venv" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ruff", "mypy", "pyright", "pytest", "vlmreward"):
        code = 1 if name == failing else 0
        write_program(folder / name, f'#!/bin/sh\nfor w; do printf "%s|" "$w"; done >>"$STATE/{name}"\nexit {code}\n')


def test_make_test_sets_up_once_and_again_when_the_pins_change(machine):
    machine.setup()
    fake_tools(machine)
    setups = len(machine.log())
    assert machine.run("make", "test").returncode == 0
    assert len(machine.log()) == setups
    later = (machine.project / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(machine.project / "constraints.txt", (later, later))
    assert machine.run("make", "test").returncode == 0
    assert len(machine.log()) > setups


@pytest.mark.parametrize("target", ["test", "demo"])
def test_both_commands_do_all_set_up_in_a_fresh_clone(machine, target):
    machine.run("make", target)  # ends at the first tool, as the stand-in installs none
    assert machine.ready


@pytest.mark.parametrize("failing", ["ruff", "mypy", "pyright", "pytest"])
def test_each_check_blocks(machine, failing):
    machine.setup()
    fake_tools(machine, failing)
    assert machine.run("make", "test").returncode != 0


def test_checks_are_the_five(machine):
    machine.setup()
    fake_tools(machine)
    assert machine.run("make", "test").returncode == 0
    assert (machine.state / "ruff").read_text() == "format|--check|.|check|.|"
    assert (machine.state / "pyright").read_text() == "--pythonpath|.venv/bin/python|"
    assert all((machine.state / name).exists() for name in ("mypy", "pytest"))


def test_goal_of_the_demo_arrives_as_typed(machine):
    machine.setup()
    fake_tools(machine)
    goal = 'it\'s "größer", [70 %]; `x` a=b'
    result = machine.run("make", "demo", f"GOAL={goal}", "RUN=runs/one")
    assert result.returncode == 0, result.stderr
    told = (machine.state / "vlmreward").read_text()
    assert f"train|env=cartpole|goal={goal}|seed=0|run_dir=runs/one|" in told
    assert told.endswith("evaluate|run=runs/one|record|run=runs/one|")


def test_demo_stops_when_training_fails(machine):
    machine.setup()
    fake_tools(machine, failing="vlmreward")
    assert machine.run("make", "demo").returncode != 0
    assert "evaluate" not in (machine.state / "vlmreward").read_text()


def test_ci_runs_make_test_and_nothing_else(machine):
    (machine.programs / "make").unlink()
    write_program(machine.programs / "make", '#!/bin/sh\necho "make $*" >>"$STATE/log"\nexit 3\n')
    result = machine.run("bash", str(machine.project / ".ci" / "run"))
    assert machine.log() == ["make test"]
    assert result.returncode == 3


def test_every_target_is_explained_by_help(machine):
    text = machine.run("make").stdout
    for target in ("demo", "test", "check", "fix", "clean"):
        assert f"{target}\t" in text
