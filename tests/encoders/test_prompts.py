"""Prompts to tokens: nothing is cut in silence."""

import open_clip
import pytest

from vlmreward.encoders.prompts import count_tokens, tokenise
from vlmreward.errors import ConfigError, PromptError


@pytest.fixture(scope="module")
def hugging_face(tokenizer_folder):
    return open_clip.tokenizer.HFTokenizer(str(tokenizer_folder), context_length=6, clean="canonicalize")


@pytest.fixture(scope="module")
def simple():
    return open_clip.tokenizer.SimpleTokenizer(context_length=6)


@pytest.mark.parametrize("kind", ["simple", "hugging_face"])
def test_a_prompt_that_just_fits_is_whole_and_one_more_word_is_refused(kind, request):
    tokenizer = request.getfixturevalue(kind)
    specials = {"simple": 2, "hugging_face": 1}[kind]
    fits = " ".join(["cart"] * (6 - specials))
    assert count_tokens(tokenizer, fits) == 6
    tokens = tokenise(tokenizer, [fits, "a pole"], "tiny")
    assert tokens.shape == (2, 6)
    assert len(set(tokens[0].tolist())) == 1 + specials  # every word is there, beside the special tokens
    with pytest.raises(PromptError, match=r"'cart cart .* is 7 tokens long, encoder tiny reads 6: shorten it"):
        tokenise(tokenizer, ["a pole", fits + " cart"], "tiny")


@pytest.mark.parametrize("kind", ["simple", "hugging_face"])
@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_prompts_are_refused(kind, text, request):
    with pytest.raises(PromptError, match="is empty for encoder tiny"):
        tokenise(request.getfixturevalue(kind), ["a cart", text], "tiny")


def test_a_prompt_that_cleaning_empties_is_refused(hugging_face):
    with pytest.raises(PromptError, match="'!!!' is empty"):
        tokenise(hugging_face, ["!!!"], "tiny")


def test_a_bare_text_and_no_text_and_no_string_are_refused(simple):
    with pytest.raises(PromptError, match="must be a list of texts, got the text 'a cart'"):
        tokenise(simple, "a cart", "tiny")
    with pytest.raises(PromptError, match="no prompts were given"):
        tokenise(simple, [], "tiny")
    with pytest.raises(PromptError, match="a prompt must be a text, got int"):
        tokenise(simple, [3], "tiny")  # type: ignore[list-item]


def test_a_tokenizers_own_count_goes_first(simple):
    class Own:
        context_length = 4
        count = staticmethod(len)

        def __call__(self, texts):
            return simple(texts)

    assert count_tokens(Own(), "abc") == 3
    with pytest.raises(PromptError, match="is 5 tokens long, encoder own reads 4"):
        tokenise(Own(), ["abcde"], "own")


def test_a_tokenizer_that_cannot_count_is_refused():
    class Mute:
        context_length = 4

        def __call__(self, texts):
            raise AssertionError("not reached")

    with pytest.raises(ConfigError, match="tokenizer Mute can't count tokens"):
        tokenise(Mute(), ["a"], "own")


def test_class_token_at_the_end_is_counted(hugging_face, monkeypatch):
    monkeypatch.setattr(hugging_face, "tokenizer_mode", "clips", raising=False)
    assert count_tokens(hugging_face, "a cart") == 5  # start, two words, end, class
