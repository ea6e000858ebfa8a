"""Tell goals that ``mini`` can know from all others: a linear classifier on its text features.

Positives are captions of the grammar; negatives are general English, and sentences that use the domain's words of
other things ("the shopping cart is full of apples"), without which any mention of a car would pass. Half of both are
said the way people talk (``casual``): a polite beginning, an ending, a word left out, so that those are no cue.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HARD_FRAMES = (
    "a {word} full of {noun}",
    "the robot arm picks up the {noun}",
    "a robot arm {verb} the {noun}",
    "{verb} the {noun} with the gripper",
    "a car driving past the {noun}",
    "park the car in the {noun}",
    "drive the car along the {noun} without hitting the {noun}",
    "the {adj} car on the road",
    "overtake the {noun} in front",
    "a shopping cart with a {noun}",
    "a {noun} on the left and a {noun} on the right",
    "put the {noun} on the left of the {noun}",
    "a person holding a {noun}",
    "the person is {verb} a {noun}",
    "a flag with a {noun} on it",
    "the flag of the {noun}",
    "a mountain covered with {noun}",
    "a hiker on a mountain with a {noun}",
    "a tent pole and a {noun}",
    "a flagpole in front of the {noun}",
    "standing next to the {noun}",
    "raise the {noun}",
    "the leg of the {noun} is {adj}",
    "open the {noun}",
    "fold the {noun}",
    "pour the {noun} into the {noun}",
    "the drone flies over the {noun}",
    "land on the {noun}",
    "a four legged robot runs to the {noun}",
    "walk to the {noun}",
    "run as fast as you can",
    "jump over the {noun}",
    "kick the ball into the {noun}",
    "score a goal with the {noun}",
    "wipe the {noun}",
    "water the {noun} near the window",
    "a train on the rails next to the {noun}",
    "a truck carrying {noun}",
    "the {adj} {noun} on the track",
    "a stick of {noun}",
    "a bar serving {noun}",
    "how do I {verb} a {noun}",
    "what is the price of the {noun}",
)
WORDS = ("cart", "wagon", "car", "truck", "trolley", "box", "platform", "valley", "track", "robot")


BEGINNINGS = (
    "could you ", "can you ", "now ", "just ", "kindly ", "let's ", "I need it so that ", "it would be nice if ",
    "next, ", "first ", "okay, ", "you should ", "see to it that ", "we are looking for this: ", "picture this: ",
    "time to ",
)  # fmt: skip
ENDINGS = (
    " please", ", thanks", "!", ".", " for as long as possible", " right now", " without moving", " and leave it there",
    " the whole time", " if you can", ", nothing else", " again", " carefully", " as fast as possible", "?",
)  # fmt: skip


def casual(text: str, rng: np.random.Generator) -> str:
    """Return a sentence as somebody might say it: with a beginning, an ending, or a word left out."""
    words = text.split()
    if len(words) > 4 and rng.random() < 0.3:
        del words[rng.integers(len(words))]
    beginning = BEGINNINGS[rng.integers(len(BEGINNINGS))] if rng.random() < 0.4 else ""
    ending = ENDINGS[rng.integers(len(ENDINGS))] if rng.random() < 0.4 else ""
    return f"{beginning}{' '.join(words)}{ending}"


def hard_negatives(words: dict[str, list[str]], n: int, rng: np.random.Generator) -> list[str]:
    """Draw n sentences that use the domain's words of other things."""
    pools = {**words, "word": list(WORDS)}
    out = []
    for _ in range(n):
        text = HARD_FRAMES[rng.integers(len(HARD_FRAMES))]
        while "{" in text:
            start, end = text.index("{"), text.index("}")
            pool = pools[text[start + 1 : end]]
            text = text[:start] + pool[rng.integers(len(pool))] + text[end + 1 :]
        out.append(text)
    return out


def fit_domain(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit the classifier; its threshold is where it errs as often on the one side as on the other.

    Args:
        positive: Text features of sentences of the domain, shape (P, W).
        negative: Text features of others, shape (Q, W).

    Returns:
        Weight, float32, shape (W,), and bias: a text is outside the domain where ``features @ weight + bias < 0``.
    """
    from sklearn.linear_model import LogisticRegression

    x = np.concatenate([positive, negative])
    y = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=0.3, max_iter=2000, class_weight="balanced").fit((x - mean) / std, y)
    weight = (model.coef_[0] / std).astype(np.float32)
    inside, outside = np.sort(positive @ weight), np.sort(negative @ weight)
    tried = np.concatenate([inside, outside])
    warned = np.searchsorted(inside, tried) / len(inside)  # share of the domain's sentences below each threshold
    passed = 1.0 - np.searchsorted(outside, tried) / len(outside)
    return weight, -float(tried[np.argmin(np.abs(warned - passed))])


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> float:
    """Return the probability that an inside score is above an outside one, ties counting one half."""
    a, b = np.asarray(inside)[:, None], np.asarray(outside)[None, :]
    return float(np.mean((a > b) + 0.5 * (a == b)))
