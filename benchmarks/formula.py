"""Does the reward equal VLM-RM's formula? Ours against a second, plain implementation on the same weights.

The second implementation uses PIL and open_clip's own transform, one picture at a time; open_clip's model in float32;
and the formula as the paper has it, with its D x D projection, in float64.

    python benchmarks/formula.py                       # mini and a ViT-B-32 with random weights
    python benchmarks/formula.py --encoder mini

Two claims: on the same pixels, rewards equal the reference to 1e-5 with a float32 encoder; and with bfloat16 weights
they order the frames as the reference does, Spearman >= 0.999. Random weights serve to compare arithmetic and for
nothing else: they give all pictures nearly one embedding, so that a rank correlation has little to work with (the
spread of the rewards is printed beside it). Pictures at 480 px are resized by either side in its own way, which is not
part of the formula; they are in the table and not in the first claim.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata

from vlmreward.encoders import make_encoder
from vlmreward.encoders.mini import CONTEXT_LENGTH, NAME, PREPROCESS, WEIGHTS, data_folder
from vlmreward.envs.classic.pictures import sample_cartpole, sample_mountaincar
from vlmreward.errors import WeightsError
from vlmreward.rewards import make_reward
from vlmreward.types import Encoder, FrameBatch, Frames

GOAL, BASELINE = "pole vertically upright on top of the cart", "pole and cart"
ALPHAS = (0.0, 0.5, 1.0)
MAX_DIFFERENCE, MIN_SPEARMAN = 1e-5, 0.999
RANDOM, MINI = "vit-b-32-random", "mini"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        encoder: ``mini`` or ``vit-b-32-random``.
        precision: Number format of our image tower; the reference is always float32.
        pictures: What the frames show and at which size; ``own`` is the encoder's, where nothing is resized.
        alpha: Of the reward.
        frames: Number of frames.
        spread: Largest minus smallest reference reward.
        max_difference: Largest absolute difference between ours and the reference.
        spearman: Rank correlation between the two.
    """

    encoder: str
    precision: str
    pictures: str
    alpha: float
    frames: int
    spread: float
    max_difference: float
    spearman: float


class Reference:
    """VLM-RM as its paper has it, on a model of open_clip.

    Args:
        model: With float32 weights.
        tokenizer: Texts to tokens.
        transform: One PIL picture to the model's input, shape (3, S, S).
    """

    def __init__(self, model: Any, tokenizer: Callable[..., torch.Tensor], transform: Callable[..., Any]) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.transform = transform

    @torch.inference_mode()
    def images(self, frames: Frames) -> np.ndarray:
        """Return unit embeddings of frames, float64, shape (N, D)."""
        rows = [self.model.encode_image(self.transform(Image.fromarray(frame))[None]) for frame in frames]
        return _unit(torch.cat(rows).double().numpy())

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> np.ndarray:
        """Return unit embeddings of texts, float64, shape (M, D)."""
        return _unit(self.model.encode_text(self.tokenizer(texts)).double().numpy())

    def rewards(self, x: np.ndarray, goal: str, baseline: str, alpha: float) -> np.ndarray:
        """Return the rewards of unit embeddings, shape (N, D), through the whole projection matrix."""
        g, b = self.texts([goal])[0], self.texts([baseline])[0]
        direction = g - b
        line = np.outer(direction, direction) / (direction @ direction)
        projection = alpha * line + (1 - alpha) * np.eye(len(g))
        return 1 - 0.5 * np.square((x - g) @ projection).sum(axis=1)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def vit_b_32_random(folder: Path) -> tuple[Reference, Callable[[str], Encoder]]:
    """Return the reference with random weights, and a function from a precision to our encoder on the same ones."""
    torch.manual_seed(0)
    model, _, transform = cast(Any, open_clip.create_model_and_transforms("ViT-B-32", pretrained=None))
    file = folder / "vit-b-32-random.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)

    def ours(precision: str) -> Encoder:
        # "like": the preprocessing that a bare ViT-B-32 has in open_clip
        return make_encoder(
            "open_clip", "cpu", model="ViT-B-32", pretrained=str(file), like="laion2b_s34b_b79k", precision=precision
        )

    return Reference(model, open_clip.get_tokenizer("ViT-B-32"), transform), ours


def mini(weights: Path | None) -> tuple[Reference, Callable[[str], Encoder]]:
    """Return the reference on a weights file (None: the packaged one), and a function from a precision to ours."""
    file = weights or data_folder() / WEIGHTS
    if not file.is_file():
        raise WeightsError(f"no weights file {file.name}: make it with vlmreward pretrain-mini")
    open_clip.add_model_config(data_folder() / f"{NAME}.json")
    model = open_clip.create_model(NAME, pretrained=None, load_weights=False)
    state = {name: value.float() for name, value in load_file(file).items() if not name.startswith("domain.")}
    model.load_state_dict(state)
    transform = open_clip.image_transform(
        PREPROCESS.size, False, PREPROCESS.mean, PREPROCESS.std, PREPROCESS.resize_mode, PREPROCESS.interpolation
    )
    merges = str(data_folder() / "bpe.txt.gz")
    tokenizer = open_clip.SimpleTokenizer(bpe_path=merges, context_length=CONTEXT_LENGTH)
    return Reference(model, tokenizer, transform), lambda p: make_encoder(MINI, "cpu", precision=p, weights=file)


