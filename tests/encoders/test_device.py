"""The device path: batches that fit, several devices, uploads, number formats."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from vlmreward.encoders import device as device_module
from vlmreward.encoders.device import (
    MOST_BAD,
    Replica,
    Replicas,
    Uploader,
    cast_tower,
    choose_precision,
    is_out_of_memory,
    resolve_devices,
)
from vlmreward.encoders.preprocess import Preprocess, PreprocessConfig
from vlmreward.errors import ConfigError, NonFiniteError

CPU = torch.device("cpu")
CONFIG = PreprocessConfig(size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize_mode="squash")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Tower(torch.nn.Module):
    """Features are the mean colour and a constant; fails as a full GPU would above a number of frames."""

    def __init__(self, fits=10**9, error: RuntimeError | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(4))
        self.fits: int = fits
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.sizes = []
        self.threads = set()

    def forward(self, x):
        self.sizes.append(len(x))
        self.threads.add(threading.get_ident())
        if len(x) > self.fits:
            raise self.error
        return torch.cat([x.mean((2, 3)), torch.ones(len(x), 1, dtype=x.dtype)], dim=1) @ self.weight


def expected(frames):
    """Independent of torch: mean colour and 1, to unit norm."""
    features = np.concatenate([frames.astype(np.float64).mean((1, 2)) / 255, np.ones((len(frames), 1))], axis=1)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def random_frames(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def replica(tower, batch_size):
    return Replica(tower, Preprocess(CONFIG), CPU, batch_size)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 17])
def test_any_number_of_frames_is_encoded_in_order(n):
    tower = Tower()
    frames = random_frames(n)
    out = replica(tower, 4).encode(frames)
    assert out.dtype == np.float32
    assert out == pytest.approx(expected(frames), abs=1e-6)
    assert max(tower.sizes) <= 4
    assert len(tower.sizes) == -(-n // 4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "cpu", "cublas"],
)
def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(error, caplog):
    tower = Tower(fits=5, error=error)
    ours = replica(tower, 32)
    frames = random_frames(50)
    out = ours.encode(frames)
    assert out == pytest.approx(expected(frames), abs=1e-6)
    assert ours.batch_size == 4
    assert tower.sizes[:4] == [32, 16, 8, 4]
    assert all(size <= 4 for size in tower.sizes[4:])
    assert "32 frames at a time do not fit into the memory of cpu: going on with 16" in caplog.text
    tower.sizes.clear()
    again = ours.encode(frames)
    assert max(tower.sizes) == 4  # remembered
    assert np.array_equal(out, again)


def test_a_failure_in_the_middle_loses_no_finished_batch():
    tower = Tower()
    ours = replica(tower, 8)
    frames = random_frames(40)
    forward = tower.forward

    def fails_later(x):
        if len(tower.sizes) == 2:
            tower.fits = 3
        return forward(x)

    tower.forward = fails_later
    assert ours.encode(frames) == pytest.approx(expected(frames), abs=1e-6)
    assert tower.sizes == [8, 8, 8, 4, *[2] * 12]


def test_one_frame_that_does_not_fit_is_an_error_in_one_line():
    with pytest.raises(ConfigError, match="one frame does not fit into the memory of cpu: use a smaller"):
        replica(Tower(fits=0), 4).encode(random_frames(4))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    ours = replica(Tower(fits=1, error=error), 4)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        ours.encode(random_frames(4))
    assert ours.batch_size == 4


@pytest.mark.parametrize("n", [1, 2, 3, 11])
def test_several_devices_share_the_frames(n):
    tower = Tower()
    ours = Replicas(tower, CONFIG, [CPU, CPU, CPU], "fp32", batch_size=2)
    towers: list[Any] = [r.tower for r in ours.replicas]
    assert towers[0] is tower
    assert towers[1].weight.data_ptr() != tower.weight.data_ptr()  # a copy each
    frames = random_frames(n)
    assert ours.encode(frames) == pytest.approx(expected(frames), abs=1e-6)
    shares = [sum(t.sizes) for t in towers]
    assert sum(shares) == n
    assert max(shares) - min(shares) <= 1
    assert threading.get_ident() not in set().union(*(t.threads for t in towers))


def test_each_device_remembers_its_own_batch_size():
    ours = Replicas(Tower(), CONFIG, [CPU, CPU], "fp32", batch_size=16)
    second: Any = ours.replicas[1].tower
    second.fits = 3
    frames = random_frames(40)
    assert ours.encode(frames) == pytest.approx(expected(frames), abs=1e-6)
    assert [r.batch_size for r in ours.replicas] == [16, 2]


def test_an_error_on_one_of_several_devices_reaches_the_caller():
    ours = Replicas(Tower(), CONFIG, [CPU, CPU], "fp32", batch_size=16)
    second: Any = ours.replicas[1].tower
    second.fits = 0
    with pytest.raises(ConfigError, match="one frame does not fit"):
        ours.encode(random_frames(4))


def test_callers_in_several_threads_do_not_disturb_each_other():
    ours = Replicas(Tower(), CONFIG, [CPU], "fp32", batch_size=3)
    sets = [random_frames(20, seed) for seed in range(6)]
    results = [None] * 6

    def work(i):
        results[i] = ours.encode(sets[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for frames, out in zip(sets, results, strict=True):
        assert out == pytest.approx(expected(frames), abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    tower = Tower()
    tower.weight.data[0, 0] = value
    with pytest.raises(NonFiniteError, match=r"no image embedding of 4 is finite: use encoder\.precision=fp32"):
        Replicas(tower, CONFIG, [CPU], "fp32").encode(random_frames(4))


def test_one_embedding_that_is_not_finite_is_nan_and_the_others_stay():
    class Overflows(Tower):
        def forward(self, x):
            out = super().forward(x).clone()
            out[1, 0] = float("inf")
            return out

    frames = random_frames(4)
    out = Replicas(Overflows(), CONFIG, [CPU], "fp32").encode(frames)
    assert np.isnan(out[1]).all()
    good = [0, 2, 3]
    assert out[good] == pytest.approx(Replicas(Tower(), CONFIG, [CPU], "fp32").encode(frames)[good], abs=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_a_batch_without_a_finite_embedding_ends_nothing_once_there_was_one(size):
    tower = Tower()
    replicas = Replicas(tower, CONFIG, [CPU], "fp32")
    replicas.encode(random_frames(2))
    tower.weight.data.fill_(float("nan"))
    assert np.isnan(replicas.encode(random_frames(size))).all()
    many = random_frames(MOST_BAD)
    with pytest.raises(NonFiniteError, match="no image embedding of"):  # it stays that way: the tower is at fault
        replicas.encode(many)


def test_an_all_zero_feature_is_refused():
    tower = Tower()
    tower.weight.data.zero_()
    with pytest.raises(NonFiniteError):
        Replicas(tower, CONFIG, [CPU], "fp32").encode(random_frames(1))


def test_batch_size_below_one_is_refused():
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        Replicas(Tower(), CONFIG, [CPU], "fp32", batch_size=0)


@pytest.mark.parametrize("staged", [False, True])
def test_upload_gives_the_same_frames_however_they_lie_in_memory(staged):
    upload = Uploader(CPU, staged=staged)
    frames = random_frames(6)
    read_only = frames.copy()
    read_only.flags.writeable = False
    for view in (frames, frames[::2], frames[::-1], frames[:, ::-1], frames[:, :, 2:6], read_only):
        moved = upload(view)
        assert moved.dtype == torch.uint8
        assert np.array_equal(moved.numpy(), view)


def test_staged_uploads_do_not_overwrite_each_other():
    upload = Uploader(CPU, staged=True)
    sets = [random_frames(n, seed) for seed, n in enumerate([3, 5, 2, 5, 1, 7, 7])]  # buffers grow and shrink
    moved = [upload(frames) for frames in sets]
    for frames, tensor in zip(sets, moved, strict=True):
        assert np.array_equal(tensor.numpy(), frames)


def test_unstaged_upload_copies_nothing():
    frames = random_frames(2)
    assert Uploader(CPU)(frames).data_ptr() == frames.ctypes.data


def fake_gpus(monkeypatch, *capabilities):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: capabilities[d.index])


@pytest.mark.parametrize(
    ("n_gpus", "setting", "found"),
    [
        (0, "auto", ["cpu"]),
        (0, "cpu", ["cpu"]),
        (2, "auto", ["cuda:0", "cuda:1"]),
        (2, "cpu", ["cpu"]),
        (2, "cuda", ["cuda:0", "cuda:1"]),
        (2, "cuda:1", ["cuda:1"]),
        (3, "cuda:0, cuda:2", ["cuda:0", "cuda:2"]),
        (0, "cpu,cpu", ["cpu", "cpu"]),
    ],
)
def test_devices_that_a_setting_names(monkeypatch, n_gpus, setting, found):
    fake_gpus(monkeypatch, *[(8, 0)] * n_gpus)
    assert [str(d) for d in resolve_devices(setting)] == found


@pytest.mark.parametrize(
    ("n_gpus", "setting", "message"),
    [
        (0, "cuda", "device 'cuda' is not there, PyTorch sees 0 GPUs"),
        (2, "cuda:2", "device 'cuda:2' is not there, PyTorch sees 2 GPUs"),
        (1, "gpu", "device must be auto, cpu, cuda or cuda:<number>, got 'gpu'"),
        (1, "cuda:x", "got 'cuda:x'"),
        (1, "", "got ''"),
    ],
)
def test_devices_that_are_not_there_are_refused(monkeypatch, n_gpus, setting, message):
    fake_gpus(monkeypatch, *[(8, 0)] * n_gpus)
    with pytest.raises(ConfigError, match=message):
        resolve_devices(setting)


@pytest.mark.parametrize(
    ("capabilities", "cpu_bf16", "setting", "precision"),
    [
        ([], True, "cpu", "bf16"),
        ([], False, "cpu", "fp32"),
        ([(8, 0)], False, "cuda", "bf16"),
        ([(7, 5)], False, "cuda", "fp16"),
        ([(6, 1)], True, "cuda", "fp32"),
        ([(9, 0), (7, 0)], True, "cuda", "fp16"),
        ([(9, 0), (6, 0)], True, "cuda", "fp32"),
        ([(9, 0)], True, "cuda,cpu", "bf16"),
        ([(7, 0)], True, "cuda,cpu", "fp32"),
    ],
)
def test_auto_precision_is_the_fastest_that_every_device_has(monkeypatch, capabilities, cpu_bf16, setting, precision):
    fake_gpus(monkeypatch, *capabilities)
    monkeypatch.setattr(device_module, "cpu_has_bf16", lambda: cpu_bf16)
    assert choose_precision(resolve_devices(setting), "auto") == precision


def test_precisions_that_make_no_sense_are_refused():
    assert choose_precision([CPU], "bf16") == "bf16"
    with pytest.raises(ConfigError, match="fp16 is some 50 times slower on a CPU"):
        choose_precision([CPU], "fp16")
    with pytest.raises(ConfigError, match="precision must be auto, fp32, bf16, fp16, got 'int8'"):
        choose_precision([CPU], "int8")  # type: ignore[arg-type]


def test_processor_flags_decide_when_pytorch_does_not_tell(monkeypatch, tmp_path):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(device_module, "Path", lambda _: cpuinfo)
    assert not device_module.cpu_has_bf16()  # no such file
    cpuinfo.write_text("flags\t: fpu avx2 avx512f avx512_vnni\n")
    assert not device_module.cpu_has_bf16()
    cpuinfo.write_text("flags\t: fpu avx512f avx512_bf16 vaes\n")
    assert device_module.cpu_has_bf16()


def test_cast_keeps_batch_norms_in_float32():
    tower: Any = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    cast_tower(tower, "bf16")
    assert tower[0].weight.dtype == torch.bfloat16
    assert tower[1].running_var.dtype == torch.float32
    assert tower(torch.ones(1, 3, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.gpu
@NEEDS_GPU
def test_gpu_equals_cpu():
    frames = random_frames(50)
    on_gpu = Replicas(Tower(), CONFIG, [torch.device("cuda", 0)], "fp32", batch_size=8).encode(frames)
    assert on_gpu == pytest.approx(expected(frames), abs=1e-3)


@pytest.mark.gpu
@NEEDS_GPU
def test_uploads_through_pinned_buffers_do_not_overwrite_each_other():
    upload = Uploader(torch.device("cuda", 0))
    sets = [np.random.default_rng(i).integers(0, 256, (32, 224, 224, 3), dtype=np.uint8) for i in range(8)]
    moved = [upload(frames) for frames in sets]
    for frames, tensor in zip(sets, moved, strict=True):
        assert np.array_equal(tensor.cpu().numpy(), frames)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_real_lack_of_gpu_memory_halves_the_batch():
    class Hungry(Tower):
        def forward(self, x):
            torch.empty(
                len(x) * torch.cuda.get_device_properties(0).total_memory // 12, dtype=torch.uint8, device="cuda"
            )
            return super().forward(x)

    ours = Replicas(Hungry(), CONFIG, [torch.device("cuda", 0)], "fp32", batch_size=64)
    frames = random_frames(100)
    assert ours.encode(frames) == pytest.approx(expected(frames), abs=1e-3)
    assert 1 <= ours.replicas[0].batch_size < 16
