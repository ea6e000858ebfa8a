"""Nested state (dicts, lists, tensors, arrays, numbers) as JSON + safetensors + npz; nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from vlmreward.errors import CheckpointError

SKELETON, TENSORS, ARRAYS = "state.json", "tensors.safetensors", "arrays.npz"


def write_tree(tree: Any, folder: Path) -> list[str]:
    """Write nested state into a folder.

    Args:
        tree: Dicts (keys: str or int), lists, tuples, torch tensors, NumPy arrays, numbers, strings, None.
        folder: An existing folder.

    Returns:
        Names of the files written.

    Raises:
        TypeError: The tree holds something else.
    """
    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, np.ndarray] = {}
    skeleton = _encode(tree, tensors, arrays)
    (folder / SKELETON).write_text(json.dumps(skeleton), encoding="utf-8")
    safetensors.torch.save_file(tensors, folder / TENSORS)
    with (folder / ARRAYS).open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of the arrays
    return [SKELETON, TENSORS, ARRAYS]


def read_tree(folder: Path) -> Any:
    """Read what ``write_tree`` wrote; tensors come back on the CPU.

    Raises:
        CheckpointError: A file is missing or is not what it should be.
    """
    try:
        skeleton = json.loads((folder / SKELETON).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / TENSORS)
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _decode(skeleton, tensors, arrays)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as e:
        raise CheckpointError(f"checkpoint {folder} can't be read ({' '.join(str(e).split())})") from e


def _encode(value: Any, tensors: dict[str, torch.Tensor], arrays: dict[str, np.ndarray]) -> Any:
    """Return JSON for a value; each node is ``[kind, content]``."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return ["value", value]
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        # a copy: safetensors refuses tensors that share memory, as tied parameters do
        tensors[name] = value.detach().cpu().contiguous().clone()
        return ["tensor", name]
    if isinstance(value, np.generic):
        return ["value", value.item()]
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of Python objects can't be saved without pickle")
        name = f"a{len(arrays)}"
        arrays[name] = value
        return ["array", name]
    if isinstance(value, dict):
        if not all(isinstance(key, (str, int)) for key in value):
            raise TypeError(f"keys must be str or int, got {sorted({type(k).__name__ for k in value})}")
        return ["dict", [[key, _encode(child, tensors, arrays)] for key, child in value.items()]]
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return [kind, [_encode(child, tensors, arrays) for child in value]]
    raise TypeError(f"{type(value).__name__} can't be saved: give numbers, strings, arrays, tensors, dicts or lists")


def _decode(node: Any, tensors: dict[str, torch.Tensor], arrays: dict[str, np.ndarray]) -> Any:
    kind, content = node
    if kind == "value":
        return content
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {key: _decode(child, tensors, arrays) for key, child in content}
    if kind in ("list", "tuple"):
        children = [_decode(child, tensors, arrays) for child in content]
        return tuple(children) if kind == "tuple" else children
    raise ValueError(f"unknown kind of node {kind!r}")
