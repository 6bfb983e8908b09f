"""The report: one file, nothing foreign in it, nothing that can be escaped from."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.evaluate.conftest import evaluator

from diptych.core.records import Metric
from diptych.evaluate.suite.retrieval import nearest
from diptych.report.data import (
    ClassCard,
    ClassStudy,
    Curve,
    ImageExample,
    ImageQuery,
    PromptBar,
    PromptTable,
    Report,
    TextQuery,
    Tile,
)
from diptych.report.page import SIDE, data_uri, environment
from diptych.report.plots import percent, points, smooth, thin, ticks
from diptych.report.run import build_report, fetch_pairs, read_curves, render, write_report

EVIL = "<script>alert('1')</script> \" onerror=alert(2) & <b>\x00\ud800\u202e</title></style>-->"


def curve_chart(curve: Curve) -> str:
    return environment().get_template("macros.html").module.curve_chart(curve)


class Reader(HTMLParser):
    """Collects elements and attributes, and checks that elements close in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def full(text: str, image: bytes) -> Report:
    """A report with every part, each text of it the same."""
    example, wrong = ImageExample(image, text, True, text), ImageExample(b"broken", text, False, text)
    metric, none = Metric(text, text, 0.5, (0.4, 0.6), 1234), Metric(text, text, math.nan, None, 0)
    cards = (ClassCard(text, 1, 2, (example, wrong)),)
    bars = (PromptBar(text, metric, None, text), PromptBar(text, metric, metric, text))
    return Report(
        title=text, summary=text, facts=((text, text),), cover=(example, wrong),
        tiles=(Tile(text, metric, text), Tile(text, none)),
        curves=(Curve(text, (0.0, 1.0), (2.0, 1.0), text, (text, 1.5)), Curve(text, (), ())),
        prompts=(PromptTable(text, bars),),
        classes=(ClassStudy(text, (text, "b"), np.array([[3, 1, 0], [1, 2, 1]]), cards, cards),),
        text_queries=(TextQuery(text, (example, wrong)),),
        image_queries=(ImageQuery(example, ((text, True), (text, False))),),
        left_out=((text, 3),), metrics=(metric,), commands=((text, text),),
    )  # fmt: skip


@pytest.fixture
def image(swatches) -> bytes:
    return next(iter(swatches.pairs(None))).image


def test_hostile_text_stays_text_everywhere(image: bytes) -> None:
    page = render(full(EVIL, image))
    reader = Reader(page)
    names = {name for name, _ in reader.elements}
    assert names.isdisjoint({"script", "iframe", "object", "embed", "link", "base", "form", "a", "video"})
    assert not [key for _, attributes in reader.elements for key in attributes if key.startswith("on")]
    assert [name for name, _ in reader.elements].count("title") == 1
    assert "<script" not in page.lower()
    assert not re.search("[\x00\ud800-\udfff\u202e]", page)
    page.encode("utf-8")


@pytest.mark.parametrize(
    ("ends", "said"),
    [((0.61, 0.7), "beats"), ((0.59, 0.7), "does not clearly beat"), ((0.1, 0.3), "is worse than")],
)
def test_the_report_says_whether_prompts_beat_bare_names(ends: tuple[float, float], said: str) -> None:
    bare = PromptBar("bare names", Metric("type", "top1", 0.5, (0.4, 0.6), 99))
    table = PromptTable("type", (bare, PromptBar("mine", Metric("type", "top1", sum(ends) / 2, ends, 99))))
    page = render(Report(title="t", summary="s", prompts=(table,)))
    assert f"“mine” {said} “bare names”" in page
    assert "beat" not in render(Report(title="t", summary="s", prompts=(PromptTable("type", (bare,)),)))


def test_the_page_loads_nothing_and_forbids_it(image: bytes) -> None:
    page = render(full("plain", image))
    policy = next(
        a["content"] for name, a in Reader(page).elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)
    sources = [attributes["src"] for name, attributes in Reader(page).elements if name == "img"]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_every_picture_has_words_and_every_section_a_name(image: bytes) -> None:
    elements = Reader(render(full("plain", image))).elements
    assert all(attributes["alt"] for name, attributes in elements if name == "img")
    drawings = [attributes for name, attributes in elements if name == "svg"]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids)) == 7
    assert {a["aria-labelledby"] for name, a in elements if name == "section"} == set(ids)


def test_an_empty_report_is_a_page_without_sections() -> None:
    reader = Reader(render(Report(title="nothing")))
    assert "section" not in {name for name, _ in reader.elements}
    assert "nothing" in reader.text


def test_numbers_on_the_page_are_the_numbers_given(image: bytes) -> None:
    text = " ".join(Reader(render(full("x", image))).text)
    for number in ("40.0\u202f% to 60.0\u202f% · n = 1\u202f234", "+50.0", "1 × · 25.0\u202f%"):
        assert number in text


