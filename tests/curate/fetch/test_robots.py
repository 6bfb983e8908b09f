"""robots.txt is read as RFC 9309 says, by its own examples; every way in which owners say no is heard."""

import time

import pytest

from diptych.curate.fetch.robots import MAX_ROBOTS_BYTES, SIGNALS, opt_outs, parse_robots

SIMPLE = """\
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot

EOF
"""  # RFC 9309, section 5.1


EXAMPLE = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif"  # section 5.2


@pytest.mark.parametrize(
    ("text", "token", "allowed", "refused"),
    [
        (SIMPLE, "anybot", ["/a.gif?x", "/publications/a", "/"], ["/a.gif", "/example/"]),
        (SIMPLE, "FooBot", ["/example/page.html", "/example/allowed.gif", "/robots.txt"],
         ["/", "/example/other.gif"]),
        (SIMPLE, "barbot", ["/a.gif"], ["/example/page.html"]),
        (SIMPLE, "bazbot", [], ["/example/page.html"]), (SIMPLE, "quxbot", ["/example/page.html"], []),
        (EXAMPLE, "foobot", ["/example/page/allowed.gif"], ["/example/page/disallowed.gif"]),
        # allow wins a tie in either order
        ("User-agent: *\nAllow: /a\nDisallow: /a", "x", ["/a/b"], []),
        ("User-agent: *\nDisallow: /a\nAllow: /a", "x", ["/a/b"], []),
        # groups of one crawler are one group: section 2.2.1
        ("user-agent: ExampleBot\ndisallow: /foo\ndisallow: /bar\n\nuser-agent: ExampleBot\ndisallow: /baz",
         "examplebot", ["/"], ["/foo", "/bar", "/baz"]),
        # untidy files
        ("\ufeffUser-agent: *\nDisallow: /a", "x", ["/b"], ["/a"]),
        ("USER-AGENT : *\r\nDISALLOW : /a # not this", "x", ["/b"], ["/a"]),
        ("User-agent: *\rDisallow:/a", "x", ["/b"], ["/a"]),
        ("Disallow: /b\nUser-agent: *\nSitemap: https://x.org/s.xml\nDisallow: /a", "x", ["/b"], ["/a"]),
        ("User-agent: other\nCrawl-delay: 5\nUser-agent: x/1.0 (more)\nDisallow: /a", "x", ["/b"], ["/a"]),
        (b"\xef\xbb\xbfUser-agent: *\n\xff\xfe garbage\nDisallow: /a", "x", ["/b"], ["/a"]),
        ("<html>\nUser-agent: *\nDisallow: /a\n</html>", "x", ["/b"], ["/a"]),
        # what forbids nothing
        ("", "x", ["/a"], []), ("Disallow: /", "x", ["/a"], []),
        ("User-agent: *\nDisallow:", "x", ["/a"], []), ("User-agent: y\nDisallow: /", "x", ["/a"], [])
    ]
)  # fmt: skip
def test_rules(text: str | bytes, token: str, allowed: list[str], refused: list[str]) -> None:
    robots = parse_robots(text, token)
    assert [path for path in (*allowed, *refused) if robots.allows(path)] == allowed


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        # RFC 9309, section 2.2.2
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz", True), ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84", True),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar", False),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84", True), ("/foo/bar/%e3%83%84", "/foo/bar/\u30c4", True),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz", True),
        # section 2.2.3
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html", True), ("*", "/", True),
        ("/path/foo-%24", "/path/foo-$", True), ("/path/foo-%24", "/path/foo-", False),
        ("/allow/this/$", "/allow/this/", True), ("/allow/this/$", "/allow/this/x", False),
        ("/this/*/exactly", "/this/a/b/exactly/c", True), ("/fish*.php", "/fish.php?x", True),
        ("/*.php$", "/a.php.php", True), ("/*.php$", "/a.php5", False),
        ("/a*a$", "/a", False), ("/a*a$", "/aa", True), ("/a", "/A", False)
    ]
)  # fmt: skip
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert parse_robots(f"User-agent: *\nDisallow: {pattern}", "x").allows(path) is not matches


