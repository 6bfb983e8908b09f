"""Rules about candidates: each drops what it names, under its reason, and nothing that people wrote."""

import json
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import Reason, SettingsError, UsageError
from diptych.curate.candidates.filter import (
    FilterSettings,
    caption_hosts,
    filter_table,
    is_boilerplate,
    repeated_captions,
)
from diptych.curate.candidates.language import language_of
from diptych.data.synthetic.crawl import crawled

OFF = {"min_characters": 0, "max_characters": 0, "boilerplate": False}


def table(captions: list[str], **columns: list[Any]) -> pa.Table:
    return pa.table({"key": [f"k{n}" for n in range(len(captions))], "caption": captions, **columns})


def kept(held: pa.Table, **settings: Any) -> list[bool]:
    keep, counts = filter_table(held, FilterSettings(**{**OFF, **settings}))
    assert counts.kept == sum(keep.to_pylist())
    assert counts.seen == len(held)
    counts.check(1.0)
    rows: list[bool] = keep.to_pylist()
    return rows


def test_lengths_are_in_characters_and_words() -> None:
    held = table(["犬", "two words", "  one  ", ""])
    assert kept(held, min_characters=2) == [False, True, True, False]
    assert kept(held, max_characters=7) == [True, False, True, True]
    assert kept(held, min_words=1) == [True, True, True, False]
    assert kept(held, max_words=1) == [True, False, True, True]


def test_a_row_is_counted_under_the_first_rule_that_it_breaks() -> None:
    held = table(["x", "IMG_1234.jpg", "a dog in the park", "y" * 40])
    keep, counts = filter_table(held, FilterSettings(min_characters=2, max_characters=30))
    assert keep.to_pylist() == [False, False, True, False]
    assert counts.as_dict() == {
        "in": 4,
        "out": 1,
        "dropped": {"boilerplate": 1, "caption_too_long": 1, "caption_too_short": 1},
        "examples": {"boilerplate": ["k1"], "caption_too_long": ["k3"], "caption_too_short": ["k0"]},
    }


def test_boilerplate_is_known_and_what_only_begins_like_it_stays() -> None:
    known = (
        "IMG_1234.JPG", "DSC00012.jpg", "image 5", "untitled", "Click to enlarge", "photo 33", "loading...",
        "logo", "thumbnail_33_300x300.png", "Image may contain: 5 items", "stock photo #33", "screenshot 4",
        "12/30", "***", "", "click here for a larger image", "No photo description available.",
        "https://a.example/x", "www.example.org/a",
        "This image has an empty alt attribute; its file name is x.png", "IMG 0012 (2)",
        "May be an image of 2 people", "Product Image", "Slide 3 of 10", "Placeholder", "Company logo",
        "P1010023", "red-shoes-2019.webp", "n/a"
    )  # fmt: skip
    others = (
        "a photo of a dog", "Logo of the city of Berlin", "image of the sea at night", "3 dogs", "犬",
        "vitamin C", "Screenshot of the menu in 1998", "P. Picasso in 1910", "Click, the film",
        "Gallery in Rome", "Nikon D850 beside a jpg"
    )  # fmt: skip
    captions = [*known, *others]
    dropped = is_boilerplate(table(captions)).tolist()
    assert [caption for caption, is_dropped in zip(captions, dropped, strict=True) if is_dropped] == [*known]


def test_no_human_caption_is_boilerplate(shared_data: Path) -> None:
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    titles = pq.read_table(shared_data / "fashion" / "train.parquet", columns=["caption"])["caption"]
    captions = [entry["caption"] for entry in annotations] + titles.to_pylist()
    dropped = {captions[row] for row in np.flatnonzero(is_boilerplate(table(captions)))}
    assert dropped == {"NA"}  # what the shop wrote where it had no title


def test_the_boilerplate_of_the_scenes_is_found_and_nothing_else() -> None:
    pairs = [crawled(index, seed=3, size=8) for index in range(1000)]
    dropped = is_boilerplate(table([pair.captions[0] for pair in pairs])).tolist()
    assert all(dropped[row] for row, pair in enumerate(pairs) if pair.fields["noise"] == "boilerplate")
    others = {pair.captions[0] for row, pair in enumerate(pairs) if dropped[row]}
    others -= {pair.captions[0] for pair in pairs if pair.fields["noise"] == "boilerplate"}
    # Some of those who describe scenes are no better than a camera.
    camera = re.compile(r"(?i)(img_\d{4}|screenshot|untitled|photo|image)\.?")
    assert [text for text in others if not camera.fullmatch(text)] == []


def test_hosts_are_blocked_with_all_below_them(tmp_path: Path) -> None:
    urls = ["https://bad.example/x", "http://I.Bad.Example:80/x", "https://notbad.example/x", None,
            "https://ok.example/"]  # fmt: skip
    pages = ["https://a.example/", None, None, None, "https://www.worse.example/bad.example"]
    held = table(["a dog"] * 5, url=urls, page=pages)
    assert kept(held, blocked_hosts=("bad.example",)) == [False, False, True, True, True]
    (tmp_path / "hosts.txt").write_text("# comment\n\nWorse.example\n")
    settings = {"blocked_hosts": ("bad.example",), "blocked_hosts_file": str(tmp_path / "hosts.txt")}
    assert kept(held, **settings) == [False, False, True, True, False]
    assert kept(table(["a dog"]), **settings) == [True]


