"""What an image's owner says against training on it, in the response's headers or in robots.txt.

Every signal is found and recorded; which of them are respected is a setting.

Reads: headers and records. Writes: nothing.
Source: Google's robots meta tag specification (X-Robots-Tag); DeviantArt and Spawning (noai, noimageai);
draft-ietf-aipref-vocab and -attach (Content-Usage); contentsignals.org (Content-Signal); the W3C community
group's TDM Reservation Protocol (tdm-reservation); RFC 9651 for the dictionaries in their values.
"""

from collections.abc import Iterable

TAGS = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Directives of X-Robots-Tag."""
USAGE, SIGNAL, RESERVATION = "content-usage", "content-signal", "tdm-reservation"
SIGNALS = (*TAGS, USAGE, SIGNAL, RESERVATION)
"""All that is known, in the order in which it is told."""

_VALUED_TAGS = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives with a colon of their own, which names no crawler."""
# The category that decides, and the wider one that decides where nothing is said about it.
_DICTIONARIES = {USAGE: (("train-ai", "bots"), "n"), SIGNAL: (("ai-train",), "no")}


def opt_outs(headers: Iterable[tuple[str, str]], token: str) -> tuple[str, ...]:
    """Return the signals that the headers of an answer, or the records of a robots.txt, hold.

    Args:
        headers: names, in any case, with values; a name may come more than once.
        token: the crawler's product token, to which some directives are addressed.

    Returns:
        Members of `SIGNALS`, in its order.

    >>> opt_outs([("X-Robots-Tag", "otherbot: noindex, noai"), ("TDM-Reservation", "1")], "diptych")
    ('tdm-reservation',)
    >>> opt_outs([("X-Robots-Tag", "noimageai"), ("Content-Usage", "train-ai=n")], "diptych")
    ('noimageai', 'content-usage')
    """
    found: set[str] = set()
    dictionaries: dict[str, list[str]] = {}
    for name, value in headers:
        folded = name.lower()
        if folded == "x-robots-tag":
            found |= _tags(value, token.lower())
        elif folded in _DICTIONARIES:
            dictionaries.setdefault(folded, []).append(value)
        elif folded == RESERVATION and value.strip() == "1":
            found.add(RESERVATION)
    for name, values in dictionaries.items():
        keys, refusal = _DICTIONARIES[name]
        words = [_dictionary(value) for value in values]
        # The narrower category decides; of lines that disagree, the one that refuses.
        stated = next((given for key in keys if (given := [one[key] for one in words if key in one])), [])
        if refusal in stated:
            found.add(name)
    return tuple(signal for signal in SIGNALS if signal in found)


def _tags(value: str, token: str) -> set[str]:
    """Return the directives of one header that are addressed to everybody or to the token."""
    found: set[str] = set()
    addressed = "*"
    for part in value.lower().split(","):
        name, colon, rest = part.strip().partition(":")
        if colon and name.strip() in _VALUED_TAGS:
            continue
        if colon:
            addressed, name = name.strip(), rest
        if addressed in ("*", token):
            found.add(name.strip())
    return found & set(TAGS)


def _dictionary(value: str) -> dict[str, str]:
    """Read a dictionary of tokens; parameters are left out, and of a repeated key the last one counts."""
    members = (member.partition(";")[0].partition("=") for member in value.split(","))
    return {key.strip().lower(): word.strip().strip('"').lower() for key, _, word in members}
