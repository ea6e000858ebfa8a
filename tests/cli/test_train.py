from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlmreward.cli.run_folder import RunFolder
from vlmreward.envs.classic.cartpole import CartPoleEnv

TIMES = re.compile(r"^time/")
SHORT = (
    "env=cartpole",
    "encoder=fake",
    "agent=ppo",
    "n_envs=2",
    "agent.n_steps=50",
    "agent.batch_size=50",
    "eval.episodes=2",
)
DQN = (*SHORT[:2], "n_envs=2", "agent=dqn", "agent.learning_starts=50", "agent.buffer_size=150", "eval.episodes=2")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not TIMES.match(k)} for line in lines]


def test_run_leaves_everything_that_is_promised(cli: Any, tmp_path: Path) -> None:
    outcome = cli("train", *SHORT, "total_timesteps=400", "run_dir=run")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "run"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]  # no outputs/, nothing beside
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "result.json"} <= names
    result = json.loads((folder / "result.json").read_text())
    assert result["goal"] == ["pole vertically upright on top of the cart"]
    assert result["timesteps"] == 400
    encoder = {"name": "fake", "precision": None, "runtime": None, "devices": None, "id": "fake", "licence": "MIT"}
    assert result["encoder"] == encoder
    assert result["seed"] == 0
    assert result["versions"]["torch"]
    assert set(result["phase_seconds"]) == {"env", "render", "encode", "wait", "learn", "evaluate"}
    assert all(seconds > 0 for seconds in result["phase_seconds"].values())
    assert result["frames"] == {"scored": 400, "invalid": 0, "reasons": {}}
    evaluation = result["evaluation"]
    assert evaluation["checkpoint"] == "last"
    assert evaluation["success"]["n"] == evaluation["vlm_return"]["n"] == 2
    last = metrics(folder)[-1]
    for key in ("vlm_return", "env_return", "success_rate", "invalid_frac", "encode_batch_mean"):
        assert f"rollout/{key}" in last
    assert "rollout/ep_rew_mean" not in last  # SB3's own would be the placeholder
    assert "success: " in outcome.out
    assert "vlmreward record run=run" in outcome.out


def test_default_folder_is_named_after_the_parts(cli: Any, tmp_path: Path) -> None:
    for _ in range(2):
        assert cli("train", *SHORT, "total_timesteps=100", "seed=3").code == 0
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(re.fullmatch(r"cartpole__clip__ppo__seed3__\d{8}-\d{6}(-2)?", name) for name in names)