def test_phrases_are_blocked_as_whole_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Hot-Dog\nbadword\n# dog\n!!!\n", encoding="utf-8")
    held = table(["one hot dog!", "hotdog", "BADWORD here", "badwords", "hot, red dog", ""])
    assert kept(held, blocked_words=str(path)) == [False, True, False, True, True, True]
    with pytest.raises(UsageError, match="cannot be read"):
        kept(held, blocked_words=str(tmp_path / "none.txt"))


def test_sizes_and_scores_count_where_they_are_known() -> None:
    fields = ['{"width":100,"height":300,"score":0.31}', '{"width":"x"}', None,
              '{"width":1000,"height":200,"score":0.1}']  # fmt: skip
    held = table(["a dog"] * 4, fields=fields)
    assert kept(held, min_side=150) == [False, True, True, True]
    assert kept(held, max_aspect=3.0) == [True, True, True, False]
    assert kept(held, min_score=0.3) == [True, True, True, False]
    fetched = table(["a dog"] * 3, width=[10, 200, None], height=[400, 200, None], score=[0.5, 0.1, None])
    assert kept(fetched, min_side=100) == [False, True, True]
    assert kept(fetched, max_aspect=3.0) == [False, True, True]
    assert kept(fetched, min_score=0.3) == [True, False, True]


def lengths_as_codes(captions: pa.Array) -> list[str]:
    return [str(len(caption)) for caption in captions.to_pylist()]


def test_any_function_may_say_the_language() -> None:
    held, module = table(["one", "three", "two"]), "diptych.curate.candidates.language"
    assert kept(held, language_by=f"{__name__}:lengths_as_codes", languages=("3",)) == [True, False, True]
    held = table(["a dog on a beach", "ein Hund am Strand", "une plage avec la mer"])
    assert kept(held, language_by=f"{module}:guessed", languages=("en", "de")) == [True, True, False]
    for wrong in ("no.such.module:f", f"{module}:nothing", module):
        with pytest.raises(SettingsError, match="cannot be found"):
            kept(held, language_by=wrong, languages=("en",))
    with pytest.raises(SettingsError, match="both settings"):
        FilterSettings(languages=("en",))


def test_languages_are_guessed() -> None:
    languages = {
        "A woman is holding a dog in the park": "en", "red shoes": "en",
        "Zwei Hunde und ein Ball auf der Wiese": "de", "Deux chiens dans le jardin avec une balle": "fr",
        "Dos perros en el parque con una pelota": "es", "Due cani nel parco con la palla": "it",
        "Dois cães com uma bola": "pt", "Twee honden met een bal": "nl", "Собака на пляже": "ru",
        "海边的狗": "zh", "犬がいる": "ja", "바닷가의 개": "ko", "كلب على الشاطئ": "ar",
        "σκύλος": "el", "123 !!": "und", "": "und", "naïve café": "und"
    }  # fmt: skip
    assert {caption: language_of(caption) for caption in languages} == languages


def test_human_captions_are_taken_for_english(shared_data: Path) -> None:
    annotations = json.loads((shared_data / "text" / "captions_val2017.json").read_text())["annotations"]
    codes = [language_of(entry["caption"]) for entry in annotations]
    assert codes.count("en") / len(codes) > 0.995


def test_captions_of_many_hosts_are_found_however_they_are_counted() -> None:
    """Against a dictionary of sets: partitions of any size, one pass or several, give the same captions."""
    rng = random.Random(4)
    captions = [f"caption {rng.randrange(40)}" if rng.random() < 0.7 else f"own {n}" for n in range(3000)]
    urls = [f"https://h{rng.randrange(60) % rng.choice((3, 60))}.example/{n}.jpg" for n in range(3000)]
    users: dict[str, set[str]] = defaultdict(set)
    for caption, url in zip(captions, urls, strict=True):
        users[caption].add(url.split("/")[2])
    expected = [len(users[caption]) <= 20 for caption in captions]
    assert 0 < sum(expected) < 3000
    held = table([text.upper() + "!" if n % 2 else text for n, text in enumerate(captions)], url=urls)
    for rows in (3000, 100, 7):
        partitions = [caption_hosts(held.slice(start, rows)) for start in range(0, 3000, rows)]
        repeated = repeated_captions(partitions, max_repeats=20)
        keep, counts = filter_table(held, FilterSettings(**OFF, max_repeats=20), repeated=repeated)
        assert keep.to_pylist() == expected
        assert counts.dropped == {Reason.BOILERPLATE: expected.count(False)}
    assert repeated_captions([], max_repeats=1).tolist() == []


def test_an_empty_table_passes_through() -> None:
    held = table([]).cast(pa.schema([("key", pa.string()), ("caption", pa.string())]))
    assert kept(held, boilerplate=True, min_side=3, blocked_hosts=("a",), min_words=2) == []
