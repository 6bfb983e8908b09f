"""robots.txt is read as RFC 9309 says; the examples are the RFC's own."""

import time

import pytest

from diptych.curate.fetch.robots import MAX_ROBOTS_BYTES, Record, parse_robots

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


@pytest.mark.parametrize(
    ("token", "path", "allowed"),
    [
        ("anybot", "/a.gif", False),
        ("anybot", "/a.gif?x", True),
        ("anybot", "/example/", False),
        ("anybot", "/publications/a", True),
        ("anybot", "/", True),
        ("foobot", "/", False),
        ("FooBot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("foobot", "/example/other.gif", False),
        ("barbot", "/example/page.html", False),
        ("barbot", "/a.gif", True),
        ("bazbot", "/example/page.html", False),
        ("quxbot", "/example/page.html", True),
        ("foobot", "/robots.txt", True),
    ],
)
def test_the_simple_example_of_the_rfc(token: str, path: str, allowed: bool) -> None:
    assert parse_robots(SIMPLE, token).allows(path) is allowed


def test_the_longest_match_decides() -> None:
    """RFC 9309, section 5.2."""
    robots = parse_robots(
        "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif", "foobot"
    )
    assert robots.allows("/example/page/allowed.gif")
    assert not robots.allows("/example/page/disallowed.gif")


def test_allow_wins_a_tie_in_either_order() -> None:
    for rules in ("Allow: /a\nDisallow: /a", "Disallow: /a\nAllow: /a"):
        assert parse_robots(f"User-agent: *\n{rules}", "x").allows("/a/b")


def test_groups_of_one_crawler_are_one_group() -> None:
    """RFC 9309, section 2.2.1."""
    text = (
        "user-agent: ExampleBot\ndisallow: /foo\ndisallow: /bar\n\nuser-agent: ExampleBot\ndisallow: /baz\n"
    )
    robots = parse_robots(text, "examplebot")
    assert robots.rules == ((b"/bar", False), (b"/baz", False), (b"/foo", False))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        # RFC 9309, section 2.2.2
        ("/foo/bar?baz=quz", "/foo/bar?baz=quz", True),
        ("/foo/bar?baz=https://foo.bar", "/foo/bar?baz=https%3A%2F%2Ffoo.bar", False),
        ("/foo/bar/\u30c4", "/foo/bar/%E3%83%84", True),
        ("/foo/bar/%E3%83%84", "/foo/bar/%E3%83%84", True),
        ("/foo/bar/%e3%83%84", "/foo/bar/\u30c4", True),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz", True),
        # section 2.2.3
        ("/path/file-with-a-%2A.html", "/path/file-with-a-*.html", True),
        ("/path/foo-%24", "/path/foo-$", True),
        ("/path/foo-%24", "/path/foo-", False),
        ("/allow/this/$", "/allow/this/", True),
        ("/allow/this/$", "/allow/this/x", False),
        ("/this/*/exactly", "/this/a/b/exactly/c", True),
        ("/fish*.php", "/fish.php?x", True),
        ("/*.php$", "/a.php.php", True),
        ("/*.php$", "/a.php5", False),
        ("/a*a$", "/a", False),
        ("/a*a$", "/aa", True),
        ("*", "/", True),
        ("/a", "/A", False),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert parse_robots(f"User-agent: *\nDisallow: {pattern}", "x").allows(path) is not matches


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffUser-agent: *\nDisallow: /a",
        "USER-AGENT : *\r\nDISALLOW : /a # not this",
        "User-agent: *\rDisallow:/a",
        "Disallow: /b\nUser-agent: *\nSitemap: https://x.org/s.xml\nDisallow: /a",
        "User-agent: other\nCrawl-delay: 5\nUser-agent: x/1.0 (more)\nDisallow: /a",
        b"\xef\xbb\xbfUser-agent: *\n\xff\xfe garbage\nDisallow: /a",
        "<html>\nUser-agent: *\nDisallow: /a\n</html>",
    ],
)
def test_untidy_files_are_read_all_the_same(text: str | bytes) -> None:
    robots = parse_robots(text, "x")
    assert not robots.allows("/a")
    assert robots.allows("/b")


@pytest.mark.parametrize(
    "text", ["", "Disallow: /", "User-agent: *\nDisallow:", "User-agent: y\nDisallow: /"]
)
def test_what_forbids_nothing_allows_everything(text: str) -> None:
    assert parse_robots(text, "x").allows("/a")


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
    signal = Record("content-signal", "search=yes, ai-train=no")
    assert robots.preferences("/a.jpg") == (Record("content-usage", "train-ai=y"), signal)
    assert robots.preferences("/art/a.jpg") == (Record("content-usage", "train-ai=n"), signal)
    assert parse_robots(text + "User-agent: x\nAllow: /", "x").preferences("/a.jpg") == ()
