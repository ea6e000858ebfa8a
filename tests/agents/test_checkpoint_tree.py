from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmreward.agents.checkpoint_tree import read_tree, write_tree
from vlmreward.errors import CheckpointError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(tree=PLAIN)
def test_plain_values_come_back_with_their_types(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tree")
    write_tree(tree, folder)
    back = read_tree(folder)
    assert back == tree
    assert repr(back) == repr(tree)  # 1, 1.0 and True are equal, and a list is not a tuple


def test_tensors_and_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    tied = torch.randn(3, 4)
    tree = {
        "tied": [tied, tied],
        "half": torch.randn(5).to(torch.bfloat16),
        "view": torch.arange(12).reshape(3, 4).T,
        "empty": torch.empty(0, 2),
        "scalar": torch.tensor(3.5),
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "bool": np.array([True, False]),
        "numpy scalar": np.float32(0.1),
        7: {"state": {0: {"step": torch.tensor(4.0)}}},
    }
    write_tree(tree, tmp_path)
    back = read_tree(tmp_path)
    assert all(torch.equal(t, tied) for t in back["tied"])
    for key in ("half", "view", "empty", "scalar"):
        assert back[key].dtype == tree[key].dtype
        assert torch.equal(back[key], tree[key])
    for key in ("array", "bool"):
        assert back[key].dtype == tree[key].dtype
        np.testing.assert_array_equal(back[key], tree[key])
    assert back["numpy scalar"] == float(np.float32(0.1))
    assert torch.equal(back[7]["state"][0]["step"], torch.tensor(4.0))


def test_infinite_numbers_survive(tmp_path: Path) -> None:
    write_tree({"x": float("inf"), "y": float("-inf")}, tmp_path)
    assert read_tree(tmp_path) == {"x": float("inf"), "y": float("-inf")}


def test_what_would_need_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object can't be saved"):
        write_tree({"x": object()}, tmp_path)
    with pytest.raises(TypeError, match="without pickle"):
        write_tree(np.array([object()]), tmp_path)
    with pytest.raises(TypeError, match="keys must be str or int"):
        write_tree({(1, 2): 3}, tmp_path)


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "arrays.npz"])
def test_damaged_file_is_a_checkpoint_error(tmp_path: Path, name: str) -> None:
    write_tree({"t": torch.ones(3), "a": np.ones(3)}, tmp_path)
    (tmp_path / name).write_bytes(b"not this")
    with pytest.raises(CheckpointError, match="can't be read"):
        read_tree(tmp_path)
