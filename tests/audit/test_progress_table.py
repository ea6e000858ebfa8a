"""The table against numbers worked out by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vlmreward.audit.progress_metrics import voc
from vlmreward.audit.progress_readings import Film, Reading, baselines
from vlmreward.audit.progress_report import render_progress, table_lines, write_progress_report
from vlmreward.audit.progress_table import METRICS, Confusion, measure

STEPS = np.arange(5)
RISE = np.linspace(0, 1, 5)


def film(number: int = 0, instruction: str = "lift", success: bool | None = True, **more: Any) -> Film:
    thumbs = np.arange(5, dtype=np.float32)[:, None]
    return Film(number, instruction, success, np.empty((0, 4, 4, 3), np.uint8), STEPS, thumbs, **more)


def reading(forward: Any = RISE, backward: Any = RISE[::-1], bounded: bool = True, **more: Any) -> Reading:
    forward = np.asarray(forward, np.float64)
    ends = more.pop("ends", {"lift": float(forward[-1])})
    return Reading(forward, np.asarray(backward, np.float64), STEPS[1:], forward[1:], bounded, ends=ends, **more)


def value(metric: str, *pairs: tuple[Film, Reading]) -> float:
    return METRICS[metric].measure(list(pairs))(np.arange(len(pairs)))


DOWN = reading([1.0, 0.75, 0.5, 0.25, 0.0])
FLAT = reading([0.5] * 5, [0.5] * 5)
FAILED = film(success=False)


def test_time_order_is_that_of_demonstrations_and_failures_stand_apart():
    pairs = (film(), reading()), (film(1, success=None), reading([0.0, 0.25, 0.5, 1.0, 0.75])), (FAILED, DOWN)
    assert value("voc", *pairs) == pytest.approx((1 + 0.9) / 2)
    assert value("voc_prefix", *pairs) == pytest.approx((1 + 0.8) / 2)
    assert value("voc_gap", *pairs) == pytest.approx(0.95 + 1)
    assert value("negative_rate", *pairs) == pytest.approx((0 + 0.25) / 2)
    assert value("negative_rate_failures", *pairs) == 1
    assert value("success_auroc", *pairs) == 1  # one success at 1, one failure at 0; the third is not known


def test_both_directions():
    assert value("vroc", (film(), reading())) == 1
    assert value("voc_f1", (film(), reading())) == 1
    assert value("vroc", (film(), reading(backward=RISE))) == -1
    assert value("voc_f1", (film(), reading(backward=RISE))) == 0


def test_a_constant_is_undefined_and_counted():
    pairs = (film(), FLAT), (film(1), reading())
    assert value("voc", *pairs) == 1  # of the one where there is any
    assert value("undefined", *pairs) == 0.5
    assert np.isnan(value("voc", pairs[0]))
    assert value("ties", pairs[0]) == 1
    assert np.isnan(value("sign_accuracy", pairs[0]))
    assert np.isnan(value("voc_gap", pairs[1]))  # no failure


def test_signs_are_those_of_true_progress_where_it_is_known():
    truth = np.array([0.0, 0.5, 0.5, 0.25, 0.26])  # the second step and the last move by less than the margin
    shown = reading([0.0, 0.1, 0.9, 1.0, 0.0])
    assert value("sign_accuracy", (film(progress=truth), shown)) == pytest.approx(1 / 2)
    assert value("sign_accuracy", (film(), shown)) == pytest.approx(3 / 4)  # else time
    assert np.isnan(value("sign_accuracy", (FAILED, shown)))  # in failures time is no truth
    assert value("spearman_true", (film(progress=RISE), reading())) == pytest.approx(1)
    assert value("error_true", (film(progress=RISE), reading(RISE / 2))) == pytest.approx(0.25)
    assert np.isnan(value("error_true", (film(progress=RISE * 9), reading())))


def test_classes_are_those_of_true_progress_or_of_the_recorded_outcome():
    good, half = reading([0.0, 0.5, 0.7, 0.9, 0.9]), reading([0.0, 0.5, 0.6, 0.6, 0.6])
    assert value("outcome_accuracy", (film(), good)) == 1
    assert value("outcome_accuracy", (FAILED, good)) == 0
    assert value("outcome_accuracy", (FAILED, half)) == 1  # no success, as recorded
    partial = film(progress=np.array([0.0, 0.5, 0.5, 0.5, 0.6]))
    assert value("outcome_accuracy", (partial, half)) == 1
    assert value("outcome_accuracy", (partial, reading(RISE / 9))) == 0
    cosine = reading(good.forward, bounded=False)
    assert np.isnan(value("outcome_accuracy", (film(), cosine)))
    assert np.isnan(value("outcome_accuracy", (film(success=None), good)))


def test_probabilities_are_held_against_frames_or_the_outcome():
    done = np.array([0.0, 0.0, 0.5, 1.0, 0.5])
    truth = film(done=np.array([0.0, 0.0, 0.0, 1.0, 1.0]))
    assert value("brier", (truth, reading(done=done))) == pytest.approx(0.5 / 5)
    assert value("calibration_error", (truth, reading(done=done))) == pytest.approx(0)
    assert value("brier", (FAILED, reading(done=done))) == pytest.approx(0.25)
    assert value("calibration_error", (FAILED, reading(done=done))) == pytest.approx(0.5)
    assert np.isnan(value("brier", (FAILED, reading())))
    assert np.isnan(value("calibration_error", (film(success=None), reading(done=done))))


def test_instructions_by_videos():
    lift, drop = film(instruction="lift"), film(1, instruction="drop")
    pairs = [
        (lift, reading(ends={"lift": 0.9, "drop": 0.2})),
        (film(2), reading(ends={"lift": 0.7, "drop": float("nan")})),
        (drop, reading(ends={"drop": 0.6, "lift": 0.4})),
        (film(3, success=False), reading(ends={"lift": 0.0, "drop": 0.0})),
    ]
    confusion = Confusion(pairs)
    assert confusion.texts == ["lift", "drop"]
    table = confusion.table(np.arange(4))
    np.testing.assert_allclose(table, [[0.8, 0.4], [0.2, 0.6]])
    assert value("confusion_gap", *pairs) == pytest.approx(0.7 - 0.3)
    assert value("instruction_gap", *pairs) == pytest.approx((0.7 + 0.2) / 2)
    assert value("end_of_others", *pairs) == pytest.approx((0.2 + 0.4 + 0.0) / 3)
    assert np.isnan(value("confusion_gap", *pairs[:2]))  # one instruction is no matrix
    assert np.isnan(METRICS["confusion_gap"].measure(pairs)(np.array([0, 0, 1])))  # nor is one that was not drawn


def test_wordings_and_position_bias():
    assert value("paraphrase_spread", (film(), reading(reworded=[0.5]))) == pytest.approx(0.25)
    assert np.isnan(value("paraphrase_spread", (film(), reading())))
    assert value("antisymmetry", (film(), reading(residual=np.array([0.2, -0.4])))) == pytest.approx(0.3)
    assert np.isnan(value("antisymmetry", (film(), reading())))


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    films = [film(n, success=n % 3 > 0) for n in range(12)]
    rows = {"mine": [reading(RISE + rng.normal(0, 0.3, 5)) for _ in films]}
    for one in films:
        for name, row in baselines(one, 4, 0).items():
            rows.setdefault(name, []).append(row)
    return films, rows, measure(films, rows, replicates=200, seed=3)


def test_intervals_draw_episodes_and_the_baselines_are_what_they_must_be(measured):
    films, rows, table = measured
    each = np.array([voc(r.forward) for f, r in zip(films, rows["mine"], strict=True) if f.success])
    figure = table["mine"]["voc"]
    assert figure.value == pytest.approx(each.mean())
    assert figure.low < figure.value < figure.high
    assert (figure.high - figure.low) / 3.92 == pytest.approx(each.std() / np.sqrt(len(each)), rel=0.35)
    time, constant = table["baseline: time index"], table["baseline: constant"]
    assert [time[key].value for key in ("voc", "vroc", "voc_f1", "success_auroc", "voc_gap")] == [1, -1, 0, 0.5, 0]
    assert np.isnan(constant["voc"].value)
    assert constant["undefined"].value == 1
    again = measure(films, rows, replicates=200, seed=3)
    assert again["mine"]["voc"] == figure


def test_an_interval_is_not_given_where_too_many_draws_have_no_value():
    films = [film(n, success=n > 0) for n in range(6)]
    figure = measure(films, {"a": [reading()] * 6}, replicates=200, seed=0)["a"]["success_auroc"]
    assert figure.value == 0.5
    assert np.isnan(figure.low)  # a third of the draws hold no failure


def test_the_report_says_nothing_where_nothing_is_known_and_escapes_what_it_quotes(measured, tmp_path):
    films, rows, table = measured
    hostile = "<script>alert(1)</script>"
    films = [film(n, instruction=hostile if n % 2 else "lift") for n in range(12)]
    counts = {"episodes": 12, "of": 12, "frames": 60, "successes": 8, "failures": 4, "unknown": 0}
    about: dict[str, Any] = {
        "title": "t",
        "subject": "s",
        "instructions": ["lift", hostile],
        "films": counts,
        "truth": None,
    }
    about["versions"] = {"vlmreward": "0"}
    rows["mine"][0] = reading(reasons={"lost": 2})
    json_path, html_path = write_progress_report(tmp_path, about, films, rows, table)
    written = json.loads(json_path.read_text())
    by_name = {row["name"]: row for row in written["rows"]}
    assert by_name["baseline: constant"]["metrics"]["voc"] == {"value": None, "low": None, "high": None}
    assert by_name["mine"]["metrics"]["voc"]["value"] == pytest.approx(table["mine"]["voc"].value, abs=1e-6)
    assert by_name["mine"]["reasons"] == {"lost": 2}
    assert by_name["mine"]["confusion"]["texts"] == ["lift", hostile]
    page = html_path.read_text()
    assert hostile not in page
    assert "mine: 2 frames have no value: lost" in page
    assert render_progress(about, written["rows"], table) == page


def test_lines_for_the_terminal(measured):
    *_, table = measured
    lines = table_lines(table)
    assert lines[0] == "[1] mine"
    (row,) = [line for line in lines if line.startswith("VOC ") and "rank correlation" in line]
    assert row.split()[1:6] == [f"{table['mine']['voc'].value:.2f}", "1.00", "-", *row.split()[4:6]]
    assert not any(line.startswith("Brier") for line in lines)  # nobody has a probability
