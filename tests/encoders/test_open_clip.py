"""Models of open_clip by name: tags, files, folders, and everything that can be wrong with them."""

import http.server
import json
import os
import shutil
import socket
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from vlmreward.encoders import weights
from vlmreward.encoders.open_clip import OpenClipEncoder
from vlmreward.encoders.weights import find_source, licence_of, load_tokenizer
from vlmreward.errors import ConfigError, UnknownNameError, WeightsError

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def encoder(model: str | None = "tiny-vit", pretrained: str | None = None, **kwargs: Any) -> Any:
    settings: dict[str, Any] = {"device": "cpu", "precision": "fp32", "runtime": "torch"} | kwargs
    return OpenClipEncoder(model, pretrained, **settings)


@pytest.fixture
def trained():
    """A model with weights of its own."""
    torch.manual_seed(7)
    return open_clip.create_model("tiny-vit", load_weights=False).eval()


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v.clone() for k, v in trained.state_dict().items()}, path)
    return path


@pytest.fixture
def tags(monkeypatch, file):
    """Two tags of tiny-vit that differ in preprocessing, one of tiny-siglip, and a download that needs no network."""
    clip = {"hf_hub": "nobody/clip/", "interpolation": "bicubic", "resize_mode": "shortest", **OPENAI}
    squash = {"hf_hub": "nobody/squash/", "interpolation": "bilinear", "resize_mode": "squash", **HALF}
    table = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(table, "tiny-vit", {"laion_quick": clip | {"quick_gelu": True}, "webli": squash})
    monkeypatch.setitem(table, "tiny-siglip", {"webli": squash})
    monkeypatch.setattr(weights, "_download", lambda tag, what: file)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def hub(monkeypatch, port):
    here = f"http://127.0.0.1:{port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", here)