def test_many_classes_show_those_with_the_most_errors(image: bytes) -> None:
    """Of 40 classes only class 33 is ever wrong (as class 7): both are shown, and others make room."""
    matrix = np.zeros((40, 41), dtype=np.int64)
    np.fill_diagonal(matrix, 5)
    matrix[33, 7], matrix[33, 40] = 9, 2
    names = tuple(f"class-{c}" for c in range(40))
    reader = Reader(render(Report(title="t", classes=(ClassStudy("task", names, matrix),))))
    assert {"class-33", "class-7", "no prediction"} <= set(reader.text)
    assert "class-39" not in reader.text
    assert "9 × · 56.2\u202f%" in reader.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_colors_have_enough_contrast(scheme: str) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 : 1 for every text color on every ground it is used on."""
    css = (resources.files("diptych.report") / "templates" / "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z]+): #([0-9a-f]{6})", part)) for part in css.split("@media", 2)[:2]
    )
    colors = light if scheme == "light" else {**light, **dark}

    def luminance(name: str) -> float:
        channels = [int(colors[name][i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for ground in ("paper", "panel"):
        for ink in ("ink", "quiet", "verdigris", "madder"):
            bright, dim = sorted((luminance(ground), luminance(ink)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, ink, ground)


def test_thumbnails_are_small_and_hold_nothing_of_the_original() -> None:
    file = io.BytesIO()
    large = Image.new("RGB", (900, 600), "red")
    large.save(file, "JPEG", comment=b"secret", exif=b"Exif\x00\x00secret")
    uri = data_uri(file.getvalue())
    assert uri is not None
    copy = base64.b64decode(uri.split(",")[1])
    assert b"secret" not in copy
    assert max(Image.open(io.BytesIO(copy)).size) == SIDE
    assert data_uri(b"broken") is None


def test_numbers_are_written_for_people() -> None:
    assert ticks(0, 1) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(3, 3) == [3]
    assert percent(math.nan) == "–"
    assert points(0.0204) == "+2.0"


def test_curves_thin_and_smooth_without_inventing() -> None:
    long = np.arange(10_000, dtype=np.float64)
    assert (len(thin(long)), thin(long)[0], thin(long)[-1]) == (600, 0, 9999)
    assert smooth(long) == pytest.approx(long)
    assert smooth(np.full(100, 3.0)) == pytest.approx(np.full(100, 3.0))
    assert "No values" in curve_chart(Curve("x", (1.0,), (math.nan,)))
    Reader(curve_chart(Curve("x", (5.0,), (0.0,))))


def test_a_curve_of_one_value_is_a_dot_and_labels_stay_inside_the_page() -> None:
    """A line through one point is invisible; a centered label at the right end made phones scroll."""
    dot = re.search(
        r'<polyline points="(\S+) (\S+)" class="mean dot"', curve_chart(Curve("x", (8.0,), (3.0,)))
    )
    assert dot and dot[1] == dot[2]
    chart = curve_chart(Curve("x", (0.0, 100_000.0), (1.0, 2.0)))
    assert 'style="left:100.00%;transform:translateX(-100%)"' in chart
    assert 'style="left:50.00%"' in chart


def test_curves_are_read_from_a_journal_with_a_torn_end(tmp_path: Path) -> None:
    step = {
        "step": 1,
        "samples_seen": 512,
        "loss": 6.1,
        "ln_n": math.log(512),
        "scale": 14.3,
        "grad_norm": None,
    }
    lines = [
        json.dumps(step),
        json.dumps({"step": 1, "evaluation": "x", "metrics": []}),
        json.dumps({**step, "step": 2, "samples_seen": 1024, "loss": None}),
        '{"step": 3, "loss": 5',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    loss, scale = read_curves(tmp_path / "metrics.jsonl")
    assert (loss.name, loss.x, loss.y[0]) == ("loss", (512.0, 1024.0), 6.1)
    assert math.isnan(loss.y[1])
    assert loss.reference == ("chance, ln 512 = 6.24", pytest.approx(math.log(512)))
    assert scale.y == (14.3, 14.3)
    (tmp_path / "empty.jsonl").write_text("")
    assert read_curves(tmp_path / "empty.jsonl") == ()


def test_a_report_is_built_from_a_suite(color_model, swatches, tmp_path: Path) -> None:
    suite = evaluator(swatches, "color", "").run(color_model)
    report = build_report(color_model, (suite,), title="Swatches", queries=["something blue"])
    write_report(tmp_path / "report.html", report)
    page = render(build_report(color_model, (suite,), title="Swatches", queries=["something blue"]))
    assert (tmp_path / "report.html").read_text() == page
    Reader(page)
    images, first = [pair.image for pair in swatches.pairs(None)], report.text_queries[0]
    assert (first.text, first.hits[0].data, first.hits[0].right) == ("something blue", images[2], None)
    green = next(query for query in report.text_queries if query.text == "a green thing")
    assert [example.right for example in green.hits] == [True, True, False, False]
    assert report.metrics == tuple(suite.metrics())
    assert dict(report.left_out) == {
        "samples in the source": 5,
        "images that cannot be read (counted as wrong)": 1,
        "dropped: unreadable image": 1,
        "no label for color (left out of it)": 1,
    }
    assert report.classes[0].confusion.sum() == 4
    assert {query.image.data for query in report.image_queries} <= set(images)


def test_nearest_never_finds_what_cannot_be_read(swatches) -> None:
    items = np.array([[np.nan, np.nan], [0, 1], [1, 0]], dtype=np.float32)
    assert nearest(np.array([1, 0], dtype=np.float32), items, 5).tolist() == [2, 1]
    assert sorted(fetch_pairs(swatches, {0, 4})) == [0, 4] and fetch_pairs(swatches, set()) == {}
