"""What a site's robots.txt allows (RFC 9309), and what an image's owner says against training on it.

Ours rather than Protego 0.7, which decides the RFC's 33 cases as we do, but reads no file with a byte order
mark and no `User-agent: x/1.0`, and drops the usage preferences, which belong to groups and paths.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from diptych.core.errors import Reason

MAX_ROBOTS_BYTES = 500 * 1024  # what section 2.5 asks every crawler to read at least; we read no more

# Directives of X-Robots-Tag (Google; DeviantArt and Spawning for noai and noimageai).
TAGS = ("noai", "noimageai", "noindex", "noimageindex", "none")
# draft-ietf-aipref-vocab and -attach; contentsignals.org; the W3C community group's TDM Reservation Protocol.
USAGE, SIGNAL, RESERVATION = "content-usage", "content-signal", "tdm-reservation"
SIGNALS = (*TAGS, USAGE, SIGNAL, RESERVATION)
"""All signals against training, in the order in which they are recorded."""

# Directives with a colon of their own, which names no crawler.
_VALUED_TAGS = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# The category that decides, and the wider one that decides where nothing is said about it.
_DICTIONARIES = {USAGE: (("train-ai", "bots"), "n"), SIGNAL: (("ai-train",), "no")}

_RULES = ("allow", "disallow")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+")
_TOKEN = re.compile(r"[a-z_-]+|\*", re.IGNORECASE)
_ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_SAFE = "%/:?#[]@!$&'()*+,;=-._~"

Record = tuple[str, str]
"""One line of a group, or one header: its name and its value."""


# States of a sample in the column `robots`.
ALLOWED, DISALLOWED, ABSENT, UNREACHABLE = "allowed", "disallowed", "absent", "unreachable"


@dataclass(frozen=True, slots=True)
class Robots:
    """What one robots.txt says to one crawler: all groups that speak to it, as one.

    Attributes:
        rules: (pattern in one spelling, whether it allows); the first that matches decides.
        records: everything else, names in lower case.
        state: of a sample whose path the rules allow.
        reason: why the file is unreachable.
    """

    rules: tuple[tuple[bytes, bool], ...] = ()
    records: tuple[Record, ...] = ()
    state: str = ALLOWED
    reason: Reason | None = None

    def allows(self, target: str) -> bool:
        """Tell whether a path with its query may be requested.

        >>> parse_robots("User-agent: *\\nDisallow: /a\\nAllow: /a/b", "diptych").allows("/a/b.jpg")
        True
        """
        path = _comparable_path(target)
        if path == b"/robots.txt":
            return True
        return next((allow for pattern, allow in self.rules if _matches(pattern, path)), True)

    def delay(self) -> float:
        """Return the seconds that the site wishes between two requests; 0 where it says nothing."""
        values = [value for name, value in self.records if name == "crawl-delay"]
        return max((float(value) for value in values if _SECONDS.fullmatch(value)), default=0.0)

    def preferences(self, target: str) -> tuple[Record, ...]:
        """Return what the site says about the use of a path: per name, the records of the longest match.

        >>> robots = parse_robots("User-agent: *\\nContent-Usage: /a train-ai=n", "diptych")
        >>> robots.preferences("/a.jpg"), robots.preferences("/b.jpg")
        ((('content-usage', 'train-ai=n'),), ())
        """
        path = _comparable_path(target)
        preferences: list[Record] = []
        for wanted in _DICTIONARIES:
            matching = []
            for value in (value for name, value in self.records if name == wanted):
                first, _, rest = value.partition(" ")
                # Without a path it speaks of all.
                rule, usage = (_comparable(first), rest.strip()) if first.startswith("/") else (b"/", value)
                matching += [(len(rule), usage)] if _matches(rule, path) else []
            longest = max((length for length, _ in matching), default=0)
            preferences += [(wanted, value) for length, value in matching if length == longest]
        return tuple(preferences)


def parse_robots(text: str | bytes, token: str) -> Robots:
    """Read the groups of a robots.txt that name a crawler's product token, or else those for all ("*").

    >>> parse_robots("User-agent: Diptych\\nDisallow: /x\\n\\nUser-agent: *\\nDisallow: /", "diptych").rules
    ((b'/x', False),)
    """
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    tokens: set[str] = set()
    rules_seen, own = True, token.lower()
    for name, value in _lines(text):
        if name == "user-agent":
            if rules_seen:
                tokens, rules_seen = set(), False
            named = _TOKEN.match(value)
            tokens |= {named[0].lower()} & {own, "*"} if named else set()
            for one in tokens:
                groups[one] += []  # a group without rules allows everything
            continue
        rules_seen = rules_seen or name in _RULES  # no other record may end a group's list of names
        for one in tokens:
            groups[one].append((name, value))
    mine = groups.get(own, groups.get("*", []))
    rules = {(_comparable(value), name == "allow") for name, value in mine if name in _RULES and value}
    return Robots(
        # The most octets first; of two that are as long, the one that allows.
        tuple(sorted(rules, key=lambda rule: (-len(rule[0]), not rule[1], rule[0]))),
        tuple(record for record in mine if record[0] not in _RULES),
    )


def _lines(text: str | bytes) -> Iterator[Record]:
    if isinstance(text, bytes):
        whole = text[:MAX_ROBOTS_BYTES]
        if len(text) > len(whole):
            whole = whole[: max(whole.rfind(b"\n"), whole.rfind(b"\r")) + 1]  # no half of a rule
        text = whole.decode("utf-8", "replace")
    for line in re.split(r"[\r\n]+", text.removeprefix("\ufeff")):
        name, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def _comparable(text: str) -> bytes:
    """Return a pattern or path with one spelling for each octet (RFC 9309, section 2.2.2)."""

    def escape(match: re.Match[bytes]) -> bytes:
        octet = unquote_to_bytes(match[0])
        return octet if octet[0] in _UNRESERVED else match[0].upper()

    return _ESCAPE.sub(escape, quote(text, safe=_SAFE).encode("ascii"))


def _comparable_path(target: str) -> bytes:
    # What is special in a pattern is an ordinary letter of a path, which a pattern spells %2A and %24.
    return _comparable(target).replace(b"*", b"%2A").replace(b"$", b"%24")


def _matches(pattern: bytes, path: bytes) -> bool:
    """Tell whether a pattern matches the beginning of a path, in time that grows with their lengths only."""
    ends = pattern.endswith(b"$")
    first, *others = pattern.removesuffix(b"$").replace(b"$", b"%24").split(b"*")
    if not path.startswith(first):
        return False
    position = len(first)
    for part in others[:-1] if ends else others:
        start = path.find(part, position)
        if start < 0:
            return False
        position = start + len(part)
    if not ends:
        return True
    return path.endswith(others[-1]) and len(path) - len(others[-1]) >= position if others else path == first


def opt_outs(headers: Iterable[Record], token: str) -> tuple[str, ...]:
    """Return the signals, of `SIGNALS` and in its order, that a response's headers or records hold.

    Some directives are addressed to a crawler's product token only.

    >>> opt_outs([("X-Robots-Tag", "otherbot: noindex, noai"), ("TDM-Reservation", "1")], "diptych")
    ('tdm-reservation',)
    """
    signals: set[str] = set()
    dictionaries: dict[str, list[dict[str, str]]] = {}
    for name, value in headers:
        folded = name.lower()
        if folded == "x-robots-tag":
            signals |= _tags(value, token.lower())
        elif folded in _DICTIONARIES:
            dictionaries.setdefault(folded, []).append(_dictionary(value))
        elif folded == RESERVATION and value.strip() == "1":
            signals.add(RESERVATION)
    for name, words in dictionaries.items():
        keys, refusal = _DICTIONARIES[name]
        # The narrower category decides; of lines that disagree, the one that refuses.
        stated = next((given for key in keys if (given := [one[key] for one in words if key in one])), [])
        if refusal in stated:
            signals.add(name)
    return tuple(signal for signal in SIGNALS if signal in signals)


def _tags(value: str, token: str) -> set[str]:
    """Return the directives of one header that are addressed to everybody or to the token."""
    directives: set[str] = set()
    addressed = "*"
    for part in value.lower().split(","):
        name, colon, rest = part.strip().partition(":")
        if colon and name.strip() in _VALUED_TAGS:
            continue
        if colon:
            addressed, name = name.strip(), rest
        if addressed in ("*", token):
            directives.add(name.strip())
    return directives & set(TAGS)


def _dictionary(value: str) -> dict[str, str]:
    """Read a dictionary of tokens (RFC 9651) without parameters; of a repeated key the last one counts."""
    members = (member.partition(";")[0].partition("=") for member in value.split(","))
    return {key.strip().lower(): word.strip().strip('"').lower() for key, _, word in members}
