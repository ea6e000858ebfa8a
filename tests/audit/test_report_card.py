"""The report card of labels, where the dataset tells nothing of how episodes ended."""

from __future__ import annotations

import numpy as np

from vlmreward.audit.report_card import ScoredEpisode, report_card


def test_without_recorded_outcomes_there_is_no_separation_and_rise_decides() -> None:
    rising = [ScoredEpisode(np.arange(9.0), np.arange(9.0)[::-1], None) for _ in range(4)]
    card = report_card(rising)
    assert (card.successes, card.separation, card.separation_by_length) == (None, None, None)
    assert (card.rise.value, card.rise_of_control.value) == (1.0, -1.0)
    assert card.refusal is None
    assert report_card([ScoredEpisode(e.control, e.reward, None) for e in rising]).refusal is not None
