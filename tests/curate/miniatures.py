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


def write_dump(path: Path, articles: Mapping[str, str]) -> Path:
    """Write a dump of articles by title, a talk page and a redirect: `.xml`, `.xml.gz`, or `.xml.bz2`, in
    several streams as Wikipedia's are.
    """
    pages = [page(title, text, number=number) for number, (title, text) in enumerate(articles.items())]
    pages.append(page("Talk:Dog", "a talk about unheard things", namespace=1))
    pages.append(page("Doggy", "#REDIRECT [[Dog]] unheard", redirect="Dog"))
    streams = [HEADER, *("".join(pages[first : first + 2]) for first in range(0, len(pages), 2)), FOOTER]
    if path.suffix == ".bz2":
        path.write_bytes(b"".join(bz2.compress(stream.encode()) for stream in streams))
    else:
        whole = "".join(streams).encode()
        path.write_bytes(gzip.compress(whole) if path.suffix == ".gz" else whole)
    return path


def write_pageviews(path: Path, rows: Sequence[tuple[str, str, int]]) -> Path:
    """Write an hour of page views: wiki ("en", "en.m", "de"), title with underscores, views."""
    lines = "".join(f"{wiki} {title} {views} 0\n" for wiki, title, views in rows)
    path.write_bytes(gzip.compress(lines.encode()))
    return path


def write_wndb(folder: Path, synsets: Sequence[tuple[str, Sequence[str], str, Sequence[int]]]) -> Path:
    """Write a folder as WordNet's `dict` is, from (pos, lemmas, gloss, rows of its hypernyms) of synsets."""
    folder.mkdir(parents=True, exist_ok=True)
    offsets: list[int] = []
    lines: dict[str, list[str]] = {name: [LICENSE] for name in POS.values()}
    senses: dict[str, dict[str, list[int]]] = {name: {} for name in POS.values()}
    # Offsets are eight digits wide, so a line is as long before they are known as after.
    for known in (False, True):
        lines = {name: [LICENSE] for name in POS.values()}
        for number, (pos, lemmas, gloss, hypernyms) in enumerate(synsets):
            name = POS[pos]
            if not known:
                offsets.append(sum(len(line.encode()) for line in lines[name]))
            targets = [(offsets[to] if known else 0, synsets[to][0]) for to in hypernyms]
            words = "".join(f" {lemma.replace(' ', '_')} {place:x}" for place, lemma in enumerate(lemmas))
            pointers = "".join(f" @ {target:08d} {kind} 0000" for target, kind in targets)
            row = f"{offsets[number]:08d} 05 {pos} {len(lemmas):02x}{words} {len(targets):03d}{pointers}"
            lines[name].append(f"{row} | {gloss}  \n")
            for lemma in lemmas if known else ():
                senses[name].setdefault(lemma.lower().replace(" ", "_"), []).append(offsets[number])
    for name, rows in lines.items():
        (folder / f"data.{name}").write_text("".join(rows))
        short = {"adj": "a", "adv": "r"}.get(name, name[0])
        index = [
            f"{lemma} {short} {len(found)} 1 @ {len(found)} 0 {' '.join(f'{one:08d}' for one in found)}  \n"
            for lemma, found in sorted(senses[name].items())
        ]
        (folder / f"index.{name}").write_text(LICENSE + "".join(index))
    return folder
