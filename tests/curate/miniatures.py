"""Small files in the formats that a curation reads: a Wikipedia dump, page views, WordNet."""

import bz2
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces><namespace key="0" case="first-letter" /><namespace key="1">Talk</namespace></namespaces>
  </siteinfo>
"""
FOOTER = "</mediawiki>\n"
POS = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
LICENSE = "  1 This software and database is being provided to you, the LICENSEE, by  \n"


def page(title: str, text: str, *, number: int = 1, namespace: int = 0, redirect: str = "") -> str:
    """Return one page as `Special:Export` writes it."""
    to = f'    <redirect title="{escape(redirect)}" />\n' if redirect else ""
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>\n{to}"
        f"    <revision>\n      <id>{number + 1000}</id>\n"
        f"      <comment>a {escape('<page>')} was made</comment>\n"
        f"      <model>wikitext</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>\n'
        "    </revision>\n  </page>\n"
    )


def write_dump(path: Path, articles: Mapping[str, str], *, pages_per_stream: int = 2) -> Path:
    """Write a dump with a talk page and a redirect after the articles.

    Args:
        path: `.xml`, `.xml.gz`, or `.xml.bz2`, which is written in several streams as Wikipedia's are.
        articles: wikitext by title.
        pages_per_stream: of a `.bz2`.
    """
    pages = [page(title, text, number=number) for number, (title, text) in enumerate(articles.items())]
    step = pages_per_stream
    pages.append(page("Talk:Dog", "a talk about unheard things", namespace=1))
    pages.append(page("Doggy", "#REDIRECT [[Dog]] unheard", redirect="Dog"))
    if path.suffix == ".bz2":
        streams = ["".join(pages[first : first + step]) for first in range(0, len(pages), step)]
        path.write_bytes(b"".join(bz2.compress(stream.encode()) for stream in (HEADER, *streams, FOOTER)))
    else:
        whole = (HEADER + "".join(pages) + FOOTER).encode()
        path.write_bytes(gzip.compress(whole) if path.suffix == ".gz" else whole)
    return path


def write_pageviews(path: Path, rows: Sequence[tuple[str, str, int]]) -> Path:
    """Write page views.

    Args:
        path: `pageviews-YYYYMMDD-HH0000.gz`, an hour's file, or `pageviews-YYYYMMDD-user.bz2`, a day's.
        rows: wiki ("en", "en.m", "de"), title with underscores, views.
    """
    if path.suffix == ".bz2":
        lines = [
            f"{wiki.split('.')[0]}.wikipedia {title} {number} {'mobile-web' if '.m' in wiki else 'desktop'} "
            f"{views} A{views}\n"
            for number, (wiki, title, views) in enumerate(rows)
        ]
        path.write_bytes(bz2.compress("".join(lines).encode()))
    else:
        lines = [f"{wiki} {title} {views} 0\n" for wiki, title, views in rows]
        path.write_bytes(gzip.compress("".join(lines).encode()))
    return path


def write_wndb(folder: Path, synsets: Sequence[tuple[str, Sequence[str], str, Sequence[int]]]) -> Path:
    """Write a folder as WordNet's `dict` is: `data.*` and `index.*` of the four parts of speech.

    Args:
        folder: made if missing.
        synsets: (pos, lemmas with spaces, gloss, numbers of its hypernyms in this list) each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    offsets: list[int] = []
    lines: dict[str, list[str]] = {name: [LICENSE] for name in POS.values()}
    for pos, _, _, hypernyms in synsets:
        # Offsets are eight digits wide, so a line is as long before they are known as after.
        row = _data_row(0, synsets[len(offsets)], [("00000000", pos)] * len(hypernyms))
        offsets.append(sum(len(line.encode()) for line in lines[POS[pos]]))
        lines[POS[pos]].append(row)
    lines = {name: [LICENSE] for name in POS.values()}
    senses: dict[str, dict[str, list[int]]] = {name: {} for name in POS.values()}
    for offset, synset in zip(offsets, synsets, strict=True):
        pointers = [(f"{offsets[to]:08d}", synsets[to][0]) for to in synset[3]]
        lines[POS[synset[0]]].append(_data_row(offset, synset, pointers))
        for lemma in synset[1]:
            senses[POS[synset[0]]].setdefault(lemma.lower().replace(" ", "_"), []).append(offset)
    for name, rows in lines.items():
        (folder / f"data.{name}").write_text("".join(rows))
        short = {"adj": "a", "adv": "r"}.get(name, name[0])
        index = [
            f"{lemma} {short} {len(found)} 1 @ {len(found)} 0 {' '.join(f'{one:08d}' for one in found)}  \n"
            for lemma, found in sorted(senses[name].items())
        ]
        (folder / f"index.{name}").write_text(LICENSE + "".join(index))
    return folder


def _data_row(
    offset: int, synset: tuple[str, Sequence[str], str, Sequence[int]], pointers: list[tuple[str, str]]
) -> str:
    pos, lemmas, gloss, _ = synset
    words = " ".join(f"{lemma.replace(' ', '_')} {number:x}" for number, lemma in enumerate(lemmas))
    to = "".join(f" @ {target} {kind} 0000" for target, kind in pointers)
    return f"{offset:08d} 05 {pos} {len(lemmas):02x} {words} {len(pointers):03d}{to} | {gloss}  \n"
