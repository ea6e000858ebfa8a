import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.data.filler import STEP, fill
from vlmreward.data.lerobot.stats import PictureStats, Whole, of_rows, to_lists


def test_rows_by_hand():
    found = to_lists(of_rows(np.array([1.0, 2.0, 3.0, 6.0])))
    assert (found["min"], found["max"], found["mean"], found["count"]) == ([1.0], [6.0], [3.0], [4])
    assert found["std"] == pytest.approx([np.sqrt((4 + 1 + 0 + 9) / 4)])
    assert found["q50"] == [2.5]
    assert to_lists(of_rows(np.array([True, False])))["mean"] == [0.5]


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
def test_whole_of_episodes_is_that_of_their_rows_together(episodes):
    whole = Whole()
    for values in episodes:
        whole.add(of_rows(np.array(values)))
    found, together = whole.stats(), np.concatenate([np.array(e) for e in episodes])
    assert found["min"][0] == together.min()
    assert found["max"][0] == together.max()
    assert found["count"][0] == len(together)
    assert found["mean"][0] == pytest.approx(together.mean(), abs=1e-9)
    assert found["std"][0] == pytest.approx(together.std(), abs=1e-3)
    weighted = sum(np.quantile(e, 0.9) * len(e) for e in episodes) / len(together)
    assert found["q90"][0] == pytest.approx(weighted, abs=1e-9)


def test_pictures_are_those_of_numpy():
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    stats = PictureStats()
    for frame in frames:
        stats.add(frame)
    found, pixels = stats.stats(), frames.reshape(-1, 3) / 255
    assert found["mean"].shape == (3, 1, 1)
    for name, value in (
        ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
        ("min", pixels.min(0)),
        ("max", pixels.max(0)),
    ):
        np.testing.assert_allclose(found[name].reshape(3), value, atol=1e-12)
    np.testing.assert_allclose(found["q10"].reshape(3), np.quantile(pixels, 0.1, axis=0), atol=1.01 / 255)
    assert found["count"].tolist() == [4]


def test_large_pictures_are_thinned():
    stats = PictureStats()
    stats.add(np.full((900, 600, 3), 51, np.uint8))
    assert stats.stats()["mean"].reshape(3) == pytest.approx([0.2] * 3)
    assert stats._counts.sum() == 3 * 225 * 150


@given(st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans()), min_size=1, max_size=30))
def test_fillers_touch_invalid_rows_alone_and_leave_no_nan(rows):
    valid = np.array([v for _, v in rows])
    values = np.where(valid, [x for x, _ in rows], np.nan).astype(np.float32)
    for filler in ("hold", "decrease", "drop"):
        found = fill(values, valid, filler, "reward")
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found[valid], values[valid])
    held, down = (fill(values, valid, filler, "reward") for filler in ("hold", "decrease"))
    assert down[-1] == held[-1]
    since = 0
    for t in range(len(rows) - 1):
        since = 0 if valid[t] else since + 1
        assert down[t] == pytest.approx(held[t] - STEP * since, abs=1e-5)
