import json

import numpy as np
import pytest

from vlmreward.audit.bootstrap import Estimate, draw_counts, estimate, select_metrics
from vlmreward.audit.sample import make_sample
from vlmreward.audit.table import make_table
from vlmreward.errors import ConfigError, UnknownNameError


@pytest.fixture(scope="module")
def table():
    progress = np.random.default_rng(0).random(60)
    scores = np.stack([np.ones(60), progress, -progress, progress + np.sin(9 * progress)], axis=1)
    scores[:4, 3] = np.nan
    sample = make_sample(scores, progress=progress, group=np.repeat(np.arange(12), 5))
    found = estimate(sample, select_metrics(sample), draw_counts(12, 100))
    return make_table(["constant", "right", "wrong", "odd"], sample, found)


def test_best_comes_first_and_undefined_last(table):
    assert table.best_first("spearman_progress").tolist() == [1, 3, 2, 0]
    assert table.best_first("epic_progress").tolist() == [1, 3, 2, 0]  # a distance: smaller is better
    assert table.best_first("pairwise_accuracy").tolist() == [1, 3, 0, 2]  # a constant is chance here, and known
    with pytest.raises(UnknownNameError, match="the table has no metric 'auroc': choose from epic_progress"):
        table.best_first("auroc")
    with pytest.raises(ConfigError, match="between_share is neither better high nor low"):
        table.best_first("between_share")


def test_json_is_plain_and_says_why_a_number_is_missing(table):
    text = json.dumps(table.to_json(), allow_nan=False)
    result = json.loads(text)
    assert result["groups"] == 12
    assert result["replicates"] == 100
    assert [row["name"] for row in result["sweeps"]] == ["constant", "right", "wrong", "odd"]
    assert [row["frames"] for row in result["sweeps"]] == [60, 60, 60, 56]
    constant, right = (row["metrics"]["spearman_progress"] for row in result["sweeps"][:2])
    assert constant == {"value": None, "low": None, "high": None}
    assert right["value"] == pytest.approx(1)
    assert right["low"] <= right["value"] <= right["high"] + 1e-12
    assert result["undefined"]["spearman_progress"] == "score or label is constant"
    assert "pairwise_accuracy" not in result["undefined"]


def test_numbers_of_sweeps_must_agree():
    sample = make_sample(np.ones((3, 2)))
    with pytest.raises(ConfigError, match="the sample has 2 sweeps but there are 1 names"):
        make_table(["a"], sample, {})
    with pytest.raises(ConfigError, match="the sample has 2 sweeps but x has 3"):
        make_table(["a", "b"], sample, {"x": Estimate(np.ones(3), np.ones((0, 3)), "higher", "")})
    assert make_table(["a", "b"], sample, {}).to_json()["replicates"] == 0
