"""WordNet as synsets, whatever file it comes in.

- A folder in WordNet's own format (WNDB: `data.noun`, `index.noun`, … as Debian's wordnet-base installs
  them): with hypernyms, and in `senses` the order of each word's meanings, the most frequent first.
- Open English WordNet as `.xml` or `.xml.gz` (WN-LMF): the same; the order is that of the senses of an entry.
- A table `.tsv` with the columns synset, lexfile, pos, members (joined by "|") and definition: no hypernyms,
  and meanings in the order of the rows.

Reads: one of these. Writes: nothing.
Source: wordnet.princeton.edu, wndb(5WN); globalwordnet.github.io/schemas (WN-LMF 1.3).
"""

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from diptych.core.errors import DataError, UsageError

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
HYPERNYMS = ("@", "@i")
"""Pointers of WNDB to what a thing is a kind, or an instance, of."""
LEXFILES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling",
    "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object", "noun.person",
    "noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity", "noun.relation",
    "noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition",
    "verb.communication", "verb.competition", "verb.consumption", "verb.contact", "verb.creation",
    "verb.emotion", "verb.motion", "verb.perception", "verb.possession", "verb.social", "verb.stative",
    "verb.weather", "adj.ppl",
)  # fmt: skip
"""By number, lexnames(5WN)."""


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning.

    Attributes:
        id: unique in its WordNet, e.g. "02086723-n".
        pos: n, v, a, s (an adjective that hangs on another one) or r.
        lemmas: the words for it, with spaces, in the order of the file.
        gloss: definition and, in WNDB, examples.
        hypernyms: ids of what it is a kind or an instance of.
        lexfile: e.g. "noun.animal"; empty if the file does not tell.
    """

    id: str
    pos: str
    lemmas: tuple[str, ...]
    gloss: str = ""
    hypernyms: tuple[str, ...] = ()
    lexfile: str = ""


@dataclass(frozen=True, slots=True)
class WordNet:
    """All meanings.

    Attributes:
        synsets: by id, in the order of the file.
        senses: ids of the meanings of a lemma (lower case) and part of speech (n, v, a, r), first one first.
    """

    synsets: dict[str, Synset]
    senses: dict[tuple[str, str], tuple[str, ...]] = field(repr=False)

    def meanings(self, lemma: str, pos: str = "n") -> tuple[Synset, ...]:
        """Return the meanings of a word in their order; none if it is unknown."""
        return tuple(self.synsets[name] for name in self.senses.get((lemma.lower(), pos), ()))


def read_wordnet(path: str | Path) -> WordNet:
    """Read a WordNet.

    Args:
        path: a WNDB folder, `.xml`, `.xml.gz` or `.tsv`.

    Raises:
        UsageError: there is no such file or folder, or it is of no known kind.
        DataError: it is damaged.
    """
    place = Path(path)
    kind = "wndb" if place.is_dir() else "".join(place.suffixes[-2:]).removesuffix(".gz")[-4:]
    readers = {"wndb": _read_wndb, ".xml": _read_lmf, ".tsv": _read_table}
    if not place.exists() or kind not in readers or (kind == "wndb" and not (place / "data.noun").is_file()):
        raise UsageError(
            "this is no WordNet",
            where=place,
            expected="a folder with data.noun and index.noun, or a file .xml, .xml.gz or .tsv",
            fix="e.g. apt-get install wordnet-base, and give its folder dict or /usr/share/wordnet",
        )
    try:
        wordnet = readers[kind](place)
    except (OSError, EOFError, ValueError, LookupError, zlib.error, csv.Error, expat.ExpatError) as error:
        raise DataError(
            "a WordNet cannot be read",
            where=place,
            found=f"{type(error).__name__}: {error}"[:200],
            fix="get it again",
        ) from error
    if not wordnet.synsets:
        raise DataError("a WordNet is empty", where=place, fix="get it again")
    return wordnet


def _plain(pos: str) -> str:
    return "a" if pos == "s" else pos


def _in_file_order(synsets: dict[str, Synset]) -> dict[tuple[str, str], tuple[str, ...]]:
    senses: dict[tuple[str, str], list[str]] = {}
    for synset in synsets.values():
        for lemma in synset.lemmas:
            senses.setdefault((lemma.lower(), _plain(synset.pos)), []).append(synset.id)
    return {key: tuple(dict.fromkeys(found)) for key, found in senses.items()}


def _read_wndb(folder: Path) -> WordNet:
    synsets: dict[str, Synset] = {}
    senses: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, pos in PARTS_OF_SPEECH.items():
        synsets |= {synset.id: synset for synset in map(_data_row, _rows(folder / f"data.{name}"))}
        for row in _rows(folder / f"index.{name}"):
            words = row.split()
            meanings = words[-int(words[2]) :]
            senses[words[0].replace("_", " "), pos] = tuple(f"{offset}-{pos}" for offset in meanings)
    unknown = next((one for found in senses.values() for one in found if one not in synsets), None)
    if unknown:
        raise ValueError(f"the index names a synset that is not there: {unknown}")
    return WordNet(synsets, senses)


def _rows(path: Path) -> Iterator[str]:
    """Yield the lines of a WNDB file; those of its licence begin with a space."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        yield from (line for line in file if not line.startswith(" "))


