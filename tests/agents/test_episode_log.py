from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vlmreward.agents.episode_log import EpisodeLog


def drive(dots: Any, steps: int, ask_every: int, **env: Any) -> tuple[EpisodeLog, list[tuple[float, float, bool]]]:
    """Step two environments at random; return the log and each episode's true VLM return, env return, success."""
    scorer = dots.scorer()
    venv = dots.venv(scorer, 2, **env)
    log, rng, truth = EpisodeLog(window=1000), np.random.default_rng(1), []
    sums = np.zeros((2, 2))
    venv.reset()
    asked = -1
    for step in range(steps):
        _, _, dones, infos = venv.step(rng.integers(0, 3, 2))
        log.note_step(scorer.last_ticket, dones, infos)
        for index, info in enumerate(infos):
            x = info["env_reward"]
            sums[index] += np.cos((x - 7) / 7), x
            if dones[index]:
                truth.append((*sums[index], x == 7))
                sums[index] = 0
        if step % ask_every == ask_every - 1:
            scorer.scores(asked + 1, scorer.last_ticket)
            asked = scorer.last_ticket
            log.collect(scorer)
    scorer.close()
    return log, truth


@pytest.mark.parametrize("ask_every", [1, 3, 8])
def test_scores_are_joined_with_the_success_of_their_episode(dots: Any, ask_every: int) -> None:
    log, truth = drive(dots, 48, ask_every)
    assert log.total == len(truth) == 8
    for episode, (vlm, env, success) in zip(log.episodes, truth, strict=True):
        assert episode.vlm_return == pytest.approx(vlm, abs=1e-5)
        assert episode.env_return == env
        assert episode.success == success
        assert episode.length == dots.length
    means = log.means()
    assert means["rollout/vlm_return"] == pytest.approx(np.mean([t[0] for t in truth]), abs=1e-5)
    assert means["rollout/success_rate"] == np.mean([t[2] for t in truth])


def test_unknown_success_is_none_and_not_zero(dots: Any) -> None:
    log, _ = drive(dots, 20, 5, states_success=False)
    assert log.total > 0
    assert log.means()["rollout/success_rate"] is None


def test_episode_with_an_unscored_frame_has_no_return(dots: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = dots.Env.render

    def black(self: Any) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8) if self.t == 3 else real(self)

    monkeypatch.setattr(dots.Env, "render", black)
    log, _ = drive(dots, 20, 5)
    assert log.total > 0
    assert all(episode.vlm_return is None for episode in log.episodes)
    assert log.means()["rollout/vlm_return"] is None


def test_state_comes_back(dots: Any) -> None:
    log, _ = drive(dots, 30, 5)
    back = EpisodeLog(window=1000)
    back.load_state_dict(log.state_dict())
    assert (back.total, list(back.episodes)) == (log.total, list(log.episodes))
