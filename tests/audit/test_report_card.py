"""The report card of labels, where the dataset tells nothing of how episodes ended."""

from __future__ import annotations

import numpy as np
import pytest

from vlmreward.audit.report_card import ScoredEpisode, report_card


def test_without_recorded_outcomes_there_is_no_separation_and_rise_decides() -> None:
    rising = [ScoredEpisode(np.arange(9.0), np.arange(9.0)[::-1], None) for _ in range(5)]
    card = report_card(rising)
    assert (card.successes, card.separation, card.separation_by_length) == (None, None, None)
    assert (card.rise.value, card.rise_of_control.value) == (1.0, -1.0)
    assert card.refusal is None
    assert report_card([ScoredEpisode(e.control, e.reward, None) for e in rising]).refusal is not None


@pytest.mark.parametrize(("count", "judged"), [(1, False), (4, False), (5, True)])
def test_few_episodes_give_no_interval_and_refuse_nothing(count: int, judged: bool) -> None:
    falling = [ScoredEpisode(np.arange(9.0)[::-1], np.arange(9.0), None) for _ in range(count)]
    card = report_card(falling)
    assert card.rise.value == -1
    assert (card.is_enough, card.rise.has_interval, card.refusal is not None) == (judged, judged, judged)
    assert str(card.rise) == ("-1.00 (-1.00 to -1.00)" if judged else "-1.00")
    assert card.to_json()["rise"] == [-1.0, *([-1.0] * 2 if judged else [None] * 2)]


def test_episodes_without_two_valid_frames_do_not_count_as_judged() -> None:
    one, lost = np.arange(9.0), np.full(9, np.nan)
    lost[3] = 1
    episodes = [ScoredEpisode(one, one, None)] * 4 + [ScoredEpisode(lost, lost, None)] * 9
    assert not report_card(episodes).is_enough
    assert report_card([*episodes, ScoredEpisode(one, one, None)]).is_enough


def test_constant_rewards_are_refused_however_few() -> None:
    constant = ScoredEpisode(np.zeros(9), np.zeros(9), None)
    assert "constant" in (report_card([constant]).refusal or "")


def test_separation_judges_by_itself() -> None:
    """Three successes end high and three failures low: that is enough, though rewards fall and rise."""
    rng = np.random.default_rng(0)
    ends = [(np.arange(9.0) + rng.normal(), True) for _ in range(3)] + [(-np.arange(9.0), False) for _ in range(3)]
    card = report_card([ScoredEpisode(reward, reward, success) for reward, success in ends])
    assert card.separation is not None
    assert (card.separation.value, card.is_enough, card.refusal) == (1.0, True, None)
