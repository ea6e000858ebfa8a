from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.cli.arguments import parse_arguments
from vlmreward.errors import ConfigError, PromptError

AWKWARD = [
    "pole, upright, on the cart",
    "the robot's arm",
    'say "hello"',
    "ratio: 1:2",
    "[a, b]",
    "{x: 1}",
    "a=b=c",
    "100 % sure",
    r"back\slash \n",
    "${env.name}",
    "$HOME",
    "  leading and trailing  ",
    "倒立摆 прямо à la",
    "null",
    "true",
    "3.5",
    "-1",
    "--help",
    "~x",
    "+goal=x",
    "two\nlines",
    "#no comment",
]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("key", ["goal", "baseline", "reward.goal", "reward.parts.level.goal"])
def test_prompt_is_taken_literally(key: str, text: str) -> None:
    assert parse_arguments([f"{key}={text}"]).literals == {key: (text,)}


@given(st.text().filter(lambda s: s.strip()))
def test_any_text_is_a_prompt(text: str) -> None:
    arguments = parse_arguments([f"goal={text}", "seed=1"])
    assert arguments.literals["goal"] == (text,)
    assert arguments.overrides == ("seed=1",)


def test_repeated_prompt_gives_several_in_order() -> None:
    assert parse_arguments(["goal=b", "seed=1", "goal=a"]).literals["goal"] == ("b", "a")


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
def test_empty_prompt_is_refused(value: str) -> None:
    with pytest.raises(PromptError, match="goal is empty"):
        parse_arguments([f"goal={value}"])


def test_path_is_literal_and_the_last_one_counts() -> None:
    arguments = parse_arguments(["run_dir=a,b", "run_dir=/tmp/x=[1] y"])
    assert arguments.literals == {"run_dir": ("a,b", "/tmp/x=[1] y")}
    assert arguments.path("run_dir") == "/tmp/x=[1] y"


def test_other_keys_keep_their_grammar() -> None:
    given = ["env=cartpole", "+a.b=1", "~c", "agent.net=[1,2]"]
    assert list(parse_arguments(given).overrides) == given


def test_flags_words_and_config_dir_are_told_apart() -> None:
    arguments = parse_arguments(["--cfg", "--debug", "envs", "--config-dir", "dir", "seed=1"])
    assert arguments.flags == {"cfg", "debug"}
    assert arguments.words == ("envs",)
    assert arguments.config_dir == "dir"
    assert parse_arguments(["--config-dir=other"]).config_dir == "other"


@pytest.mark.parametrize("argv", [["--config-dir"], ["--config-dir="], ["--config-dir", "--cfg"]])
def test_config_dir_without_a_folder_is_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="--config-dir needs a folder"):
        parse_arguments(argv)


def test_path_that_is_null_is_none() -> None:
    arguments = parse_arguments(["run=null", "out=./null"])
    assert [arguments.path(key) for key in ("run", "out", "resume")] == [None, "./null", None]


@pytest.mark.parametrize(
    ("argument", "words"), [("resume=", "resume is empty: give a run folder"), ("out= ", "out is empty: give a path")]
)
def test_empty_path_is_refused(argument: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_arguments([argument])


def test_unknown_flag_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown option '--cgf': did you mean '--cfg'"):
        parse_arguments(["--cgf"])


def test_key_with_strange_letters_is_refused() -> None:
    with pytest.raises(ConfigError, match="not of the form key=value"):
        parse_arguments(["a b=1"])


def test_take_splits_by_first_name() -> None:
    mine, rest = parse_arguments(["seed=1", "env.task=left", "goal=x", "out=y"]).take(["seed", "out"])
    assert (mine.overrides, dict(mine.literals)) == (("seed=1",), {"out": ("y",)})
    assert (rest.overrides, dict(rest.literals)) == (("env.task=left",), {"goal": ("x",)})
