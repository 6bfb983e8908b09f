"""Every error that a user can meet, and its exit code.

DiptychError                       1
├── UsageError                     2   the command or the settings ask for something impossible
│   ├── SettingsError                  a setting is unknown, missing or of the wrong type
│   │   └── UnsupportedError           it is well-formed, and nothing that this package does
│   └── UnknownNameError               a name that no table holds; the message suggests the nearest known one
├── DataError                      3   the data is bad, or too much of it is
│   ├── BadSampleError                 one sample; it is dropped and counted by its reason
│   ├── ArrayError                     an array of the caller's does not fit
│   ├── BadInputsError                 some inputs of one call; it holds what became of the others
│   ├── TooMuchBadDataError            the allowed rate of dropped samples was passed
│   └── NonFiniteError                 a loss, gradient or embedding is not a finite number
├── EnvironmentFault               4   the machine: disk, memory, permissions, device
│   └── MissingPackageError            an optional package is not installed
└── IntegrityError                 5   bytes on disk are not what their manifest says

A message has up to four short parts: what failed, where, found against expected, what to do.
"""

import difflib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

SHOWN_CHARACTERS = 1000  # of each part of a message
SHOWN_NAMES = 12  # a message lists at most this many known names: more is a wall, not a help


class Reason(StrEnum):
    """Why a sample was dropped."""

    MISSING_IMAGE = "missing_image"
    NOT_DOWNLOADED = "not_downloaded"  # so the table itself records (img2dataset's `status`): no damage of it
    REMOTE_IMAGE = "remote_image"
    UNREADABLE_IMAGE = "unreadable_image"
    TRUNCATED_IMAGE = "truncated_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    FORMAT_NOT_ALLOWED = "format_not_allowed"
    MISSING_CAPTION = "missing_caption"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_NOT_TEXT = "caption_not_text"
    CAPTION_TOO_LONG = "caption_too_long"
    BAD_ROW = "bad_row"
    DUPLICATE_KEY = "duplicate_key"
    UNSAFE_PATH = "unsafe_path"
    DAMAGED = "damaged"
    DECODER_CRASH = "decoder_crash"
    TIMEOUT = "timeout"
    # crawl
    BAD_RECORD = "bad_record"
    BAD_ADDRESS = "bad_address"
    # filter
    CAPTION_TOO_SHORT = "caption_too_short"
    WRONG_LANGUAGE = "wrong_language"
    BLOCKED_TEXT = "blocked_text"
    BLOCKED_HOST = "blocked_host"
    BOILERPLATE = "boilerplate"
    IMAGE_TOO_SMALL = "image_too_small"
    ASPECT_RATIO = "aspect_ratio"
    LOW_SCORE = "low_score"
    # match and balance
    NO_QUERY = "no_query"
    NOT_DRAWN = "not_drawn"
    # fetch
    FORBIDDEN_ADDRESS = "forbidden_address"
    ROBOTS = "robots"
    OPTED_OUT = "opted_out"
    NAME_NOT_FOUND = "name_not_found"
    CONNECTION = "connection"
    HTTP_CLIENT_ERROR = "http_client_error"
    HTTP_SERVER_ERROR = "http_server_error"
    RATE_LIMITED = "rate_limited"
    REDIRECTS = "redirects"
    NOT_AN_IMAGE = "not_an_image"
    HASH_MISMATCH = "hash_mismatch"
    # dedup
    BLOCKED_IMAGE = "blocked_image"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    IN_EVALUATION_SET = "in_evaluation_set"
    # removed from a finished shard set
    REMOVED = "removed"


class DiptychError(Exception):
    """Base of all errors that a user can meet: what failed, where, found against expected, what to do.

    >>> print(DiptychError("cannot read the shard", where="a.tar", found="12 bytes", expected="512"))
    cannot read the shard
      where: a.tar
      found 12 bytes, expected 512
    """

    exit_code = 1

    def __init__(
        self, what: str = "", *, where: object = "", found: object = "", expected: object = "", fix: str = ""
    ) -> None:
        # Only `what` goes into args: unpickling in another process calls cls(*args), then restores the rest.
        super().__init__(what)
        self.what = what
        self.where, self.found, self.expected = map(_bounded, (where, found, expected))
        self.fix = fix

    def __str__(self) -> str:
        """Return one to four short lines."""
        against = ", ".join(
            f"{word} {value}" for word, value in (("found", self.found), ("expected", self.expected)) if value
        )
        lines = [self.what, f"where: {self.where}" if self.where else "", against]
        lines.append(f"to do: {self.fix}" if self.fix else "")
        return "\n  ".join(line for line in lines if line)


def _bounded(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"


class UsageError(DiptychError):
    """The command or the settings ask for something impossible."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown, missing or of the wrong type."""


class UnsupportedError(SettingsError):
    """A setting, or a whole file, is well-formed and asks for something that this package does not do."""


class UnknownNameError(UsageError):
    """A name that no table holds."""


class DataError(DiptychError):
    """The data is bad, or too much of it is."""

    exit_code = 3


class BadSampleError(DataError):
    """One sample cannot be used: whoever catches it counts it under `reason` and goes on."""

    def __init__(self, reason: Reason, what: str = "", **parts: Any) -> None:
        super().__init__(what or f"bad sample: {reason}", **parts)
        self.reason = reason
        self.args = (reason, self.what)


class ArrayError(DataError, ValueError):
    """An array that the caller handed over does not fit; a `ValueError` too, as scikit-learn expects."""


class BadInputsError(DataError):
    """Some inputs of one call cannot be used: `reasons` by position; nothing of the others is lost.

    `embeddings` are (N, E) float32, the rows of the others; a row of NaN for each bad one.
    """

    def __init__(
        self,
        what: str = "",
        *,
        reasons: Mapping[int, Reason] | None = None,
        embeddings: Any = None,
        **parts: Any,
    ) -> None:
        super().__init__(what, **parts)
        self.reasons = dict(reasons or {})
        self.embeddings = embeddings


class TooMuchBadDataError(DataError):
    """The allowed rate of dropped samples was passed."""


class NonFiniteError(DataError):
    """A loss, gradient or embedding is not a finite number."""


class EnvironmentFault(DiptychError):  # noqa: N818 — a fault of the machine, not an error of the input
    """The machine is at fault: disk, memory, permissions, device."""

    exit_code = 4


class MissingPackageError(EnvironmentFault):
    """An optional package is not installed."""


class IntegrityError(DiptychError):
    """Bytes on disk are not what their manifest says."""

    exit_code = 5


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Return the known name that is most like `name`, or None if none is.

    >>> nearest("ViT-B32", ["ViT-B-32", "RN50"])
    'ViT-B-32'
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: object = "") -> UnknownNameError:
    """Build the error for a name that no table holds, with the nearest known one.

    >>> print(unknown_name("preset", "ViT-B32", ["ViT-B-32", "RN50"]))
    unknown preset 'ViT-B32'
      expected one of RN50, ViT-B-32
      to do: did you mean 'ViT-B-32'?
    """
    names = sorted(known)
    guess = nearest(name, names)
    listed = ", ".join(names[:SHOWN_NAMES])
    if len(names) > SHOWN_NAMES:
        listed += f" … ({len(names)} in all)"
    return UnknownNameError(
        f"unknown {kind} {name!r}",
        where=where,
        expected=f"one of {listed}" if names else f"no {kind} is known here",
        fix=f"did you mean {guess!r}?" if guess else "",
    )
