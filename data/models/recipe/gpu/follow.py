"""The student follows both teachers, who read each batch as it learns from it: for a GPU, where that costs little.

follow.py SETTINGS.toml MODEL TOKENS TEACHERS OUT SECONDS: goes on from a model folder, with what tokens.py wrote and
the folders all-MiniLM-L6-v2 and all-mpnet-base-v2; labelled uses from CORPUS and SEMCOR, as in the other recipes. The
weights so far are written every minute.

Letters: B texts of a chunk, T tokens, D student width, P teachers' width, W words, N pairs.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from chunks import Rows, Texts
from teachers import MINILM, MPNET, Teacher
from tokens import FORMS
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import TrainingConfig
from ctxembed.model.checkpoint import Checkpoint, checkpoint_modules, load_checkpoint, save_checkpoint
from ctxembed.model.pooling import pool_sentences
from ctxembed.training.objectives.contrastive import info_nce
from ctxembed.training.objectives.distill import cosine_distance
from ctxembed.training.objectives.senses import SenseBatch, Senses
from ctxembed.training.progress import learning_rate_at
from ctxembed.training.sense_rows import read_senses
from ctxembed.training.targets import COMMON_FORM

CONFIG = TrainingConfig(warmup_fraction=0.03, weight_decay=0.01, clip_norm=1.0, max_length=224)
TEMPERATURE = 0.05
WORD_LAYER = 5
"""Of mpnet, for words."""
HIDDEN_WORDS, HIDDEN_TOKENS = 0.3, 0.08
"""Content words that are masked whole, and other tokens."""
SAVE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What differs between runs."""

    learning_rate: float = 2e-3
    seed: int = 5
    chunk: int = 32_768
    """Tokens of the texts of one length that pass through the networks together."""
    both_sentences: bool = False
    """Sentence vectors of mpnet beside MiniLM's: the two as one vector, whose cosines are the means of theirs."""
    by_form: bool = False
    """Half of the short texts stand together because they have a word form in common."""
    pairs: int = 0
    """Tokens of texts in pairs, of each step."""
    senses_every: int = 4
    """Steps between batches of labelled uses."""
    neighbours: int = 3
    """Each use is compared with so many others of its form."""
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "sentence": 1.0,
            "similarity": 1.0,
            "word": 1.0,
            "residual": 2.0,
            "relation": 3.0,
            "mlm": 0.2,
            "senses": 0.5,
        }
    )
    """Of the parts of the loss."""


class Means:
    """Running means of the teacher's word vectors, of all words and of each form."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._sums, self._uses = torch.zeros(FORMS, width, device=device), torch.zeros(FORMS, device=device)
        self._total, self._count = torch.zeros(width, device=device), 0

    def __call__(self, vectors: Tensor, forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take vectors (W, P) in; return them centred, what the context adds, and if its form is common enough."""
        self._sums.index_add_(0, forms, vectors)
        self._uses.index_add_(0, forms, torch.ones_like(vectors[:, 0]))
        self._total += vectors.sum(dim=0)
        self._count += len(vectors)
        uses = self._uses[forms]
        return vectors - self._total / self._count, vectors - self._sums[forms] / uses[:, None], uses >= COMMON_FORM


