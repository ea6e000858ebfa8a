from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmreward import cli as package
from vlmreward.cli import COMMANDS, main
from vlmreward.errors import ConfigError

Refused = Callable[..., None]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-m", "vlmreward.cli", *argv], capture_output=True, text=True)


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_overview_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert "vlmreward train env=cartpole" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert len(capsys.readouterr().out) > 20


def test_train_page_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    out = capsys.readouterr().out
    for words in ("examples:", "env=", "cartpole", "mini", "total_timesteps: null", "resume", "--cfg", "literally"):
        assert words in out


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["list", "agents"], ["list", "encoders"]])
def test_light_commands_load_no_torch(argv: list[str]) -> None:
    code = f"import sys; from vlmreward.cli import main; main({argv!r}); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True).returncode == 0


def test_passive_waiting_is_set_before_torch_loads() -> None:
    """The command sets it if unset, a choice of the user stays, and an import of the library changes nothing."""
    show = "import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    call = f"import sys; sys.argv = ['x', 'list', 'agents']; from vlmreward.cli import main; main(); {show}"
    for code, given, expected in (
        (call, None, "PASSIVE"),
        (call, "ACTIVE", "ACTIVE"),
        (f"import vlmreward; {show}", None, "None"),
    ):
        import os

        env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        env |= {"OMP_WAIT_POLICY": given} if given else {}
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env)
        assert done.stdout.splitlines()[-1] == expected


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    err = capsys.readouterr().err
    assert err == "vlmreward: error: unknown command 'trian': did you mean 'train'?\n"


def test_module_runs_as_a_program() -> None:
    done = run("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vlmreward: error: unknown command")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def main(argv: list[str]) -> int:
            raise error

    monkeypatch.setattr(package.importlib, "import_module", lambda name: Module)


def test_errors_of_the_user_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(ConfigError("two\nlines"), monkeypatch)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "vlmreward train: error: two lines\n"


@pytest.mark.parametrize("error", [ConfigError("x"), KeyboardInterrupt()])
def test_debug_shows_the_traceback(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(error, monkeypatch)
    with pytest.raises(type(error)):
        main(["train", "--debug"])


def test_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Module:
        @staticmethod
        def main(argv: list[str]) -> int:
            warnings.warn("two\nlines", UserWarning, stacklevel=1)
            return 0

    monkeypatch.setattr(package.importlib, "import_module", lambda name: Module)
    before = warnings.showwarning
    assert main(["train"]) == 0
    assert capsys.readouterr().err == "vlmreward train: warning: two lines\n"
    assert warnings.showwarning is before


def test_full_disk_anywhere_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(OSError(28, "No space left on device", "/x/metrics.jsonl"), monkeypatch)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == (
        "vlmreward train: error: no space left on device (/x/metrics.jsonl): free some space or choose another folder\n"
    )


@pytest.mark.parametrize(
    "number",
    [
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
        errno.ELOOP,
    ],
)  # fmt: skip
def test_place_that_takes_no_file_is_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(OSError(number, "Some Reason", "/x/y"), monkeypatch)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "vlmreward train: error: some reason (/x/y): choose another path\n"
    fail_with(OSError(number, "Some Reason"), monkeypatch)
    with pytest.raises(OSError, match="Some Reason"):  # no file of the user's: a fault of ours
        main(["train"])


def test_a_missing_file_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(FileNotFoundError(errno.ENOENT, "No such file", "/x/y"), monkeypatch)
    with pytest.raises(FileNotFoundError):  # what the user names is looked for before it is opened
        main(["train"])


def test_our_own_faults_are_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ZeroDivisionError("ours"), monkeypatch)
    with pytest.raises(ZeroDivisionError):  # Python then prints the traceback and exits with 1
        main(["train"])


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert main(["train"]) == 130


@pytest.mark.parametrize("kind", ["envs", "tasks", "encoders", "rewards", "agents"])
def test_list_prints_every_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from vlmreward.cli.groups import list_groups

    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    group = {"envs": "env", "encoders": "encoder", "rewards": "reward", "agents": "agent"}.get(kind)
    names = [n for n in list_groups()[group] if n != "auto"] if group else ["upright", "kneeling", "top"]
    assert all(re.search(rf"\b{re.escape(name)}\b", out) for name in names)


def test_list_describes_what_answers_questions(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("judges", "annotators"):
        assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in out.splitlines()}
    assert lines.keys() >= {"http", "scripted", "transformers", "page", "reward", "terminal"}
    assert lines["http"] == ["Asks a server that speaks the OpenAI protocol, several questions at a time."]
    assert all(told for name, told in lines.items() if not name.endswith("="))
    assert "`" not in out


def test_list_says_how_an_algorithm_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "agents"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "in batches, when a rollout is complete" in lines["ppo"]
    assert "in batches, while the replay buffer fills" in lines["sac"]
    assert "step by step" in lines["recurrent_ppo"]


def test_list_names_the_licence_of_every_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "encoders"])
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows["mini"] == "MIT"
    assert rows["mobileclip2-s0"] == "apple-amlr"


@pytest.mark.parametrize("argv", [["list"], ["list", "envz"], ["list", "envs", "agents"]])
def test_wrong_list_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_cfg_prints_settings_that_can_be_read(cli: Any, tmp_path: Path) -> None:
    import yaml

    outcome = cli("train", "env=cartpole", "goal=a: b, 'c' # d", "--cfg")
    assert outcome.code == 0
    config = yaml.safe_load(outcome.out)
    assert config["goal"] == ["a: b, 'c' # d"]
    assert json.dumps(config)  # plain values only
    assert list(tmp_path.iterdir()) == []