def make_pictures(n: int, own_size: int) -> dict[str, Frames]:
    """Return sets of frames by name: the cart-pole as its environment shows it, and varied looks, each at two sizes."""
    sets = {}
    for label, size in (("own", own_size), ("480", 480)):
        rng = np.random.default_rng(0)
        sets[f"cartpole {label}"] = np.stack([sample_cartpole(rng, size, size, False)[0] for _ in range(n)])
        rng = np.random.default_rng(1)
        draw = (sample_cartpole, sample_mountaincar)
        sets[f"varied {label}"] = np.stack([draw[i % 2](rng, size, size, True)[0] for i in range(n)])
    return sets


def compare(name: str, n: int, weights: Path | None) -> list[Row]:
    """Return every comparison of one encoder."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights and texts outside the domain: both known here
        reference, ours = vit_b_32_random(Path(folder)) if name == RANDOM else mini(weights)
        encoders = {precision: ours(precision) for precision in ("fp32", "bf16")}
        for pictures, frames in make_pictures(n, encoders["fp32"].image_size).items():
            expected_x = reference.images(frames)
            for precision, encoder in encoders.items():
                embeddings = encoder.encode_images(frames)
                batch = FrameBatch(episode=np.zeros(n, np.int64), step=np.arange(n), embeddings=embeddings)
                for alpha in ALPHAS:
                    expected = reference.rewards(expected_x, GOAL, BASELINE, alpha)
                    model = make_reward("clip", encoder, goal=GOAL, baseline=BASELINE, alpha=alpha)
                    scored = model.compute_reward(batch)
                    if not scored.valid.all():
                        raise RuntimeError(f"{(~scored.valid).sum()} frames could not be scored: {scored.reasons}")
                    rows.append(
                        Row(
                            name,
                            precision,
                            pictures,
                            alpha,
                            n,
                            float(np.ptp(expected)),
                            float(np.abs(scored.reward - expected).max()),
                            float(np.corrcoef(rankdata(scored.reward), rankdata(expected))[0, 1]),
                        )
                    )
    return rows


def verdicts(rows: list[Row]) -> dict[str, bool | None]:
    """Return whether each claim holds; None where it was not measured."""
    exact = [r.max_difference <= MAX_DIFFERENCE for r in rows if r.precision == "fp32" and r.pictures.endswith("own")]
    ranked = [r.spearman >= MIN_SPEARMAN for r in rows if r.precision == "bf16" and r.encoder == MINI]
    return {
        f"fp32, same pixels: difference <= {MAX_DIFFERENCE}": all(exact) if exact else None,
        f"bf16, mini: Spearman >= {MIN_SPEARMAN}": all(ranked) if ranked else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", choices=(MINI, RANDOM), help="repeat for several; default: both")
    parser.add_argument("--frames", type=int, default=64, help="frames of each kind (default 64)")
    parser.add_argument("--weights", type=Path, help="weights file of mini (default: the packaged one)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "formula.json")
    args = parser.parse_args()

    console = Console(width=120)
    rows: list[Row] = []
    not_measured: dict[str, str] = {}
    for name in args.encoder or (MINI, RANDOM):
        try:
            rows += compare(name, args.frames, args.weights)
        except WeightsError as e:
            not_measured[name] = str(e)
            console.print(f"{name}: not measured: {e}")

    table = Table("encoder", "ours in", "pictures", "alpha", "reward spread", "max difference", "Spearman")
    for r in rows:
        values = (f"{r.alpha}", f"{r.spread:.2e}", f"{r.max_difference:.1e}", f"{r.spearman:.5f}")
        table.add_row(r.encoder, r.precision, r.pictures, *values)
    console.print(table)
    claims = verdicts(rows)
    for claim, holds in claims.items():
        console.print(f"{claim}: {'not measured' if holds is None else 'holds' if holds else 'DOES NOT HOLD'}")

    packages = ("vlmreward", "numpy", "torch", "open-clip-torch", "pillow")
    result = {
        "command": " ".join(["python benchmarks/formula.py", *sys.argv[1:]]),
        "versions": {p: version(p) for p in packages} | {"python": platform.python_version()},
        "machine": platform.machine(),
        "claims": claims,
        "not_measured": not_measured,
        "rows": [asdict(r) for r in rows],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(holds is not False for holds in claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
