"""WordNet as synsets, whatever file it comes in.

- A folder in WordNet's own format (WNDB: `data.noun`, `index.noun`, … as Debian's wordnet-base installs
  them): with hypernyms, and in `senses` the order of each word's meanings, the most frequent first.
- Open English WordNet as `.xml` or `.xml.gz` (WN-LMF 1.3): the same; the order is that of an entry's senses.
- A table `.tsv` with the columns synset, lexfile, pos, members (joined by "|") and definition: no hypernyms,
  and meanings in the order of the rows.
"""

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, cast
from xml.etree import ElementTree

from diptych.core.errors import DataError, UsageError

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
HYPERNYMS = ("@", "@i")  # pointers of WNDB to what a thing is a kind, or an instance, of
_NOUNS = (
    "Tops act animal artifact attribute body cognition communication event feeling food group location "
    "motive object person phenomenon plant possession process quantity relation shape state substance time"
)
_VERBS = (
    "body change cognition communication competition consumption contact creation emotion motion perception "
    "possession social stative weather"
)
LEXFILES = (  # by number, lexnames(5WN)
    *("adj.all", "adj.pert", "adv.all"),
    *(f"noun.{name}" for name in _NOUNS.split()),
    *(f"verb.{name}" for name in _VERBS.split()),
    "adj.ppl",
)


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning.

    `id` is unique in its WordNet, e.g. "02086723-n"; `pos` is n, v, a, s (an adjective that hangs on another
    one) or r; `gloss` the definition and, in WNDB, examples.
    """

    id: str
    pos: str
    lemmas: tuple[str, ...]  # with spaces, in the order of the file
    gloss: str = ""
    hypernyms: tuple[str, ...] = ()  # ids of what it is a kind or an instance of
    lexfile: str = ""  # e.g. "noun.animal"


Senses = dict[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class WordNet:
    """All meanings: `synsets` by id; `senses` by lemma (lower case) and pos (n, v, a, r), first one first."""

    synsets: dict[str, Synset]
    senses: Senses = field(repr=False)

    def meanings(self, lemma: str, pos: str = "n") -> tuple[Synset, ...]:
        """Return the meanings of a word in their order; none if it is unknown."""
        return tuple(self.synsets[name] for name in self.senses.get((lemma.lower(), pos), ()))


def read_wordnet(path: str | Path) -> WordNet:
    """Read a WordNet: a WNDB folder, `.xml`, `.xml.gz` or `.tsv`.

    Raises:
        UsageError: there is no such file or folder, or it is of no known kind.
        DataError: it is damaged.
    """
    path = Path(path)
    kind = "wndb" if path.is_dir() else "".join(path.suffixes[-2:]).removesuffix(".gz")[-4:]
    readers = {"wndb": _read_wndb, ".xml": _read_lmf, ".tsv": _read_table}
    if not path.exists() or kind not in readers or (kind == "wndb" and not (path / "data.noun").is_file()):
        expected = "a folder with data.noun and index.noun, or a file .xml, .xml.gz or .tsv"
        fix = "e.g. apt-get install wordnet-base, and give its folder dict or /usr/share/wordnet"
        raise UsageError("this is no WordNet", where=path, expected=expected, fix=fix)
    damage = (OSError, EOFError, ValueError, LookupError, AttributeError, zlib.error, csv.Error)
    try:
        wordnet = readers[kind](path)
    except (*damage, ElementTree.ParseError) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        raise DataError("a WordNet cannot be read", where=path, found=found, fix="get it again") from error
    if not wordnet.synsets:
        raise DataError("a WordNet is empty", where=path, fix="get it again")
    return wordnet


def _plain(pos: str) -> str:
    return "a" if pos == "s" else pos


def _read_wndb(folder: Path) -> WordNet:
    synsets: dict[str, Synset] = {}
    senses: Senses = {}
    for name, pos in PARTS_OF_SPEECH.items():
        synsets |= {synset.id: synset for synset in map(_data_row, _rows(folder / f"data.{name}"))}
        for row in _rows(folder / f"index.{name}"):
            words = row.split()
            meanings = words[-int(words[2]) :]
            senses[words[0].replace("_", " "), pos] = tuple(f"{offset}-{pos}" for offset in meanings)
    unknown = next((name for names in senses.values() for name in names if name not in synsets), None)
    if unknown:
        raise ValueError(f"the index names a synset that is not there: {unknown}")
    return WordNet(synsets, senses)


def _rows(path: Path) -> Iterator[str]:
    """Yield the lines of a WNDB file; those of its license begin with a space."""
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
    name, lexfile = f"{words[0]}-{_plain(words[2])}", LEXFILES[int(words[1])]
    return Synset(name, words[2], tuple(lemmas), gloss.strip(), tuple(hypernyms), lexfile)


def _read_table(path: Path) -> WordNet:
    synsets: dict[str, Synset] = {}
    senses: dict[tuple[str, str], dict[str, None]] = {}
    with _open(path) as binary, TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True):
            name, pos, lemmas = row["synset"], row["pos"], tuple(row["members"].split("|"))
            synsets[name] = Synset(name, pos, lemmas, row["definition"], lexfile=row["lexfile"])
    for synset in synsets.values():
        for lemma in synset.lemmas:
            senses.setdefault((lemma.lower(), _plain(synset.pos)), {})[synset.id] = None
    return WordNet(synsets, {key: tuple(names) for key, names in senses.items()})


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _lmf_elements(path: Path) -> Iterator[ElementTree.Element]:
    with _open(path) as file:
        if b"<!ENTITY" in file.read(1 << 16):  # they may grow without end; expat bounds those that come later
            raise ValueError("the file declares entities of its own")
        file.seek(0)
        for _, node in ElementTree.iterparse(file):
            if node.tag in ("LexicalEntry", "Synset"):
                yield node
                node.clear()


def _read_lmf(path: Path) -> WordNet:
    written: dict[str, str] = {}  # by entry
    lemmas: dict[str, list[str]] = {}  # by synset, where it does not name its members
    senses: dict[tuple[str, str], list[str]] = {}
    synsets: dict[str, Synset] = {}
    for node in _lmf_elements(path):
        if node.tag == "Synset":
            synsets[node.attrib["id"]] = _lmf_synset(node)
            continue
        (lemma,) = (child.attrib for child in node.iterfind("Lemma"))
        word = written[node.attrib["id"]] = lemma["writtenForm"]
        for sense in node.iterfind("Sense"):
            name = sense.attrib["synset"]
            senses.setdefault((word.lower(), _plain(lemma["partOfSpeech"])), []).append(name)
            lemmas.setdefault(name, []).append(word)
    for name, synset in synsets.items():  # the members are entries, which may come later in the file
        members = [written[entry] for entry in synset.lemmas if entry in written] or lemmas.get(name, [])
        synsets[name] = replace(synset, lemmas=tuple(dict.fromkeys(members)))
    known = {key: tuple(name for name in names if name in synsets) for key, names in senses.items()}
    return WordNet(synsets, known)


def _lmf_synset(node: ElementTree.Element) -> Synset:
    """Return the synset of an element, with its entries in the stead of lemmas."""
    definitions = ((child.text or "").strip() for child in node.iterfind("Definition"))
    relations = (child.attrib for child in node.iterfind("SynsetRelation"))
    kinds = ("hypernym", "instance_hypernym")
    hypernyms = (relation["target"] for relation in relations if relation["relType"] in kinds)
    name, pos, lexfile = node.attrib["id"], node.attrib["partOfSpeech"], node.attrib.get("lexfile", "")
    entries = tuple(node.attrib.get("members", "").split())
    return Synset(name, pos, entries, "; ".join(definitions), tuple(hypernyms), lexfile)
