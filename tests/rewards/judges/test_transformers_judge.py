"""The real code path of transformers, with a model of random weights that is made here."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlmreward.errors import ConfigError, WeightsError
from vlmreward.rewards.annotators import two_stage
from vlmreward.rewards.judges.questions import Question, VisionLanguageModel
from vlmreward.rewards.judges.transformers_judge import TransformersJudge, _contexts
from vlmreward.types import FrameBatch

SIZE, PATCH = 28, 14
TEMPLATE = (
    "<s>{% for m in messages %}U:{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return one token for each byte, and for a few words, so that answers have one token or several."""
    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("T", "r"), ("Tr", "u"), ("Tru", "e"), ("1", "0")]
    words = special + letters + [a + b for a, b in merges]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-llava")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=16,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.4,  # answers that are sure of themselves, and differ
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),  # type: ignore[call-arg]
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(path)
    size = {"height": SIZE, "width": SIZE}
    LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def shared(folder):
    return TransformersJudge(str(folder), licence="MIT", device="cpu", dtype="float32")


@pytest.fixture
def judge(shared, monkeypatch):
    """The judge, with its calls counted: name of the method, and rows."""
    calls = []

    def counted(name, method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            if not any(running):
                calls.append((name, len(kwargs["input_ids"])))
            running.append(name)
            try:
                return method(*args, **kwargs)
            finally:
                running.pop()

        return call

    running: list[str] = []
    monkeypatch.setattr(shared._model, "generate", counted("generate", shared._model.generate))
    monkeypatch.setattr(shared._model, "forward", counted("forward", shared._model.forward))
    shared.calls = calls
    return shared


def question(k, pictures=1, **more):
    rng = np.random.default_rng(k)
    parts = [rng.integers(0, 256, (20, 24, 3)).astype(np.uint8) for _ in range(pictures)]
    return Question(("look " * k, *itertools.chain(*((p, " then ") for p in parts)), "is it done?"), **more)


QUESTIONS = [question(0), question(5), question(2, pictures=3), question(9, pictures=0), question(1, pictures=2)]


def with_answers(*answers, whole=False):
    return [Question(q.parts, continuations=answers, whole=whole) for q in QUESTIONS]


def by_hand(judge, asked, tokens):
    """Return the log-probability of tokens after a question, one forward call for each, without padding."""
    inputs = judge._prepare([asked])
    total = 0.0
    for token in tokens:
        logits = judge._model(**inputs).logits[0, -1].double()
        total += float(torch.log_softmax(logits, 0)[token])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return total


def test_questions_are_answered_in_one_call_as_one_by_one(judge):
    together = judge.ask(QUESTIONS)
    assert judge.calls == [("generate", len(QUESTIONS))]
    alone = [judge.ask([q])[0] for q in QUESTIONS]
    assert [a.text for a in together] == [a.text for a in alone]
    assert len({a.text for a in together}) == len(QUESTIONS)
    assert [a.usage.tokens for a in together] == [a.usage.tokens for a in alone]
    assert sum(a.usage.calls for a in together) == 1


def test_judge_keeps_the_contract(shared):
    assert isinstance(shared, VisionLanguageModel)
    assert shared.licence == "MIT"


def test_single_words_cost_one_forward_call_with_a_row_for_each_question(judge):
    answers = judge.ask(with_answers("y", "n", "True"))
    assert judge.calls == [("forward", len(QUESTIONS))]
    assert all(a.text is None for a in answers)


@pytest.mark.parametrize("answers", [("y", "n"), ("True", "False"), ("-100", "0", "10", "7", "77")])
@pytest.mark.parametrize("whole", [False, True])
def test_log_probabilities_are_those_of_whole_continuations(judge, answers, whole):
    asked = with_answers(*answers, whole=whole)
    together = judge.ask(asked)
    assert {name for name, _ in judge.calls} == {"forward"}
    for one, answer in zip(asked, together, strict=True):
        (alone,) = judge.ask([one])
        for word, found, by_itself in zip(answers, answer.logprobs, alone.logprobs, strict=True):
            tokens = judge._tokenizer(word, add_special_tokens=False)["input_ids"] + ([2] if whole else [])
            with torch.inference_mode():
                expected = by_hand(judge, one, tokens)
            assert found.exact
            assert found.low == pytest.approx(expected, abs=2e-4)
            assert by_itself.low == pytest.approx(expected, abs=2e-4)


def test_whole_answers_are_exclusive_and_beginnings_are_not(judge):
    numbers = [str(n) for n in range(100)]
    asked = with_answers(*numbers)
    begun, ended = (
        judge.ask([Question(q.parts, continuations=q.continuations, whole=w) for q in asked]) for w in (False, True)
    )
    for beginning, whole in zip(begun, ended, strict=True):
        assert sum(math.exp(x.low) for x in whole.logprobs) <= 1 + 1e-6
        assert all(w.low < b.low for w, b in zip(whole.logprobs, beginning.logprobs, strict=True))
        by_digit = sum(math.exp(beginning.logprobs[k].low) for k in range(11, 20))
        assert by_digit <= math.exp(beginning.logprobs[1].low) + 1e-6  # "1" counts "11" to "19" too


def test_rows_go_into_calls_of_the_batch_size(folder):
    judge = TransformersJudge(str(folder), device="cpu", dtype="float32", batch_size=2)
    assert judge.ask([]) == []
    assert [a.text for a in judge.ask(QUESTIONS)] == [
        a.text for a in TransformersJudge(str(folder), device="cpu", dtype="float32").ask(QUESTIONS)
    ]
    assert judge.usage.calls == 3


def test_texts_and_log_probabilities_may_be_asked_together(judge):
    mixed = [QUESTIONS[0], with_answers("y", "n")[1], question(4, max_tokens=3), QUESTIONS[2]]
    answers = judge.ask(mixed)
    assert [name for name, _ in judge.calls] == ["generate", "forward", "generate"]
    assert [a.text is None for a in answers] == [False, True, False, False]
    assert answers[3].text == judge.ask([mixed[3]])[0].text


def test_pairs_are_compared_in_one_call_for_each_stage(judge, monkeypatch):
    monkeypatch.setattr(two_stage, "PROSE_TOKENS", 24)  # this one never ends by itself
    frames = np.random.default_rng(0).integers(0, 256, (8, 20, 24, 3)).astype(np.uint8)
    place = np.arange(4)
    first, second = (FrameBatch(place, place, "put it there", frames=some) for some in (frames[:4], frames[4:]))
    answers = two_stage.TwoStageComparer(judge).compare(first, second)
    assert judge.calls == [("generate", 4), ("generate", 4)]
    assert {a.choice for a in answers} == {"invalid"}  # its weights are random
    assert len({a.reason for a in answers}) > 1
    assert all("the reply is not 0, 1 or -1: " in a.reason for a in answers)


def test_pictures_and_texts_matter(judge):
    one, other = question(3, continuations=("y", "n")), question(3, continuations=("y", "n"))
    brighter = 255 - other.pictures[0]
    changed = Question((other.parts[0], brighter, *other.parts[2:]), continuations=("y", "n"))
    a, b = judge.ask([one, changed])
    assert abs(a.logprobs[0].low - b.logprobs[0].low) > 1e-3


def test_answers_that_are_the_same_tokens_are_refused(judge):
    with pytest.raises(ConfigError, match="can't tell 'y'"):
        judge.ask(with_answers("y", "y"))
    with pytest.raises(ConfigError, match="can't tell ''"):
        judge.ask(with_answers("y", ""))


def test_fewest_rows_from_which_every_step_can_be_read():
    def target(*tokens):
        return tuple((token,) for token in tokens)

    assert _contexts([target(1), target(2)]) == [()]
    assert _contexts([target(1, 2, 3), target(1, 4), target(5)]) == [(1, 2)]
    assert sorted(_contexts([target(1, 2), target(3, 4)])) == [(1,), (3,)]
    assert _contexts([(*target(1), (8, 9)), (*target(1), *target(2), (8, 9))]) == [(1, 2)]


def test_id_changes_with_the_weights(folder, shared, tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path)
    shared._processor.save_pretrained(tmp_path)
    other = TransformersJudge(str(tmp_path), device="cpu", dtype="float32")
    assert other.id.split()[2] != shared.id.split()[2]


@pytest.mark.parametrize("content", [None, "{"])
def test_folder_without_a_model_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="no image-text-to-text model can be read") as caught:
        TransformersJudge(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"batch_size": True}, {"dtype": "int4"}], ids=str)
def test_setting_out_of_range_is_refused(folder, settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        TransformersJudge(str(folder), **settings)
