"""Which sense a class name has: `crane` the bird or the machine is decided by the other classes of the set.

Every sense of every name is a bag of what WordNet says of it: its kinds (the chain of hypernyms, real ones or, where
the file has none, read off the gloss), its field (noun.animal, noun.artifact …) and the words of its gloss, each
weighted by how rare it is. A sense is likely when it resembles likely senses of the other names; this is repeated
until it settles (relaxation labelling). Things that can be photographed have a small advantage.

Source: the idea of Radford et al. 2021, section 3.1.4 (polysemy: construction cranes, boxers); Rosenfeld et al. 1976
for relaxation labelling; Lesk 1986 for glosses.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import DataError
from diptych.curate.wordnet import Synset, WordNet

ROUNDS = 6
NEIGHBOURS = 8
"""A sense is compared with as many other classes as resemble it most, and with all of them."""

SHARPNESS = 14.0
"""How much more likely the better sense is; chosen on the hand-made sets of the tests, not on ImageNet."""

BACKGROUND = 2000
WEIGHT=1.0
FIELD=0.05
BASE=1.0
CHAIN = 10
"""Longest chain of kinds that is followed upwards."""

SEEN_FIELDS = frozenset(
    f"noun.{name}" for name in ("animal", "artifact", "body", "food", "object", "person", "plant", "Tops")
)
"""Lexicographer files of things that have a picture."""

ADVANTAGE = 0.15
"""Of those, in units of resemblance."""

_GENUS_END = re.compile(
    r"[;:,()]| (?:of|that|which|with|used|having|in|for|from|to|on|by|who|whose|where|when|resembling|consisting|"
    r"containing|made|worn|found|native|and|or|as|at|usually|often|typically|formerly|especially) "
)
_KIND_OF = re.compile(
    r"^(?:(?:an?|the|any|one|some|several|various|numerous|many|most|of|all) )*"
    r"(?:(?:kind|type|form|variety|species|breed|genus|member|group|class|family|sort)s? of )?"
    r"(?:(?:an?|the|any|several|various|numerous|many|of|small|large|medium-sized) )*"
)
_WORD = re.compile(r"[a-z][a-z'-]+")
_STOP = frozenset(
    "a an the of or and in to for with that is are by on as from its it be at which used having any not who usually "
    "one into other made has something someone such very more often can been than".split()
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a class name was taken to mean.

    Attributes:
        name: as the data set has it.
        synset: the chosen sense's id; empty where WordNet does not know the name.
        gloss: what WordNet says of it.
        kind: what it is a kind of, for prompts; empty where nothing fits.
        senses: how many noun senses there were to choose from.
        share: how likely the chosen one is among them, in [0, 1].
        rivals: ids and glosses of the others, likely ones first.
        settled: "only sense", "context" or "by hand".
    """

    name: str
    synset: str
    gloss: str
    kind: str
    senses: int
    share: float
    rivals: tuple[tuple[str, str], ...] = field(default=())
    settled: str = "context"

    @property
    def phrase(self) -> str:
        """Write the name with its kind: "crane, a type of wading bird"."""
        known = self.kind and self.kind.lower() not in self.name.lower()
        return f"{self.name}, a type of {self.kind}" if known else self.name