def test_file_gives_the_models_own_embeddings(trained, file, frames):
    ours = encoder(pretrained=str(file))
    assert ours.id.startswith("tiny-vit-")
    with torch.no_grad():
        tokens = open_clip.tokenize(["a cart", "a pole"], 16)
        assert ours.encode_texts(["a cart", "a pole"]) == pytest.approx(
            trained.encode_text(tokens, normalize=True).numpy(), abs=1e-6
        )
        pictures = frames(3, 48, 48)  # of the tower's size: no resize
        mean, std = (np.array(OPENAI[k], np.float32) for k in ("mean", "std"))
        pixels = torch.from_numpy(((pictures / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
        images = trained.encode_image(pixels, normalize=True).numpy()
    assert ours.encode_images(pictures) == pytest.approx(images, abs=1e-5)


def test_safetensors_and_pt_files_give_the_same_id(trained, file, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "a.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "b.bin")
    ids = {encoder(pretrained=str(p)).id for p in (file, tmp_path / "a.pt", tmp_path / "b.bin")}
    assert len(ids) == 1


def test_random_weights_are_named_so_and_the_same_each_time(frames):
    state = torch.get_rng_state()
    one = encoder(random_weights=True)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are used up
    torch.rand(1)
    two = encoder(random_weights=True)
    assert one.id == two.id
    assert one.id.startswith("random-tiny-vit-")
    assert np.array_equal(one.encode_images(frames(2)), two.encode_images(frames(2)))
    assert encoder("tiny-siglip", random_weights=True).encode_images(frames(1)).shape == (1, 32)  # needs no tokenizer


def test_preprocessing_and_activation_are_those_of_the_tag(tags, monkeypatch):
    squash = encoder(pretrained="webli").preprocess
    assert (squash.mean, squash.std, squash.resize_mode, squash.interpolation) == (
        *HALF.values(),
        "squash",
        "bilinear",
    )
    assert squash.size == (48, 48)
    quick = encoder(pretrained="laion-quick")  # open_clip takes a hyphen for an underscore
    assert (quick.preprocess.mean, quick.preprocess.resize_mode) == (OPENAI["mean"], "shortest")
    assert type(quick._model.visual.transformer.resblocks[0].mlp[1]).__name__ == "QuickGELU"
    assert type(encoder(pretrained="webli")._model.visual.transformer.resblocks[0].mlp[1]).__name__ == "GELU"
    assert quick.licence == "MIT"
    assert encoder(pretrained="webli").licence == "Apache-2.0"
    assert encoder(pretrained="webli", licence="mine").licence == "mine"


def test_activation_is_part_of_the_id(file):
    same = {"model": "tiny-vit", "weights": file, "config": {"embed_dim": 32}}
    assert weights.Source(**same).salt != weights.Source(**same, quick_gelu=True).salt


def test_a_file_takes_the_preprocessing_that_all_tags_share(tags, tmp_path, tokenizer_folder):
    save_file(open_clip.create_model("tiny-siglip", load_weights=False).state_dict(), tmp_path / "siglip.safetensors")
    ours = encoder("tiny-siglip", str(tmp_path / "siglip.safetensors"), tokenizer=str(tokenizer_folder))
    assert (ours.preprocess.resize_mode, ours.preprocess.mean) == ("squash", (0.5, 0.5, 0.5))
    assert ours.encode_texts(["a cart"]).shape == (1, 32)


def test_a_file_of_a_model_whose_tags_differ_must_say_which_it_is_like(tags, file):
    with pytest.raises(ConfigError, match=r"say whose your file has, encoder\.like=laion_quick or webli"):
        encoder(pretrained=str(file))
    assert encoder(pretrained=str(file), like="webli").preprocess.resize_mode == "squash"
    with pytest.raises(UnknownNameError, match="no tag 'weblu': tags: laion_quick, webli"):
        encoder(pretrained=str(file), like="weblu")


def test_real_tables_of_open_clip_are_read_as_meant(file):
    siglip = find_source("ViT-B-16-SigLIP2", str(file), None, False)
    assert (siglip.preprocess["resize_mode"], siglip.preprocess["mean"]) == ("squash", (0.5, 0.5, 0.5))
    bigg = find_source("ViT-bigG-14", str(file), "laion2b_s39b_b160k", False)
    assert (bigg.preprocess["resize_mode"], bigg.quick_gelu) == ("shortest", False)
    openai = find_source("ViT-B-32", str(file), "openai", False)
    assert openai.quick_gelu
    with pytest.raises(ConfigError, match=r"encoder\.like=openai or laion2b_e16"):
        find_source("ViT-B/32", str(file), None, False)


def test_folder_saved_by_open_clip(trained, file, tmp_path, frames):
    folder = tmp_path / "own-model"
    folder.mkdir()
    config = {"model_cfg": open_clip.get_model_config("tiny-vit"), "preprocess_cfg": {"resize_mode": "squash", **HALF}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"there are no weights in .*own-model"):
        encoder(f"local-dir:{folder}")
    shutil.copy(file, folder / "open_clip_model.safetensors")
    ours = encoder(f"local-dir:{folder}")
    assert ours.id.startswith("own-model-")
    assert ours.preprocess.resize_mode == "squash"
    assert np.array_equal(ours.encode_texts(["a cart"]), encoder(pretrained=str(file)).encode_texts(["a cart"]))
    with pytest.raises(ConfigError, match="brings its own weights"):
        encoder(f"local-dir:{folder}", str(file))
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(
        WeightsError, match=r"open_clip_config\.json can't be read .*: give a folder saved by open_clip"
    ):
        encoder(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        ({"model": None}, ConfigError, "needs a model: give encoder.model="),
        ({"model": "ViT-B-23"}, UnknownNameError, "no model 'ViT-B-23': did you mean 'ViT-B-32'"),
        ({"model": "vit-bigg-41"}, UnknownNameError, "did you mean 'ViT-bigG-14'"),
        ({"model": "hf-hub:org/name"}, ConfigError, "download it and give encoder.model=local-dir:"),
        ({"model": "qqq"}, UnknownNameError, "no model 'qqq': it has .* for example ViT-B-32"),
        (
            {"model": "ViT-B-32"},
            ConfigError,
            "ViT-B-32 needs weights: give encoder.pretrained=<tag or file>, tags: openai",
        ),
        ({"model": "tiny-vit"}, ConfigError, "tiny-vit needs weights: give encoder.pretrained=<file>"),
        ({"model": "ViT-bigG-14", "pretrained": "openai"}, UnknownNameError, "tags: laion2b_s39b_b160k"),
        ({"model": "tiny-vit", "pretrained": "openai"}, UnknownNameError, "it has no tags, give a file"),
        ({"pretrained": "nowhere/w.pt"}, WeightsError, "there is no weights file nowhere/w.pt: check the path"),
        ({"pretrained": "w.safetensors"}, WeightsError, "there is no weights file w.safetensors"),
        ({"pretrained": "x", "random_weights": True}, ConfigError, "contradict each other"),
        ({"model": "local-dir:nowhere"}, WeightsError, r"nowhere.open_clip_config.json can't be read"),
        ({"random_weights": True, "device": "cuda:99"}, ConfigError, "device 'cuda:99' is not there"),
        ({"random_weights": True, "precision": "fp16"}, ConfigError, "fp16 is some 50 times slower"),
        ({"random_weights": True, "batch_size": -1}, ConfigError, "batch_size must be at least 1, got -1"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_in_one_line(kwargs, kind, message):
    with pytest.raises(kind, match=message) as error:
        encoder(**kwargs)
    assert "\n" not in str(error.value)


def test_damaged_and_foreign_files_are_refused_in_one_line(trained, file, tmp_path):
    whole = file.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "noise.pt").write_bytes(os.urandom(1000))
    torch.save(trained.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    torch.save([1, 2, 3], tmp_path / "list.pt")
    other = open_clip.create_model("tiny-resnet", load_weights=False)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    state = trained.state_dict()
    save_file({k: v for k, v in state.items() if k != "visual.proj"}, tmp_path / "missing.safetensors")
    names = ("cut.safetensors", "empty.safetensors", "noise.pt", "cut.pt", "list.pt", "other.safetensors")
    for name in (*names, "missing.safetensors"):
        with pytest.raises(WeightsError, match=f"{name} can't be loaded into tiny-vit") as error:
            encoder(pretrained=str(tmp_path / name))
        assert "\n" not in str(error.value)
    (tmp_path / "weights.npz").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"weights\.npz has not one of the endings \.safetensors"):
        encoder(pretrained=str(tmp_path / "weights.npz"))


@pytest.mark.parametrize("first", [False, True], ids=["at once", "after an error that open_clip answers with a retry"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, first):
    marker = tmp_path / "ran"

    class Wrong:
        def __reduce__(self):
            return OrderedDict, (5,)  # TypeError, on which open_clip loads again without weights_only

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save(({"wrong": Wrong()} if first else {}) | {"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt can't be loaded"):
        encoder(pretrained=str(tmp_path / "evil.pt"))
    assert not marker.exists()


def test_offline_is_one_line_at_once(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="ViT-B-32/openai is not in the cache and HF_HUB_OFFLINE is set: download"):
        encoder("ViT-B-32", "openai")


def test_a_network_that_refuses_or_never_answers_is_one_line_within_seconds(empty_cache, monkeypatch):
    monkeypatch.setattr(weights, "HUB_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        hub(monkeypatch, port)
        for listening in (False, True):  # bound only: connections are refused; listening: taken and never answered
            if listening:
                silent.listen()
            start = time.monotonic()
            with pytest.raises(WeightsError, match=r"is not in the cache and http://127\S+ can't be reached") as error:
                encoder("ViT-B-32", "laion2b_s34b_b79k")
            assert time.monotonic() - start < 5
            assert "\n" not in str(error.value)


def test_a_name_look_up_that_hangs_is_one_line_within_seconds(empty_cache, monkeypatch):
    class Session:
        def head(self, *args, **kwargs):
            time.sleep(60)  # what getaddrinfo does behind some firewalls, and no time-out of the client ends it

    monkeypatch.setattr(weights, "HUB_SECONDS", 0.1)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    with pytest.raises(WeightsError, match=r"can't be reached \(no answer in 0\.2 s\)"):
        encoder("ViT-B-32", "laion2b_s34b_b79k")


def test_weights_that_the_hub_has_not_are_one_line(empty_cache, monkeypatch):
    class Answer404(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer404) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub(monkeypatch, server.server_port)
        with pytest.raises(WeightsError, match="ViT-B-32/laion2b_s34b_b79k could not be downloaded") as error:
            encoder("ViT-B-32", "laion2b_s34b_b79k")
        assert "\n" not in str(error.value)
        server.shutdown()


def test_weights_in_the_cache_need_no_network(empty_cache, monkeypatch, file):
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED, "tiny-vit", {"laion": {"hf_hub": "nobody/clip/", "resize_mode": "squash"}}
    )
    monkeypatch.setattr(weights, "require_hub", lambda what: pytest.fail("asked for the network"))
    repo = empty_cache / "models--nobody--clip"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    shutil.copy(file, repo / "snapshots" / "abc" / "open_clip_model.safetensors")
    assert encoder(pretrained="laion").preprocess.resize_mode == "squash"


def test_a_tokenizer_that_cannot_be_had_is_one_line_before_the_weights_are_read(
    empty_cache, monkeypatch, file, tmp_path
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="the tokenizer nobody/no-tokenizer is not in the cache") as error:
        encoder("tiny-siglip", str(file))
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match=r"no tokenizer can be read from .*: check the folder"):
        encoder("tiny-siglip", str(file), tokenizer=str(tmp_path))


def test_a_text_tower_that_cannot_be_had_is_one_line(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="the config of the text tower nobody/no-model is not in the cache"):
        encoder("tiny-bert", random_weights=True)


def test_a_tokenizer_from_a_folder_is_cleaned_as_the_model_wants(tokenizer_folder, file):
    source = find_source("tiny-siglip", str(file), None, False)
    tokens = load_tokenizer(source, str(tokenizer_folder))(["A cart!", "a CART"])
    assert tokens.shape == (2, 16)
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0, :3].tolist() == [3, 4, 2]


@pytest.mark.parametrize(
    ("tag", "licence"),
    [
        ("openai", "MIT"),
        ("laion2b_s34b_b79k", "MIT"),
        ("datacomp_xl_s13b_b90k", "MIT"),
        ("datacompdr_lt", "apple-amlr"),
        ("dfn5b", "apple-amlr"),
        ("dfndr2b", "apple-amlr"),
        ("metaclip2_worldwide", "CC-BY-NC-4.0"),
        ("webli", "Apache-2.0"),
        ("yfcc15m", "unknown"),
    ],
)
def test_licence_of_a_tag(tag, licence):
    assert licence_of(tag) == licence


def test_vit_b_32_has_the_shapes_of_clip(frames):
    ours = encoder("ViT-B-32", random_weights=True, precision="auto")
    assert (ours.dim, ours.image_size) == (512, 224)
    pictures = frames(2, 240, 320)
    images = ours.encode_images(pictures)
    assert images.shape == (2, 512)
    assert np.array_equal(images, ours.encode_images(pictures))
    assert ours.encode_texts(["a cart", "a pole"]).shape == (2, 512)
