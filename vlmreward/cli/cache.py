"""``vlmreward cache``: how much the stored embeddings take up, and fewer of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words
from vlmreward.cli.listing import format_table
from vlmreward.cli.values import flag, number
from vlmreward.encoders.pruning import StoreReport, choose, list_stores, prune
from vlmreward.encoders.store_folder import META, StoreMeta
from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest

DAY = 24 * 60 * 60.0


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments(argv)
    refuse_words("cache", arguments)
    options = _check(compose("cache", arguments))
    if "cfg" in arguments.flags:
        import yaml

        print(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), end="")
        return 0
    cache = _folder(options["path"])
    stores = _of_encoder(list_stores(cache), options["id"], cache)
    if options["all"] or options["older_than"] is not None or options["max_size"] is not None:
        _prune(stores, options)
        stores = list_stores(cache)
    for line in _table(stores) if stores else [f"{cache} holds no embeddings"]:
        print(line)
    return 0


def _check(options: dict[str, Any]) -> dict[str, Any]:
    flag("all", options["all"])
    for key in ("older_than", "max_size"):
        if options[key] is not None:
            number(key, options[key], 0)
    return {**options, "id": None if options["id"] is None else str(options["id"])}


def _folder(path: str | None) -> Path:
    """Return the folder of all stores.

    Raises:
        ConfigError: There is none, or it holds something else.
    """
    if path is None:
        raise ConfigError("path is not given: write path=<folder>, the one that was given as cache=<folder>")
    cache = Path(path)
    if not cache.is_dir():
        raise ConfigError(f"path={path} is not a folder: give the one that was given as cache=<folder>")
    if (cache / META).exists():
        raise ConfigError(f"path={path} is the store of one encoder: write path={cache.parent} id=<encoder id>")
    try:
        foreign = not list(cache.glob(f"*/{META}")) and any(cache.iterdir())
    except OSError as e:
        raise ConfigError(f"path={path} can't be read ({e.strerror}): give a folder of your own") from e
    if foreign:
        raise ConfigError(f"path={path} holds no embeddings: give the folder that was given as cache=<folder>")
    return cache


def _of_encoder(stores: list[StoreReport], start: str | None, cache: Path) -> list[StoreReport]:
    if start is None or not stores:
        return stores
    found = [store for store in stores if store.encoder.startswith(start)]
    if not found:
        known = suggest(start, {store.encoder for store in stores})
        raise UnknownNameError(f"no embeddings of encoder {start!r} in {cache}: {known}")
    return found


def _prune(stores: Sequence[StoreReport], options: dict[str, Any]) -> None:
    """Remove what the options name, and say what was removed and what had to stay."""
    known = [store for store in stores if store.meta]
    if options["all"]:
        if options["id"] is not None:  # named, and therefore meant
            known = list(stores)
        chosen = {store.folder.path: {segment.name for segment in store.segments} for store in stores}
    else:
        before = None if options["older_than"] is None else time.time() - DAY * options["older_than"]
        most = None if options["max_size"] is None else 1e9 * options["max_size"]
        chosen = choose(stores, before, most)
    removed = 0
    for store in known:
        names = chosen.get(store.folder.path, set())
        kept = prune(store, names)
        removed += sum(segment.size for segment in store.segments if segment.name in names and segment.name not in kept)
        if kept:
            print(f"kept {store.encoder}'s newest segment: a running process has it open")
    for store in stores:
        if store not in known:
            print(f"kept {store.encoder}: it is damaged or of another version; remove it with id=<its name> all=true")
    print(f"removed {_size(removed)}")


def _table(stores: Sequence[StoreReport]) -> Iterator[str]:
    head = ("encoder", "precision", "runtime", "stored as", "dim", "frames", "size", "last written", "in use")
    rows = [
        (
            store.encoder,
            *(_form(store.meta) if store.meta else ("unknown",) * 4),
            "-" if store.frames is None else f"{store.frames:,}",
            _size(store.size),
            "-" if store.written is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(store.written)),
            "yes" if store.in_use else "no",
        )
        for store in stores
    ]
    total = sum(store.frames or 0 for store in stores), sum(store.size for store in stores)
    yield from format_table(head, [*rows, ("all", "", "", "", "", f"{total[0]:,}", _size(total[1]), "", "")])


def _form(meta: StoreMeta) -> tuple[str, ...]:
    return meta.precision or "-", meta.runtime or "-", meta.dtype, str(meta.dim)


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