def span_means(hidden: Tensor, rows: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """Return means of stretches of hidden (B, T, D), float32 (W, D): pool_spans by running sums, without waiting."""
    sums = functional.pad(hidden.float().cumsum(dim=1), (0, 0, 1, 0))
    return (sums[rows, end] - sums[rows, first]) / (end - first)[:, None]


def relation_distance(own: Tensor, goal: Tensor, forms: Tensor, *, neighbours: int) -> Tensor:
    """Return the mean squared difference of the cosines between uses of one form, each with its next ones."""
    order = forms.argsort()
    own, goal, forms = functional.normalize(own, dim=-1)[order], functional.normalize(goal, dim=-1)[order], forms[order]
    total, count = own.new_zeros(()), own.new_zeros(())
    for step in range(1, neighbours + 1):
        same = (forms[step:] == forms[:-step]).float()
        cosines = [(rows[step:] * rows[:-step]).sum(dim=-1) for rows in (own, goal)]
        total, count = total + ((cosines[0] - cosines[1]).square() * same).sum(), count + same.sum()
    return total / count.clamp_min(1)


def divergence(own: Tensor, goal: Tensor) -> Tensor:
    """Return each row's KL divergence of the student's similarities from the teachers', (B,).

    The library's similarity_divergence, without its selection of rows, for which a GPU must wait.
    """
    logs = []
    for rows in (own, goal):
        unit = functional.normalize(rows.float(), dim=-1)
        logs.append((unit @ unit.T / TEMPERATURE).fill_diagonal_(-1e4).log_softmax(dim=-1))
    return functional.kl_div(*logs, reduction="none", log_target=True).sum(dim=-1)


def mask(ids: Tensor, words: tuple[Tensor, ...], model: Checkpoint) -> tuple[Tensor, Tensor]:
    """Return ids (B, T) with tokens hidden (80 % masked, 10 % exchanged, 10 % as they are), and the places of those."""
    drawn = (torch.rand(len(words[0]), device=ids.device) < HIDDEN_WORDS).float()
    edges = torch.zeros(len(ids), ids.size(1) + 1, device=ids.device)
    edges.index_put_((words[0], words[1]), drawn, accumulate=True)
    edges.index_put_((words[0], words[2]), -drawn, accumulate=True)
    hidden = (edges.cumsum(dim=1)[:, :-1] > 0.5) | (torch.rand(ids.shape, device=ids.device) < HIDDEN_TOKENS)
    hidden[:, 0] = hidden[:, -1] = False
    dice = torch.rand(ids.shape, device=ids.device)
    others = torch.randint(5, model.encoder.config.vocab_size, ids.shape, device=ids.device)
    new = ids.masked_fill(hidden & (dice < 0.8), model.tokenizer.mask_id)
    new = torch.where(hidden & (dice >= 0.8) & (dice < 0.9), others, new)
    return new, hidden.flatten().nonzero()[:, 0]


def deal_senses(objective: Senses, queue: mp.Queue[SenseBatch], tokens: int, seed: int) -> None:
    """Put batches of labelled uses into a queue, for ever."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(objective.groups))
        ends = np.cumsum(objective.costs[order])
        for items in np.split(order, np.searchsorted(ends, np.arange(tokens, ends[-1], tokens))):
            if len(items):
                queue.put(objective.prepare(items, seed=(0,)))


class Lesson:
    """What a step learns from."""

    def __init__(
        self, model: Checkpoint, folder: Path, teachers: Path, *, settings: Settings, device: torch.device
    ) -> None:
        self.model, self.settings, self.device = model, settings, device
        self.queue = self._labelled_uses()  # a process of its own, which must begin before the device is touched
        torch.manual_seed(settings.seed)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.minilm = Teacher(teachers / "all-MiniLM-L6-v2", MINILM, device=device, dtype=dtype)
        self.mpnet = Teacher(teachers / "all-mpnet-base-v2", MPNET, device=device, dtype=dtype)
        names = ("short", "long", "anchors", "positives") if settings.pairs else ("short", "long")
        self.texts = {name: Texts(folder / f"{name}.npz", device) for name in names}
        self.begin(settings.chunk)
        width = model.encoder.config.hidden_size
        sizes = {"sentence": 384 + 768 * settings.both_sentences, "word": 768, "residual": 768}
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()}).to(device)
        self.means = Means(768, device)

    def begin(self, chunk: int) -> None:
        """Begin to deal chunks of so many tokens."""
        short, long, by_form = self.texts["short"], self.texts["long"], self.settings.by_form
        self.streams = {
            "short": short.chunks(chunk, seed=1),
            "more": short.chunks(chunk, seed=6, by_form=True) if by_form else None,
            "long": long.chunks(chunk, seed=2),
            "masked": short.chunks(chunk // 2, seed=3),
            "masked long": long.chunks(chunk // 2, seed=4),
        }
        self.streams["more"] = self.streams["more"] or self.streams["short"]
        if self.settings.pairs:
            self.streams["pairs"] = self.texts["positives"].chunks(self.settings.pairs, seed=7)

    def _labelled_uses(self) -> mp.Queue[SenseBatch]:
        corpus = Path(os.environ["CORPUS"]) / "pairs"
        files = [os.environ["SEMCOR"], corpus / "wordnet.jsonl.zst", corpus / "gcide.jsonl.zst"]
        self.senses = Senses(read_senses(files, self.model.tokenizer, max_length=CONFIG.max_length), model=self.model)
        context = mp.get_context("fork")
        queue: mp.Queue[SenseBatch] = context.Queue(8)
        work = (self.senses, queue, 3 * self.settings.chunk // 8, self.settings.seed)
        context.Process(target=deal_senses, args=work, daemon=True).start()
        return queue

    def _goals(self, texts: Texts, rows: Rows, *, words: bool) -> tuple[Tensor, Tensor | None]:
        """Return what the teachers say of texts (B, P), and mpnet's vectors of their tokens if words are asked for."""
        ids, lengths = texts.teacher_tokens(rows)
        both = self.settings.both_sentences
        states = self.mpnet(ids, lengths, num_layers=None if both else WORD_LAYER) if both or words else []
        last = [self.minilm(ids, lengths)[-1], *([states[-1]] if both else [])]
        vectors = [functional.normalize(pool_sentences(each, lengths).float(), dim=-1) for each in last]
        return torch.cat(vectors, dim=-1), states[WORD_LAYER] if words else None

    def losses(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Return the parts of a step's loss, and the student's tokens."""
        parts, words, tokens = [], [], 0
        for stream, name in (("short", "short"), ("more", "short"), ("long", "long")):
            rows, texts = next(self.streams[stream]), self.texts[name]
            ids = texts.tokens(rows)
            states = self.model.encoder(ids).hidden_states
            goal, token_goals = self._goals(texts, rows, words=name == "short")
            parts.append((states[-1].float().mean(dim=1), goal))
            tokens += ids.numel()
            if token_goals is not None:
                owners, first, end, teacher_first, teacher_end, forms = texts.words(rows)
                own = span_means(states[self.model.pooling.usage_layer], owners, first, end)
                vectors = span_means(token_goals, owners, teacher_first, teacher_end)
                words.append((own, functional.normalize(vectors, dim=-1), forms))
        own, goal = (torch.cat(each) for each in zip(*parts, strict=True))
        direct = cosine_distance(self.heads["sentence"](own), goal)
        distances = {"sentence": direct, "similarity": divergence(own, goal)}
        long = len(parts[-1][0])  # short and long texts count the same
        figures = {name: 0.5 * (each[:-long].mean() + each[-long:].mean()) for name, each in distances.items()}
        figures |= self._words(*(torch.cat(each) for each in zip(*words, strict=True)))
        for extra in (self._pairs, self._masked, self._senses):
            found, read = extra(step)
            figures, tokens = figures | found, tokens + read
        return figures, tokens

    def _words(self, own: Tensor, goal: Tensor, forms: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            centred, residual, common = self.means(goal, forms)
        added = cosine_distance(self.heads["residual"](own), residual) * common
        return {
            "word": cosine_distance(self.heads["word"](own), centred).mean(),
            "residual": added.sum() / common.sum().clamp_min(1),
            "relation": relation_distance(own, centred, forms, neighbours=self.settings.neighbours),
        }

    def _pairs(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Follow the teachers on pairs, and find each text's partner among all."""
        if not self.settings.pairs:
            return {}, 0
        rows, (anchors, positives) = next(self.streams["pairs"]), (self.texts["anchors"], self.texts["positives"])
        ids, (anchor_ids, lengths) = positives.tokens(rows), anchors.padded(rows)
        sides = (
            pool_sentences(self.model.encoder(anchor_ids, lengths).last, lengths).float(),
            self.model.encoder(ids).last.float().mean(dim=1),
        )
        goals = torch.cat([self._goals(texts, rows, words=False)[0] for texts in (anchors, positives)])
        partners = torch.arange(len(rows), device=self.device)
        found = [info_nce(*each, partners, temperature=TEMPERATURE)[0].mean() for each in (sides, sides[::-1])]
        figures = {"pairs": divergence(torch.cat(sides), goals).mean(), "contrast": 0.5 * (found[0] + found[1])}
        return figures, ids.numel() + anchor_ids.numel()

    def _masked(self, step: int) -> tuple[dict[str, Tensor], int]:
        if step % 2:
            return {}, 0
        stream, name = ("masked", "short") if step % 6 else ("masked long", "long")
        rows, texts = next(self.streams[stream]), self.texts[name]
        ids = texts.tokens(rows)
        hidden, places = mask(ids, texts.words(rows), self.model)
        scores = self.model.head(self.model.encoder.at(hidden, places), self.model.encoder.embedding.tokens.weight)
        return {"mlm": functional.cross_entropy(scores.float(), ids.flatten()[places])}, ids.numel()

    def _senses(self, step: int) -> tuple[dict[str, Tensor], int]:
        if step % self.settings.senses_every != 1 or self.queue.empty():
            return {}, 0
        batch = self.queue.get().to(self.device)
        return {"senses": self.senses(self.model, batch).value}, batch.num_tokens


class Student:
    """The networks, their weights in float32 beside them, and the optimiser."""

    def __init__(self, lesson: Lesson) -> None:
        self.modules = checkpoint_modules(lesson.model).to(lesson.device).train()
        named = {
            **dict(self.modules.named_parameters()),
            **{f"heads.{n}": w for n, w in lesson.heads.named_parameters()},
        }
        self.networks = {name: weight for name, weight in named.items() if weight.requires_grad}
        self.weights = {name: nn.Parameter(weight.detach().clone()) for name, weight in self.networks.items()}
        if lesson.device.type == "cuda":
            self.modules.to(torch.bfloat16)
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)
        matrices, others = (
            [each for each in self.weights.values() if (each.ndim >= 2) == wide] for wide in (True, False)
        )
        groups = [{"params": matrices, "weight_decay": CONFIG.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def learn(self, loss: Tensor, *, learning_rate: float) -> Tensor:
        """Take a step; return the gradient's norm before it is clipped."""
        loss.backward()
        moved = [name for name, network in self.networks.items() if network.grad is not None]
        torch._foreach_zero_([weight.grad for weight in self.weights.values()])
        torch._foreach_copy_([self.weights[name].grad for name in moved], [self.networks[name].grad for name in moved])
        for network in self.networks.values():
            network.grad = None
        norm = nn.utils.clip_grad_norm_(self.weights.values(), CONFIG.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(list(self.networks.values()), list(self.weights.values()))
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return the model's weights, float32."""
        mine = dict(self.modules.named_parameters())
        return {name: weight.detach() for name, weight in self.weights.items() if name in mine}


def train(
    lesson: Lesson, *, seconds: float, metrics: Path, save: Callable[[dict[str, Tensor], dict[str, Any]], None]
) -> None:
    """Train until the time is up."""
    student, config = Student(lesson), replace(CONFIG, learning_rate=lesson.settings.learning_rate)
    weights = lesson.settings.weights
    step = tokens = 0
    history: dict[str, list[Tensor]] = {}
    began = saved = time.perf_counter()
    with metrics.open("w") as file:
        while (done := (time.perf_counter() - began) / seconds) < 1:
            figures, read = lesson.losses(step)
            loss = torch.stack([weights[name] * value for name, value in figures.items()]).sum()
            figures["norm"] = student.learn(loss, learning_rate=learning_rate_at(done, config))
            step, tokens = step + 1, tokens + read
            for name, value in figures.items():
                history.setdefault(name, []).append(value.detach())
            if step % 50 == 0 or step < 4:
                means = {name: round(torch.stack(values).mean().item(), 5) for name, values in history.items()}
                line = {"step": step, **means, "tokens": tokens, "seconds": round(time.perf_counter() - began, 1)}
                file.write(json.dumps(line) + "\n")
                file.flush()
                history = {}
                if not all(map(math.isfinite, means.values())):
                    raise SystemExit(f"the loss is no number any more at step {step}")
            if (now := time.perf_counter()) - saved > SAVE_SECONDS:
                save(student.state(), {"steps": step, "tokens": tokens, "seconds": round(now - began, 1)})
                saved = now
    save(student.state(), {"steps": step, "tokens": tokens, "seconds": round(time.perf_counter() - began, 1)})


def main() -> None:
    """Train, and write the model."""
    settings = Settings(**tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    source, tokens, teachers, out = map(Path, sys.argv[2:6])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it prepares a plan for every shape, and there are hundreds
    torch.backends.cuda.matmul.allow_tf32 = True
    model = load_checkpoint(source)
    begun_from = model.fingerprint
    out.mkdir(parents=True, exist_ok=True)
    lesson = Lesson(model, tokens, teachers, settings=settings, device=device)
    texts = {
        name: {"texts": len(each.lengths), "tokens": int(each.lengths.sum())} for name, each in lesson.texts.items()
    }

    def save(weights: dict[str, Tensor], result: dict[str, Any]) -> None:
        copy = load_checkpoint(source)
        checkpoint_modules(copy).load_state_dict({name: each.cpu() for name, each in weights.items()}, strict=False)
        notes = {"from": begun_from, **asdict(settings), "texts": texts, **result}
        save_checkpoint(out, replace(copy, name=out.name), training=notes)

    train(lesson, seconds=float(sys.argv[6]), metrics=out / "metrics.jsonl", save=save)


if __name__ == "__main__":
    main()
