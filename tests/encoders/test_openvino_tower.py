"""OpenVINO gives PyTorch's embeddings, in any number of streams, and leaves the process as it was."""

import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from importlib.util import find_spec
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from scipy.stats import spearmanr

from vlmreward.encoders import make_encoder, openvino_tower
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import cpu_has_bf16
from vlmreward.encoders.openvino_tower import OPENVINO_BATCH, OpenVinoReplica, export_tower
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.errors import ConfigError, ExportError, NonFiniteError

# importorskip would import OpenVINO before ours can keep its telemetry out: a process forked at every conversion
pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs pip install 'vlmreward[openvino]'")

GOAL = "pole vertically upright on top of the cart"
SQUASH = PreprocessConfig(size=(48, 48), resize_mode="squash")


def build(name="tiny-vit", config=SQUASH, runtime="openvino", model: Any = None, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = model or open_clip.create_model(name, load_weights=False).eval()
    known: dict[str, Any] = {"name": "tiny", "device": "cpu", "precision": "fp32", "runtime": runtime} | settings
    return ClipEncoder(model, None, config, **known)


@pytest.fixture(scope="module")
def both():
    """The embedded encoder in either engine."""
    return [make_encoder("mini", device="cpu", precision="fp32", runtime=name) for name in ("torch", "openvino")]


def test_rendered_frames_have_pytorchs_embeddings_and_rewards(both, cartpole_frames):
    reference, ours = (encoder.encode_images(cartpole_frames) for encoder in both)
    assert ours.dtype == np.float32
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(240), abs=1e-6)
    assert (reference * ours).sum(axis=1).min() >= 0.9999
    centred = [x - x.mean(axis=0) for x in (reference, ours)]
    lengths = [np.linalg.norm(x, axis=1) for x in centred]
    assert ((centred[0] * centred[1]).sum(axis=1) / (lengths[0] * lengths[1])).min() >= 0.9999
    goal = both[0].encode_texts([GOAL])[0]
    ranks: Any = spearmanr(reference @ goal, ours @ goal)
    assert ranks.statistic >= 0.9999
    assert both[0].id == both[1].id  # embeddings of the one may stand for those of the other
    assert np.array_equal(goal, both[1].encode_texts([GOAL])[0])


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet", "tiny-siglip"])
def test_every_kind_of_tower_has_pytorchs_embeddings(frames, name):
    described: Any = open_clip.get_model_config(name)
    size = described["vision_cfg"]["image_size"]
    config = PreprocessConfig(size=(size, size), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    pictures = frames(2 * OPENVINO_BATCH + 3)
    ours, reference = (build(name, config, runtime).encode_images(pictures) for runtime in ("openvino", "torch"))
    # OpenVINO's RMS norm, of which the tiny SigLIP's tower is made, is a little coarser than PyTorch's
    assert ours == pytest.approx(reference, abs=1e-3 if name == "tiny-siglip" else 1e-5)
    assert (ours * reference).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_pictures_of_any_size_are_fitted_as_for_pytorch(frames, mode):
    config = PreprocessConfig(size=(48, 48), resize_mode=mode, fill_color=90)
    ours, reference = (build(config=config, runtime=name) for name in ("openvino", "torch"))
    for height, width in ((48, 48), (60, 80), (480, 200), (20, 30)):
        pictures = frames(3, height, width)
        assert ours.encode_images(pictures) == pytest.approx(reference.encode_images(pictures), abs=1e-5)


@pytest.mark.parametrize("n", [1, 5, OPENVINO_BATCH, OPENVINO_BATCH + 1, 7 * OPENVINO_BATCH + 2])
def test_any_number_of_frames_is_encoded_in_order(both, cartpole_frames, n):
    reference, ours = (encoder.encode_images(cartpole_frames[:n]) for encoder in both)
    assert ours == pytest.approx(reference, abs=1e-5)


@pytest.fixture(scope="module")
def tiny():
    return build()


def test_frames_may_lie_in_memory_as_they_like(tiny, frames):
    ours = tiny
    pictures = frames(6, 48, 48)
    read_only = pictures.copy()
    read_only.flags.writeable = False
    expected = ours.encode_images(pictures)
    assert np.array_equal(ours.encode_images(read_only), expected)
    for view in (pictures[::2], pictures[::-1], pictures[:, :, ::-1], pictures[:, 8:40]):
        assert np.array_equal(ours.encode_images(view), ours.encode_images(view.copy()))


def test_torchs_threads_become_streams_and_change_no_bit(torch_threads, cartpole_frames):
    results = []
    for threads in (1, 2):
        torch_threads(threads)
        encoder: Any = make_encoder("mini", device="cpu", precision="fp32", runtime="openvino")
        assert encoder.replicas[0].lanes == threads
        results += [encoder.encode_images(cartpole_frames[:100]) for _ in range(3)]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_few_frames_are_spread_over_the_streams(torch_threads, frames):
    torch_threads(3)
    ours = build()
    sizes = []
    start = ours.replicas[0].start
    ours.replicas[0].start = lambda part: sizes.append(len(part)) or start(part)
    reference = build(runtime="torch")
    for n, expected in ((1, [1]), (7, [3, 3, 1]), (48, [16] * 3), (50, [16] * 3 + [2])):
        sizes.clear()
        assert ours.encode_images(frames(n)) == pytest.approx(reference.encode_images(frames(n)), abs=1e-5)
        assert sizes == expected


def test_threads_bound_the_processor_time(torch_threads):
    """``threads=1`` must leave the other cores to the environments."""
    torch_threads(1)
    encoder = build("tiny-resnet", PreprocessConfig(size=(64, 64)))
    pictures = np.random.default_rng(0).integers(0, 256, (256, 64, 64, 3), dtype=np.uint8)
    encoder.encode_images(pictures)
    cpu, wall = time.process_time(), time.perf_counter()
    encoder.encode_images(pictures)
    # one thread computes while the caller's prepares the next batch, which is little work
    assert time.process_time() - cpu <= 1.5 * (time.perf_counter() - wall)


def test_callers_in_several_threads_do_not_disturb_each_other(both, cartpole_frames):
    ours = both[1]
    parts = [cartpole_frames[i::6] for i in range(6)]
    expected = [ours.encode_images(part) for part in parts]
    results: list[Any] = [None] * 6

    def work(i):
        results[i] = ours.encode_images(parts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


def test_batches_left_by_an_interrupted_call_do_no_harm(torch_threads, frames, monkeypatch):
    torch_threads(2)
    ours = build(batch_size=4)
    replica = ours.replicas[0]
    pictures = frames(32)
    expected = ours.encode_images(pictures)
    begun = []
    start = replica.start

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(replica, "start", lambda batch: begun.append(start(batch)) or begun[-1])
    monkeypatch.setattr(replica, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ours.encode_images(pictures)
    monkeypatch.undo()
    assert len(begun) == replica.most_ahead + 1  # three were under way, the fourth was just begun
    assert all(replica._requests[slot].wait_for(0) for slot in begun)  # none reads on
    assert replica._pixels == [None] * 4
    assert np.array_equal(ours.encode_images(pictures), expected)


def test_frames_outlive_the_call_that_has_begun_to_read_them(frames):
    """A request shares the memory of its frames and keeps no reference of its own."""
    ours = build()
    replica, pictures = ours.replicas[0], frames(OPENVINO_BATCH, 100, 100)
    expected = ours.encode_images(pictures)
    for _ in range(5):
        slot = replica.start(pictures)
        kept = weakref.ref(replica._pixels[slot])
        gc.collect()
        assert kept() is not None
        assert np.array_equal(replica.finish(slot), expected)
        replica.drain()
        assert kept() is None


class Failing:
    """A request whose work fails, and which says so at every wait until it is started again."""

    def __init__(self, request):
        self.request, self.failed = request, True

    def __getattr__(self, name):
        return getattr(self.request, name)

    def wait(self):
        self.request.wait()
        if self.failed:
            raise RuntimeError("an earlier one")

    def start_async(self):
        self.failed = False
        self.request.start_async()


def test_an_error_of_an_earlier_call_is_not_raised_in_the_next(frames):
    ours = build()
    replica, pictures = ours.replicas[0], frames(5)
    expected = ours.encode_images(pictures)
    replica._requests[:] = map(Failing, replica._requests)
    assert np.array_equal(ours.encode_images(pictures), expected)
    replica._requests[replica._turn].start_async = replica._requests[replica._turn].request.start_async
    replica._requests[replica._turn].failed = True
    with pytest.raises(RuntimeError, match="an earlier one"):  # its own error is
        ours.encode_images(pictures)


class Wrong(torch.nn.Module):
    """A tower with something in the wrong place."""

    def __init__(self, tower, before, after):
        super().__init__()
        self.tower, self.before, self.after = tower, before, after

    def forward(self, pixels):
        return self.after(self.tower(self.before(pixels)))


def same(x):
    return x


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda pixels: pixels.flip(1), same),  # BGR
        (lambda pixels: pixels.flip(2), same),  # upside down
        (same, lambda features: features.flip(0)),  # pictures in another order
        (same, lambda features: features.roll(1, 1)),
    ],
    ids=["channels", "rows", "pictures", "features"],
)
def test_an_export_with_something_in_the_wrong_place_is_refused(monkeypatch, before, after):
    def mixed_up(tower, config):
        return export_tower(Wrong(tower, before, after).eval(), config)

    monkeypatch.setattr(openvino_tower, "export_tower", mixed_up)
    with pytest.raises(ExportError, match=r"differ from PyTorch's, centred cosine .* \(at least 0\.999\), by up to"):
        build()