def test_a_rule_after_the_first_500_kib_is_not_read_and_none_is_read_by_half() -> None:
    head = b"User-agent: *\nDisallow: /a\n"
    filler = b"# " + b"x" * (MAX_ROBOTS_BYTES - len(head) - 2 - 13) + b"\n"
    robots = parse_robots(head + filler + b"Disallow: /bcd\nDisallow: /e\n", "x")
    assert robots.rules == ((b"/a", False),)


def test_a_hostile_pattern_costs_no_time() -> None:
    robots = parse_robots("User-agent: *\nDisallow: /" + "*a" * 2000 + "$", "x")
    started = time.monotonic()
    assert robots.allows("/" + "a" * 1900 + "b")
    assert time.monotonic() - started < 1.0


def test_delays_and_preferences_are_kept_with_their_group() -> None:
    text = (
        "User-agent: *\nCrawl-delay: 3\nCrawl-delay: soon\nContent-Signal: search=yes, ai-train=no\n"
        "Content-Usage: train-ai=y\nContent-Usage: /art/ train-ai=n\nAllow: /\n"
    )
    robots = parse_robots(text, "x")
    assert robots.delay() == 3.0
    signal = ("content-signal", "search=yes, ai-train=no")
    assert robots.preferences("/a.jpg") == (("content-usage", "train-ai=y"), signal)
    assert robots.preferences("/art/a.jpg") == (("content-usage", "train-ai=n"), signal)
    assert parse_robots(text + "User-agent: x\nAllow: /", "x").preferences("/a.jpg") == ()


# Headers, and the signals that they hold.
SIGNAL_TABLE = """
X-Robots-Tag: noai => noai
x-robots-tag: NoImageAI => noimageai
X-Robots-Tag: noindex => noindex
X-Robots-Tag: noimageindex => noimageindex
X-Robots-Tag: none => none
X-Robots-Tag: all =>
X-Robots-Tag: nofollow, noarchive =>
X-Robots-Tag: =>
X-Robots-Tag: nofollow,noai , noimageai => noai noimageai
X-Robots-Tag: noai | X-Robots-Tag: noindex => noai noindex
X-Robots-Tag: diptych: noai => noai
X-Robots-Tag: Diptych:noai,noindex => noai noindex
X-Robots-Tag: otherbot: noai, noindex =>
X-Robots-Tag: otherbot: nofollow, diptych: noindex, noai => noai noindex
X-Robots-Tag: noai, otherbot: noindex => noai
X-Robots-Tag: otherbot: noai | X-Robots-Tag: noindex => noindex
X-Robots-Tag: *: noindex => noindex
X-Robots-Tag: unavailable_after: 25 Jun 2030 15:00:00 PST, noai => noai
X-Robots-Tag: max-image-preview:large, noindex => noindex
Content-Usage: train-ai=n => content-usage
content-usage: search=y, train-ai=n;exceptions=x => content-usage
Content-Usage: train-ai=y =>
Content-Usage: bots=n => content-usage
Content-Usage: bots=n, train-ai=y =>
Content-Usage: search=n =>
Content-Usage: train-ai=y | Content-Usage: train-ai=n => content-usage
Content-Signal: ai-train=no => content-signal
Content-Signal: search=yes, ai-train=no, ai-input=yes => content-signal
Content-Signal: search=yes,ai-train=yes =>
Content-Signal: ai-input=no =>
tdm-reservation: 1 => tdm-reservation
TDM-Reservation:  1 => tdm-reservation
tdm-reservation: 0 =>
tdm-reservation: 1 | Content-Usage: bots=n | X-Robots-Tag: none => none content-usage tdm-reservation
Content-Type: image/jpeg | X-Other: noai =>
=>
"""


@pytest.mark.parametrize("row", SIGNAL_TABLE.strip("\n").split("\n"))
def test_signals(row: str) -> None:
    headers, signals = row.split("=>")
    pairs = [(name, value) for name, _, value in (one.partition(":") for one in headers.split(" | "))]
    assert opt_outs(pairs, "diptych") == tuple(signals.split())


def test_every_signal_is_in_the_table() -> None:
    signals = (row.partition("=>")[2].split() for row in SIGNAL_TABLE.split("\n"))
    assert {signal for row in signals for signal in row} == set(SIGNALS)
