"""Every combination of varied settings, and what is refused."""

import pytest

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.variants import spread
from vlmreward.errors import ConfigError


def test_nothing_varied_is_one_combination():
    (only,) = spread(parse_arguments(["env=cartpole", "goal=a, b"]))
    assert only.chosen == {}
    assert only.arguments.literals == {"goal": ("a, b",)}


def test_all_combinations_with_prompts_taken_literally():
    arguments = ["env=cartpole", "vary.reward.alpha=[0,0.5]", "vary.goal=up, [x]=1", "vary.goal=down", "seed=3"]
    found = spread(parse_arguments(arguments))
    assert [c.chosen for c in found] == [
        {"reward.alpha": 0, "goal": "up, [x]=1"},
        {"reward.alpha": 0, "goal": "down"},
        {"reward.alpha": 0.5, "goal": "up, [x]=1"},
        {"reward.alpha": 0.5, "goal": "down"},
    ]
    assert found[0].arguments.literals == {"goal": ("up, [x]=1",)}
    assert found[3].arguments.overrides == ("env=cartpole", "seed=3", "reward.alpha=0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vary.reward.alpha=0.5"], r"vary\.reward\.alpha must be a list of values, got '0\.5'"),
        (["vary.reward.alpha=[]"], "must be a list of values"),
        (["vary.reward.alpha=[[0]]"], "must be a list of values"),
        (["vary.reward.alpha=[0"], "must be a list of values"),
        (["goal=a", "vary.goal=b"], "goal is given and varied"),
        ([f"vary.seed={list(range(40))}", f"vary.count={list(range(40))}"], "1600 combinations are too many"),
    ],
)
def test_what_is_wrong_is_told(arguments, message):
    with pytest.raises(ConfigError, match=message):
        spread(parse_arguments(arguments))
