"""What a site's robots.txt allows: the parser and the matcher of RFC 9309.

The longest rule that matches a path decides, and "allow" wins a tie; `*` stands for anything, a `$` at the
end for the end. Records beside those of the RFC are kept with the paths that they speak of: a delay, and
what the site says about training (see `optout`).

Reads: the text of a robots.txt. Writes: nothing.
Source: RFC 9309 (2022); draft-ietf-aipref-attach (usage preferences in groups).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

MAX_ROBOTS_BYTES = 500 * 1024
"""What RFC 9309, section 2.5, asks every crawler to read at least; what follows is not read."""
PREFERENCES = ("content-usage", "content-signal")
"""Records of a group that say what may be done with what is read."""

_RULES = ("allow", "disallow")
_TOKEN = re.compile(r"[a-z_-]+|\*", re.IGNORECASE)
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SAFE = "%/:?#[]@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a group: its name in lower case, and its value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Robots:
    """What one robots.txt says to one crawler: all groups that speak to it, as one.

    Attributes:
        rules: patterns in one spelling and whether they allow; the one that matches first decides.
        records: everything else.
    """

    rules: tuple[tuple[bytes, bool], ...] = ()
    records: tuple[Record, ...] = ()

    def allows(self, target: str) -> bool:
        """Tell whether a path may be asked.

        Args:
            target: path and query.

        >>> parse_robots("User-agent: *\\nDisallow: /a\\nAllow: /a/b", "diptych").allows("/a/b.jpg")
        True
        """
        if not self.rules:
            return True
        path = _comparable_path(target)
        if path == b"/robots.txt":
            return True
        return next((allow for pattern, allow in self.rules if _matches(pattern, path)), True)

    def delay(self) -> float:
        """Return the seconds that the site wishes between two requests; 0 where it says nothing.

        >>> parse_robots("User-agent: *\\nCrawl-delay: 2.5", "diptych").delay()
        2.5
        """
        return max((_seconds(one.value) for one in self.records if one.name == "crawl-delay"), default=0.0)

    def preferences(self, target: str) -> tuple[Record, ...]:
        """Return what the site says about the use of a path: per name, the records of the longest match.

        >>> said = parse_robots("User-agent: *\\nContent-Usage: /a train-ai=n", "diptych")
        >>> said.preferences("/a.jpg"), said.preferences("/b.jpg")
        ((Record(name='content-usage', value='train-ai=n'),), ())
        """
        if not self.records:
            return ()
        path = _comparable_path(target)
        found: list[Record] = []
        for name in PREFERENCES:
            split = [_path_and_value(one.value) for one in self.records if one.name == name]
            matching = [(len(rule), value) for rule, value in split if _matches(rule, path)]
            longest = max((length for length, _ in matching), default=0)
            found += [Record(name, value) for length, value in matching if length == longest]
        return tuple(found)


ALLOW_ALL = Robots()
"""What a site without a robots.txt says."""


def parse_robots(text: str | bytes, token: str) -> Robots:
    """Read a robots.txt as one crawler.

    Args:
        text: the file; of bytes, the first 500 KiB are read.
        token: the crawler's product token, letters, "-" and "_".

    Returns:
        What all groups say that name the token, or else those for everybody ("*").

    >>> parse_robots("User-agent: Diptych\\nDisallow: /x\\n\\nUser-agent: *\\nDisallow: /", "diptych").rules
    ((b'/x', False),)
    """
    groups: dict[str, list[Record]] = {}
    tokens: set[str] = set()
    rules_seen, own = True, token.lower()
    for name, value in _lines(text):
        if name == "user-agent":
            if rules_seen:
                tokens, rules_seen = set(), False
            named = _TOKEN.match(value)
            tokens.add(named[0].lower() if named else "")
            for one in tokens & {own, "*"}:
                groups.setdefault(one, [])
            continue
        rules_seen = rules_seen or name in _RULES  # no other record may end a group's list of names
        for one in tokens & {own, "*"}:
            groups[one].append(Record(name, value))
    mine = groups.get(own, groups.get("*", []))
    rules = {
        (_comparable(one.value), one.name == "allow") for one in mine if one.name in _RULES and one.value
    }
    return Robots(
        # The most octets first; of two that are as long, the one that allows.
        tuple(sorted(rules, key=lambda rule: (-len(rule[0]), not rule[1], rule[0]))),
        tuple(one for one in mine if one.name not in _RULES),
    )


def _lines(text: str | bytes) -> Iterable[tuple[str, str]]:
    if isinstance(text, bytes):
        whole = text[:MAX_ROBOTS_BYTES]
        if len(text) > len(whole):
            whole = whole[: max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1]  # no half of a rule
        text = whole.decode("utf-8", "replace")
    for line in re.split(r"[\r\n]+", text.removeprefix("\ufeff")):
        name, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def _path_and_value(value: str) -> tuple[bytes, str]:
    """Split what a preference speaks of from what it says; without a path it speaks of all."""
    first, _, rest = value.partition(" ")
    return (_comparable(first), rest.strip()) if first.startswith("/") else (b"/", value)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if 0.0 <= seconds < float("inf") else 0.0


def _comparable(text: str) -> bytes:
    """Return a pattern or path with one spelling for each octet (RFC 9309, section 2.2.2)."""

    def escape(found: re.Match[bytes]) -> bytes:
        octet = unquote_to_bytes(found[0])
        return octet if octet[0] in _UNRESERVED else found[0].upper()

    return _ESCAPE.sub(escape, quote(text, safe=_SAFE).encode("ascii"))


def _comparable_path(target: str) -> bytes:
    # What is special in a pattern is an ordinary letter of a path, which a pattern spells %2A and %24.
    return _comparable(target).replace(b"*", b"%2A").replace(b"$", b"%24")


def _matches(pattern: bytes, path: bytes) -> bool:
    """Tell whether a pattern matches the beginning of a path, in time that grows with their lengths only."""
    ends = pattern.endswith(b"$")
    first, *others = (pattern[:-1] if ends else pattern).replace(b"$", b"%24").split(b"*")
    if not path.startswith(first):
        return False
    place = len(first)
    for part in others[:-1] if ends else others:
        found = path.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    if not ends:
        return True
    return path.endswith(others[-1]) and len(path) - len(others[-1]) >= place if others else path == first
