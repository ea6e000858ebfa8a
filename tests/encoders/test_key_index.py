"""The hash table against a dict, with keys that are as unlike hashes as they can be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.encoders.key_index import KeyIndex

MOST = 2**64 - 1
# Few words, most of them with equal low bits (slots of the table are chosen by those): equal slots, equal halves.
WORDS = st.sampled_from([0, 1, 2, MOST, MOST - 1, *(k << 40 for k in range(1, 6)), *((k << 32) + 7 for k in range(5))])
KEYS = st.lists(st.tuples(WORDS, WORDS), max_size=30, unique=True)


def array(pairs):
    return np.array(pairs, np.uint64).reshape(-1, 2)


@settings(deadline=None, max_examples=50)
@given(st.lists(KEYS, max_size=6), KEYS)
def test_finds_what_a_dict_finds(inserts, asked):
    index, truth = KeyIndex(), {}
    for pairs in inserts:
        values = np.arange(len(pairs)) + 1000 * len(truth)
        index.insert(array(pairs), values)
        for pair, value in zip(pairs, values.tolist(), strict=True):
            truth.setdefault(pair, value)
        assert len(index) == len(truth)
    known = list(truth)
    for wanted in (asked, known, known[::-1] + asked + known):
        assert index.find(array(wanted)).tolist() == [truth.get(pair, -1) for pair in wanted]


@pytest.mark.parametrize("low_bits", [0, 14, 64], ids=["hashes", "14 random low bits", "one slot for all"])
def test_growth_keeps_every_key(low_bits):
    """More than one doubling, in batches around the sizes at which the arrays grow."""
    rng = np.random.default_rng(0)
    count = 9000 if low_bits < 64 else 1100
    keys = rng.integers(0, MOST, (count, 2), dtype=np.uint64)
    if low_bits == 64:
        keys[:, 0] = 5
    elif low_bits:
        keys[:, 0] = rng.permutation(2**20)[:count].astype(np.uint64) << np.uint64(44) | keys[:, 0] >> np.uint64(50)
    index, start = KeyIndex(), 0
    for size in [1, 1022, 1, 1, 1023, 1, 2048, 10**6]:
        part = keys[start : start + size]
        index.insert(part, np.arange(start, start + len(part)))
        start += len(part)
        assert len(index) == start
        np.testing.assert_array_equal(index.find(keys[:start]), np.arange(start))
        assert (index.find(keys[start:]) == -1).all()
    order = rng.permutation(count)
    np.testing.assert_array_equal(index.find(keys[order]), order)


def test_half_of_a_key_is_not_the_key():
    index = KeyIndex()
    index.insert(array([(1, 2), (3, 4)]), np.array([10, 20]))
    assert index.find(array([(1, 4), (3, 2), (2, 1), (1, 2)])).tolist() == [-1, -1, -1, 10]


def test_empty_index_knows_nothing():
    index = KeyIndex()
    assert index.find(array([(0, 0), (1, 1)])).tolist() == [-1, -1]
    assert index.find(array([])).tolist() == []
    index.insert(array([]), np.array([], np.int64))
    assert len(index) == 0
