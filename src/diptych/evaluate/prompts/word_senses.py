"""Which sense a class name has: `crane` the bird or the machine is decided by the other classes of the set.

A sense is likely when it resembles likely senses of the other names more than it resembles nouns at large,
and when its lexicographer file is a likely one for the set; this is repeated until it settles (relaxation
labelling). Things that have an image have a small advantage. How frequent a sense is in texts, which some
WordNets tell, is left aside: it gained nothing on ImageNet, whose first senses are right for a third.

Source: Radford et al. 2021, section 3.1.4 (polysemy: construction cranes and cranes that fly, boxers);
Rosenfeld, Hummel and Zucker 1976 for relaxation labelling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.checks import Doubles, Ints
from diptych.core.errors import UsageError
from diptych.data.wordnet import Synset, WordNet
from diptych.evaluate.prompts.word_sense_features import PICTURED, SenseBook

ROUNDS = 6
"""Nothing changes after that."""

BACKGROUND = 2000
"""Nouns that stand for nouns at large."""


@dataclass(frozen=True, slots=True)
class SenseWeights:
    """How much each reason counts; chosen on the sets of the tests and every other class of ImageNet.

    Attributes:
        neighbours: a sense is held against as many other classes as resemble it most, and against all.
        sharpness: what a unit of support multiplies the odds of a sense with, as a logarithm.
        field: of the set's lexicographer files, against how common they are among nouns.
        pictured: of things that have an image.
    """

    neighbours: int = 12
    sharpness: float = 10.0
    field: float = 0.05
    pictured: float = 0.15


WEIGHTS = SenseWeights()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a class name was taken to mean.

    Attributes:
        name: as the data set has it.
        synset: the chosen sense's id; empty where WordNet does not know the name.
        gloss: what WordNet says of it.
        kind: what it is a kind of; empty where that is not known.
        senses: how many noun senses there were to choose from.
        share: how likely the chosen one is among them, in [0, 1].
        competitors: ids and glosses of the others, likely ones first.
        settled: who decided.
    """

    name: str
    synset: str = ""
    gloss: str = ""
    kind: str = ""
    senses: int = 0
    share: float = 0.0
    competitors: tuple[tuple[str, str], ...] = ()
    settled: Literal["unknown name", "only sense", "context", "by hand"] = "unknown name"

    @property
    def ambiguous(self) -> bool:
        """Say whether WordNet knows several senses of the name."""
        return self.senses > 1

    @property
    def phrase(self) -> str:
        """Return the name with its kind.

        >>> Choice("crane", kind="wading bird").phrase
        'crane, a type of wading bird'
        >>> Choice("sports car", kind="car").phrase
        'sports car'
        """
        told = set(self.kind.lower().split()) <= set(self.name.lower().split())
        return self.name if told else f"{self.name}, a type of {self.kind}"


def choose_senses(
    names: Sequence[str],
    wordnet: WordNet,
    *,
    by_hand: Mapping[str, str] | None = None,
    weights: SenseWeights = WEIGHTS,
) -> list[Choice]:
    """Resolve every class name of a set to a sense.

    Args:
        names: the classes, each once.
        wordnet: where to look.
        by_hand: class name -> synset id, for those that a person decided.
        weights: of the reasons.

    Raises:
        UsageError: a name stands twice, or a decision is about a name that is not in the set.
        DataError: a synset given by hand is no noun of this WordNet.

    Returns:
        One choice per name, in order.
    """
    fixed = dict(by_hand or {})
    _check(names, fixed)
    book = SenseBook(wordnet)
    told = [book.senses(name) for name in names]
    groups = [
        (book.get(fixed[name], of=name),) if name in fixed else senses
        for name, senses in zip(names, told, strict=True)
    ]
    owner = np.repeat(np.arange(len(names)), [len(group) for group in groups])
    shares = _settle(book, groups, owner, weights)
    found = []
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        if not group:
            found.append(Choice(name))
            continue
        own = shares[owner == number]
        order = np.argsort(-own, kind="stable").tolist()
        best, share = group[order[0]], round(float(own[order[0]]), 4)
        others = [sense for sense in (group[place] for place in order) if sense is not best]
        others += [sense for sense in told[number] if name in fixed and sense.id != best.id]
        competitors = tuple((sense.id, sense.gloss) for sense in others)
        settled: Literal["only sense", "context", "by hand"] = "context" if competitors else "only sense"
        settled = "by hand" if name in fixed else settled
        count = len(competitors) + 1
        found.append(Choice(name, best.id, best.gloss, book.kind(best), count, share, competitors, settled))
    return found


def _check(names: Sequence[str], fixed: Mapping[str, str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(fixed) - set(names))
    for what, found in (("a class name stands twice", twice), ("a decision is about no class", unknown)):
        if found:
            raise UsageError(what, where="class names", found=", ".join(found[:5]), fix="correct the list")


def _settle(
    book: SenseBook, groups: Sequence[Sequence[Synset]], owner: Ints, weights: SenseWeights
) -> Doubles:
    """Return how likely each of the S senses is among its name's: (S,), sums to one for each name."""
    count, flat = len(groups), [sense for group in groups for sense in group]
    shares = _normalized(np.ones(len(owner)), owner, count)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    if len(starts) < 2:
        return shares
    alike, at_large = _resemblance(book, flat, owner, weights.neighbours / (len(starts) - 1))
    _, fields = np.unique([sense.lexfile for sense in flat], return_inverse=True)
    prior = weights.pictured * np.array([sense.lexfile in PICTURED for sense in flat])
    prior = prior - weights.field * np.log([book.chance(sense.lexfile) for sense in flat]) - at_large
    for _ in range(ROUNDS):
        by_class = np.add.reduceat(alike * shares, starts, axis=1)  # (S, classes that have senses)
        nearest = np.partition(by_class, -min(weights.neighbours, len(starts)), axis=1)
        support = nearest[:, -weights.neighbours :].mean(axis=1) + by_class.mean(axis=1)
        held = np.zeros((count, int(fields.max()) + 1))
        np.add.at(held, (owner, fields), shares)
        others = (held.sum(axis=0) - held)[owner, fields]
        support += prior + weights.field * np.log((others + 0.5) / count)
        shares = _normalized(np.exp(weights.sharpness * support), owner, count)
    return shares


def _resemblance(
    book: SenseBook, senses: Sequence[Synset], owner: Ints, near: float
) -> tuple[NDArray[np.float32], Doubles]:
    """Return how much senses of different names resemble each other, and each of them nouns at large.

    Args:
        book: the features.
        senses: S of them.
        owner: (S,) name of each.
        near: share of the names that count as a sense's nearest.

    Returns:
        (S, S) cosines, 0 within a name, and (S,): the mean over nouns plus the mean over the nearest of them.
    """
    vectors, nouns = book.vectors(senses, book.nouns[:: max(1, len(book.nouns) // BACKGROUND)])
    alike = vectors @ vectors.T
    alike[owner[:, None] == owner] = 0.0
    chance = np.sort((vectors @ nouns.T).astype(np.float64), axis=1)
    nearest = max(1, round(min(1.0, near) * chance.shape[1]))
    return alike, chance[:, -nearest:].mean(axis=1) + chance.mean(axis=1)


def _normalized(weights: Doubles, owner: Ints, count: int) -> Doubles:
    return weights / np.bincount(owner, weights, minlength=count)[owner]
