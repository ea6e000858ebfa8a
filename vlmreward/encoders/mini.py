"""The embedded encoder ``mini``: a small open_clip model that ships with the package.

Trained by ``vlmreward pretrain-mini`` on captioned pictures of this project's own environments (docs/mini.md), so
it knows those and nothing else: a text far from them gives a warning that names an encoder for the open world.
"""

from __future__ import annotations

import gzip
import json
import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import Precision
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.encoders.runtime import Runtime
from vlmreward.errors import WeightsError
from vlmreward.types import FloatArray

NAME = "vlmreward-mini"
VERSION = "mini-3"
CONTEXT_LENGTH = 32
WEIGHTS = f"{VERSION}.safetensors"
DOMAIN_WEIGHT, DOMAIN_BIAS = "domain.weight", "domain.bias"
PREPROCESS = PreprocessConfig(size=(96, 96), interpolation="bilinear", resize_mode="squash")
TORCH_BATCH = 64  # frames at a time in PyTorch; the bits of checked-in results depend on it
MERGES = 6000  # of CLIP's 48,894: the tokens of rare words are most of a CLIP text tower

CONFIG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 64},
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
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip warns of random weights, which the caller is about to replace
    try:
        return open_clip.create_model(NAME, pretrained=None, load_weights=False)
    finally:
        logging.disable(quiet)


def write_config(folder: Path) -> None:
    """Write the model's open_clip config and vocabulary into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    write_merges(folder / "bpe.txt.gz")


def pooled_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return the text tower's features before its projection, shape (N, width).

    Equal to open_clip's own text path up to the projection, but columns behind the longest text are left out:
    attention is causal, so they can't be seen from the end-of-text token that is pooled.
    """
    length = int(tokens.argmax(dim=-1).max()) + 1
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)]


def fuse_batch_norms(model: torch.nn.Module) -> None:
    """Fold the batch norms of open_clip's ModifiedResNet into its convolutions, in place: the same function, faster."""
    for module in list(model.modules()):
        children = dict(module.named_children())
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)] + [("0", "1")]  # ("0", "1"): the shortcut's convolution
        for conv, norm in pairs:
            c, n = children.get(conv), children.get(norm)
            if isinstance(c, torch.nn.Conv2d) and isinstance(n, torch.nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(c, n))
                setattr(module, norm, torch.nn.Identity())


class MiniEncoder(ClipEncoder):
    """The embedded encoder as an Encoder.

    Args:
        device: As for ClipEncoder.
        precision: As for ClipEncoder.
        batch_size: As for ClipEncoder; None: 64 in PyTorch, in other runtimes what they are fastest with.
        runtime: As for ClipEncoder.
        weights: A weights file that ``vlmreward pretrain-mini`` wrote; None: the packaged one.

    Raises:
        WeightsError: The weights file is missing, unreadable or of another model.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
        runtime: Runtime = "auto",
        weights: str | Path | None = None,
    ) -> None:
        path = Path(weights) if weights else data_folder() / WEIGHTS
        state = _read_weights(path)
        domain = (state.pop(DOMAIN_WEIGHT).float().numpy(), float(state.pop(DOMAIN_BIAS)))
        model = build_model()
        try:
            model.load_state_dict({name: value.float() for name, value in state.items()})
        except RuntimeError as e:
            raise WeightsError(f"{path} does not hold a {NAME} model: give a file of vlmreward pretrain-mini") from e
        super().__init__(
            model.eval(),
            make_tokenizer(),
            PREPROCESS,
            name=VERSION,
            salt=NAME,
            device=device,
            precision=precision,
            batch_size=batch_size,
            licence="MIT",
            runtime=runtime,
            optimise=fuse_batch_norms,
        )
        if batch_size is None and self.runtime == "torch":
            for replica in self.replicas:
                replica.batch_size = TORCH_BATCH
        self._domain_weight, self._domain_bias = domain
        self._warned: set[str] = set()

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Encode prompts as ClipEncoder does; a prompt outside the encoder's domain gives one warning."""
        embeddings = super().encode_texts(texts)
        for text, score in zip(texts, self.domain_scores(texts), strict=True):
            if score < 0 and text not in self._warned:
                self._warned.add(text)
                warnings.warn(
                    "the embedded encoder knows only this project's cart-pole, mountain car, humanoid and tabletop; "
                    f"{text!r} is far from what it was trained on: its reward may mean nothing; use "
                    "encoder=siglip2 or another open_clip model for the open world",
                    stacklevel=2,
                )
        return embeddings

    @torch.inference_mode()
    def domain_scores(self, texts: Sequence[str]) -> np.ndarray:
        """Return how well the encoder can know each text, float, shape (M,); below 0: outside its domain."""
        features = pooled_features(self._model, make_tokenizer()(list(texts)).to(self._text_device))
        return features.float().cpu().numpy() @ self._domain_weight + self._domain_bias


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise WeightsError(f"no weights file {path}: reinstall the package, or make one with vlmreward pretrain-mini")
    try:
        with safe_open(path, framework="pt") as f:
            state = {name: f.get_tensor(name) for name in list(f.keys())}
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"the weights file {path} can't be read ({e}): reinstall the package") from e
    if DOMAIN_WEIGHT not in state or DOMAIN_BIAS not in state:
        raise WeightsError(f"{path} does not hold a {NAME} model: give a file of vlmreward pretrain-mini")
    return state
