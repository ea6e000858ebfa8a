from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.groups import list_groups
from vlmreward.cli.load_run import Subject, find_subject
from vlmreward.cli.run_folder import RunFolder
from vlmreward.cli.settings import TrainSettings, change_for_resume, change_goal, resolve
from vlmreward.errors import CheckpointError, ConfigError, UnknownNameError


def settle(*argv: str) -> TrainSettings:
    return resolve(compose("train", parse_arguments(["env=cartpole", *argv])))[0]


def test_measured_settings_stand_under_the_users() -> None:
    composed = compose("train", parse_arguments(["env=cartpole", "agent=ppo", "agent.gamma=0.5"]))
    measured = composed["env"]["agents"]["ppo"]
    settings = resolve(composed)[0]
    assert settings.agent["gamma"] == 0.5 != measured["gamma"]
    assert settings.agent["n_steps"] == measured["n_steps"]
    assert (settings.total_timesteps, settings.n_envs) == (measured["total_timesteps"], measured["n_envs"])
    assert "n_envs" not in settings.agent
    assert "total_timesteps" not in settings.agent
    assert settle("total_timesteps=77", "n_envs=2").total_timesteps == 77
    assert settle("total_timesteps=77", "n_envs=2").n_envs == 2


def test_measured_settings_are_those_of_the_chosen_algorithm() -> None:
    settings = settle("agent=dqn")
    assert settings.agent["name"] == "dqn"
    assert "n_epochs" not in settings.agent
    assert settle("agent=a2c").agent == {"name": "a2c", "policy": "MlpPolicy"}


def test_baseline_that_nothing_uses_is_told() -> None:
    def note(*argv: str) -> str:
        return resolve(compose("train", parse_arguments(["env=cartpole", *argv])))[1]

    assert note() == ""  # the task's own, for whoever sets alpha
    assert note("baseline=pole and cart") == "the baseline is not used: reward.alpha is 0"
    assert note("baseline=pole and cart", "reward.alpha=0.5") == ""
    assert note("baseline=pole and cart", "reward=par") == "the baseline is not used: reward.of.alpha is 0"
    assert note("baseline=pole and cart", "reward=constrained") == "the baseline is not used: reward.of.of.alpha is 0"
    for used in ("reward.of.alpha=0.5", "reward.of.name=contrastive"):
        assert note("baseline=pole and cart", "reward=par", used) == ""
    more = ("reward=soft_and", "reward.parts.x.name=contrastive", "reward.parts.x.goal=y")
    assert note("baseline=pole and cart", *more) == ""


def test_config_file_gives_the_same_settings_back() -> None:
    settings = settle(
        "goal=it's, a [goal] = ${x} 倒立", "goal=two", "eval.every=500", "agent.policy_kwargs.net_arch=[8]"
    )
    text = yaml.safe_dump(settings.to_config(), allow_unicode=True)
    assert TrainSettings.from_config(yaml.safe_load(text)) == settings


def test_time_limit_counts_actions() -> None:
    limits = {repeat: settle(f"env.action_repeat={repeat}").env.time_limit for repeat in (1, 2, 3)}
    assert limits == {1: 200, 2: 100, 3: 67}
    assert settle("env.action_repeat=2", "env.kwargs.max_episode_steps=-1").env.time_limit is None


def test_without_action_repeat_an_action_is_one_step() -> None:
    """Environments of users need not name it, and runs from before it existed have none in their config.yaml."""
    composed = compose("train", parse_arguments(["env=cartpole"]))
    del composed["env"]["action_repeat"]
    settings = resolve(composed)[0]
    assert settings.env.action_repeat == 1
    config = settings.to_config()
    del config["env"]["action_repeat"]
    assert TrainSettings.from_config(config) == settings


def test_actions_are_held_in_an_evaluation_as_in_training() -> None:
    settings = settle("env.action_repeat=3")
    asked = {"goal": None, "baseline": None, "env": {"kwargs": {"start": "upright"}}}
    assert change_goal(settings, asked)[0].env.action_repeat == 3
    with pytest.raises(ConfigError, match=r"env\.action_repeat belongs to the run and can't change"):
        change_goal(settings, {**asked, "env": {"action_repeat": 2}})


