"""What benchmarks/encoders.py compares: VLM-RM's loop, our encoder in every engine and format, matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from throughput_bench import Library, make_clip_encoder

import vlmreward.envs  # noqa: F401  (registers the environments)
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import cpu_flags, cpu_has_bf16
from vlmreward.encoders.int8 import VNNI, Int8Tower, fit_frames, quantise, with_int8
from vlmreward.encoders.int8_gate import Agreement, judge
from vlmreward.encoders.openvino_tower import import_openvino, openvino_core
from vlmreward.rewards import make_reward
from vlmreward.types import FloatArray, FrameBatch, Frames

ALPHA = 0.5
REFERENCE, TORCH, INT8 = "VLM-RM's loop (re-implemented)", "torch fp32", "openvino int8"
SIDE = 480


@dataclass(frozen=True)
class Scene:
    """Pictures, and the reward that they are scored by.

    Attributes:
        env_id: Whose pictures.
        start: Its argument for states from everywhere.
        goal: In words.
        baseline: In words.
    """

    env_id: str
    start: str
    goal: str
    baseline: str


HUMANOID = Scene("vlmreward/Humanoid-v0", "random", "a humanoid robot kneeling", "a humanoid robot")
CARTPOLE = Scene("vlmreward/CartPole-v0", "any", "pole vertically upright on top of the cart", "pole and cart")
PRODUCTS = ((1536, 1536, 1536), (800, 768, 3072), (800, 3072, 768))  # a square, and 16 pictures in ViT-B-32's MLP
NEEDS = {"fp32": "", "bf16": "avx512_bf16 or amx_bf16", "int8": " or ".join(sorted(VNNI))}

Rewards = Callable[[Frames], FloatArray]


def lacks(precision: str) -> str:
    """Return what this processor would need to multiply fast in a number format; empty where it has it."""
    able = {"fp32": True, "bf16": cpu_has_bf16(), "int8": bool(cpu_flags() & VNNI)}
    return "" if able[precision] else NEEDS[precision]


class VlmRm:
    """VLM-RM's loop: preprocessing, model and reward, a batch at a time in float32.

    Args:
        library: The model and its tokenizer.
        encoder: Ours, for the size and the normalisation of its pictures.
    """

    def __init__(self, library: Library, encoder: ClipEncoder) -> None:
        config = encoder.preprocess
        self.model, self.size = library.model, config.size
        self.mean, self.std = (torch.tensor(x).view(3, 1, 1) for x in (config.mean, config.std))
        self.goal, baseline = library.text(HUMANOID.goal), library.text(HUMANOID.baseline)
        line = self.goal - baseline
        self.projection = ALPHA * torch.outer(line, line) / (line @ line) + (1 - ALPHA) * torch.eye(len(line))

    def preprocess(self, frames: Frames) -> torch.Tensor:
        """Return pixels, float32, shape (N, 3, *size)."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True, align_corners=False)
        return (pixels - self.mean) / self.std

    @torch.no_grad()
    def __call__(self, frames: Frames) -> FloatArray:
        """Return rewards, shape (N,)."""
        x = F.normalize(self.model.encode_image(self.preprocess(frames)), dim=-1)
        return (1 - 0.5 * ((x - self.goal) @ self.projection).norm(dim=-1) ** 2).numpy()


@dataclass(frozen=True)
class Bench:
    """One encoder in all its ways.

    Attributes:
        encoders: Ours, by engine and number format; "torch fp32" first.
        ways: From frames to rewards: VLM-RM's loop, and each of ours as training does it.
        steps: From frames to the tower's input, in three ways.
        tower: Of "openvino int8", with the frames that it is judged by.
    """

    encoders: Mapping[str, ClipEncoder]
    ways: Mapping[str, Rewards]
    steps: Mapping[str, Callable[[Frames], Any]]
    tower: Int8Tower

    def fit(self, frames: Frames) -> Frames:
        """Return frames at the tower's own size, uint8."""
        return fit_frames(self.encoders[TORCH], frames)


