"""Recipes of curations, TOML files: everything that decides what a data set holds, as data.

Paths in a recipe are relative to its file; paths given with `--set` are relative to the current folder.
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.core.errors import Reason
from diptych.core.settings import from_mapping, load_toml, override
from diptych.curate.candidates.candidates import CandidatesSettings, globbed
from diptych.curate.candidates.filter import FilterSettings
from diptych.curate.fetch.settings import FetchSettings
from diptych.curate.match.balance import BalanceSettings
from diptych.curate.match.match import MatchSettings
from diptych.curate.queries.counting import CountingSettings
from diptych.curate.queries.queries import QueriesSettings
from diptych.data.near_copies.groups import DedupSettings
from diptych.data.shards.writer import ShardSettings
from diptych.data.sources.rows import anchored

# The settings that are paths.
_PATHS = (
    "queries.corpus", "queries.word_counts", "queries.pair_counts", "queries.pageviews", "queries.wordnet",
    "queries.list", "candidates.sources", "filter.rules.blocked_words", "filter.rules.blocked_hosts_file",
    "dedup.blocked_images", "evaluation.sources",
)  # fmt: skip

# The setting that decides whether a pair is dropped for a reason; the other reasons have none.
SETTING_OF: Mapping[Reason, str] = {
    Reason.MISSING_CAPTION: "candidates.columns.caption",
    Reason.MISSING_IMAGE: "candidates.columns.image",
    Reason.CAPTION_TOO_SHORT: "filter.rules.min_characters",
    Reason.CAPTION_TOO_LONG: "filter.rules.max_characters",
    Reason.BOILERPLATE: "filter.rules.boilerplate",
    Reason.WRONG_LANGUAGE: "filter.rules.languages",
    Reason.BLOCKED_TEXT: "filter.rules.blocked_words",
    Reason.BLOCKED_HOST: "filter.rules.blocked_hosts",
    Reason.LOW_SCORE: "filter.rules.min_score",
    Reason.NO_QUERY: "queries.list",
    Reason.NOT_DRAWN: "balance.cap",
    Reason.ROBOTS: "fetch.robots",
    Reason.OPTED_OUT: "fetch.respect_opt_out",
    Reason.FORBIDDEN_ADDRESS: "fetch.allow_networks",
    Reason.TIMEOUT: "fetch.timeout_seconds",
    Reason.HASH_MISMATCH: "fetch.verify_sha256",
    Reason.TOO_MANY_BYTES: "fetch.max_bytes",
    Reason.TOO_MANY_PIXELS: "fetch.max_pixels",
    Reason.FORMAT_NOT_ALLOWED: "fetch.formats",
    Reason.IMAGE_TOO_SMALL: "filter.rules.min_side",
    Reason.ASPECT_RATIO: "filter.rules.max_aspect",
    Reason.BLOCKED_IMAGE: "dedup.blocked_images",
    Reason.NEAR_DUPLICATE: "dedup.near",
    Reason.IN_EVALUATION_SET: "evaluation.sources",
}


@dataclass(frozen=True, slots=True)
class QueriesPart:
    """Where queries come from; what is left empty gives none.

    Attributes:
        corpus: MediaWiki dumps, text files (one text a line) or Parquet; patterns such as "wiki/*.bz2".
        column: of texts in Parquet files.
        word_counts: CSV of words and counts, instead of a corpus; `pair_counts` of pairs of words.
        pageviews: files of page views; patterns too.
        language: of the Wikipedia whose views count.
        wordnet: a WNDB folder, or an `.xml`, `.xml.gz` or `.tsv` file.
        list: your own queries, one a line.
    """

    corpus: tuple[str, ...] = ()
    column: str = "text"
    word_counts: str = ""
    pair_counts: str = ""
    pageviews: tuple[str, ...] = ()
    language: str = "en"
    wordnet: str = ""
    list: str = ""
    choose: QueriesSettings = field(default_factory=QueriesSettings)
    counting: CountingSettings = field(default_factory=CountingSettings)


@dataclass(frozen=True, slots=True)
class FilterPart:
    """The rules for a pair, and whether e-mail addresses, telephone and card numbers and the like in captions
    are replaced by what they are (`scrub`).
    """

    scrub: bool = True
    rules: FilterSettings = field(default_factory=FilterSettings)


@dataclass(frozen=True, slots=True)
class EvaluationPart:
    """Sets that the result must not overlap: their images, and near copies of them, are left out.

    Attributes:
        sources: of `data.sources`; captions are not needed.
        max_bad_fraction: share of images that cannot be read above which it is an error.
    """

    sources: tuple[str, ...] = ()
    image: str = "image"
    max_bad_fraction: float = 0.1


@dataclass(frozen=True, slots=True)
class CardPart:
    """What the data card says above its numbers."""

    title: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class CurateRecipe:
    """A curation: from dumps and crawls to shards."""

    candidates: CandidatesSettings
    queries: QueriesPart = field(default_factory=QueriesPart)
    filter: FilterPart = field(default_factory=FilterPart)
    match: MatchSettings = field(default_factory=MatchSettings)
    balance: BalanceSettings = field(default_factory=BalanceSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    dedup: DedupSettings = field(default_factory=DedupSettings)
    evaluation: EvaluationPart = field(default_factory=EvaluationPart)
    shards: ShardSettings = field(default_factory=ShardSettings)
    card: CardPart = field(default_factory=CardPart)


def load_curate_recipe(path: Path, assignments: Sequence[str] = ()) -> CurateRecipe:
    """Read a recipe and apply `a.b=1` assignments."""
    mapping = load_toml(path)
    for *parts, name in (setting.split(".") for setting in _PATHS):
        table: Any = mapping
        for part in parts:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict) and name in table:
            table[name] = _anchored(table[name], path.parent)
    return from_mapping(CurateRecipe, override(mapping, assignments), where=path)


def _anchored(value: Any, folder: Path) -> Any:
    """Make a path, or the paths of a list, relative to the folder of the recipe."""
    if isinstance(value, list):
        return [_anchored(path, folder) for path in value]
    return anchored(value, folder) if isinstance(value, str) else value


def files_of(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the files that paths and patterns name, those of a pattern in the order of their names.

    Raises:
        UsageError: a pattern matches nothing.
    """
    files = (globbed(pattern) if glob.has_magic(pattern) else [pattern] for pattern in patterns)
    return tuple(path for several in files for path in several)