def _data_row(row: str) -> Synset:
    """Read `offset lexfile pos n (word lex_id)* p (symbol offset pos source/target)* … | gloss`."""
    front, _, gloss = row.partition(" | ")
    words = front.split(" ")
    count = int(words[3], 16)
    lemmas = (word.partition("(")[0].replace("_", " ") for word in words[4 : 4 + 2 * count : 2])
    first = 5 + 2 * count
    pointers = words[first : first + 4 * int(words[first - 1])]
    hypernyms = (
        f"{pointers[at + 1]}-{_plain(pointers[at + 2])}"
        for at in range(0, len(pointers), 4)
        if pointers[at] in HYPERNYMS
    )
    return Synset(
        f"{words[0]}-{_plain(words[2])}",
        words[2],
        tuple(lemmas),
        gloss.strip(),
        tuple(hypernyms),
        LEXFILES[int(words[1])],
    )


def _read_table(path: Path) -> WordNet:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        synsets = {
            row["synset"]: Synset(
                row["synset"],
                row["pos"],
                tuple(row["members"].split("|")),
                row["definition"],
                lexfile=row["lexfile"],
            )
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        }
    return WordNet(synsets, _in_file_order(synsets))


def _read_lmf(path: Path) -> WordNet:
    reader = _Lmf()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = reader.refuse
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        parser.ParseFile(file)
    return reader.wordnet()


class _Lmf:
    """Collects entries and synsets of WN-LMF as the parser meets them."""

    def __init__(self) -> None:
        self.lemma, self.text, self.open = ("", ""), "", False
        self.lemmas: dict[str, dict[str, None]] = {}
        self.senses: dict[tuple[str, str], list[str]] = {}
        self.rows: list[tuple[dict[str, str], list[str], list[str]]] = []
        self.entries: dict[str, str] = {}

    def refuse(self, *_: object) -> None:
        """Refuse entities of the file's own, which may grow without end."""
        raise ValueError("the file declares entities of its own")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "LexicalEntry":
            self.entry = attributes["id"]
        elif name == "Lemma":
            self.lemma = attributes["writtenForm"], attributes["partOfSpeech"]
            self.entries[self.entry] = attributes["writtenForm"]
        elif name == "Sense":
            written, pos = self.lemma
            self.senses.setdefault((written.lower(), _plain(pos)), []).append(attributes["synset"])
            self.lemmas.setdefault(attributes["synset"], {})[written] = None
        elif name == "Synset":
            self.rows.append((attributes, [], []))
        elif name == "SynsetRelation" and attributes["relType"] in ("hypernym", "instance_hypernym"):
            self.rows[-1][2].append(attributes["target"])
        self.open, self.text = name == "Definition", ""

    def characters(self, data: str) -> None:
        if self.open:
            self.text += data

    def end(self, name: str) -> None:
        if name == "Definition" and self.rows:
            self.rows[-1][1].append(self.text.strip())
        self.open = False

    def wordnet(self) -> WordNet:
        synsets: dict[str, Synset] = {}
        for attributes, definitions, hypernyms in self.rows:
            name = attributes["id"]
            members = (
                self.entries[one] for one in attributes.get("members", "").split() if one in self.entries
            )
            lemmas = tuple(dict.fromkeys(members)) or tuple(self.lemmas.get(name, {}))
            lexfile = attributes.get("lexfile", "")
            gloss = "; ".join(definitions)
            synsets[name] = Synset(name, attributes["partOfSpeech"], lemmas, gloss, tuple(hypernyms), lexfile)
        known = {key: tuple(one for one in found if one in synsets) for key, found in self.senses.items()}
        return WordNet(synsets, known)
