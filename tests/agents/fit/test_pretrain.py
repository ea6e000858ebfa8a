"""The whole pre-training at toy size, with a made-up teacher and a made-up WordNet."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlmreward.agents.fit import corpus, domain, pretrain, text_tower
from vlmreward.agents.fit.contrastive import FitSettings
from vlmreward.agents.fit.pictures import Domain
from vlmreward.agents.fit.text_tower import distil_loss
from vlmreward.data.captions import cartpole, mountaincar
from vlmreward.data.captions.concept import is_held_out
from vlmreward.encoders import mini
from vlmreward.envs.classic.pictures import sample_cartpole, sample_mountaincar
from vlmreward.errors import ConfigError, StorageError

pytest.importorskip("sklearn", reason="the extra 'pretrain' is not installed")


@pytest.fixture
def wordnet(tmp_path):
    folder = tmp_path / "wordnet"
    folder.mkdir()
    glosses = "\n".join(
        f'0000{i} 03 n 01 thing{i} 0 000 | a thing of kind {i % 7}; "it is number {i}"' for i in range(60)
    )
    for part in corpus.PARTS:
        (folder / f"data.{part}").write_text("  1 licence text\n" + glosses + "\n")
        words = "\n".join(f"{w} n 1 1 @ 1 1 0001" for w in ("apple", "river", "stone")) + "\nrare n 1 1 @ 1 0 0001\n"
        (folder / f"index.{part}").write_text("  1 licence text\n" + words)
    return folder


def test_corpus_reads_definitions_examples_and_common_words(wordnet):
    sentences = corpus.read_sentences(wordnet)
    assert "a thing of kind 3" in sentences
    assert "it is number 11" in sentences
    assert corpus.read_words(wordnet)["noun"] == ["apple", "river", "stone"]


def test_missing_wordnet_says_what_to_install(tmp_path):
    with pytest.raises(StorageError, match="apt-get install wordnet-base"):
        corpus.read_sentences(tmp_path)


def test_distil_loss_is_zero_for_the_teacher_itself_and_ignores_scale():
    teacher = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert float(distil_loss(3.0 * teacher, teacher)) == pytest.approx(0.0, abs=1e-5)
    assert float(distil_loss(-teacher, teacher)) > 1.9


def test_domain_classifier_errs_as_often_on_either_side():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1.0, 1.0, (500, 4)), rng.normal(-1.0, 2.0, (2000, 4))
    weight, bias = domain.fit_domain(inside, outside)
    warned, passed = np.mean(inside @ weight + bias < 0), np.mean(outside @ weight + bias >= 0)
    assert warned == pytest.approx(passed, abs=0.003)
    assert 0.01 < warned < 0.15
    assert domain.auroc(inside @ weight, outside @ weight) > 0.95


def test_casual_sentences_keep_most_words_and_follow_the_seed():
    text = "keep the pole upright on the cart"
    said = [domain.casual(text, np.random.default_rng(seed)) for seed in range(200)]
    assert said == [domain.casual(text, np.random.default_rng(seed)) for seed in range(200)]
    assert len(set(said)) > 50
    assert all(len(set(text.split()) & set(re.findall(r"\w+", s))) >= 5 for s in said)


def test_auroc_by_hand():
    assert domain.auroc([2.0, 1.0], [1.0, 0.0]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def held_out_texts():
    """Return many phrasings of the grammar that training must never meet, not even as bare sentences."""
    rng = np.random.default_rng(7)
    texts = {t for concept in mountaincar.CONCEPTS for t in concept.phrasings(2000, rng)}
    return {t for t in texts if is_held_out(t)}


def test_sentences_of_the_domain_hold_nothing_that_is_held_out(tmp_path, wordnet, monkeypatch):
    monkeypatch.setattr(domain, "casual", lambda text, rng: text + " §")  # another form of it is no other phrasing
    domains = [Domain("cartpole", sample_cartpole, cartpole.CONCEPTS, cartpole.HELD_OUT_REGIONS)]
    settings = pretrain.PretrainSettings(wordnet=str(wordnet), pictures={"cartpole": 1})
    fitter = pretrain.Pretraining(settings, tmp_path / "out", domains, lambda *_: None)
    inside, outside = fitter.domain_sentences()
    assert len(inside) > 1000
    assert len(outside) > 8000
    assert not any(is_held_out(form) for text in inside for form in (text, text.removesuffix(" §")))
    shown = {concept.parts for concept in fitter._shown_concepts()}
    assert shown.isdisjoint(cartpole.HELD_OUT_COMPOSITIONS)
    assert ("upright", "left_end") in shown


def test_every_stage_runs_once_and_the_weights_load(tmp_path, wordnet, monkeypatch):
    calls = []

    def teacher(texts, progress=None):
        calls.append(len(texts))
        return np.random.default_rng(0).normal(size=(len(texts), 384)).astype(np.float16)

    def few_sentences(fitter, of=pretrain.Pretraining.domain_sentences):
        return [texts[::20] for texts in of(fitter)]  # all ten thousand of them take most of this test's time

    monkeypatch.setattr(pretrain, "embed_with_teacher", teacher)
    monkeypatch.setattr(text_tower, "embed_with_teacher", teacher)
    monkeypatch.setattr(pretrain.Pretraining, "domain_sentences", few_sentences)
    settings = pretrain.PretrainSettings(
        wordnet=str(wordnet),
        general=50,
        frames=40,
        phrasings=20,
        distil_steps=2,
        pictures={"mountaincar": 40},
        fit=FitSettings(steps=2, images=8, texts=6),
    )
    domains = [Domain("mountaincar", sample_mountaincar, mountaincar.CONCEPTS, mountaincar.HELD_OUT_REGIONS)]
    stages = []

    def run():
        fitter = pretrain.Pretraining(settings, tmp_path / "out", domains, lambda stage, *_: stages.append(stage))
        return fitter.fit("toy", settings.fit)

    path = run()
    assert set(stages) == {"text tower", "pictures", "fit toy"}
    with np.load(tmp_path / "out" / "sentences.npz") as saved:
        assert not {str(t) for t in saved["texts"]} & held_out_texts()
    stages.clear()
    assert run() == path
    assert stages == []  # a finished fit renders nothing
    assert mini.MiniEncoder(device="cpu", weights=path).encode_texts(["a car near the flag"]).shape == (1, 256)
    for changed in (replace(settings, seed=1), replace(settings, distil_steps=3)):
        with pytest.raises(ConfigError, match="other settings"):
            pretrain.Pretraining(changed, tmp_path / "out", domains, lambda *_: None)
    fitter = pretrain.Pretraining(settings, tmp_path / "out", domains, lambda *_: None)
    with pytest.raises(ConfigError, match="fitted with other settings"):
        fitter.fit("toy", replace(settings.fit, steps=3))
    first = load_file(path)
    path.unlink()
    run()
    assert len(calls) == 2  # the sentences and the vocabulary, once each
    second = load_file(path)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