def choose(names: Sequence[str], wordnet: WordNet, *, by_hand: Mapping[str, str] | None = None) -> list[Choice]:
    """Resolve every class name of a set to a synset.

    Args:
        names: the classes, each once.
        wordnet: where to look.
        by_hand: class name -> synset id, for those that a person decided.

    Raises:
        DataError: a synset given by hand is not in WordNet.

    Returns:
        One choice per name, in order.
    """
    fixed = dict(by_hand or {})
    book = _Book(wordnet)
    senses = [[book.get(fixed[name])] if name in fixed else book.senses(name) for name in names]
    flat = [sense for group in senses for sense in group]
    owner = np.repeat(np.arange(len(names)), [len(group) for group in senses])
    every = book.vectors([*flat, *book.sample(BACKGROUND)])
    vectors, background = every[: len(flat)], every[len(flat) :]
    shares = _settle(vectors, background, owner, np.array([book.advantage(sense) for sense in flat]), np.unique([sense.lexfile for sense in flat], return_inverse=True)[1], np.array([math.log(book._fields[sense.lexfile] / book._total) for sense in flat]))
    choices = []
    for number, (name, group) in enumerate(zip(names, senses, strict=True)):
        if not group:
            choices.append(Choice(name, "", "", "", 0, 0.0))
            continue
        own = shares[owner == number]
        order = np.argsort(-own, kind="stable")
        best, *others = (group[int(place)] for place in order)
        settled = "by hand" if name in fixed else "only sense" if len(group) == 1 else "context"
        rivals = tuple((rival.id, rival.gloss) for rival in others)
        share = round(float(own[order[0]]), 4)
        choices.append(
            Choice(name, best.id, best.gloss, book.kind(best), len(group), share, rivals, settled)
        )
    return choices


def genus(gloss: str) -> str:
    """Read off a gloss what kind of thing is meant.

    >>> genus("large long-necked wading bird of marshes and plains in many parts of the world")
    'large long-necked wading bird'
    >>> genus("any of several breeds of very small dogs")
    'very small dogs'
    """
    plain = re.sub(r"^\([^)]*\)\s*", "", gloss.strip().lower())
    rest = _KIND_OF.sub("", plain)
    end = _GENUS_END.search(rest)
    return (rest[: end.start()] if end else rest).strip()


def _settle(vectors: NDArray[np.float32], background: NDArray[np.float32], owner: NDArray[np.int64], prior: NDArray[np.float64], fields, base) -> NDArray[np.float64]:
    """Return how likely each sense is among its name's: (S,), sums to one for each name."""
    count = int(owner.max(initial=-1)) + 1
    shares = _normalized(np.ones(len(owner)), owner, count)
    alike = vectors @ vectors.T
    alike[owner[:, None] == owner[None, :]] = 0.0
    chance = np.sort(vectors @ background.T, axis=1)
    near = max(1, round(NEIGHBOURS / max(1, count - 1) * len(background)))
    expected = chance[:, -near:].mean(axis=1) + chance.mean(axis=1)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0, np.int64)
    for _ in range(ROUNDS if count > 1 else 0):
        by_class = np.add.reduceat(alike * shares, starts, axis=1)  # (S, classes that have senses)
        support = np.sort(by_class, axis=1)[:, -NEIGHBOURS:].mean(axis=1) + by_class.mean(axis=1) - WEIGHT*expected
        held = np.zeros((count, fields.max() + 1)); np.add.at(held, (owner, fields), shares)
        others = held.sum(axis=0)[None] - held
        support = support + FIELD * (np.log((others[owner, fields] + 0.5) / count) - BASE * base)
        shares = _normalized(np.exp(SHARPNESS * (support + ADVANTAGE * prior)), owner, count)
    return shares


