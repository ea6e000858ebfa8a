"""Align pictures and captions with soft targets graded by the distance between true states.

One-to-one targets (CLIP, arXiv 2103.00020) make the similarity a spike at the goal with flat flanks, useless as
a reward far away. Here every caption knows how far every picture is from it, and three terms use that:

- text to image: cross-entropy with target shares proportional to exp(-distance / ``temperature``);
- image to text: the same over the captions of the batch;
- slope: 1 - Pearson correlation, over the pictures of the caption's own environment, between similarity and minus
  the distance. It is what EPIC measures, does not care about scale, and is what tilts the landscape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vlmreward.agents.fit.pictures import PictureSet
from vlmreward.agents.fit.text_tower import Distiller
from vlmreward.data.captions.concept import is_held_out
from vlmreward.encoders.device import cpu_has_bf16
from vlmreward.encoders.mini import pooled_features
from vlmreward.errors import ConfigError


@dataclass(frozen=True)
class FitSettings:
    """Settings of the contrastive fit.

    Attributes:
        steps: Optimiser steps.
        images: Pictures a batch, of each environment in proportion to how many there are.
        texts: Captions a batch.
        learning_rate: Peak of the image tower's one-cycle rate; the text tower gets ``text_rate`` of it.
        text_rate: Share of the learning rate for the text tower.
        temperature: Distance at which a target's weight falls to 1/e.
        slope: Weight of the slope term.
        distil: Weight of the distillation term that keeps general English alive.
        shuffled: Control: give the captions of each concept the distances of another concept, drawn once.
        skip: Names of environments whose pictures and captions are left out (leave-one-out control).
        bag_of_words: Control: mean of token embeddings instead of the transformer.
    """

    steps: int = 1800
    images: int = 288
    texts: int = 128
    learning_rate: float = 2e-3
    text_rate: float = 0.15
    temperature: float = 0.08
    slope: float = 1.0
    distil: float = 1.0
    shuffled: bool = False
    skip: tuple[str, ...] = ()
    bag_of_words: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "images", "texts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


def soft_cross_entropy(logits: torch.Tensor, distance: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean cross-entropy of rows of logits against shares exp(-distance / temperature)."""
    target = torch.softmax(-distance / temperature, dim=-1)
    return -(target * torch.log_softmax(logits, dim=-1)).sum(-1).mean()


