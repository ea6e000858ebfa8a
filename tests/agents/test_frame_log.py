from __future__ import annotations

from typing import Any

from vlmreward.agents.frame_log import FrameLog
from vlmreward.wrappers.frame_gate import GateCounts

NO_GATE = GateCounts()


def stats(
    rows: int, invalid: int, pictures: int, calls: int, gate: GateCounts = NO_GATE, **reasons: int
) -> dict[str, Any]:
    counts = {"rows": rows, "invalid": invalid, "pictures": pictures, "encode_calls": calls}
    return {**counts, "gate": gate, "reasons": reasons}


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


def test_counts_of_a_gate_add_up_over_lines_and_sessions() -> None:
    one, two = GateCounts(10, 4, 6, 2, 2, 0, 0.5, 0.4), GateCounts(25, 9, 16, 3, 2, 1, 0.6, 0.4)
    log, back = FrameLog(), FrameLog()
    log.add(stats(10, 0, 4, 1, one), NONE)
    line = log.next_line()
    assert [line[f"gate/{name}"] for name in ("seen", "encoded", "skipped")] == [10, 4, 6]
    log.add(stats(25, 0, 9, 2, two), stats(10, 0, 4, 1, one))
    back.load_state_dict(log.state_dict())
    assert back.gate == log.gate == two
    back.add(stats(10, 0, 4, 1, one), NONE)  # another session begins at 0
    line = back.next_line()
    assert [line[f"gate/{name}"] for name in ("seen", "encoded", "skipped")] == [25, 9, 16]
    assert back.gate == GateCounts(35, 13, 22, 5, 4, 1, 1.1, 0.4)


def test_counts_from_before_there_were_gates_come_back() -> None:
    log = FrameLog()
    log.add(stats(4, 1, 4, 1, black=1), NONE)
    state = {name: value for name, value in log.state_dict().items() if not name.startswith("gate")}
    log.load_state_dict(state)
    assert log.gate == NO_GATE
