"""A parquet file written again with columns added or taken away; row groups and all other columns stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from vlmreward.atomic import storage_errors
from vlmreward.data.lerobot.parquet import opened, reading
from vlmreward.optional import require_package

OURS = b"vlmreward"
"""Key of the schema's metadata where columns of ours and their provenance stand, as JSON by name."""
_HF = b"huggingface"

Columns = Mapping[str, Any]
"""Columns by name; pyarrow arrays or types."""


def rewrite(
    root: Path,
    name: str,
    target: Path,
    drop: Set[str],
    add: Columns,
    values: Callable[[Any], Columns],
    metadata: Callable[[dict[bytes, bytes]], dict[bytes, bytes]],
) -> None:
    """Write a parquet file of a dataset again, row group by row group, of which one is held at a time.

    Args:
        root: The dataset's folder.
        name: The file, relative to it.
        target: Where the new file goes.
        drop: Columns to leave out.
        add: Types of the columns to add, by name.
        values: Gives the columns to add for a table of rows.
        metadata: Gives the schema's metadata from what it was.

    Raises:
        DatasetError: The file is missing or damaged.
        StorageError: The disk is full.
    """
    pa = require_package("pyarrow", "data")
    parquet = require_package("pyarrow.parquet", "data")
    with opened(root, name) as file:
        old = file.schema_arrow
        kept = [field for field in old if field.name not in drop]
        added = [pa.field(column, kind) for column, kind in add.items()]
        schema = pa.schema([*kept, *added], metadata=metadata(dict(old.metadata or {})) or None)
        with storage_errors(target), parquet.ParquetWriter(target, schema, **_options(file, list(add))) as writer:
            for group in range(file.metadata.num_row_groups):
                with reading(name):
                    table = file.read_row_group(group)
                new = values(table) if add else {}
                arrays = [table[field.name] for field in kept] + [new[column] for column in add]
                rows = pa.Table.from_arrays(arrays, schema=schema)
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))


def describe(
    metadata: dict[bytes, bytes], name: str, columns: Mapping[str, str], told: Mapping[str, Any]
) -> dict[bytes, bytes]:
    """Return metadata that tells of columns of ours.

    Args:
        metadata: What it was.
        name: The name of the labels.
        columns: dtype of each column, by name.
        told: What is kept of them: provenance, filler.
    """
    ours = read_ours(metadata) | {name: {"columns": list(columns), **told}}
    described = metadata | {OURS: json.dumps(ours, ensure_ascii=False, sort_keys=True).encode()}
    return _with_hf(described, lambda f: f | {c: {"dtype": kind, "_type": "Value"} for c, kind in columns.items()})


def forget(metadata: dict[bytes, bytes], name: str) -> dict[bytes, bytes]:
    """Return metadata without columns of ours."""
    ours = read_ours(metadata)
    columns = set(ours.pop(name, {}).get("columns", ()))
    rest = {key: value for key, value in metadata.items() if key != OURS}
    if ours:
        rest[OURS] = json.dumps(ours, ensure_ascii=False, sort_keys=True).encode()
    return _with_hf(rest, lambda features: {c: f for c, f in features.items() if c not in columns})


def read_ours(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return what a file's metadata tells of columns of ours, by name of the labels."""
    try:
        found = json.loads((metadata or {}).get(OURS, b"{}"))
    except (ValueError, RecursionError):
        return {}  # not written by us
    return found if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()) else {}


def _with_hf(metadata: dict[bytes, bytes], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[bytes, bytes]:
    """Change the features that Hugging Face datasets reads from a file, where it has them."""
    try:
        described = json.loads(metadata.get(_HF, b"null"))
        features = described["info"]["features"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return metadata  # there are none, or none that datasets could read either
    described["info"]["features"] = change(features)
    return metadata | {_HF: json.dumps(described).encode()}


def _options(file: Any, new: Sequence[str]) -> dict[str, Any]:
    """Return how the columns of a file were compressed and encoded, for a writer that does it again."""
    if not file.metadata.num_row_groups:
        return {"compression": "snappy"}
    group = file.metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    codecs = {c.path_in_schema: "NONE" if c.compression == "UNCOMPRESSED" else c.compression for c in columns}
    dictionaries = [c.path_in_schema for c in columns if any("DICTIONARY" in e for e in c.encodings)]
    return {
        "compression": codecs | dict.fromkeys(new, "SNAPPY"),
        "use_dictionary": [*dictionaries, *new],
        "write_statistics": True,
    }
