"""Tiny architectures for open_clip, so that a test builds a model in milliseconds; frames for stores."""

import functools
import importlib.util
import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
ARCHITECTURES = {
    "tiny-vit": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "tiny-resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 64},
}
# a tower of timm and a text tower without a causal mask, and a tokenizer from the Hub, as the SigLIP models have
ARCHITECTURES["tiny-siglip"] = {
    "image_size": 64,
    "timm_model_name": "test_vit4",
    "timm_pool": "",
    "timm_proj": "linear",
}
ARCHITECTURES["tiny-bert"] = ARCHITECTURES["tiny-vit"]
TEXTS = {
    "tiny-siglip": TEXT
    | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    | {"hf_tokenizer_name": "nobody/no-tokenizer", "tokenizer_kwargs": {"clean": "canonicalize"}},
    "tiny-bert": {"hf_model_name": "nobody/no-model", "hf_tokenizer_name": "nobody/no-tokenizer"},
}


@pytest.fixture(scope="session", autouse=True)
def tiny_models(tmp_path_factory):
    """Make the names in ``ARCHITECTURES`` known to open_clip."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, vision in ARCHITECTURES.items():
        config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXTS.get(name, TEXT)}
        config |= {"custom_text": True, "init_logit_bias": -10} if name == "tiny-siglip" else {}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in ARCHITECTURES:
        del open_clip.factory._MODEL_CONFIGS[name]


CACHED_TOKENIZER = functools.lru_cache(open_clip.factory.SimpleTokenizer)  # a quarter of a second each


@pytest.fixture(autouse=True)
def quick_and_quiet_open_clip(monkeypatch):
    """Open_clip warns of random weights on the root logger each time, which here is what is wanted."""
    monkeypatch.setattr(logging, "warning", lambda *_args: None)
    monkeypatch.setattr(open_clip.factory, "SimpleTokenizer", CACHED_TOKENIZER)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """Files of a Hugging Face tokenizer: one token per word and one at the end."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "[PAD]": 1, "[END]": 2, "a": 3, "cart": 4, "pole": 5, "on": 6}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", eos_token="[END]", model_max_length=8
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cartpole_frames():
    """240 pictures of cart-poles in every pose, as the environment draws them, uint8 (240, 64, 64, 3)."""
    from vlmreward.envs.classic import cartpole

    rng = np.random.default_rng(0)
    canvas = cartpole.make_canvas(64, 64, "fast", cartpole.Appearance())
    states = [(rng.uniform(-2.4, 2.4), 0, rng.uniform(-3.1, 3.1), 0) for _ in range(240)]
    return np.stack([cartpole.draw(canvas, np.array(state), cartpole.Appearance()) for state in states])


@pytest.fixture
def torch_threads():
    """Set PyTorch's threads, and put them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def frames():
    """Return a function that makes N smooth, different pictures, uint8."""

    def make(n, height=60, width=80, seed=0):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        waves = [np.sin(2 * np.pi * (a * y + b * x + c)) for a, b, c in rng.uniform(0, 3, (3 * n, 3))]
        noise = rng.normal(0, 10, (n, height, width, 3))
        return (
            (127 + 100 * np.stack(waves).reshape(n, 3, height, width).transpose(0, 2, 3, 1) + noise)
            .clip(0, 255)
            .astype(np.uint8)
        )

    return make


@pytest.fixture(scope="session")
def numbered():
    """The module of numbered frames, for embedding stores."""
    path = Path(__file__).parent / "fakes" / "numbered_frames.py"
    spec = importlib.util.spec_from_file_location("numbered_frames", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