def build(name: str, library: Library, frames: Frames) -> Bench:
    """Build an encoder in every way that runs here.

    Args:
        name: As for ``Library``.
        library: With the same weights.
        frames: Of the humanoid; a third of them calibrates int8.
    """
    reference = make_clip_encoder(name, "fp32")
    encoders = {TORCH: reference, "openvino fp32": make_clip_encoder(name, "fp32", "openvino")}
    if not lacks("bf16"):
        encoders |= {f"{runtime} bf16": make_clip_encoder(name, "bf16", runtime) for runtime in ("torch", "openvino")}
    tower = quantise(reference, frames, np.arange(len(frames)))
    encoders[INT8] = with_int8(reference, tower)
    score = make_score(reference, HUMANOID)

    def ours(encoder: ClipEncoder) -> Rewards:
        return lambda frames: score(encoder.encode_images(frames))

    loop, preprocess = VlmRm(library, reference), reference.replicas[0].preprocess
    return Bench(
        encoders,
        {REFERENCE: loop} | {way: ours(encoder) for way, encoder in encoders.items()},
        {
            "open_clip's, PIL picture by picture": lambda frames: [
                library.transform(Image.fromarray(frame)) for frame in frames
            ],
            "VLM-RM's, float32": loop.preprocess,
            "ours, uint8": lambda frames: preprocess(torch.from_numpy(frames)),
        },
        tower,
    )


def make_score(encoder: ClipEncoder, scene: Scene) -> Callable[[FloatArray], FloatArray]:
    """Return what turns embeddings of a scene's frames into rewards."""
    model = make_reward("clip", encoder, goal=scene.goal, baseline=scene.baseline, alpha=ALPHA)

    def score(embeddings: FloatArray) -> FloatArray:
        n = len(embeddings)
        return model.compute_reward(FrameBatch(np.zeros(n, np.int64), np.arange(n), embeddings=embeddings)).reward

    return score


def judge_int8(encoder: ClipEncoder, tower: Int8Tower, scene: Scene) -> Agreement:
    """Return how an encoder's int8 tower agrees with fp32 on frames of a scene that did not calibrate it."""
    embeddings = with_int8(encoder, tower).encode_images(tower.frames)
    return judge(tower.reference, embeddings, tower.judged, make_score(encoder, scene))


def render(scene: Scene, count: int) -> Frames:
    """Return pictures of random states, uint8, shape (count, SIDE, SIDE, 3)."""
    env = gym.make(scene.env_id, width=SIDE, height=SIDE, quality="fast", start=scene.start, render_mode="rgb_array")
    frames: list[Any] = []
    for seed in range(count):
        env.reset(seed=seed)
        frames.append(env.render())
    env.close()
    return np.stack(frames)


def count_operations(library: Library) -> float:
    """Return the floating-point operations of the image tower, one picture; only before a picture is rendered."""
    # its import loads Triton, which dies where one was rendered through EGL: not at the top, where --help would load it
    from torch.utils.flop_counter import FlopCounterMode

    height, width = np.broadcast_to(library.model.visual.image_size, 2).tolist()  # one number where it is a square
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        library.model.encode_image(torch.zeros(1, 3, height, width))
    torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())


def matrix_products() -> dict[str, list[tuple[float, Callable[[], Any]]]]:
    """Return, by number format, operations and calls of matrix products on one thread, by PyTorch and by OpenVINO."""
    ov, formats = import_openvino(), {"fp32": "f32", "int8": "f32"} | ({} if lacks("bf16") else {"bf16": "bf16"})
    found: dict[str, list[tuple[float, Callable[[], Any]]]] = {}
    for rows, inner, columns in PRODUCTS:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        operations = 2.0 * rows * inner * columns
        for fmt, hint in formats.items():
            settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": hint}
            compiled = openvino_core().compile_model(_product(ov, a, b, fmt), "CPU", settings)
            request, given = compiled.create_infer_request(), a.numpy()
            calls = [lambda request=request, given=given: request.infer([given], share_inputs=True)]
            if fmt != "int8":  # PyTorch has no product of whole numbers with a scale of its own
                x, y = (matrix.to(torch.float32 if fmt == "fp32" else torch.bfloat16) for matrix in (a, b))
                out = torch.empty(rows, columns, dtype=x.dtype)
                calls.append(lambda x=x, y=y, out=out: torch.mm(x, y, out=out))
            found.setdefault(fmt, []).extend((operations, call) for call in calls)
    return found


def _product(ov: Any, a: torch.Tensor, b: torch.Tensor, fmt: str) -> Any:
    op = ov.opset13
    given = op.parameter(list(a.shape), ov.Type.f32)
    factors = [given, op.constant(b.numpy())]
    if fmt == "int8":
        low, high = np.float32(-4), np.float32(4)
        levels = (256, 255)  # of activations, and of weights, which are symmetric
        factors = [op.fake_quantize(x, low, high, low, high, levels=n) for x, n in zip(factors, levels, strict=True)]
    return ov.Model([op.matmul(*factors, False, False)], [given], "product")
