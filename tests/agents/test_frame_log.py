from __future__ import annotations

from typing import Any

from vlmreward.agents.frame_log import FrameLog


def stats(rows: int, invalid: int, pictures: int, calls: int, **reasons: int) -> dict[str, Any]:
    return {"rows": rows, "invalid": invalid, "pictures": pictures, "encode_calls": calls, "reasons": reasons}


NONE = stats(0, 0, 0, 0)


def test_line_has_the_averages_since_the_last_line() -> None:
    log = FrameLog()
    first, second, third = stats(8, 2, 6, 1, black=2), stats(10, 2, 9, 2, black=2), stats(18, 4, 16, 3, black=3, nan=1)
    log.add(first, NONE)
    log.add(second, first)
    assert log.next_line() == {"rollout/invalid_frac": 0.2, "rollout/encode_batch_mean": 4.5}
    log.add(third, second)
    assert log.next_line() == {"rollout/invalid_frac": 0.25, "rollout/encode_batch_mean": 7.0}
    assert log.next_line() == {}
    assert log.summary() == {"scored": 14, "invalid": 4, "reasons": {"black": 3, "nan": 1}}


def test_line_of_a_model_without_an_encoder_has_no_batches() -> None:
    log = FrameLog()
    log.add(stats(4, 1, 0, 0, black=1), NONE)
    assert log.next_line() == {"rollout/invalid_frac": 0.25}


def test_counts_come_back() -> None:
    log, back = FrameLog(), FrameLog()
    log.add(stats(4, 1, 4, 1, black=1), NONE)
    log.next_line()
    log.add(stats(10, 1, 7, 2, black=1), stats(4, 1, 4, 1, black=1))
    back.load_state_dict(log.state_dict())
    assert back.summary() == log.summary() == {"scored": 9, "invalid": 1, "reasons": {"black": 1}}
    assert back.next_line() == {"rollout/invalid_frac": 0.0, "rollout/encode_batch_mean": 3.0}
