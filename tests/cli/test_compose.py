from __future__ import annotations

from pathlib import Path

import pytest

from vlmreward.agents.catalogue import list_agents
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.groups import PRIMARY, list_groups
from vlmreward.errors import ConfigError, UnknownNameError


def test_goal_reaches_the_config_unchanged() -> None:
    text = r"""a, b's "c" [d] {e} f=g: 100 % \h ${seed} """
    config = compose("train", parse_arguments(["env=cartpole", f"goal={text}", "goal=two"]))
    assert config["goal"] == [text, "two"]


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, options in list_groups().items() for o in options if g != "experiment"]
)
def test_every_option_composes(group: str, option: str) -> None:
    others = ["env=cartpole"] if group != "env" else []
    config = compose("train", parse_arguments([*others, f"{group}={option}"]))
    if (group, option) == ("agent", "auto"):
        assert config["agent"]["name"] == config["env"]["agent"] != "auto"
    assert config[group]["name"]


def test_a_page_that_is_asked_for_again_is_the_same_unless_its_files_changed(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    arguments = parse_arguments(["env=cartpole", "encoder=mine", "--config-dir", str(tmp_path)])
    for salt in ("a", "other"):
        (tmp_path / "encoder" / "mine.yaml").write_text(f"name: mine\nsalt: {salt}\n")
        first = compose("train", arguments)
        assert first["encoder"]["salt"] == salt
        first["encoder"]["salt"] = "changed by whoever got it"
        assert compose("train", arguments)["encoder"]["salt"] == salt


@pytest.mark.parametrize("option", list_groups()["experiment"])
def test_every_experiment_composes(option: str) -> None:
    config = compose("train", parse_arguments([f"experiment={option}"]))
    assert config["env"]["name"] != "auto"


def test_every_algorithm_has_a_config() -> None:
    assert set(list_groups()["agent"]) == {*list_agents(), "auto"}
    for name in list_agents():
        assert compose("train", parse_arguments(["env=cartpole", f"agent={name}"]))["agent"]["name"] == name


@pytest.mark.parametrize("command", PRIMARY)
def test_every_primary_config_composes(command: str) -> None:
    arguments = parse_arguments(["env=cartpole"] if command == "train" else [])
    settled = {"cache": "all", "inspect": "most", "view": "size"}.get(command, "seed")
    assert compose(command, arguments)[settled] is not None


def test_command_line_beats_experiment() -> None:
    config = compose("train", parse_arguments(["experiment=cartpole_upright", "agent=a2c", "seed=7"]))
    assert (config["agent"]["name"], config["seed"]) == ("a2c", 7)


def test_any_hyperparameter_is_let_through() -> None:
    config = compose("train", parse_arguments(["env=cartpole", "agent.gamma=0.5", "agent.policy_kwargs.net_arch=[8]"]))
    assert config["agent"]["gamma"] == 0.5
    assert config["agent"]["policy_kwargs"] == {"net_arch": [8]}


def test_inner_rewards_take_any_setting_and_prompts_as_typed() -> None:
    text = "it's [level], 100 %"
    more = ("reward.parts.level.name=clip", f"reward.parts.level.goal={text}")
    config = compose("train", parse_arguments(["env=cartpole", "reward=product", "reward.of.logit_scale=7", *more]))
    assert config["reward"]["of"] == {"name": "contrastive", "mode": "softmax", "logit_scale": 7}
    assert config["reward"]["parts"] == {"level": {"name": "clip", "goal": [text]}}


def test_option_in_capitals_is_found() -> None:
    assert compose("train", parse_arguments(["env=CartPole", "agent=PPO"]))["agent"]["name"] == "ppo"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env=cartpoel", "unknown env 'cartpoel': did you mean 'cartpole'"),
        ("encoder=minni", "unknown encoder 'minni': did you mean 'mini'"),
        ("reward=clop", "unknown reward 'clop': did you mean 'clip'"),
        ("agent=poo", "unknown agent 'poo': did you mean 'ppo'"),
    ],
)
def test_unknown_option_suggests_the_nearest(override: str, words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        compose("train", parse_arguments(["env=cartpole", override]))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sede=1", "unknown setting 'sede': did you mean 'seed'"),
        ("reward.alhpa=0.5", "unknown setting 'reward.alhpa': did you mean 'reward.alpha'"),
        ("eval.evry=1", "unknown setting 'eval.evry': did you mean 'eval.every'"),
        ("reward.gaol=x", "unknown setting 'reward.gaol'"),
        ("agent.name=ppo", "agent.name is the choice of the algorithm: write agent=ppo"),
        ("eval=3", r"eval is a group of settings, got 'eval=3'.* known: every, episodes, seed"),
        ("reward.fo.alpha=1", "unknown setting 'reward.fo.alpha'"),
        ("seed=[1", "can't read the value of 'seed=\\[1'"),
    ],
)
def test_wrong_setting_is_one_line(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        compose("train", parse_arguments(["env=cartpole", override]))
    assert "\n" not in str(caught.value)


def test_unknown_prompt_key_of_a_reward_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'reward\.positive'"):
        compose("train", parse_arguments(["env=cartpole", "reward.positive=x"]))


def test_missing_env_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="env is not given: write env=<name>, known: cartpole"):
        compose("train", parse_arguments([]))


def test_user_folder_adds_an_environment(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text(
        "name: mine\nid: CartPole-v1\nkwargs: {}\ntask: null\ndefault_task: null\nagent: dqn\nagents: {}\n"
    )
    config = compose("train", parse_arguments(["env=mine", "--config-dir", str(tmp_path)]))
    assert (config["env"]["id"], config["agent"]["name"]) == ("CartPole-v1", "dqn")


@pytest.mark.parametrize("name", ["a b", "a, b", "[a]", 'say "a"', "it's", "a\\", "a=b", "{a: b}", "50 %", "倒立"])
def test_folder_of_the_user_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "env").mkdir(parents=True)
    (tmp_path / name / "env" / "mine.yaml").write_text("name: mine\nid: Acrobot-v1\n")
    arguments = parse_arguments(["env=mine", "--config-dir", str(tmp_path / name)])
    assert compose("train", arguments)["env"]["id"] == "Acrobot-v1"


def test_broken_yaml_of_the_user_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text("name: [a\n b: c\n")
    with pytest.raises(ConfigError, match=r"can't be read .*mine\.yaml") as caught:
        compose("train", parse_arguments(["env=mine", "--config-dir", str(tmp_path)]))
    assert "\n" not in str(caught.value)


def test_missing_user_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        compose("train", parse_arguments(["env=cartpole", "--config-dir", "nowhere"]))


def test_composing_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compose("train", parse_arguments(["env=cartpole"]))
    assert list(tmp_path.iterdir()) == []
    assert Path.cwd() == tmp_path


def test_actions_can_be_held_in_an_environment_whose_yaml_does_not_say_so(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text("name: mine\nid: Acrobot-v1\nkwargs: {}\n")
    arguments = parse_arguments(["env=mine", "env.action_repeat=3", "--config-dir", str(tmp_path)])
    assert compose("train", arguments)["env"]["action_repeat"] == 3
    with pytest.raises(ConfigError, match=r"unknown setting 'env\.action_repeats': did you mean"):
        compose("train", parse_arguments(["env=cartpole", "env.action_repeats=3"]))