def _normalized(weights: NDArray[np.float64], owner: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    return weights / np.bincount(owner, weights, minlength=count)[owner]


class _Book:
    """WordNet, looked up by name and described by features."""

    def __init__(self, wordnet: WordNet) -> None:
        self._by_id = {synset.id: synset for synset in wordnet.synsets}
        self._by_lemma: dict[str, list[Synset]] = {}
        for synset in wordnet.synsets:
            if synset.pos == "n":
                for lemma in synset.lemmas:
                    self._by_lemma.setdefault(_plain(lemma), []).append(synset)
        self._words = Counter(
            word for synset in wordnet.synsets for word in set(_words(synset.gloss)) if synset.pos == "n"
        )
        self._fields = Counter(synset.lexfile for synset in wordnet.synsets)
        self._total = max(1, len(self._by_id))
        self._parents: dict[str, Synset | None] = {}
        self._below = Counter(kind.id for synset in wordnet.synsets if synset.pos == "n" for kind in self._chain(synset))

    def _chain(self, synset: Synset) -> list[Synset]:
        """Return the kinds above a synset, the nearest first."""
        above: list[Synset] = []
        parent = self._parent(synset)
        while parent is not None and len(above) < CHAIN and parent not in above:
            above.append(parent)
            parent = self._parent(parent)
        return above

    def get(self, name: str) -> Synset:
        """Return a synset by its id."""
        if name not in self._by_id:
            raise DataError("no such synset", where=name, expected="an id of the given WordNet")
        return self._by_id[name]

    def senses(self, name: str) -> list[Synset]:
        """Return the noun senses of a name; of its singular or its last words where the whole is unknown."""
        words = _plain(name).split()
        for start in range(len(words)):
            rest = " ".join(words[start:])
            for form in (rest, *_singulars(rest)):
                if form in self._by_lemma:
                    return self._by_lemma[form]
        return []

    def sample(self, count: int) -> list[Synset]:
        """Return nouns at equal distances through WordNet: what a sense resembles by chance."""
        nouns = [synset for synset in self._by_id.values() if synset.pos == "n"]
        return nouns[:: max(1, len(nouns) // count)]

    def advantage(self, synset: Synset) -> float:
        """Return 1 for things that have a picture, else 0."""
        return float(synset.lexfile in SEEN_FIELDS)

    def kind(self, synset: Synset) -> str:
        """Say what a synset is a kind of, in a word or two."""
        parent = self._parent(synset)
        return parent.lemmas[0].replace("_", " ") if parent is not None else ""

    def vectors(self, synsets: Sequence[Synset]) -> NDArray[np.float32]:
        """Describe synsets: (S, F) rows of unit length over the features that two of them share."""
        bags = [self._features(synset) for synset in synsets]
        shared = Counter(name for bag in bags for name in bag)
        places = {name: place for place, name in enumerate(n for n, count in shared.items() if count > 1)}
        rows = np.zeros((len(bags), len(places)), np.float32)
        for row, bag in enumerate(bags):
            norm = math.sqrt(sum(weight**2 for weight in bag.values())) or 1.0
            for name, weight in bag.items():
                if name in places:
                    rows[row, places[name]] = weight / norm
        return rows

    def _features(self, synset: Synset) -> dict[str, float]:
        bag = {f"field {synset.lexfile}": math.log(self._total / self._fields[synset.lexfile])}
        for word in set(_words(synset.gloss)):
            bag[word] = 0.5 * math.log(self._total / max(1, self._words[word]))
        for kind in [synset, *self._chain(synset)]:
            bag[f"kind {kind.id}"] = math.log(self._total / max(1, self._below[kind.id]))
        return bag

    def _parent(self, synset: Synset) -> Synset | None:
        if synset.id not in self._parents:
            above = [self._by_id[name] for name in synset.hypernyms if name in self._by_id]
            self._parents[synset.id] = above[0] if above else self._genus_of(synset)
        return self._parents[synset.id]

    def _genus_of(self, synset: Synset) -> Synset | None:
        """Find the noun that the gloss begins with: the longest known end of its first phrase."""
        words = genus(synset.gloss).split()
        for start in range(len(words)):
            rest = " ".join(words[start:])
            for form in (rest, *_singulars(rest)):
                known = [s for s in self._by_lemma.get(form, ()) if s.id != synset.id]
                same = [s for s in known if s.lexfile in (synset.lexfile, "noun.Tops")]
                if same:
                    return same[0]
        return None


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\s]+", " ", name.lower()).split())


def _singulars(word: str) -> tuple[str, ...]:
    """Return what the singular of an English plural may be."""
    forms = [word[: -len(end)] + new for end, new in _PLURALS if word.endswith(end) and len(word) > len(end) + 1]
    return tuple(forms)


_PLURALS = (("ies", "y"), ("ves", "f"), ("men", "man"), ("es", ""), ("s", ""))


def _words(gloss: str) -> list[str]:
    return [word for word in _WORD.findall(gloss.lower()) if word not in _STOP]
