"""The student follows both teachers, who read each batch as it learns from it: for a GPU, where that costs little.

follow.py MODEL TOKENS TEACHERS OUT SECONDS [CHUNK]: goes on from a model folder, with what tokens.py wrote and
the folders all-MiniLM-L6-v2 and all-mpnet-base-v2; labelled uses from CORPUS and SEMCOR, as in the other recipes.

Letters: B texts of a chunk, T tokens, D student width, W words.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from numpy.typing import NDArray
from teachers import MINILM, MPNET, Teacher
from tokens import FORMS
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import TrainingConfig
from ctxembed.model.checkpoint import Checkpoint, checkpoint_modules, load_checkpoint, save_checkpoint
from ctxembed.model.pooling import pool_spans
from ctxembed.training.objectives.distill import cosine_distance, similarity_divergence
from ctxembed.training.objectives.senses import SenseBatch, Senses
from ctxembed.training.progress import learning_rate_at
from ctxembed.training.sense_rows import read_senses
from ctxembed.training.targets import COMMON_FORM

CONFIG = TrainingConfig(
    learning_rate=2e-3, warmup_fraction=0.03, weight_decay=0.01, clip_norm=1.0, max_length=224, seed=5
)
WEIGHTS = {"sentence": 1.0, "similarity": 1.0, "word": 1.0, "residual": 2.0, "relation": 3.0, "mlm": 0.2, "senses": 0.5}
TEMPERATURE = 0.05
NEIGHBOURS = 3
"""Each use is compared with so many others of its form."""
HIDDEN_WORDS, HIDDEN_TOKENS = 0.3, 0.08
"""Content words that are masked whole, and other tokens."""

Rows = NDArray[np.int64]


class Texts:
    """Tokens of student and teachers and the words in them, on the device; dealt in chunks of texts of one length."""

    def __init__(self, file: Path, device: torch.device) -> None:
        stored = np.load(file)
        self.device, self.lengths = device, stored["lengths"]
        self._teacher_lengths, self._counts = stored["teacher_lengths"], stored["counts"]
        self._ids, self._teacher_ids = (self._put(stored[name].astype(np.int32)) for name in ("ids", "teacher_ids"))
        self._places, self._forms = self._put(stored["places"]), self._put(stored["forms"])
        self._starts = [
            self._put(np.cumsum(each) - each) for each in (self.lengths, self._teacher_lengths, self._counts)
        ]
        self._device_counts, self._device_lengths = self._put(self._counts), self._put(self._teacher_lengths)
        order = np.argsort(self.lengths, kind="stable")
        self._groups = np.split(order, np.flatnonzero(np.diff(self.lengths[order])) + 1)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def chunks(self, tokens: int, *, seed: int) -> Iterator[Rows]:
        """Yield texts of about so many tokens, epoch after epoch, all of one length."""
        epoch = 0
        while True:
            generator, chunks = np.random.default_rng([seed, epoch]), []
            for group in self._groups:
                size = max(1, tokens // int(self.lengths[group[0]]))
                rows = generator.permutation(group)
                cut = [rows[start : start + size] for start in range(0, len(rows), size)]
                chunks += cut[:-1] if len(cut) > 1 and len(cut[-1]) < size // 2 else cut
            for number in generator.permutation(len(chunks)):
                yield chunks[number]
            epoch += 1

    def tokens(self, rows: Rows) -> Tensor:
        """Return the student's ids, (B, T)."""
        width = torch.arange(int(self.lengths[rows[0]]), device=self.device)
        return self._ids[self._starts[0][self._put(rows)][:, None] + width].long()

    def teacher_tokens(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the teachers' ids, padded with anything to a multiple of eight, and their lengths."""
        width = torch.arange(-(-int(self._teacher_lengths[rows].max()) // 8) * 8, device=self.device)
        places = self._starts[1][self._put(rows)][:, None] + width
        return self._teacher_ids[places.clamp_max(len(self._teacher_ids) - 1)].long(), self._device_lengths[
            self._put(rows)
        ]

    def words(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return each content word's text in the chunk, its tokens of both kinds, and its form, (W,) each."""
        numbers, total = self._put(rows), int(self._counts[rows].sum())
        counts = self._device_counts[numbers].long()
        owners = torch.repeat_interleave(torch.arange(len(rows), device=self.device), counts, output_size=total)
        inside = torch.arange(total, device=self.device) - (counts.cumsum(0) - counts)[owners]
        chosen = self._starts[2][numbers][owners] + inside
        return owners, *self._places[:, chosen].long(), self._forms[chosen].long()


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


def relation_distance(own: Tensor, goal: Tensor, forms: Tensor) -> Tensor:
    """Return the mean squared difference of the cosines between uses of one form, each with its next ones."""
    order = forms.argsort()
    own, goal, forms = functional.normalize(own, dim=-1)[order], functional.normalize(goal, dim=-1)[order], forms[order]
    total, count = own.new_zeros(()), own.new_zeros(())
    for step in range(1, NEIGHBOURS + 1):
        same = (forms[step:] == forms[:-step]).float()
        cosines = [(rows[step:] * rows[:-step]).sum(dim=-1) for rows in (own, goal)]
        total, count = total + ((cosines[0] - cosines[1]).square() * same).sum(), count + same.sum()
    return total / count.clamp_min(1)


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


def deal_senses(objective: Senses, queue: mp.Queue[SenseBatch], tokens: int) -> None:
    """Put batches of labelled uses into a queue, for ever."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(CONFIG.seed)
    while True:
        order = generator.permutation(len(objective.groups))
        ends = np.cumsum(objective.costs[order])
        for items in np.split(order, np.searchsorted(ends, np.arange(tokens, ends[-1], tokens))):
            if len(items):
                queue.put(objective.prepare(items, seed=(0,)))


class Lesson:
    """What a step learns from."""

    def __init__(self, model: Checkpoint, folder: Path, teachers: Path, *, chunk: int, device: torch.device) -> None:
        self.model, self.device, self.chunk = model, device, chunk
        corpus = Path(os.environ["CORPUS"]) / "pairs"
        files = [os.environ["SEMCOR"], corpus / "wordnet.jsonl.zst", corpus / "gcide.jsonl.zst"]
        self.senses = Senses(read_senses(files, model.tokenizer, max_length=CONFIG.max_length), model=model)
        context = mp.get_context("fork")
        self.queue: mp.Queue[SenseBatch] = context.Queue(8)
        work = (self.senses, self.queue, 3 * chunk // 8)
        context.Process(target=deal_senses, args=work, daemon=True).start()  # before the device is touched
        torch.manual_seed(CONFIG.seed)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.sentence_teacher = Teacher(teachers / "all-MiniLM-L6-v2", MINILM, device=device, dtype=dtype)
        self.word_teacher = Teacher(teachers / "all-mpnet-base-v2", MPNET, device=device, dtype=dtype)
        self.texts = {name: Texts(folder / f"{name}.npz", device) for name in ("short", "long")}
        self.streams = {
            (name, size): self.texts[name].chunks(size, seed=number)
            for number, (name, size) in enumerate(
                (("short", chunk), ("long", chunk), ("short", chunk // 2), ("long", chunk // 2)), start=1
            )
        }
        self.heads = nn.ModuleDict(
            {"sentence": nn.Linear(256, 384), "word": nn.Linear(256, 768), "residual": nn.Linear(256, 768)}
        ).to(device)
        self.means = Means(768, device)

    def losses(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Return the parts of a step's loss, and the student's tokens."""
        parts, words, tokens, figures = [], [], 0, {}
        for name in ("short", "short", "long"):
            rows = next(self.streams[name, self.chunk])
            ids = self.texts[name].tokens(rows)
            states = self.model.encoder(ids).hidden_states
            teacher_ids, lengths = self.texts[name].teacher_tokens(rows)
            goal = self.sentence_teacher(teacher_ids, lengths)
            real = torch.arange(goal.size(1), device=self.device) < lengths[:, None]
            parts.append(
                (states[-1].float().mean(dim=1), (goal * real[..., None]).float().sum(dim=1) / lengths[:, None])
            )
            tokens += ids.numel()
            if name == "short":
                owners, starts, ends, teacher_starts, teacher_ends, forms = self.texts[name].words(rows)
                vectors = pool_spans(self.word_teacher(teacher_ids, lengths), owners, teacher_starts, teacher_ends)
                own = pool_spans(states[self.model.pooling.usage_layer], owners, starts, ends)
                words.append((own, functional.normalize(vectors, dim=-1), forms))
        own, goal = (torch.cat(each) for each in zip(*parts, strict=True))
        distances = (
            cosine_distance(self.heads["sentence"](own), goal),
            similarity_divergence(own, goal, temperature=TEMPERATURE),
        )
        long = len(parts[-1][0])  # short and long texts count the same
        for name, terms in zip(("sentence", "similarity"), distances, strict=True):
            figures[name] = 0.5 * (terms[:-long].mean() + terms[-long:].mean())
        figures |= self._words(*(torch.cat(each) for each in zip(*words, strict=True)))
        if step % 2 == 0:
            name = "short" if step % 6 else "long"
            rows = next(self.streams[name, self.chunk // 2])
            ids = self.texts[name].tokens(rows)
            hidden, places = mask(ids, self.texts[name].words(rows), self.model)
            scores = self.model.head(self.model.encoder.at(hidden, places), self.model.encoder.embedding.tokens.weight)
            figures["mlm"] = functional.cross_entropy(scores.float(), ids.flatten()[places])
            tokens += ids.numel()
        if step % 4 == 1 and not self.queue.empty():
            batch = self.queue.get().to(self.device)
            figures["senses"] = self.senses(self.model, batch).value
            tokens += batch.num_tokens
        return figures, tokens

    def _words(self, own: Tensor, goal: Tensor, forms: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            centred, residual, common = self.means(goal, forms)
        added = cosine_distance(self.heads["residual"](own), residual) * common
        return {
            "word": cosine_distance(self.heads["word"](own), centred).mean(),
            "residual": added.sum() / common.sum().clamp_min(1),
            "relation": relation_distance(own, centred, forms),
        }


def train(lesson: Lesson, *, seconds: float, metrics: Path) -> dict[str, float]:
    """Train until the time is up; weights are kept in float32 beside the networks. Return steps, tokens and seconds."""
    modules = checkpoint_modules(lesson.model).to(lesson.device).train()
    named = {**dict(modules.named_parameters()), **{f"heads.{n}": w for n, w in lesson.heads.named_parameters()}}
    networks = {name: weight for name, weight in named.items() if weight.requires_grad}
    weights = {name: nn.Parameter(weight.detach().clone()) for name, weight in networks.items()}
    if lesson.device.type == "cuda":
        modules.to(torch.bfloat16)
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    matrices, others = ([each for each in weights.values() if (each.ndim >= 2) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": CONFIG.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=CONFIG.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
    step = tokens = 0
    history: dict[str, list[Tensor]] = {}
    began = time.perf_counter()
    with metrics.open("w") as file:
        while (done := (time.perf_counter() - began) / seconds) < 1:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate_at(done, CONFIG)
            figures, read = lesson.losses(step)
            torch.stack([WEIGHTS[name] * value for name, value in figures.items()]).sum().backward()
            for name, network in networks.items():
                weights[name].grad.zero_() if network.grad is None else weights[name].grad.copy_(network.grad)
                network.grad = None
            nn.utils.clip_grad_norm_(weights.values(), CONFIG.clip_norm)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_copy_(list(networks.values()), list(weights.values()))
            step, tokens = step + 1, tokens + read
            for name, value in figures.items():
                history.setdefault(name, []).append(value.detach())
            if step % 100 == 0:
                means = {name: torch.stack(values).mean().item() for name, values in history.items()}
                line = {"step": step, **means, "tokens": tokens, "seconds": time.perf_counter() - began}
                file.write(json.dumps(line) + "\n")
                file.flush()
                history = {}
                if not all(map(math.isfinite, means.values())):
                    raise SystemExit(f"the loss is no number any more at step {step}")
    with torch.no_grad():
        modules.to(torch.float32)
        for name, network in networks.items():
            network.copy_(weights[name])
    return {"steps": step, "tokens": tokens, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    """Train, and write the model."""
    source, tokens, teachers, out = map(Path, sys.argv[1:5])
    chunk = int(sys.argv[6]) if len(sys.argv) > 6 else 32_768
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.enable_cudnn_sdp(False)  # it prepares a plan for every shape, and there are hundreds
    torch.backends.cuda.matmul.allow_tf32 = True
    model = load_checkpoint(source)
    out.mkdir(parents=True, exist_ok=True)
    lesson = Lesson(model, tokens, teachers, chunk=chunk, device=device)
    result = train(lesson, seconds=float(sys.argv[5]), metrics=out / "metrics.jsonl")
    checkpoint_modules(model).to("cpu").eval()
    texts = {
        name: {"texts": len(each.lengths), "tokens": int(each.lengths.sum())} for name, each in lesson.texts.items()
    }
    settings = {
        "from": model.fingerprint,
        "chunk": chunk,
        "weights": WEIGHTS,
        "seed": CONFIG.seed,
        "texts": texts,
        **result,
    }
    save_checkpoint(out, replace(model, name=out.name), training=settings)


if __name__ == "__main__":
    main()
