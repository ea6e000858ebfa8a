"""Which engine is chosen, and what is said where it can't be."""

import sys
from importlib.util import find_spec
from typing import Any

import open_clip
import pytest
import torch

from vlmreward.encoders import make_encoder, openvino_tower, runtime
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.encoders.runtime import choose_runtime, is_convolutional
from vlmreward.errors import ConfigError, DependencyNotInstalled, ExportError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes the machine another one."""

    def make(installed=True, processor="x86_64", bf16=False):
        monkeypatch.setattr(runtime, "find_spec", lambda name: object() if installed else None)
        monkeypatch.setattr(runtime.platform, "machine", lambda: processor)
        monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: bf16)

    return make


@pytest.mark.parametrize(
    ("about", "devices", "precision", "chosen"),
    [
        ({}, [CPU], "fp32", "openvino"),
        ({}, [CPU, CPU], "fp32", "openvino"),
        ({}, [GPU], "fp16", "torch"),
        ({}, [GPU, CPU], "fp32", "torch"),
        ({}, [CPU], "bf16", "torch"),  # OpenVINO would compute in fp32 and not say so
        ({"bf16": True}, [CPU], "bf16", "openvino"),
        ({"installed": False}, [CPU], "fp32", "torch"),
        ({"processor": "aarch64"}, [CPU], "fp32", "torch"),  # not measured there
    ],
)
def test_auto_takes_openvino_for_convolutions_and_bf16(machine, about, devices, precision, chosen):
    machine(**about)
    assert choose_runtime(devices, "auto", precision) == chosen


def test_auto_leaves_transformers_to_torch_but_for_bf16(machine):
    machine()
    assert choose_runtime([CPU], "auto", "fp32", convolutional=False) == "torch"
    machine(bf16=True)
    assert choose_runtime([CPU], "auto", "bf16", convolutional=False) == "openvino"


@pytest.mark.parametrize(("name", "expected"), [("tiny-vit", False), ("tiny-siglip", False), ("tiny-resnet", True)])
def test_towers_are_told_apart_by_their_convolutions(name, expected):
    model: Any = open_clip.create_model(name, load_weights=False)
    assert is_convolutional(model.visual) is expected


def test_a_runtime_asked_for_by_name_is_taken_or_refused(machine):
    machine(processor="aarch64")
    assert choose_runtime([CPU], "openvino") == "openvino"
    assert choose_runtime([GPU, GPU], "cuda_graphs") == "cuda_graphs"
    assert choose_runtime([GPU, CPU], "torch") == "torch"
    with pytest.raises(ConfigError, match="unknown runtime 'opnvino': did you mean 'openvino'"):
        choose_runtime([CPU], "opnvino")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown runtime 3: known: auto, cuda_graphs, openvino, torch"):
        choose_runtime([CPU], 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="openvino runs on device=cpu alone, the encoder's is cuda:0: use"):
        choose_runtime([GPU], "openvino")
    with pytest.raises(ConfigError, match="cuda_graphs runs on device=cuda alone, the encoder's is cuda:0,cpu"):
        choose_runtime([GPU, CPU], "cuda_graphs")


def test_without_the_package_auto_is_torch_and_the_name_is_one_line(monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "openvino", None)  # its import fails
    assert getattr(make_encoder("mini", device="cpu"), "runtime", None) == "torch"
    with pytest.raises(DependencyNotInstalled, match=r"'openvino' is not installed: run pip install 'vlmreward\[openv"):
        make_encoder("mini", device="cpu", runtime="openvino")


def test_auto_is_torch_where_the_package_is_broken(machine, monkeypatch, caplog):
    def broken(name="openvino"):
        raise ImportError("libopenvino.so: no such file\nin any folder")

    machine()
    monkeypatch.setattr(openvino_tower, "import_openvino", broken)
    encoder: Any = make_encoder("mini", device="cpu", precision="fp32")
    assert encoder.runtime == "torch"
    assert "libopenvino.so: no such file in any folder; going on with runtime=torch" in caplog.text
    with pytest.raises(ImportError, match="libopenvino"):
        make_encoder("mini", device="cpu", precision="fp32", runtime="openvino")


class Untraceable(torch.nn.Module):
    """Computes in NumPy, which no exporter follows."""

    def forward(self, pixels):
        return torch.from_numpy(pixels.numpy().mean((2, 3)))


def convolutional(tower):
    """Give a tower two convolutions that it does not use, so that auto wants OpenVINO for it."""
    tower.unused = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.Conv2d(1, 1, 1))
    return tower


class Hidden(torch.nn.Module):
    """Fails for a tracer, and works otherwise."""

    def forward(self, pixels):
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            raise NotImplementedError("no graph of this")
        return pixels.mean((2, 3))


def build(tower, name):
    model = open_clip.create_model("tiny-vit", load_weights=False).eval()
    model.visual = convolutional(tower)
    config = PreprocessConfig(size=(48, 48))
    return ClipEncoder(model, None, config, name="own", device="cpu", precision="fp32", runtime=name)


@pytest.mark.parametrize(
    ("tower", "words"),
    [
        (Untraceable(), "OpenVINO's embeddings differ from PyTorch's"),
        (Hidden(), "OpenVINO can't take this image tower"),
    ],
)
def test_a_tower_that_can_not_be_exported_runs_in_torch_and_says_so(caplog, frames, tower, words):
    if find_spec("openvino") is None:
        pytest.skip("needs pip install 'vlmreward[openvino]'")
    encoder = build(tower, "auto")
    assert encoder.runtime == "torch"
    assert "going on with runtime=torch" in caplog.text
    assert encoder.encode_images(frames(2)).shape == (2, 3)
    with pytest.raises(ExportError, match=f"{words}.*: use encoder.runtime=torch"):
        build(tower, "openvino")
