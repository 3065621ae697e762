"""Sense supervision: uses of a word in one sense draw near, its uses in other senses move away.

Letters: U uses of a batch, A of them anchors, B its sentences, G its glosses and M those of all processes,
T tokens, D width, N groups in all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ctxembed.config import check, to_mapping
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.pooling import pool_spans
from ctxembed.training.batches import TokenRowBatch, TokenRows, collate
from ctxembed.training.distributed import gather_rows
from ctxembed.training.objectives.base import Loss, Objective, encode_sentences
from ctxembed.training.objectives.contrastive import info_nce
from ctxembed.training.sense_rows import SenseRows

STRETCH = 1.5
"""The longest row of a piece is at most so many times as long as its shortest."""


@dataclass(frozen=True, kw_only=True)
class SenseConfig:
    """How uses are grouped and compared."""

    temperature: float = 0.1
    """Similarities are divided by it: the lower, the more the nearest use of another sense counts."""
    group_size: int = 8
    """Most uses of one word that are compared with each other."""
    max_groups: int = 32
    """Most groups of one word, so that the most frequent words do not fill the batches."""
    gloss_weight: float = 1.0
    """Of telling a use's gloss from other glosses, beside telling its sense from other uses; 0 leaves glosses out."""
    max_glosses: int = 8
    """To the glosses of a group's uses, glosses of the word's other senses are added until there are so many."""
    seed: int = 1
    """Decides which uses come together in a group; groups stay the same for the whole run."""

    def __post_init__(self) -> None:
        check(self.temperature > 0, f"temperature = {self.temperature}: must be above 0")
        check(
            self.group_size >= 3,
            f"group_size = {self.group_size}: must be at least 3, a pair and a use to tell it from",
        )
        check(self.max_groups >= 1, f"max_groups = {self.max_groups}: must be at least 1")
        check(self.gloss_weight >= 0, f"gloss_weight = {self.gloss_weight}: must be at least 0")
        check(self.max_glosses >= 0, f"max_glosses = {self.max_glosses}: must be at least 0")
        check(self.seed >= 0, f"seed = {self.seed}: must be at least 0")


# Groups


@dataclass(frozen=True, slots=True)
class SenseGroup:
    """Some uses of one lemma, and the glosses they are set against."""

    uses: list[int]
    glosses: list[int]
    """Those of the uses' senses and of other senses of the lemma; none if no use has one."""


def deal_groups(rows: SenseRows, *, config: SenseConfig) -> list[SenseGroup]:
    """Deal uses into groups that have something to teach.

    Each sense's uses are shuffled and laid in pairs (of three the last joins a pair, a single use stays alone). Round
    by round every sense of a lemma lays down its next pair, and the sequence is cut into groups: so several senses
    meet in a group, each with a partner, and rare senses come before ``max_groups`` is reached. Of a sense that is
    much more frequent than the lemma's others, uses are left over.

    A group is kept if a use in it has both a partner of its sense and a rival of another, or a gloss: in any other
    there is nothing to tell apart.

    Returns:
        Every use in one group at most; equal rows and config give equal groups.
    """
    generator = np.random.default_rng([config.seed, 0x5E45E])
    order = generator.permutation(len(rows.senses))
    order = order[np.lexsort((rows.senses[order], rows.lemmas[order]))]  # keeps the order of chance inside a sense
    sense_of, gloss_of = rows.senses.tolist(), rows.sense_glosses.tolist()
    glosses = lemma_glosses(rows) if config.gloss_weight else {}
    groups: list[SenseGroup] = []
    for members in _split(order, rows.lemmas[order]):
        of_lemma = glosses.get(int(rows.lemmas[members[0]]), [])
        by_sense = [uses.tolist() for uses in _split(members, rows.senses[members])]
        dealt: list[SenseGroup] = []
        for uses in _lay(by_sense, generator, size=config.group_size) if of_lemma or len(by_sense) > 1 else []:
            counts = Counter(sense_of[use] for use in uses)
            own = sorted({gloss_of[sense] for sense in counts} - {-1}) if of_lemma else []
            if own or (len(counts) > 1 and max(counts.values()) > 1):
                others = [gloss for gloss in of_lemma if gloss not in own] if own else []
                drawn = generator.permutation(others)[: max(0, config.max_glosses - len(own))]
                dealt.append(SenseGroup(uses, [*own, *map(int, drawn)]))
        groups += dealt[: config.max_groups]
    return groups


