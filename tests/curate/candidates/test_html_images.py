"""Images of a page and the texts around them, as browsers would find them, in linear time."""

import time

import pytest

from diptych.curate.candidates.html_images import read_page


def test_a_figure_inside_another_has_its_own_caption_or_the_outer_one() -> None:
    page = read_page(
        """<figure><figure><img src=1><figcaption>one</figcaption></figure>
        <figure><img src=2></figure><img src=3><figcaption>all</figcaption></figure><img src=4>"""
    )
    assert [texts["figcaption"] for _, texts in page.images] == ["one", "all", "all", None]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<IMG SRC=a.jpg><img/src='b.jpg'/><img\nsrc = \"c d.jpg\"\nalt=x>", ["a.jpg", "b.jpg", "c d.jpg"]),
        ("<!-- <img src=a> --><!--><img src=b><!----><img src=c>", ["b", "c"]),
        ("<script>'<img src=a>'</script ><style><img src=b></style><img src=c>", ["c"]),
        ("<div data-x=\"<img src=a>\" title='>'><img src=b>", ["b"]),
        ("<p title=it's><img src=a alt=\"it's\"><img src=b>", ["a", "b"]),
        ('<img src=a src=b><img alt="5" tall" src=c>', ["a", "c"]),
        ("<img src=a <img src=b>", ["a"]),
        ("<imgx src=a><img><img src=b", [None]),
        ("<noscript><img src=a></noscript><textarea><img src=b></textarea>", ["a"]),
        # loaded late
        ("<img src=blank.gif data-src=real.jpg>", ["real.jpg"]),
        ("<img src='data:image/gif;base64,R0' srcset='s.jpg 1x,l.jpg 2x'>", ["l.jpg"]),
        ("<img srcset='a,b.jpg 300w,\n c.jpg 1200w , d.jpg 600w'>", ["c.jpg"]),
        ("<img src=data:x data-srcset='a.jpg'>", ["a.jpg"]),
        ("<img src=data:x>", ["data:x"]),
        ("<img srcset='a.jpg, b.jpg 2x, c,d.jpg 1.5x'>", ["b.jpg"]),
        (
            '<img SRC="a.jpg?x=1&amp;copy=2&copy=3" alt=\'Caf&eacute; "x"\' hidden alt=2>',
            ["a.jpg?x=1&copy=2&copy=3"],
        ),
    ],
)
def test_images_are_found_as_browsers_find_them(html: str, expected: list[str | None]) -> None:
    assert [source for source, _ in read_page(html).images] == expected


def test_a_license_is_the_declared_one_or_a_creative_commons_link() -> None:
    common = "https://creativecommons.org/licenses/by/4.0/"
    licenses = {
        f"<a href={common}>x</a><a rel='nofollow LICENSE' href=/l>y</a><link rel=license href=/m>": "/l",
        f"<a href=/x><a href={common}>": common,
        "<a href=https://example.org/?u=creativecommons.org/licenses/>x</a>": "",
    }
    assert {html: read_page(html).license for html in licenses} == licenses


@pytest.mark.parametrize(
    "page",
    ["<!--" * 200_000, "<a " * 200_000, '<a b="' * 150_000, "<img srcset='" + " ," * 200_000 + "'>",
     "<script>" * 100_000, "<figure>" * 100_000 + "<img src=a>", "<figure><figcaption>" + "<b>x" * 200_000,
     "<a href=x>" + "<i>y" * 200_000, "<img alt=" + "&" * 500_000 + ">", "<" * 500_000,
     "<img " + "a=" * 300_000,
     "<title>" * 100_000, "<![CDATA[" * 100_000, "<a href=x><img src=y>" * 30_000]
)  # fmt: skip
def test_no_page_takes_more_than_linear_time(page: str) -> None:
    began = time.monotonic()
    assert all(texts["figcaption"] is None for _, texts in read_page(page).images[:1])
    assert time.monotonic() - began < 5  # each takes a fraction of a second; a quadratic one minutes
