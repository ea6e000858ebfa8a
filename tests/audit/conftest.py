import numpy as np
import pytest

from vlmreward.audit.draws import Draws
from vlmreward.audit.sample import make_sample


@pytest.fixture(scope="session")
def value():
    """Return a function that gives a metric's value, shape (S,), of scores and what ``make_sample`` takes."""

    def measure(metric, scores, *args, **known):
        sample = make_sample(scores, **known)
        return metric(Draws(sample, np.ones((1, sample.groups), dtype=np.int64)), *args)[0]

    return measure


@pytest.fixture(scope="session")
def replicates():
    """Return a function that gives a metric, shape (B, S), of a sample whose groups stand ``counts`` (B, G) times."""

    def measure(metric, counts, scores, *args, **known):
        return metric(Draws(make_sample(scores, **known), np.asarray(counts)), *args)

    return measure