def _lay(by_sense: Iterable[list[int]], generator: np.random.Generator, *, size: int) -> Iterator[list[int]]:
    """Lay down the pairs of a lemma's senses, round by round, and cut them into groups of at most ``size`` uses."""
    laid: list[tuple[int, bool, float, list[int]]] = []
    for uses in by_sense:
        bounds = [*range(0, max(1, len(uses) // 2) * 2, 2), len(uses)]
        chance = generator.random(len(bounds))
        # Single uses end the first round: they are of use where a pair of another sense already is.
        laid += [(turn, len(uses) == 1, chance[turn], uses[a:b]) for turn, (a, b) in enumerate(pairwise(bounds))]
    group: list[int] = []
    for *_, pair in sorted(laid):
        if len(group) + len(pair) > size:
            yield group
            group = []
        group = group + pair
    yield group


def _split(values: NDArray[np.int64], keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Cut values where their keys change."""
    return np.split(values, np.flatnonzero(np.diff(keys)) + 1)


def lemma_glosses(rows: SenseRows) -> dict[int, list[int]]:
    """Return the glosses of each lemma that has any, each once."""
    found: defaultdict[int, dict[int, None]] = defaultdict(dict)
    for sense in np.flatnonzero(rows.sense_glosses >= 0).tolist():
        found[int(rows.sense_lemmas[sense])][int(rows.sense_glosses[sense])] = None
    return {lemma: list(glosses) for lemma, glosses in found.items()}


# Losses


def sense_contrast(
    uses: Tensor, groups: Tensor, senses: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute how well uses of the same sense stand together among the uses of their group.

    Supervised contrastive loss: Khosla et al. 2020, equation 2 (the sum over partners outside the logarithm), with the
    cosine as similarity. Departures: the denominator runs over the use's own group, so that only uses of one
    word repel each other, and a use is an anchor only if its group has a partner of its sense and a rival of another.

    Args:
        uses: (U, D), of any length.
        groups: int64 (U,).
        senses: int64 (U,), compared inside a group only.
        temperature: Above 0.

    Returns:
        Boolean (U,), which uses are anchors; float32 (A,), the loss of each in nats; and float32 (A,), in [0, 1]: how
        much of its nearest neighbour in the group, itself left out, is of its sense (a part only if several are
        equally near).

    >>> uses = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> anchors, losses, right = sense_contrast(uses, torch.zeros(3), torch.tensor([5, 5, 6]), temperature=1.0)
    >>> anchors.tolist(), [round(loss, 4) for loss in losses.tolist()], right.tolist()  # log(1 + 1 / e)
    ([True, True, False], [0.3133, 0.3133], [1.0, 1.0])
    """
    together = (groups[:, None] == groups).fill_diagonal_(False)  # (U, U)
    same = senses[:, None] == senses
    partners, rivals = together & same, together & ~same
    anchors = partners.any(dim=1) & rivals.any(dim=1)
    partners, together = partners[anchors], together[anchors]  # (A, U)
    with torch.autocast(uses.device.type, enabled=False):
        unit = functional.normalize(uses.float(), dim=-1)
        scores = (unit[anchors] @ unit.T).masked_fill(~together, float("-inf"))  # (A, U)
        terms = (scores / temperature).log_softmax(dim=1).masked_fill(~partners, 0.0)
    nearest = scores == scores.amax(dim=1, keepdim=True)
    right = (nearest & partners).sum(dim=1) / nearest.sum(dim=1)
    return anchors, -terms.sum(dim=1) / partners.sum(dim=1), right


def gather_glosses(vectors: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Put the glosses of all processes together, each once.

    Args:
        vectors: (G, D), of this process.
        numbers: int64 (G,), equal for equal glosses.

    Returns:
        (M, D), and their numbers int64 (M,), ascending; the same in every process.
    """
    vectors, numbers = gather_rows(vectors)[0], gather_rows(numbers[:, None])[0][:, 0]
    numbers, order = numbers.sort(stable=True)
    first = torch.ones_like(numbers, dtype=torch.bool)
    first[1:] = numbers[1:] != numbers[:-1]
    return vectors[order[first]], numbers[first]


# The objective


def collate_by_length(
    store: TokenRows, rows: NDArray[np.int64], *, pad_id: int
) -> tuple[tuple[TokenRowBatch, ...], NDArray[np.int64]]:
    """Pad rows in pieces of like length: one long sentence does not stretch hundreds of short ones.

    Args:
        store: Holds the rows.
        rows: Their numbers, (B,).
        pad_id: Fills short rows.

    Returns:
        The pieces, shortest rows first, none for B = 0; and for each row, in the order given, where its first token
        lies when all pieces are laid end to end, padding included, (B,).
    """
    order = np.argsort(store.lengths[rows], kind="stable")
    lengths, cuts = store.lengths[rows[order]], [0]
    for place, length in enumerate(lengths.tolist()):
        if length > STRETCH * lengths[cuts[-1]]:
            cuts.append(place)
    parts = [rows[order[first:last]] for first, last in pairwise([*cuts, len(rows)]) if last > first]
    pieces = tuple(collate(store, part, pad_id=pad_id) for part in parts)
    widths = np.array([piece.ids.size(1) for piece in pieces for _ in piece.rows], dtype=np.int64)
    places = np.zeros(len(rows), dtype=np.int64)
    places[order] = np.cumsum(widths) - widths
    return pieces, places


@dataclass(frozen=True, slots=True)
class SenseBatch:
    """The sentences of some groups, the uses marked in them, and glosses; each sentence and gloss once."""

    sentences: tuple[TokenRowBatch, ...]
    starts: Tensor
    """int64 (U,): a use's tokens are ``starts`` to ``ends`` of all sentences laid end to end, padding included."""
    ends: Tensor
    groups: Tensor
    """int64 (U,)."""
    senses: Tensor
    """int64 (U,)."""
    use_glosses: Tensor
    """int64 (U,), the number of each use's gloss, -1 for none."""
    glosses: tuple[TokenRowBatch, ...]
    gloss_numbers: Tensor
    """int64 (G,)."""
    foreign: Tensor
    """int64 (E, 2): a group, and a gloss that another inventory gives its word: no rival of its uses."""

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return sum(piece.num_tokens for piece in (*self.sentences, *self.glosses))

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        moved: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            part = getattr(self, name)
            moved[name] = tuple(piece.to(device) for piece in part) if isinstance(part, tuple) else part.to(device)
        return type(self)(**moved)


class Senses(Objective[SenseBatch]):
    """Draw uses of one sense together, and each use to the gloss of its sense.

    Both vectors are the model's own, without a map between them: so what was learned serves ``encode_usages`` and
    ``encode`` as they are, and a definition finds uses of the word it defines.
    """

    kind: ClassVar[str] = "senses"
    compares_rows: ClassVar[bool] = True

    def __init__(self, rows: SenseRows, *, model: Checkpoint, config: SenseConfig | None = None) -> None:
        """Deal the groups, which are the items.

        Args:
            rows: What to learn from.
            model: Its shape, pooling and padding token are read: trained are vectors of its ``pooling.usage_layer``.
            config: How uses are grouped and compared.

        Raises:
            InvalidInputError: If there is nothing to learn, or the model has no such layer.
        """
        super().__init__()
        self.rows = rows
        self.config = config or SenseConfig()
        layer, num_layers = model.pooling.usage_layer, model.encoder.config.num_layers
        check(
            -num_layers - 1 <= layer <= num_layers,
            f"usage_layer = {layer}: the model has layers 0 (embedding) to {num_layers}, or -1 for the last",
        )
        self.groups = deal_groups(rows, config=self.config)
        check(
            bool(self.groups),
            "no word has a pair of uses of one sense beside a use of another, nor a use with a gloss: nothing to learn",
        )
        self._lemma_glosses = lemma_glosses(rows) if self.config.gloss_weight else {}
        self._word_glosses: defaultdict[int, list[int]] = defaultdict(list)
        for lemma, glosses in self._lemma_glosses.items():
            self._word_glosses[int(rows.lemma_words[lemma])] += glosses
        self._has_glosses = any(group.glosses for group in self.groups)
        self._pad_id = model.tokenizer.pad_id
        lengths, gloss_lengths = rows.sentences.lengths, rows.glosses.lengths
        self.costs = np.array(
            [
                lengths[np.unique(rows.rows[each.uses])].sum() + gloss_lengths[each.glosses].sum()
                for each in self.groups
            ],
            dtype=np.int64,
        )
        self.settings: Mapping[str, Any] = {**to_mapping(self.config), "rows_sha256": rows.sha256}

    @property
    def summary(self) -> str:
        """One line about the groups, for the user to read."""
        used = sum(len(group.uses) for group in self.groups)
        left = f"{len(self.rows.senses) - used:,} uses left over (nothing to be told from, or beyond max_groups)"
        return f"{len(self.groups):,} groups of {used:,} uses; {left}"

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> SenseBatch:
        """Gather the sentences and glosses of some groups; nothing is left to chance."""
        rows, groups = self.rows, [self.groups[item] for item in items.tolist()]
        uses = np.array([use for group in groups for use in group.uses], dtype=np.int64)
        numbers, row_of = np.unique(rows.rows[uses], return_inverse=True)
        sentences, places = collate_by_length(rows.sentences, numbers, pad_id=self._pad_id)
        gloss_numbers = np.array(sorted({gloss for group in groups for gloss in group.glosses}), dtype=np.int64)
        glosses, _ = collate_by_length(rows.glosses, gloss_numbers, pad_id=self._pad_id)
        use_glosses = rows.sense_glosses[rows.senses[uses]] if self.config.gloss_weight else np.full(len(uses), -1)
        foreign = [(number, gloss) for number, group in enumerate(groups) for gloss in self._foreign(group)]
        return SenseBatch(
            sentences=sentences,
            starts=torch.from_numpy(places[row_of] + rows.starts[uses]),
            ends=torch.from_numpy(places[row_of] + rows.ends[uses]),
            groups=torch.from_numpy(np.repeat(np.arange(len(groups)), [len(group.uses) for group in groups])),
            senses=torch.from_numpy(rows.senses[uses]),
            use_glosses=torch.from_numpy(use_glosses),
            glosses=glosses,
            gloss_numbers=torch.from_numpy(np.concatenate([gloss_numbers[:0], *(piece.rows for piece in glosses)])),
            foreign=torch.tensor(foreign, dtype=torch.int64).reshape(-1, 2),
        )

    def forward(self, model: Checkpoint, batch: SenseBatch) -> Loss:
        """Return the mean over this process's anchors of what each has to lose (nats), by its sense and by its gloss.

        An anchor is a use with a partner and a rival in its group, or with a gloss and another gloss in the batch of
        any process. A group is in one process as a whole; glosses are those of all processes, and each use's
        terms are computed where the use is, so losses weighed by count sum up to that of one process with the whole
        batch, and gradients of glosses flow back to where they were encoded.
        """
        layer = model.pooling.usage_layer
        states = [model.encoder(piece.ids, piece.lengths).hidden_states[layer] for piece in batch.sentences]
        tokens = torch.cat([part.flatten(0, 1) for part in states])  # (all T, D)
        uses = pool_spans(tokens[None], torch.zeros_like(batch.starts), batch.starts, batch.ends)  # (U, D)
        anchors, losses, right = sense_contrast(uses, batch.groups, batch.senses, temperature=self.config.temperature)
        total = uses.sum() * 0.0 + losses.sum()  # without any anchor, still of the graph
        figures = {"sense_accuracy": right}
        if self._has_glosses:
            # Every process takes part in the exchange, whether or not it has glosses.
            own = [encode_sentences(model, piece.ids, piece.lengths) for piece in batch.glosses]
            glosses, numbers = gather_glosses(torch.cat([uses[:0], *own]), batch.gloss_numbers)
            described, losses, figures["gloss_accuracy"] = self._gloss_contrast(uses, batch, glosses, numbers)
            total = total + self.config.gloss_weight * losses.sum()
            anchors = anchors | described
        count = int(anchors.sum())
        value = total / max(1, count)
        metrics = {self.kind: value.item()} if count else {}
        metrics |= {name: hits.float().mean().item() for name, hits in figures.items() if len(hits)}
        return Loss(value, metrics, count)

    def _gloss_contrast(
        self, uses: Tensor, batch: SenseBatch, glosses: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return which uses are anchors (U,), the InfoNCE loss of each (A,), and whether its own gloss is nearest (A,).

        Rivals are the glosses of the batch that are not its own, nor another inventory's about the same word.
        """
        own = batch.use_glosses[:, None] == numbers  # (U, M)
        same = (batch.groups[:, None] == batch.foreign[:, 0]).float() @ (batch.foreign[:, 1:] == numbers).float() > 0
        anchors = own.any(dim=1) & (~own & ~same).any(dim=1)
        if not anchors.any():  # nothing, but of the graph: the backward exchange waits for every process
            return anchors, glosses.sum(dim=1)[:0], anchors[:0]
        columns, same = own[anchors].int().argmax(dim=1), same[anchors]
        losses, right = info_nce(uses[anchors], glosses, columns, temperature=self.config.temperature, same=same)
        return anchors, losses, right

    def _foreign(self, group: SenseGroup) -> set[int]:
        """Return the glosses that other inventories give a group's word."""
        if not group.glosses:
            return set()
        lemma = int(self.rows.lemmas[group.uses[0]])
        return set(self._word_glosses[int(self.rows.lemma_words[lemma])]) - set(self._lemma_glosses[lemma])