def test_pytorchs_tower_is_let_go_of(frames):
    torch.manual_seed(0)
    model: Any = open_clip.create_model("tiny-vit", load_weights=False).eval()
    tower = weakref.ref(model.visual)
    ours = build(model=model)
    gc.collect()
    assert tower() is None
    assert ours.encode_images(frames(2)).shape == (2, ours.dim)


def test_weights_that_are_not_finite_are_refused(frames):
    torch.manual_seed(0)
    model: Any = open_clip.create_model("tiny-vit", load_weights=False).eval()
    config = PreprocessConfig(size=(48, 48))
    with torch.no_grad():
        model.visual.proj[0, 0] = float("nan")
    replica = OpenVinoReplica(export_tower(model.visual, config), config, "fp32")
    assert np.isnan(replica.encode(frames(2))).all()
    ours = build(model=model)
    with pytest.raises(NonFiniteError, match="no image embedding of 2 is finite: use"):
        ours.encode_images(frames(2))


def test_batch_size_is_the_streams_and_must_be_positive(tiny, frames):
    ours = build(batch_size=3)
    assert ours.batch_sizes == [3]
    pictures = frames(8)
    assert ours.encode_images(pictures) == pytest.approx(tiny.encode_images(pictures), abs=1e-6)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        build(batch_size=0)


