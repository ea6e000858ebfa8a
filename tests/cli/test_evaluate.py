from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

SHORT = (
    *("env=cartpole", "agent=ppo", "encoder=fake", "n_envs=2", "agent.n_steps=50", "agent.batch_size=50"),
    *("total_timesteps=100", "eval.episodes=1", "run_dir=run"),
)


@pytest.fixture
def run(cli: Any, tmp_path: Path) -> Path:
    assert cli("train", *SHORT).code == 0
    return tmp_path / "run"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_result_holds_the_numbers_and_where_they_come_from(cli: Any, run: Path) -> None:
    outcome = cli("evaluate", "run=run", "episodes=4")
    assert outcome.code == 0, outcome.err
    result = read(run / "evaluation__agent__last__upright__4-episodes__seed20000.json")
    assert (result["policy"], result["checkpoint"], result["timesteps"]) == ("agent", "last", 100)
    assert result["seed"] == 20000
    evaluation = result["evaluation"]
    assert evaluation["episodes"] == 4
    assert evaluation["length_mean"] == 100  # 200 steps of the environment, two an action
    assert set(evaluation["success"]) == {"rate", "low", "high", "n"}
    assert "success: " in outcome.out


def test_numbers_do_not_depend_on_how_many_run_side_by_side(cli: Any, run: Path) -> None:
    results = []
    for n_envs in (1, 3):
        assert cli("evaluate", "run=run", "episodes=5", f"n_envs={n_envs}", f"out={n_envs}.json").code == 0
        results.append(read(run.parent / f"{n_envs}.json")["evaluation"])
    assert results[0]["success"] == results[1]["success"]
    for key in ("env_return", "vlm_return"):
        assert results[0][key]["mean"] == pytest.approx(results[1][key]["mean"], abs=1e-4)


def test_another_goal_counts_its_own_success(cli: Any, run: Path) -> None:
    goal = "cart at the left end of the track"
    assert cli("evaluate", "run=run", "episodes=2", f"goal={goal}").code == 0
    result = read(run / "evaluation__agent__last__left__2-episodes__seed20000.json")
    assert (result["goal"], result["env"]["task"]) == ([goal], "left")


def test_start_of_the_environment_can_be_chosen(cli: Any, run: Path) -> None:
    """A pole that starts upright gives another return than one that starts anywhere; the run itself is untouched."""
    before = (run / "config.yaml").read_text()
    for start in ("any", "upright"):
        assert cli("evaluate", "run=run", "episodes=5", f"env.kwargs.start={start}", f"out={start}.json").code == 0
    upright, anywhere = (read(run.parent / f"{start}.json") for start in ("upright", "any"))
    assert upright["env"]["kwargs"]["start"] == "upright"
    assert upright["evaluation"]["env_return"]["mean"] != anywhere["evaluation"]["env_return"]["mean"]
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize("policy", ["random", "zero"])
def test_trivial_policies_need_no_run(cli: Any, tmp_path: Path, policy: str) -> None:
    arguments = ("env=cartpole", "encoder=fake", "env.task=hanging", "episodes=3", "score=false", "out=x.json")
    outcome = cli("evaluate", *arguments, f"policy={policy}")
    assert outcome.code == 0, outcome.err
    result = read(tmp_path / "x.json")
    assert result["goal"] == ["pole hanging down and cart somewhere on the track"]
    assert (result["policy"], result["evaluation"]["vlm_return"]) == (policy, None)
    assert result["encoder"]["id"] is None  # nothing was scored


def test_trivial_policies_of_a_run_use_its_settings(cli: Any, run: Path) -> None:
    assert cli("evaluate", "run=run", "policy=zero", "episodes=2").code == 0
    assert (run / "evaluation__zero__last__upright__2-episodes__seed20000.json").is_file()


