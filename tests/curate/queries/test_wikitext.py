"""Wikitext becomes what a reader of the page sees."""

import random
import time

import pytest

from diptych.curate.queries.wikitext import plain_lines


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in plain_lines([text]).to_pylist() if line.strip()]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("'''Dogs''' are ''very'' nice", ["Dogs are very nice"]),
        ("the dog's '''bone'''s", ["the dog's bones"]),
        ("a {{x|b={{y|}}|c}} d", ["a d"]),
        ("{{Infobox\n| a = b\n|}}\nprose", ["prose"]),
        ("a\n{| class=x\n|-\n| cell {{t\n|}} \n{|\n| in\n|}\n|}\nb", ["a", "b"]),
        ("a {| b |} c", ["a {| b |} c"]),
        ("see [[dog]]s and [[cat|the cats]] or [[a|b|c]]", ["see dogs and the cats or b|c"]),
        ("[[File:a.jpg|thumb|a [[dog]] here]] b", ["b"]),
        ("[[ image:a.jpg]][[Category:Dogs]][[:Category:Cats]] b", [":Category:Cats b"]),
        ("[[fr:Chien]] [[wikt:dog|dog]] [[Star Wars: Dogs]]", ["dog Star Wars: Dogs"]),
        ("[[a {{b|[[c]]}} d]] e", ["a d e"]),
        ("[https://a.b/c?d=e the label] f", ["[ the label] f"]),
        ("[//a.b the label] https://x.y/z. and/or http", ["[ the label] and/or http"]),
        ("a<!-- b\n -->c <!-- open d", ["ac"]),
        ("a<ref name=x>b [[c]]</ref> d<ref name=x /> e", ["a d e"]),
        ("a<ref>b<ref>c</ref> d", ["a d"]),
        ("a <ref>never closed b", ["a never closed b"]),
        ("a <math>x < y</math> b <GALLERY>f.jpg</GALLERY> c", ["a b c"]),
        ("H<sub>2</sub>O<br/>is <div class='x'>wet</div>", ["H2O", "is", "wet"]),
        ("1 < 2 <3 a<b", ["1 < 2 <3 a<b"]),
        ("== Head ==\n* one\n# two\n\n\n: three __NOTOC__", ["== Head ==", "* one", "# two", ": three"]),
        ("snake_case __init__ __NOT", ["snake_case __init__ __NOT"]),
        ("caf&eacute;&nbsp;5&#8211;6 &amp;lt; &lt;ref&gt;", ["café 5–6 &lt; <ref>"]),
        ("{{open [[also <b", ["{{open [[also <b"]),
        ("a }} ]] |} b", ["a }} |} b"]),
        ("{{a}}}} {{{b}}}", ["}} }"]),
        ("日本 [[犬|いぬ]]です", ["日本 いぬです"]),
        ("", []),
    ],
)
def test_markup_goes_and_prose_stays(text: str, lines: list[str]) -> None:
    assert words(text) == lines


def test_pages_do_not_touch_each_other() -> None:
    pages = ["a {{open", "b}} c", "d <!-- open", "e", "<ref>", "f</ref>g"]
    together = plain_lines(pages).to_pylist()
    assert together == [line for one in pages for line in plain_lines([one]).to_pylist()]


def test_any_text_is_survived() -> None:
    rng = random.Random(0)
    signs = "{{ }} [[ ]] {| |} <ref> </ref> <!-- --> | a é ' _ < > / http:// & [ : File: __ <br>"
    for _ in range(1_500):
        text = "".join(rng.choices([*signs.split(), "\n", " "], k=rng.randrange(40)))
        assert all("\n" not in line and len(line) <= len(text) for line in plain_lines([text]).to_pylist())


@pytest.mark.parametrize(
    "unit", ["{{", "[[", "<ref>", "<!", "<ref", "{{[[", "[[a|", "__A", "http://", "]]", "{|\n", "<a "]
)
def test_hostile_pages_take_no_longer_than_others(unit: str) -> None:
    """What opens again and again is not looked for again and again: that would take minutes."""
    plain_lines([unit * 100])
    start = time.process_time()
    plain_lines([unit * (1_000_000 // len(unit))])
    assert time.process_time() - start < 10