def test_bf16_is_computed_or_refused_but_never_pretended(tiny, frames):
    if cpu_has_bf16():
        ours = build(precision="bf16")
        assert (ours.encode_images(frames(5)) * tiny.encode_images(frames(5))).sum(axis=1).min() > 0.99
        return
    with pytest.raises(ConfigError, match="OpenVINO does not compute in bf16 on this processor: use"):
        build(precision="bf16")
    assert build(precision="bf16", runtime="auto").runtime == "torch"


def test_the_log_of_the_process_is_left_alone():
    root = logging.getLogger()
    before = root.level, root.handlers[:], root.filters[:]
    build()
    assert (root.level, root.handlers, root.filters) == before


def test_nothing_is_reported_over_the_network():
    """OpenVINO and NNCF would send what they are used for to their makers."""
    code = (
        "import socket, sys\n"
        "socket.socket.connect = socket.getaddrinfo = None  # whoever calls one of them, fails\n"
        "from vlmreward.encoders import make_encoder\n"
        "from vlmreward.encoders.openvino_tower import import_openvino\n"
        "make_encoder('mini', device='cpu', runtime='openvino'); import_openvino('nncf')\n"
        "print(sorted(name for name in sys.modules if 'openvino_telemetry' in name))"
    )
    pytest.importorskip("nncf")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
