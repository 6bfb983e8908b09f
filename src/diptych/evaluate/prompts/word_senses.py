"""Word-sense disambiguation of class names: `crane` the bird or the machine is decided by the other classes.

A sense is likely when it resembles likely senses of the other names more than it resembles nouns at large,
and when its lexicographer file (noun.animal, …) is a likely one for the set; this is repeated until it
settles (relaxation labeling, Rosenfeld, Hummel and Zucker 1976). Senses resemble each other by the kinds
above them (hypernyms; where the file has none, read off the gloss), by lexicographer file and by the words of
the gloss (Lesk 1986), each weighted by how rare it is (Resnik 1995). How frequent a sense is in texts is left
aside: it gained nothing on ImageNet, whose first senses are right for a third.

Source: Radford et al. 2021, section 3.1.4 (polysemy).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diptych.core.checks import Doubles, Floats, Ints
from diptych.core.errors import DataError, UsageError
from diptych.data.wordnet import Synset, WordNet

ROUNDS = 6  # nothing changes after that
BACKGROUND = 2000  # nouns that stand for nouns at large
CHAIN = 10  # kinds that are followed upwards: above that everything is an object
WORD_WEIGHT = 0.5  # of a gloss's word beside a kind's: two glosses share words by chance
# Chosen on the sets of the tests and every other class of ImageNet.
NEIGHBORS = 12  # a sense is compared with as many other classes as resemble it most, and with all
SHARPNESS = 10.0  # a unit of support multiplies the odds of a sense by e to the power of this
FIELD_WEIGHT = 0.05  # of the set's lexicographer files, against how common they are among nouns
VISIBLE_WEIGHT = 0.15  # of things that have an image

NOUN = "n"
TOP = "noun.Tops"  # the lexicographer file of the most general nouns, kinds of things in every other file
VISIBLE = frozenset(
    f"noun.{name}" for name in ("animal", "artifact", "body", "food", "object", "person", "plant", "Tops")
)
_GENUS_END = re.compile(
    r"[;:,()]| (?:of|that|which|with|used|having|in|for|from|to|on|by|who|whose|where|when|and|or|as|at"
    r"|resembling|consisting|containing|made|worn|found|native|usually|often|typically|formerly|especially) "
)
_KIND_OF = re.compile(
    r"^(?:(?:an?|the|any|one|some|several|various|numerous|many|most|of|all) )*"
    r"(?:(?:kind|type|form|variety|species|breed|genus|member|group|class|family|sort)s? of )?"
    r"(?:(?:an?|the|any|several|various|numerous|many|of|small|large|medium-sized) )*"
)
_REMARK = re.compile(r"^\([^)]*\)\s*")
_WORD = re.compile(r"[a-z][a-z'-]+")
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of or and in to for with that is are by on as from its it be at which used having "
        "any not who usually one into other made has something someone such very more often can been than",
    )
)
_PLURALS = (("ies", "y"), ("ves", "f"), ("men", "man"), ("es", ""), ("s", ""))


@dataclass(frozen=True, slots=True)
class WordSense:
    """The sense that a class name was taken to have.

    Attributes:
        synset: the chosen sense's id; empty where WordNet does not know the name.
        kind: what it is a kind of; empty where that is not known.
        sense_count: noun senses that there were to choose from.
        competitors: ids and glosses of the others, likely ones first.
    """

    name: str
    synset: str = ""
    gloss: str = ""
    kind: str = ""
    sense_count: int = 0
    probability: float = 0.0
    competitors: tuple[tuple[str, str], ...] = ()
    decided_by: Literal["unknown name", "only sense", "context", "by hand"] = "unknown name"

    @property
    def ambiguous(self) -> bool:
        """Whether WordNet knows several senses of the name."""
        return self.sense_count > 1

    @property
    def phrase(self) -> str:
        """The name with its kind.

        >>> WordSense("crane", kind="wading bird").phrase
        'crane, a type of wading bird'
        """
        is_in_name = set(self.kind.lower().split()) <= set(self.name.lower().split())
        return self.name if is_in_name else f"{self.name}, a type of {self.kind}"


def disambiguate(
    names: Sequence[str], wordnet: WordNet, *, by_hand: Mapping[str, str] | None = None
) -> list[WordSense]:
    """Resolve every class name of a set to a sense; a person decided `by_hand` (name -> synset id)."""
    fixed = dict(by_hand or {})
    _check(names, fixed)
    nouns = _Nouns(wordnet)
    known = [nouns.senses(name) for name in names]
    groups = [
        (nouns.get(fixed[name], of=name),) if name in fixed else senses
        for name, senses in zip(names, known, strict=True)
    ]
    owner = np.repeat(np.arange(len(names)), [len(group) for group in groups])
    probabilities = _relax(nouns, groups, owner)
    results = []
    for number, (name, group) in enumerate(zip(names, groups, strict=True)):
        if not group:
            results.append(WordSense(name))
            continue
        own = probabilities[owner == number]
        order = np.argsort(-own, kind="stable").tolist()
        best, probability = group[order[0]], round(float(own[order[0]]), 4)
        others = [sense for sense in (group[index] for index in order) if sense is not best]
        others += [sense for sense in known[number] if name in fixed and sense.id != best.id]
        competitors = tuple((sense.id, sense.gloss) for sense in others)
        decided_by: Literal["only sense", "context", "by hand"] = "context" if competitors else "only sense"
        decided_by = "by hand" if name in fixed else decided_by
        kind, count = nouns.kind(best), len(competitors) + 1
        results.append(
            WordSense(name, best.id, best.gloss, kind, count, probability, competitors, decided_by)
        )
    return results


def _check(names: Sequence[str], fixed: Mapping[str, str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(fixed) - set(names))
    for what, wrong in (("a class name stands twice", twice), ("a decision is about no class", unknown)):
        if wrong:
            raise UsageError(what, where="class names", found=", ".join(wrong[:5]), fix="correct the list")


class _Nouns:
    def __init__(self, wordnet: WordNet) -> None:
        self._wordnet = wordnet
        self.all = [synset for synset in wordnet.synsets.values() if synset.pos == NOUN]
        self._has_hypernyms = any(synset.hypernyms for synset in self.all)
        self._words = Counter(word for synset in self.all for word in set(gloss_words(synset.gloss)))
        self.fields = Counter(synset.lexfile for synset in self.all)
        self._parents: dict[str, Synset | None] = {}
        self._below = Counter(kind.id for synset in self.all for kind in self._chain(synset))

    def get(self, name: str, *, of: str) -> Synset:
        noun = self._wordnet.synsets.get(name)
        if noun is None or noun.pos != NOUN:
            known = "; ".join(f"{sense.id} {sense.gloss[:40]}" for sense in self.senses(of)[:5])
            known = f"the id of a noun of this WordNet, such as {known or 'one of another name'}"
            raise DataError("no such sense", where=of, found=name, expected=known)
        return noun

    def senses(self, name: str) -> tuple[Synset, ...]:
        """Return the noun senses of a name, else of its singular, else of its last words."""
        words = name.lower().replace("_", " ").split() or [""]
        for start in range(len(words)):
            for form in forms(" ".join(words[start:])):
                if meanings := self._wordnet.meanings(form, NOUN):
                    return meanings
        return ()

    def kind(self, synset: Synset) -> str:
        parent = self._parent(synset)
        return parent.lemmas[0].replace("_", " ") if parent is not None else ""

    def vectors(self, synsets: Sequence[Synset], others: Sequence[Synset]) -> tuple[Floats, Floats]:
        """Return (S, F) and (B, F): features that two senses or more have, of unit length before that."""
        bags, further = ([self._features(synset) for synset in side] for side in (synsets, others))
        shared = Counter(name for bag in [*bags, *further] for name in bag)
        names = dict.fromkeys(name for bag in bags for name in bag if shared[name] > 1)
        columns = {name: column for column, name in enumerate(names)}
        return _rows(bags, columns), _rows(further, columns)

    def _features(self, synset: Synset) -> dict[str, float]:
        total = len(self.all)
        bag = {f"field {synset.lexfile}": math.log(total / max(1, self.fields[synset.lexfile]))}
        for word in gloss_words(synset.gloss):
            bag[word] = WORD_WEIGHT * math.log(total / max(1, self._words[word]))
        for kind in (synset, *self._chain(synset)):
            bag[f"kind {kind.id}"] = math.log(total / max(1, self._below[kind.id]))
        return bag

    def _chain(self, synset: Synset) -> list[Synset]:
        """Return the kinds above a sense, the nearest first."""
        above: list[Synset] = []
        parent = self._parent(synset)
        while parent is not None and len(above) < CHAIN and parent not in above:
            above.append(parent)
            parent = self._parent(parent)
        return above

    def _parent(self, synset: Synset) -> Synset | None:
        if synset.id not in self._parents:
            known = (self._wordnet.synsets.get(name) for name in synset.hypernyms)
            self._parents[synset.id] = next((kind for kind in known if kind), None) or self._genus(synset)
        return self._parents[synset.id]

    def _genus(self, synset: Synset) -> Synset | None:
        """Find the noun that the gloss begins with: the longest known end of its first phrase."""
        if self._has_hypernyms:
            return None
        words = genus(synset.gloss).split()
        known = (
            meaning
            for start in range(len(words))
            for form in forms(" ".join(words[start:]))
            for meaning in self._wordnet.meanings(form, NOUN)
            if meaning.id != synset.id and meaning.lexfile in (synset.lexfile, TOP)
        )
        return next(known, None)


def genus(gloss: str) -> str:
    """Read off a gloss what kind of thing is meant.

    >>> genus("large long-necked wading bird of marshes and plains in many parts of the world")
    'long-necked wading bird'
    """
    rest = _KIND_OF.sub("", _REMARK.sub("", gloss.strip().lower()))
    end = _GENUS_END.search(rest)
    return (rest[: end.start()] if end else rest).strip()


def forms(name: str) -> Iterator[str]:
    """Yield a name and what its singular may be.

    >>> list(forms("finches"))
    ['finches', 'finch', 'finche']
    """
    yield name
    for end, new in _PLURALS:
        if name.endswith(end) and len(name) > len(end) + 1:
            yield name[: -len(end)] + new


def gloss_words(gloss: str) -> list[str]:
    """Return the words of a gloss that carry meaning."""
    return [word for word in _WORD.findall(gloss.lower()) if word not in _STOP]


def _rows(bags: Sequence[dict[str, float]], columns: dict[str, int]) -> Floats:
    rows = np.zeros((len(bags), len(columns)), np.float32)
    for row, bag in enumerate(bags):
        norm = math.sqrt(sum(weight**2 for weight in bag.values())) or 1.0
        for name, weight in bag.items():
            if name in columns:
                rows[row, columns[name]] = weight / norm
    return rows


def _relax(nouns: _Nouns, groups: Sequence[Sequence[Synset]], owner: Ints) -> Doubles:
    """Return how likely each of the S senses is among its name's: (S,), sums to one for each name."""
    count, flat = len(groups), [sense for group in groups for sense in group]
    probabilities = _normalized(np.ones(len(owner)), owner, count)
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    if len(starts) < 2:
        return probabilities
    alike, at_large = _resemblance(nouns, flat, owner, NEIGHBORS / (len(starts) - 1))
    _, fields = np.unique([sense.lexfile for sense in flat], return_inverse=True)
    prior = VISIBLE_WEIGHT * np.array([sense.lexfile in VISIBLE for sense in flat])
    prior = (
        prior
        - FIELD_WEIGHT * np.log([nouns.fields[sense.lexfile] / len(nouns.all) for sense in flat])
        - at_large
    )
    for _ in range(ROUNDS):
        by_class = np.add.reduceat(alike * probabilities, starts, axis=1)  # (S, classes that have senses)
        nearest = np.partition(by_class, -min(NEIGHBORS, len(starts)), axis=1)
        support = nearest[:, -NEIGHBORS:].mean(axis=1) + by_class.mean(axis=1)
        by_field = np.zeros((count, int(fields.max()) + 1))
        np.add.at(by_field, (owner, fields), probabilities)
        others = (by_field.sum(axis=0) - by_field)[owner, fields]
        support += prior + FIELD_WEIGHT * np.log((others + 0.5) / count)
        probabilities = _normalized(np.exp(SHARPNESS * support), owner, count)
    return probabilities


def _resemblance(nouns: _Nouns, senses: Sequence[Synset], owner: Ints, near: float) -> tuple[Floats, Doubles]:
    """Return how much senses of different names resemble each other, and each of them nouns at large.

    (S, S) cosines, 0 within a name, and (S,): the mean over nouns plus that over the nearest `near` of them.
    """
    vectors, background = nouns.vectors(senses, nouns.all[:: max(1, len(nouns.all) // BACKGROUND)])
    alike = vectors @ vectors.T
    alike[owner[:, None] == owner] = 0.0
    chance = np.sort((vectors @ background.T).astype(np.float64), axis=1)
    nearest = max(1, round(min(1.0, near) * chance.shape[1]))
    return alike, chance[:, -nearest:].mean(axis=1) + chance.mean(axis=1)


def _normalized(weights: Doubles, owner: Ints, count: int) -> Doubles:
    return weights / np.bincount(owner, weights, minlength=count)[owner]
