"""Train ``mini`` from nothing, stage by stage; the long stages (1, 2, 4) leave a file and are not done twice.

1. sentences: captions of the grammar and general English, with the teacher's embeddings of both;
2. text tower: distilled from those;
3. pictures: renders of the environments, captioned with the distance of every concept;
4. both towers: soft contrastive fit;
5. domain: a classifier of goals that the encoder can know;
6. weights: float16 safetensors beside the model's config and vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vlmreward.agents.fit import corpus, domain
from vlmreward.agents.fit.contrastive import ContrastiveFit, FitSettings, text_features
from vlmreward.agents.fit.pictures import Domain, PictureSet, make_pictures
from vlmreward.agents.fit.text_tower import Distiller, embed_with_teacher, warm_start
from vlmreward.data.captions.cartpole import HELD_OUT_COMPOSITIONS
from vlmreward.data.captions.concept import Concept, is_held_out
from vlmreward.encoders import mini
from vlmreward.errors import ConfigError

Report = Callable[[str, int, int, float | None], None]  # stage, done, total, loss


@dataclass(frozen=True)
class PretrainSettings:
    """Settings of a pre-training.

    Attributes:
        seed: Seed of everything that draws.
        wordnet: Folder of WordNet's database (Debian's package wordnet-base).
        general: Number of WordNet's sentences.
        frames: Number of sentences made of simple frames.
        phrasings: Largest number of captions of one simple concept in the distillation.
        distil_steps: Optimiser steps of the distillation, 256 sentences each.
        pictures: Number of pictures of each environment.
        plain_share: Share of pictures in the environment's own look.
        fit: Settings of the contrastive fit.
    """

    seed: int = 0
    wordnet: str = "/usr/share/wordnet"
    general: int = 110_000
    frames: int = 60_000
    phrasings: int = 2000
    distil_steps: int = 2000
    pictures: dict[str, int] = field(
        default_factory=lambda: {"cartpole": 12_000, "mountaincar": 6_000, "humanoid": 24_000, "tabletop": 24_000}
    )
    plain_share: float = 0.4
    fit: FitSettings = field(default_factory=FitSettings)


class Pretraining:
    """Runs the stages in a folder.

    Args:
        settings: See PretrainSettings.
        folder: Where the stages leave their files.
        domains: The environments to learn, in the order of ``settings.pictures``.
        report: Told of progress.
    """

    def __init__(self, settings: PretrainSettings, folder: Path, domains: Sequence[Domain], report: Report) -> None:
        self.settings, self.folder, self._domains, self._report = settings, folder, domains, report
        folder.mkdir(parents=True, exist_ok=True)
        self._claim_folder()

    def _claim_folder(self) -> None:
        """Refuse a folder whose stages were made with other settings: their files would pass for ours."""
        own = {key: value for key, value in asdict(self.settings).items() if key not in ("fit", "wordnet")}
        path = self.folder / "settings.json"
        if not path.exists():
            path.write_text(json.dumps(own, indent=2) + "\n")
        elif json.loads(path.read_text()) != own:
            raise ConfigError(
                f"{self.folder} holds stages of other settings ({path.name}): choose another out=<folder>"
            )

    def sentences(self) -> tuple[list[str], np.ndarray]:
        """Return the sentences, short ones first, and the teacher's embeddings of them."""
        s, path = self.settings, self.folder / "sentences.npz"
        if not path.exists():
            rng = np.random.default_rng(s.seed)
            wordnet = Path(s.wordnet)
            general = corpus.read_sentences(wordnet)
            chosen = [general[i] for i in rng.choice(len(general), min(s.general, len(general)), replace=False)]
            words = corpus.read_words(wordnet)
            texts = set(chosen) | set(corpus.frame_sentences(words, s.frames, rng))
            texts |= set(domain.hard_negatives(words, s.frames // 4, rng))
            for concept in self._shown_concepts():
                found = concept.phrasings(s.phrasings // (10 if concept.parts else 1), rng)
                texts |= {text for text in found if not is_held_out(text)}
            ordered = sorted(texts, key=lambda t: (len(t.split()), t))
            done = 0

            def progress(n: int) -> None:
                nonlocal done
                done += n
                self._report("sentences", done, len(ordered), None)

            teacher = embed_with_teacher(ordered, progress)
            _save_npz(path, texts=np.array(ordered), teacher=teacher)
        with np.load(path, allow_pickle=False) as saved:
            return [str(t) for t in saved["texts"]], saved["teacher"]

    def distiller(self) -> tuple[Any, Distiller]:
        """Return a model with a distilled text tower, and the distiller."""
        s, path = self.settings, self.folder / "distilled.safetensors"
        texts, teacher = self.sentences()
        torch.manual_seed(s.seed)
        model, tokenizer = mini.build_model(), mini.make_tokenizer()
        tokens = tokenizer(texts)
        distiller = Distiller(model, tokens, teacher, s.seed)
        if not path.exists():
            warm_start(model, tokenizer)
            step = 0

            def progress(loss: float) -> None:
                nonlocal step
                step += 1
                self._report("text tower", step, s.distil_steps, loss)

            distiller.fit(s.distil_steps, 256, 2e-3, progress)
            state = {f"model.{k}": v for k, v in model.state_dict().items()}
            _save_tensors(path, state | {f"head.{k}": v for k, v in distiller.head.state_dict().items()})
            # What follows draws from a fresh stream, as it does when this stage was done by an earlier process.
            distiller = Distiller(model, tokens, teacher, s.seed)
        state = load_file(path)
        model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        distiller.head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
        return model, distiller

    def pictures(self, seed_offset: int = 0, share: float = 1.0) -> PictureSet:
        """Return captioned pictures; another ``seed_offset`` gives others, e.g. to evaluate on."""
        s = self.settings
        counts = {name: max(1, int(n * share)) for name, n in s.pictures.items()}
        total, done = sum(counts.values()), 0

        def progress(n: int) -> None:
            nonlocal done
            done += n
            self._report("pictures", done, total, None)

        size = mini.PREPROCESS.size[0]
        return make_pictures(self._domains, counts, size, s.seed + seed_offset, s.plain_share, progress)

    @cached_property
    def training_pictures(self) -> PictureSet:
        """The pictures to train on, rendered when they are first asked for."""
        return self.pictures()

    def fit(self, name: str, settings: FitSettings) -> Path:
        """Fit both towers, unless it was done before, and return the weights file ``<name>.safetensors``."""
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            with safe_open(path, framework="pt") as f:
                if json.loads(f.metadata()["settings"])["fit"] != json.loads(json.dumps(asdict(settings))):
                    raise ConfigError(f"{path} was fitted with other settings: choose another out=<folder>")
            return path
        model, distiller = self.distiller()
        torch.manual_seed(self.settings.seed)
        run = ContrastiveFit(
            model,
            mini.make_tokenizer(),
            self.training_pictures,
            distiller,
            settings,
            HELD_OUT_COMPOSITIONS,
            self.settings.seed,
        )
        step = 0

        def progress(terms: dict[str, float]) -> None:
            nonlocal step
            step += 1
            self._report(f"fit {name}", step, settings.steps, sum(terms.values()))

        run.fit(progress)
        state = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
        state |= {k: v for k, v in model.state_dict().items() if not v.is_floating_point()}
        weight, bias = self.fit_domain(state)
        state |= {mini.DOMAIN_WEIGHT: torch.from_numpy(weight), mini.DOMAIN_BIAS: torch.tensor(bias)}
        _save_tensors(path, state, {"version": mini.VERSION, "settings": json.dumps(asdict(self._plain(settings)))})
        return path

    def _plain(self, fit: FitSettings) -> PretrainSettings:
        return replace(self.settings, fit=fit, wordnet="wordnet-base")

    def _shown_concepts(self) -> list[Concept]:
        """Return the concepts whose phrasings may be met in training, as captions or as bare sentences."""
        return [c for d in self._domains for c in d.concepts if not c.parts or c.parts not in HELD_OUT_COMPOSITIONS]

    def domain_sentences(self) -> tuple[list[str], list[str]]:
        """Return sentences of the domain, none of them held out, and sentences of other things."""
        rng = np.random.default_rng([self.settings.seed, 3])
        words = corpus.read_words(Path(self.settings.wordnet))
        general = corpus.read_sentences(Path(self.settings.wordnet))
        outside = [general[i] for i in rng.choice(len(general), min(3000, len(general)), replace=False)]
        outside += corpus.frame_sentences(words, 2000, rng) + domain.hard_negatives(words, 6000, rng)
        inside = [c.sample(rng) for c in self._shown_concepts() for _ in range(20 if c.parts else 150)]
        inside = [text for text in inside if not is_held_out(text)]
        inside, outside = (
            [domain.casual(text, rng) if rng.random() < 0.5 else text for text in texts] for texts in (inside, outside)
        )
        # after the change of words, which may turn one phrasing into another
        return [text for text in inside if not is_held_out(text)], outside

    @torch.no_grad()
    def fit_domain(self, state: dict[str, torch.Tensor]) -> tuple[np.ndarray, float]:
        """Fit the domain's classifier to a model as its weights are stored.

        Args:
            state: The stored weights.

        Returns:
            As :func:`vlmreward.agents.fit.domain.fit_domain`.
        """
        model, tokenizer = mini.build_model(), mini.make_tokenizer()
        model.load_state_dict({name: value.float() for name, value in state.items()})
        model.eval()

        def features(texts: list[str]) -> np.ndarray:
            parts = [text_features(model, tokenizer(texts[i : i + 256]), False) for i in range(0, len(texts), 256)]
            return torch.cat(parts).numpy()

        inside, outside = self.domain_sentences()
        return domain.fit_domain(features(inside), features(outside))


def _save_npz(path: Path, **arrays: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def _save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)
    temporary.replace(path)