def test_without_scores_no_picture_is_drawn(cli: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmreward.envs.classic.cartpole import CartPoleEnv

    monkeypatch.setattr(CartPoleEnv, "render", lambda self: pytest.fail("rendered"))
    assert cli("evaluate", "run=run", "episodes=2", "score=false").code == 0


@pytest.mark.parametrize(
    "agent",
    [
        ("agent=sac", "env=mountaincar"),
        ("agent=dqn", "normalise_obs=true"),
        ("agent=recurrent_ppo", "agent.n_steps=50", "agent.batch_size=50", "normalise_obs=true"),
    ],
)
def test_agents_of_all_kinds_come_back(cli: Any, tmp_path: Path, agent: tuple[str, ...]) -> None:
    """What is evaluated is the agent as it was at the end of training: the same numbers on the same seeds."""
    base = [a for a in SHORT if not a.startswith(("agent", "env="))]
    env = [] if any(a.startswith("env=") for a in agent) else ["env=cartpole"]
    assert cli("train", *base, *env, *agent, "eval.seed=0", "eval.episodes=2").code == 0
    assert cli("evaluate", "run=run", "seed=10000", "episodes=2", "out=x.json").code == 0
    trained = read(tmp_path / "run" / "result.json")["evaluation"]
    evaluated = read(tmp_path / "x.json")["evaluation"]
    for key in ("env_return", "vlm_return"):
        assert evaluated[key]["mean"] == pytest.approx(trained[key]["mean"], abs=1e-4)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("deterministic=no", "deterministic must be true or false, got 'no'"),
        ("deterministic=3", "deterministic must be true or false, got 3"),
        ("score=maybe", "score must be true or false, got 'maybe'"),
        ("episodes=true", "episodes must be a whole number >= 1, got True"),
        ("seed=1.5", "seed must be a whole number >= 0, got 1.5"),
        ("n_envs=2.5", "n_envs must be a whole number >= 1, got 2.5"),
        ("env.kwargs.task=left", "write env.task=left, not env.kwargs.task"),
    ],
)
def test_value_of_the_wrong_kind_is_refused(cli: Any, refused: Any, asked: str, words: str) -> None:
    refused(cli("evaluate", "env=cartpole", "encoder=fake", "policy=random", asked), "evaluate", words)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("folder", "can't write folder: it is a folder"),
        ("file/x.json", "can't write file/x.json: a part of the path is a file"),
        ("/proc/nowhere/x.json", "can't write /proc/nowhere/x.json"),
    ],
)
def test_target_that_cannot_be_written_is_told_before_the_episodes(
    cli: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, words: str
) -> None:
    from vlmreward.envs.classic.cartpole import CartPoleEnv

    monkeypatch.setattr(CartPoleEnv, "reset", lambda self, **kwargs: pytest.fail("an episode began"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    outcome = cli("evaluate", "env=cartpole", "encoder=fake", "policy=random", f"out={out}")
    refused(outcome, "evaluate", words)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_run_folder_that_cannot_be_written_is_one_line(
    cli: Any, refused: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as root, who may write anywhere: the system's refusal is played."""
    import os

    real = os.open

    def refuse(path: Any, flags: int, *mode: Any, **options: Any) -> int:
        if "run" in Path(os.fsdecode(path)).parts and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refuse)
    refused(cli("evaluate", "run=run", "episodes=1"), "evaluate", "can't write run/evaluation", "no permission")
    refused(cli("train", "resume=run"), "train", "can't write run: no permission to write there")


def test_results_of_different_evaluations_stand_beside_each_other(cli: Any, run: Path) -> None:
    for asked in ((), ("deterministic=false",), ("baseline=a cart",), ("env.kwargs.start=upright",)):
        assert cli("evaluate", "run=run", "episodes=1", *asked).code == 0
    assert {path.name for path in run.glob("evaluation__*")} == {
        "evaluation__agent__last__upright__1-episodes__seed20000.json",
        "evaluation__agent__last__upright__1-episodes__sampled__seed20000.json",
        "evaluation__agent__last__upright__baseline-a-cart__1-episodes__seed20000.json",
        "evaluation__agent__last__upright__start-upright__1-episodes__seed20000.json",
    }


def test_cfg_of_an_evaluation_shows_the_runs_settings(cli: Any, run: Path) -> None:
    outcome = cli("evaluate", "run=run", "--cfg")
    assert outcome.code == 0
    assert "run_settings:" in outcome.out


def test_cfg_shows_the_settings_of_an_environment_or_the_defaults(cli: Any) -> None:
    chosen = yaml.safe_load(cli("evaluate", "env=cartpole", "policy=random", "env.task=left", "--cfg").out)
    assert (chosen["policy"], chosen["run_settings"]["env"]["task"]) == ("random", "left")
    assert yaml.safe_load(cli("evaluate", "episodes=7", "--cfg").out)["episodes"] == 7