@pytest.mark.parametrize("option", [o for o in list_groups()["env"] if o not in ("gym", "none")])
def test_every_environment_resolves_and_its_measured_settings_are_real(option: str) -> None:
    from vlmreward.agents.catalogue import get_agent
    from vlmreward.agents.hyperparameters import check_hyperparameters
    from vlmreward.agents.sb3 import load_algorithm

    composed = compose("train", parse_arguments([f"env={option}"]))
    assert resolve(composed)[0].env.task is not None
    for name in composed["env"]["agents"]:
        settings = resolve(compose("train", parse_arguments([f"env={option}", f"agent={name}"])))[0]
        hyperparameters = {k: v for k, v in settings.agent.items() if k != "name"}
        check_hyperparameters(name, load_algorithm(get_agent(name)), hyperparameters)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=-1", "seed must be a whole number >= 0, got -1"),
        ("seed=one", "seed must be a whole number >= 0, got 'one'"),
        ("total_timesteps=1.5", "total_timesteps must be a whole number >= 1, got 1.5"),
        ("n_envs=-3", "n_envs must be a whole number >= 1, got -3"),
        ("encode_batch=0", "encode_batch must be a whole number >= 1, got 0"),
        ("checkpoint_every=-5", "checkpoint_every must be a whole number >= 1, got -5"),
        ("eval.episodes=0", "eval.episodes must be a whole number >= 1, got 0"),
        ("eval.every=often", "eval.every must be a whole number >= 1, got 'often'"),
        ("subprocess=maybe", "subprocess must be true or false, got 'maybe'"),
        ("threads=many", "threads must be a whole number >= 1, got 'many'"),
        ("seed=true", "seed must be a whole number >= 0, got True"),
        ("subprocess=no", "subprocess must be true or false, got 'no'"),
        ("env.kwargs.task=left", r"write env\.task=left, not env\.kwargs\.task"),
        ("env.task=lfet", "unknown env.task 'lfet': did you mean 'left'"),
    ],
)
def test_value_out_of_range_names_rule_and_value(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settle(override)


def test_whole_number_may_be_written_with_an_exponent() -> None:
    settings = settle("total_timesteps=1e6", "eval.every=5e4", "n_envs=4.0")
    numbers = (settings.total_timesteps, settings.checkpoint_every, settings.eval.every, settings.n_envs)
    assert numbers == (1_000_000, 100_000, 50_000, 4)
    assert all(type(number) is int for number in numbers)


@pytest.mark.parametrize(("group", "key"), [("env", "name"), ("env", "id"), ("agent", "name")])
def test_config_that_lacks_what_is_needed_is_refused(group: str, key: str) -> None:
    composed = compose("train", parse_arguments(["env=cartpole"]))
    del composed[group][key]
    with pytest.raises(ConfigError, match=f"the config of the {group} lacks '{key}'"):
        resolve(composed)


def test_environment_without_arguments_needs_no_kwargs() -> None:
    composed = compose("train", parse_arguments(["env=cartpole"]))
    del composed["env"]["kwargs"]
    assert resolve(composed)[0].env.kwargs == {}


def test_task_of_an_evaluation_is_refused_among_the_arguments() -> None:
    with pytest.raises(ConfigError, match=r"write env\.task=left"):
        change_goal(settle(), ask(env={"task": None, "kwargs": {"task": "left"}}))
    foreign = replace(settle(), env=replace(settle().env, has_tasks=False))  # it may well have such an argument
    assert change_goal(foreign, ask(env={"kwargs": {"task": "x"}}))[0].env.kwargs["task"] == "x"


def test_unknown_algorithm_in_a_config_suggests_the_nearest() -> None:
    composed = compose("train", parse_arguments(["env=cartpole"]))
    composed["agent"] = {"name": "pppo"}
    with pytest.raises(UnknownNameError, match="did you mean 'ppo'"):
        resolve(composed)


def test_only_listed_settings_change_on_resume() -> None:
    settings = settle()
    changed = change_for_resume(settings, {"total_timesteps": 5, "device": "cpu", "eval": {"episodes": 3}})
    assert (changed.total_timesteps, changed.device, changed.eval.episodes) == (5, "cpu", 3)
    assert changed.eval.seed == settings.eval.seed
    assert changed.encoder == settings.encoder
    changed = change_for_resume(settings, {"encoder.runtime": "torch"})
    assert changed.encoder == {**settings.encoder, "runtime": "torch"}
    assert replace(changed, encoder=settings.encoder) == settings
    for key in ("seed", "goal", "agent.gamma", "env", "n_envs", "encode_batch", "encoder.precision"):
        with pytest.raises(ConfigError, match=f"{key} can't change when a run is resumed, only total_timesteps"):
            change_for_resume(settings, {key: 1})
    for asked, words in (
        ({"eval": {"evry": 1}}, r"unknown setting 'eval\.evry': did you mean 'eval\.every'"),
        ({"eval": 3}, r"eval is a group of settings, got 3: .*eval\.episodes, eval\.every, eval\.seed"),
        ({"sed": 1}, "unknown setting 'sed': did you mean 'seed'"),
        ({"run_dir": None}, "run_dir can't change when a run is resumed"),
    ):
        with pytest.raises(ConfigError, match=words):
            change_for_resume(settings, asked)


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_evaluation_may_change_the_engine_and_no_more_of_the_encoder(tmp_path: Path, command: str) -> None:
    settings = settle()
    run = f"run={RunFolder.create(settings, str(tmp_path / 'run')).path}"

    def find(*asked: str) -> Subject:
        return find_subject(command, parse_arguments([run, *asked]))

    assert find().settings.encoder == settings.encoder
    assert find("encoder.runtime=torch").settings.encoder == {**settings.encoder, "runtime": "torch"}
    with pytest.raises(ConfigError, match="encoder belongs to the run and can't change: leave it out"):
        find("encoder=siglip2")
    with pytest.raises(ConfigError, match=r"encoder\.precision belongs to the run, only encoder\.runtime can change"):
        find("encoder.precision=bf16")


def ask(**changes: Any) -> dict[str, Any]:
    return {"goal": None, "baseline": None, "env": {"task": None, "kwargs": {}}, **changes}


def test_evaluation_may_ask_for_another_goal() -> None:
    settings = settle("goal=dance")
    assert change_goal(settings, ask()) == (settings, "")
    assert settings.env.task is None
    left, note = change_goal(settings, ask(goal=["cart at the left end of the track"]))
    assert (left.env.task, left.goal, note) == ("left", ("cart at the left end of the track",), "")
    by_task, _ = change_goal(settings, ask(env={"task": "right", "kwargs": {"start": "upright"}}))
    assert by_task.goal == ("cart at the right end of the track",)
    assert by_task.env.kwargs == {**settings.env.kwargs, "start": "upright"}


def test_other_baseline_keeps_goal_and_task() -> None:
    settings = settle("goal=dance", "env.task=left")
    changed, _ = change_goal(settings, ask(baseline=["a scene"]))
    assert (changed.goal, changed.baseline, changed.env.task) == (("dance",), ("a scene",), "left")


def test_damaged_config_is_a_checkpoint_error() -> None:
    config = settle().to_config()
    del config["env"]
    with pytest.raises(CheckpointError, match=r"config\.yaml of the run is damaged"):
        TrainSettings.from_config(config)
    with pytest.raises(CheckpointError, match=r"config\.yaml of the run is damaged"):
        TrainSettings.from_config({**settle().to_config(), "new": 1})


def test_factory_gives_the_task_only_to_environments_that_have_some() -> None:
    settings = settle("env.task=left")
    assert settings.env.factory(width=32).kwargs["task"] == "left"
    assert settings.env.factory(width=32).kwargs["width"] == 32
    assert "task" not in replace(settings.env, has_tasks=False).factory().kwargs
