"""The embedded encoder ``mini``: a small open_clip model that ships with the package.

Trained by ``vlmreward pretrain-mini`` on captioned pictures of this project's own environments (docs/mini.md), so
it knows those and nothing else: a text far from them gives a warning that names an encoder for the open world.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAME = "vlmreward-mini"
VERSION = "mini-1"
CONTEXT_LENGTH = 32
MERGES = 6000  # of CLIP's 48,894: the tokens of rare words are most of a CLIP text tower

CONFIG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 24, "patch_size": None, "head_width": 64},
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 512 + MERGES + 2,
        "width": 256,
        "heads": 4,
        "layers": 3,
    },
}


def data_folder() -> Path:
    """Return the folder of the packaged weights."""
    with as_file(files("vlmreward.encoders") / "mini_weights") as folder:
        return Path(folder)


def write_merges(path: Path) -> None:
    """Write the first ``MERGES`` merges of CLIP's byte-pair vocabulary, which open_clip ships, to a file."""
    from open_clip.tokenizer import default_bpe

    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode("utf-8").split("\n")
    text = "\n".join(lines[: 1 + MERGES])
    # mtime=0: the same merges give the same bytes
    path.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


@lru_cache(maxsize=1)
def make_tokenizer() -> Any:
    """Return CLIP's tokenizer cut to the first ``MERGES`` merges; rare words fall into more pieces."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(data_folder() / "bpe.txt.gz"), context_length=CONTEXT_LENGTH)


def build_model() -> Any:
    """Return the open_clip model with fresh weights, built through open_clip's own factory."""
    import open_clip

    if NAME not in open_clip.list_models():
        open_clip.add_model_config(data_folder() / f"{NAME}.json")
    return open_clip.create_model(NAME, pretrained=None, load_weights=False)


def write_config(folder: Path) -> None:
    """Write the model's open_clip config and vocabulary into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    write_merges(folder / "bpe.txt.gz")
