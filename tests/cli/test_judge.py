"""A reward with a judge, from the command line to the result, with a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlmreward.testing.chat_server import ChatServer

SHORT = ("env=cartpole", "env.kwargs.max_episode_steps=10", "encoder=fake", "agent=ppo", "n_envs=2", "eval.episodes=1")
SHORT = (*SHORT, "agent.n_steps=10", "agent.batch_size=10", "total_timesteps=20", "goal=it's upright, [70 %]")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    made = ChatServer()
    yield made
    made.close()


def test_agent_learns_from_a_judge_and_the_result_says_what_it_cost(cli: Any, tmp_path: Path, server: Any) -> None:
    def behave(handler: Any, request: Any, number: int) -> None:
        handler.say("sorry\n, no grade" if number % 5 == 0 else "Grade: 4", tokens=9)

    server.behave = behave
    judge = (f"reward.judge.url={server.url}", "reward.judge.model=Qwen/Qwen3-VL-8B:free", "reward.judge.cache=answers")
    outcome = cli("train", *SHORT, "reward=rubric", *judge, "run_dir=run")
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["judge"]["calls"] == len(server.requests) > 20
    assert result["judge"]["tokens"] == 9 * len(server.requests)
    assert result["judge"]["licence"] == "unknown"
    refused = result["frames"]["reasons"]["the reply is not one grade from 1 to 5: sorry , no grade"]
    assert result["frames"]["invalid"] == refused > 0
    assert result["frames"]["scored"] + refused == 20
    request = server.requests[0]
    assert request.body["model"] == "Qwen/Qwen3-VL-8B:free"
    assert "task is: it's upright, [70 %]" in request.parts[1]
    asked = len(server.requests)
    assert len(list((tmp_path / "answers").rglob("*.json"))) == asked
    cli("train", *SHORT, "reward=rubric", *judge, "run_dir=again")
    assert len(server.requests) == asked


def test_agent_learns_from_pairs_that_a_judge_compares_and_the_result_says_what_it_cost(
    cli: Any, tmp_path: Path, server: ChatServer
) -> None:
    def behave(handler: Any, request: Any, number: int) -> None:
        pictures = [part for part in request.parts if not isinstance(part, str)]
        handler.say("Nothing is clear." if pictures else str(number % 2), tokens=9)

    server.behave = behave
    ways = (*SHORT[:3], *SHORT[4:6], "agent=dqn", "agent.learning_starts=16", "total_timesteps=60", "goal=it's up, [x]")
    asked = (f"reward.annotator.judge.url={server.url}", "reward.annotator.judge.model=m", "audit=off")
    few = [f"reward.learning.{setting}" for setting in ("every=20", "keep_every=1", "wait=true", "fit_steps=2")]
    outcome = cli("train", *ways, "reward=preference", "reward.annotator.name=two_stage", *asked, *few, "run_dir=run")
    assert outcome.code == 0, outcome.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["judge"]["calls"] == len(server.requests) > 20
    assert result["judge"]["tokens"] == 9 * len(server.requests)
    assert result["learned_reward"]["calls"] >= result["judge"]["calls"]
    assert "The goal is it's up, [x]. Is there any difference" in server.requests[0].parts[-1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["reward=yes_no"], "judge 'http' needs the setting 'url': give reward.judge.url="),
        (["reward=yes_no", "reward.judge.url=http://example.org/v1", "reward.judge.model=m"], "url must be https"),
        (["reward=yes_no", "reward.judge.name=htpt"], "unknown judge 'htpt': did you mean 'http'"),
        (["reward=yes_no", "reward.judge=http"], "reward.judge is a group of settings, got 'reward.judge=http'"),
        (
            ["reward=preference", "agent=dqn", "reward.annotator.name=two_stage"],
            "judge 'http' needs the setting 'url': give reward.annotator.judge.url=",
        ),
        (
            ["reward=distilled", "agent=dqn", "reward.annotator.name=two_stage", "reward.annotator.judge.name=htpt"],
            "unknown judge 'htpt': did you mean 'http'",
        ),
        (["reward=rubric", "reward.judge.ulr=x"], "judge 'http' has no setting 'ulr': did you mean 'url'"),
        (
            ["reward=gvl", "reward.judge.url=http://localhost:9/v1", "reward.judge.model=m"],
            "GvlReward looks at pixels with context 'episode': while an agent is trained pixels are not kept",
        ),
        (
            ["reward=yes_no", "reward.judge.name=transformers", "reward.judge.weights=no such folder"],
            "no image-text-to-text model can be read from no such folder",
        ),
    ],
)
def test_what_can_not_work_is_one_line(cli: Any, settings: list[str], words: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = cli("train", *SHORT, *settings)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