@pytest.mark.parametrize("settings", [SHORT, DQN], ids=["ppo", "dqn"])
def test_same_seed_gives_the_same_run(cli: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert cli("train", *settings, "total_timesteps=200", f"seed={seed}", f"run_dir={name}").code == 0
    a, b, c = (metrics(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_environments_in_processes_give_the_same_run(cli: Any, tmp_path: Path) -> None:
    for name, subprocess in (("a", "false"), ("b", "true")):
        assert cli("train", *SHORT, "total_timesteps=100", f"subprocess={subprocess}", f"run_dir={name}").code == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_own_goal_reports_null_and_says_so(cli: Any, tmp_path: Path) -> None:
    outcome = cli("train", *SHORT, "total_timesteps=100", "run_dir=run", "goal=it's a [dance], 100 %: ${x} = \\ 倒")
    assert outcome.code == 0
    assert "note: no true success is known for this goal" in outcome.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["goal"] == ["it's a [dance], 100 %: ${x} = \\ 倒"]
    assert result["evaluation"]["success"] is None
    assert "reported as null" in result["notes"][0]
    assert metrics(tmp_path / "run")[-1]["rollout/success_rate"] is None
    assert "success: null" in outcome.out


@pytest.mark.parametrize("settings", [SHORT, DQN], ids=["ppo", "dqn"])
def test_longer_run_goes_on_where_it_ended(cli: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    assert cli("train", *settings, "total_timesteps=200", "run_dir=run").code == 0
    before = metrics(tmp_path / "run")
    outcome = cli("train", "resume=run", "total_timesteps=400")
    assert outcome.code == 0, outcome.err
    assert "(from step 200)" in outcome.out
    after = metrics(tmp_path / "run")
    assert after[: len(before)] == before
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["timesteps"], result["frames"]["scored"]) == (400, 400)
    assert RunFolder.open("run")[1].total_timesteps == 400


@pytest.mark.parametrize("settings", [SHORT, DQN], ids=["ppo", "dqn"])
def test_learned_weights_are_logged_and_gone_on_with(cli: Any, tmp_path: Path, settings: tuple[str, ...]) -> None:
    goals = ("goal=pole up", "goal=cart in the middle")
    learned = ("reward=constrained", "reward.thresholds=0.9", "reward.rate=0.01")
    assert cli("train", *settings, *goals, *learned, "total_timesteps=300", "run_dir=run").code == 0
    weight = metrics(tmp_path / "run")[-1]["reward/weight/cart in the middle"]
    assert 0 < weight < 10 / 11
    outcome = cli("train", "resume=run", "total_timesteps=301")
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path / "run")[-1]["reward/weight/cart in the middle"] >= weight
    assert cli("evaluate", "run=run", "episodes=2").code == 0


@pytest.mark.parametrize("reward", ["par", "clip_delta", "potential", "soft_and", "product"])
def test_every_shaping_trains_is_measured_and_recorded(cli: Any, tmp_path: Path, reward: str) -> None:
    goals = ("goal=pole up", "goal=cart in the middle")
    outcome = cli("train", *SHORT, *goals, f"reward={reward}", "total_timesteps=100", "run_dir=run")
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["evaluation"]["vlm_return"]["n"] == 2
    assert result["frames"]["invalid"] == 0
    assert result["uses_env_reward"] == (reward == "potential")
    assert cli("record", "run=run", "episodes=1", "formats=[png]").code == 0


def test_resumption_never_ends_before_what_was_learned(cli: Any, tmp_path: Path, refused: Any) -> None:
    assert cli("train", *SHORT, "total_timesteps=200", "run_dir=run").code == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    words = "total_timesteps=100 is less than the 200 steps that run has done: give more"
    refused(cli("train", "resume=run", "total_timesteps=100"), "train", words)
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    for mistake, words in (
        ("eval=3", "eval is a group of settings, got 3"),
        ("eval.epsodes=3", "did you mean 'eval.episodes'"),
        ("sed=1", "unknown setting 'sed': did you mean 'seed'"),
        ("agent.name=ppo", "agent.name can't change when a run is resumed"),
    ):
        refused(cli("train", "resume=run", mistake), "train", words)
    outcome = cli("train", "resume=run", "run_dir=null", "total_timesteps=3e2")
    assert outcome.code == 0, outcome.err
    assert RunFolder.open("run")[1].total_timesteps == 300


def test_path_that_is_null_is_not_given(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *SHORT, "total_timesteps=100", "run_dir=null", "resume=null").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_resuming_a_finished_run_only_evaluates_again(cli: Any, tmp_path: Path) -> None:
    cli("train", *SHORT, "total_timesteps=100", "run_dir=run")
    first = json.loads((tmp_path / "run" / "result.json").read_text())
    assert cli("train", "resume=run").code == 0
    second = json.loads((tmp_path / "run" / "result.json").read_text())
    assert first["evaluation"] == second["evaluation"]


def test_best_checkpoint_can_be_evaluated(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *SHORT, "total_timesteps=300", "run_dir=run", "eval.every=100").code == 0
    outcome = cli("evaluate", "run=run", "checkpoint=best", "episodes=2")
    assert outcome.code == 0, outcome.err
    assert list((tmp_path / "run").glob("evaluation__agent__best__*.json"))


def test_selection_does_not_change_what_is_learned(cli: Any, tmp_path: Path) -> None:
    assert cli("train", *SHORT, "total_timesteps=300", "run_dir=a").code == 0
    assert cli("train", *SHORT, "total_timesteps=300", "run_dir=b", "eval.every=100").code == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_frames_that_could_not_be_scored_are_counted(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 40th picture drawn is black, and belongs to a step: four of the first ones belong to resets."""
    real, drawn = CartPoleEnv.render, 0

    def render(self: CartPoleEnv) -> Any:
        nonlocal drawn
        drawn += 1
        return real(self) * (drawn != 40)

    monkeypatch.setattr(CartPoleEnv, "render", render)
    assert cli("train", *SHORT, "total_timesteps=100", "run_dir=run").code == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["frames"] == {"scored": 99, "invalid": 1, "reasons": {"constant frame": 1}}


def test_time_of_selections_and_of_the_final_evaluation_is_told(cli: Any, tmp_path: Path) -> None:
    for name, every in (("none", "null"), ("some", "100")):
        assert cli("train", *SHORT, "total_timesteps=300", f"run_dir={name}", f"eval.every={every}").code == 0
    seconds = {}
    for name in ("none", "some"):
        result = json.loads((tmp_path / name / "result.json").read_text())
        last = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        seconds[name] = last["time/evaluate_seconds"]
        assert result["phase_seconds"]["evaluate"] > seconds[name]
        assert result["wall_seconds"] >= seconds[name] + last["time/learn_seconds"] + last["time/wait_seconds"]
    assert seconds["none"] == 0 < seconds["some"]


def test_any_gymnasium_environment_trains(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    outcome = cli(
        *("train", "env=gym", "env.id=Acrobot-v1", "goal=a robot arm swung up", "encoder=fake", "n_envs=1"),
        "env.kwargs.max_episode_steps=60",
        *("agent.n_steps=50", "agent.batch_size=50", "total_timesteps=50", "eval.episodes=1", "run_dir=run"),
    )
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]["success"] is None


def wait_for(condition: Callable[[], bool], process: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_says_how_to_go_on(cli: Any, spawn: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = spawn("train", *DQN, "total_timesteps=1000000", "checkpoint_every=100", "run_dir=run", cwd=tmp_path)
    wait_for((tmp_path / "run" / "checkpoints" / "latest").is_file, process)  # it has begun to learn
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "go on with vlmreward train resume=run" in err
    step = int(re.search(r"saved at step (\d+)", err).group(1))  # type: ignore[union-attr]
    assert step > 0
    outcome = cli("train", "resume=run", f"total_timesteps={step + 20}")
    assert outcome.code == 0, outcome.err
    assert f"(from step {step})" in outcome.out


def signal_at_reset(monkeypatch: pytest.MonkeyPatch, seed: int, number: signal.Signals) -> None:
    """Send this process a signal, once, when an environment is reset with this seed."""
    real, sent = CartPoleEnv.reset, []

    def reset(self: CartPoleEnv, **kwargs: Any) -> Any:
        if kwargs.get("seed") == seed and not sent:
            sent.append(number)
            signal.raise_signal(number)
        return real(self, **kwargs)

    monkeypatch.setattr(CartPoleEnv, "reset", reset)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_of_the_final_evaluation_ends_at_once(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    signal_at_reset(monkeypatch, 20_000, number)
    outcome = cli("train", *SHORT, "total_timesteps=100", "run_dir=run")
    assert outcome.code == 130
    lines = [line for line in outcome.err.splitlines() if not line.startswith("training: ")]  # those tell of slow work
    assert lines == ["interrupted, training is complete and saved: measure it with vlmreward evaluate run=run"]
    assert not (tmp_path / "run" / "result.json").exists()
    outcome = cli("train", "resume=run")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["timesteps"] == 100


def test_interrupt_of_a_real_process_ends_its_final_evaluation(spawn: Any, tmp_path: Path) -> None:
    arguments = (*SHORT, "total_timesteps=100", "eval.episodes=100000", "run_dir=run")
    process = spawn("train", *arguments, cwd=tmp_path)
    try:
        wait_for((tmp_path / "run" / "checkpoints" / "latest").is_file, process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "training is complete and saved: measure it with vlmreward evaluate run=run" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_of_a_selection_saves_and_ends_after_it(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    signal_at_reset(monkeypatch, 10_000, number)
    outcome = cli("train", *SHORT, "total_timesteps=1000000", "eval.every=100", "run_dir=run")
    assert outcome.code == 130
    assert "saved at step 100: go on with vlmreward train resume=run" in outcome.err


def test_result_of_fewer_steps_is_removed_when_training_goes_on(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("train", *SHORT, "total_timesteps=100", "run_dir=run").code == 0
    assert (tmp_path / "run" / "result.json").is_file()
    signal_at_reset(monkeypatch, 20_000, signal.SIGINT)
    assert cli("train", "resume=run").code == 130  # nothing more to learn: the result is still that of the run
    assert (tmp_path / "run" / "result.json").is_file()
    real = CartPoleEnv.step

    def step(self: CartPoleEnv, action: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return real(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", step)
    assert cli("train", "resume=run", "total_timesteps=1000000").code == 130
    assert not (tmp_path / "run" / "result.json").exists()


def test_two_processes_never_train_in_one_folder(cli: Any, spawn: Any, tmp_path: Path, refused: Any) -> None:
    process = spawn("train", *DQN, "total_timesteps=1000000", "run_dir=run", cwd=tmp_path)
    try:
        wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").is_file(), process)
        refused(cli("train", "resume=run"), "train", "is being trained by another process")
    finally:
        process.kill()
        process.communicate()


def test_gymnasiums_mujoco_pictures_survive_evaluations(cli: Any, tmp_path: Path) -> None:
    """Closing one such environment would blacken the others' pictures; black frames are counted as invalid."""
    outcome = cli(
        *("train", "env=gym", "env.id=Reacher-v5", "goal=a robot arm touching a ball", "encoder=fake", "n_envs=1"),
        *("env.kwargs.width=32", "env.kwargs.height=32", "agent.n_steps=50", "agent.batch_size=50"),
        *("total_timesteps=150", "eval.every=50", "eval.episodes=2", "run_dir=run"),
    )
    assert outcome.code == 0, outcome.err
    assert [line["rollout/invalid_frac"] for line in metrics(tmp_path / "run")] == [0.0]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]["episodes_unscored"] == 0
