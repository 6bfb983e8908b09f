"""Every way in which an owner may say no is heard, and nothing else is taken for one."""

import pytest

from diptych.curate.fetch.optout import SIGNALS, opt_outs

TABLE = [
    # X-Robots-Tag: plain
    ([("X-Robots-Tag", "noai")], ("noai",)),
    ([("x-robots-tag", "NoImageAI")], ("noimageai",)),
    ([("X-Robots-Tag", "noindex")], ("noindex",)),
    ([("X-Robots-Tag", "noimageindex")], ("noimageindex",)),
    ([("X-Robots-Tag", "none")], ("none",)),
    ([("X-Robots-Tag", "all")], ()),
    ([("X-Robots-Tag", "nofollow, noarchive")], ()),
    ([("X-Robots-Tag", "")], ()),
    # combined
    ([("X-Robots-Tag", "nofollow,noai , noimageai")], ("noai", "noimageai")),
    ([("X-Robots-Tag", "noai"), ("X-Robots-Tag", "noindex")], ("noai", "noindex")),
    # for one crawler
    ([("X-Robots-Tag", "diptych: noai")], ("noai",)),
    ([("X-Robots-Tag", "Diptych:noai,noindex")], ("noai", "noindex")),
    ([("X-Robots-Tag", "otherbot: noai, noindex")], ()),
    ([("X-Robots-Tag", "otherbot: nofollow, diptych: noindex, noai")], ("noai", "noindex")),
    ([("X-Robots-Tag", "noai, otherbot: noindex")], ("noai",)),
    ([("X-Robots-Tag", "otherbot: noai"), ("X-Robots-Tag", "noindex")], ("noindex",)),
    ([("X-Robots-Tag", "*: noindex")], ("noindex",)),
    # directives that hold a colon name no crawler
    ([("X-Robots-Tag", "unavailable_after: 25 Jun 2030 15:00:00 PST, noai")], ("noai",)),
    ([("X-Robots-Tag", "max-image-preview:large, noindex")], ("noindex",)),
    # Content-Usage
    ([("Content-Usage", "train-ai=n")], ("content-usage",)),
    ([("content-usage", "search=y, train-ai=n;exceptions=x")], ("content-usage",)),
    ([("Content-Usage", "train-ai=y")], ()),
    ([("Content-Usage", "bots=n")], ("content-usage",)),
    ([("Content-Usage", "bots=n, train-ai=y")], ()),
    ([("Content-Usage", "search=n")], ()),
    ([("Content-Usage", "train-ai=y"), ("Content-Usage", "train-ai=n")], ("content-usage",)),
    # Content-Signal
    ([("Content-Signal", "ai-train=no")], ("content-signal",)),
    ([("Content-Signal", "search=yes, ai-train=no, ai-input=yes")], ("content-signal",)),
    ([("Content-Signal", "search=yes,ai-train=yes")], ()),
    ([("Content-Signal", "ai-input=no")], ()),
    # TDM reservation
    ([("tdm-reservation", "1")], ("tdm-reservation",)),
    ([("TDM-Reservation", " 1 ")], ("tdm-reservation",)),
    ([("tdm-reservation", "0")], ()),
    # all at once, in one order
    (
        [("tdm-reservation", "1"), ("Content-Signal", "ai-train=no"), ("X-Robots-Tag", "none, noai")],
        ("noai", "none", "content-signal", "tdm-reservation"),
    ),
    ([("Content-Type", "image/jpeg"), ("X-Other", "noai")], ()),
    ([], ()),
]


@pytest.mark.parametrize(("headers", "expected"), TABLE)
def test_signals(headers: list[tuple[str, str]], expected: tuple[str, ...]) -> None:
    assert opt_outs(headers, "diptych") == expected


def test_every_signal_is_in_the_table() -> None:
    assert {signal for _, expected in TABLE for signal in expected} == set(SIGNALS)