def slope_loss(similarity: torch.Tensor, distance: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - Pearson(similarity, -distance) over rows, each over its own environment's columns.

    Args:
        similarity: Shape (T, N).
        distance: Shape (T, N).
        inside: True where the picture is of the caption's environment, shape (T, N).
    """
    w = inside.float()
    count = w.sum(-1, keepdim=True).clamp(min=1.0)
    s = (similarity - (similarity * w).sum(-1, keepdim=True) / count) * w
    d = (-distance + (distance * w).sum(-1, keepdim=True) / count) * w
    # A floor on the spread: rows whose similarities are all but equal would have exploding gradients.
    norm = (s.square().sum(-1) + 1e-3).sqrt() * (d.square().sum(-1) + 1e-6).sqrt()
    varied = (d.square().sum(-1) > 1e-3).float()
    return ((1.0 - (s * d).sum(-1) / norm) * varied).sum() / varied.sum().clamp(min=1.0)


class CaptionSampler:
    """Draws captions with their concepts, environments first, held-out phrasings and compositions never.

    Args:
        pictures: The captioned pictures.
        settings: Which environments to skip.
        rng: Source of all draws.
        held_out_compositions: Pairs of concept names that must not be captioned together.
    """

    def __init__(
        self,
        pictures: PictureSet,
        settings: FitSettings,
        rng: np.random.Generator,
        held_out_compositions: tuple[tuple[str, ...], ...],
    ) -> None:
        self._concepts, self._rng = pictures.concepts, rng
        self._by_env: list[list[int]] = []
        self._composed_by_env: list[list[int]] = []
        for name in pictures.names:
            if name in settings.skip:
                continue
            own = [i for i, c in enumerate(pictures.concepts) if c.env == name]
            self._by_env.append([i for i in own if not pictures.concepts[i].parts])
            self._composed_by_env.append(
                [
                    i
                    for i in own
                    if pictures.concepts[i].parts and pictures.concepts[i].parts not in held_out_compositions
                ]
            )

    def draw(self, n: int) -> tuple[list[str], np.ndarray]:
        """Return n captions and their concepts' numbers, shape (n,)."""
        texts: list[str] = []
        concepts = np.empty(n, np.int64)
        while len(texts) < n:
            env = int(self._rng.integers(len(self._by_env)))
            pool = self._by_env[env]
            if self._composed_by_env[env] and self._rng.random() < 0.35:
                pool = self._composed_by_env[env]
            number = pool[self._rng.integers(len(pool))]
            text = self._concepts[number].sample(self._rng)
            if not is_held_out(text):
                concepts[len(texts)] = number
                texts.append(text)
        return texts, concepts


def text_features(model: Any, tokens: torch.Tensor, bag_of_words: bool) -> torch.Tensor:
    """Return text features before the projection, of the transformer or of the bag-of-words control."""
    if not bag_of_words:
        return pooled_features(model, tokens)
    mask = (tokens > 0).float()
    mask[:, 0] = 0.0  # start of text
    mask[torch.arange(len(tokens)), tokens.argmax(-1)] = 0.0  # end of text
    total = (model.token_embedding(tokens) * mask[..., None]).sum(1)
    return model.ln_final(total / mask.sum(1, keepdim=True).clamp(min=1.0))


def to_input(frames: np.ndarray, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return normalised pictures, float32, channels last, from uint8 (N, H, W, 3)."""
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div_(255.0)
    return x.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


class ContrastiveFit:
    """Fits an open_clip model to captioned pictures.

    Args:
        model: The open_clip model, with a distilled text tower.
        tokenizer: Texts to int64 tokens.
        pictures: The captioned pictures; held-out states are never shown.
        distiller: Supplies the distillation term.
        settings: See FitSettings.
        held_out_compositions: Pairs of concepts never captioned together.
        seed: Seed of every draw.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], torch.Tensor],
        pictures: PictureSet,
        distiller: Distiller,
        settings: FitSettings,
        held_out_compositions: tuple[tuple[str, ...], ...],
        seed: int,
    ) -> None:
        self.model, self.tokenizer, self.pictures, self.settings = model, tokenizer, pictures, settings
        self.distiller = distiller
        self._rng = np.random.default_rng([seed, 1])
        self._captions = CaptionSampler(pictures, settings, self._rng, held_out_compositions)
        keep = ~pictures.held_out
        self._rows = [
            np.flatnonzero(keep & (pictures.domain == i))
            for i, name in enumerate(pictures.names)
            if name not in settings.skip
        ]
        total = sum(map(len, self._rows))
        self._share = [max(1, round(settings.images * len(r) / total)) for r in self._rows]
        n = len(pictures.concepts)
        self._concept_map = np.random.default_rng([seed, 2]).permutation(n) if settings.shuffled else np.arange(n)
        self._generic = np.array([not c.targets for c in pictures.concepts])
        self._env = np.array([pictures.names.index(c.env) for c in pictures.concepts])
        mean, std = model.visual.image_mean, model.visual.image_std
        self._mean, self._std = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)

    def fit(self, progress: Callable[[dict[str, float]], None]) -> None:
        """Run the optimisation; ``progress`` gets the loss terms of each step."""
        s = self.settings
        text = [*self.distiller.parameters, self.model.text_projection]
        image = list(self.model.visual.parameters())
        scale = torch.nn.Parameter(torch.tensor(2.7))
        groups: list[dict[str, Any]] = [
            {"params": image, "lr": s.learning_rate},
            {"params": text, "lr": s.learning_rate * s.text_rate},
            {"params": [scale], "lr": s.learning_rate, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, [g["lr"] for g in groups], total_steps=s.steps, pct_start=0.1
        )
        self.model.train()
        self.model.visual.to(memory_format=torch.channels_last)
        for _ in range(s.steps):
            terms = self._losses(scale)
            loss = (
                terms["text_to_image"] + terms["image_to_text"] + s.slope * terms["slope"] + s.distil * terms["distil"]
            )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*image, *text], 1.0)
            optimiser.step()
            schedule.step()
            progress({name: float(value.detach()) for name, value in terms.items()})
        self.model.eval()
        with torch.no_grad():
            self.model.logit_scale.copy_(scale.clamp(max=4.6))

    def _losses(self, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        s = self.settings
        rows = np.concatenate(
            [self._rng.choice(r, n, replace=False) for r, n in zip(self._rows, self._share, strict=True)]
        )
        texts, concepts = self._captions.draw(s.texts)
        x = to_input(self.pictures.frames[rows], self._mean, self._std)
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
            image = self.model.visual(x)
            text = text_features(self.model, self.tokenizer(texts), s.bag_of_words) @ self.model.text_projection
            distil = self.distiller.batch_loss(32) if s.distil and not s.bag_of_words else torch.zeros(())
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        similarity = text @ image.T
        distance = torch.from_numpy(self.pictures.distance[self._concept_map[concepts]][:, rows].astype(np.float32))
        inside = torch.from_numpy(
            self._env[self._concept_map[concepts]][:, None] == self.pictures.domain[rows][None, :]
        )
        specific = torch.from_numpy(~self._generic[self._concept_map[concepts]])
        logits = similarity * scale.clamp(max=4.6).exp()
        return {
            "text_to_image": soft_cross_entropy(logits, distance, s.temperature),
            "image_to_text": soft_cross_entropy(logits[specific].T, distance[specific].T, s.temperature),
            "slope": slope_loss(similarity, distance, inside),
            "distil": distil.float(),
        }
