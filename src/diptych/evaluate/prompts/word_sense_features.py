"""What WordNet says of a sense, as features that two senses can share.

A sense is described by its kinds (the chain of hypernyms; where the file has none, read off the gloss: a
crane is a "large long-necked wading bird"), by its lexicographer file (noun.animal, noun.artifact, …) and by
the words of its gloss, each weighted by how rare it is in that WordNet.

Source: Lesk 1986 for glosses; Resnik 1995 for the weight of a kind (its information content, here by how many
nouns stand below it).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.core.errors import DataError
from diptych.data.wordnet import Synset, WordNet

NOUN = "n"
TOP = "noun.Tops"
"""The lexicographer file of the most general nouns, which are kinds of things in every other file."""

CHAIN = 10
"""Kinds that are followed upwards: above that everything is an object."""

WORD_WEIGHT = 0.5
"""Of a gloss's word beside a kind's: two glosses share words by chance."""

PICTURED = frozenset(
    f"noun.{name}" for name in ("animal", "artifact", "body", "food", "object", "person", "plant", "Tops")
)
"""Lexicographer files of things that have an image."""

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


class SenseBook:
    """WordNet's nouns, looked up by name and described by features.

    Args:
        wordnet: see `diptych.data.wordnet`.
    """

    def __init__(self, wordnet: WordNet) -> None:
        self._wordnet = wordnet
        self.nouns = [synset for synset in wordnet.synsets.values() if synset.pos == NOUN]
        self._told_kinds = any(synset.hypernyms for synset in self.nouns)
        self._words = Counter(word for synset in self.nouns for word in set(gloss_words(synset.gloss)))
        self._fields = Counter(synset.lexfile for synset in self.nouns)
        self._parents: dict[str, Synset | None] = {}
        self._below = Counter(kind.id for synset in self.nouns for kind in self._chain(synset))

    def get(self, name: str, *, of: str) -> Synset:
        """Return a noun by its id.

        Args:
            name: the id.
            of: the class it was given for.

        Raises:
            DataError: this WordNet has none.
        """
        found = self._wordnet.synsets.get(name)
        if found is None or found.pos != NOUN:
            known = "; ".join(f"{sense.id} {sense.gloss[:40]}" for sense in self.senses(of)[:5])
            raise DataError(
                "no such sense",
                where=of,
                found=name,
                expected=f"the id of a noun of this WordNet, such as {known or 'one of another name'}",
            )
        return found

    def senses(self, name: str) -> tuple[Synset, ...]:
        """Return the noun senses of a name, else of its singular, else of its last words."""
        words = " ".join(name.lower().replace("_", " ").split()).split(" ")
        for start in range(len(words)):
            for form in forms(" ".join(words[start:])):
                found = self._wordnet.meanings(form, NOUN)
                if found:
                    return found
        return ()

    def kind(self, synset: Synset) -> str:
        """Say what a sense is a kind of: the first word for the nearest kind; empty if it is not known."""
        parent = self._parent(synset)
        return parent.lemmas[0].replace("_", " ") if parent is not None else ""

    def chance(self, field: str) -> float:
        """Return the share of nouns that a lexicographer file has."""
        return self._fields[field] / len(self.nouns)

    def vectors(self, synsets: Sequence[Synset], others: Sequence[Synset]) -> tuple[NDArray[np.float32], ...]:
        """Describe two lists of senses.

        Args:
            synsets: S senses.
            others: B further ones, of which only what they share with the first is looked at.

        Returns:
            (S, F) and (B, F): rows of unit length over the F features that at least two senses have, before
            those that only one has were left out.
        """
        bags = [self._features(synset) for synset in synsets]
        further = [self._features(synset) for synset in others]
        shared = Counter(name for bag in [*bags, *further] for name in bag)
        names = dict.fromkeys(name for bag in bags for name in bag if shared[name] > 1)
        places = {name: place for place, name in enumerate(names)}
        return _rows(bags, places), _rows(further, places)

    def _features(self, synset: Synset) -> dict[str, float]:
        total = len(self.nouns)
        bag = {f"field {synset.lexfile}": math.log(total / max(1, self._fields[synset.lexfile]))}
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
        if self._told_kinds:
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
    >>> genus("any of several breeds of very small dogs")
    'very small dogs'
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
    """Return the words of a gloss that say something.

    >>> gloss_words("a large bird that is used for racing")
    ['large', 'bird', 'racing']
    """
    return [word for word in _WORD.findall(gloss.lower()) if word not in _STOP]


def _rows(bags: Sequence[dict[str, float]], places: dict[str, int]) -> NDArray[np.float32]:
    rows = np.zeros((len(bags), len(places)), np.float32)
    for row, bag in enumerate(bags):
        norm = math.sqrt(sum(weight**2 for weight in bag.values())) or 1.0
        for name, weight in bag.items():
            if name in places:
                rows[row, places[name]] = weight / norm
    return rows
