"""Typed records that the packages exchange: pairs, counts by reason, metrics."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any, Protocol

from diptych.core.errors import IntegrityError, Reason, TooMuchBadDataError

Field = str | int | float | bool | None

MAX_BAD_SETTING = "--max-bad-fraction (data.max_bad_fraction in a recipe)"
EXAMPLE_CHARACTERS = 300  # keys and names of untrusted data may be megabytes long
EXAMPLES_PER_REASON = 5  # enough to find the fault by hand, few enough to print


# The setting that decides whether an image is dropped for a reason, in every command but `curate`.
SETTING_OF: Mapping[Reason, str] = {
    Reason.TOO_MANY_BYTES: "DIPTYCH_MAX_BYTES=N in the environment",
    Reason.TOO_MANY_PIXELS: "DIPTYCH_MAX_PIXELS=N in the environment",
}


class Need(Flag):
    """What a sample must have to be of use; a source drops and counts one that lacks it.

    An evaluation needs NOTHING: a sample whose image cannot be read stays, and counts as wrong.
    """

    NOTHING = 0
    IMAGE = auto()
    CAPTION = auto()
    PAIR = IMAGE | CAPTION


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with its captions, as encoded bytes and text.

    Attributes:
        key: unique in its source.
        image: the encoded file (JPEG, PNG, …); empty if it could not be read, for the reason in `fault`.
        captions: there are some wherever captions were needed.
        fields: further columns (labels, sizes, …) by name.
        path: the file that the image was read from, or that holds it; empty if there is none.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    fields: Mapping[str, Field] = field(default_factory=dict)
    path: str = field(default="", compare=False)
    fault: Reason | None = field(default=None, compare=False)


@dataclass(slots=True)
class Counts:
    """What happened to the samples of one stage: seen = kept + dropped, always.

    >>> counts = Counts()
    >>> counts.keep(3)
    >>> counts.drop(Reason.EMPTY_CAPTION, "row 7")
    >>> counts.as_dict()["in"], counts.as_dict()["dropped"]
    (4, {'empty_caption': 1})
    """

    seen: int = 0
    kept: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)
    examples: dict[Reason, list[str]] = field(default_factory=dict)

    def keep(self, n: int = 1) -> None:
        """Count `n` samples that were seen and kept."""
        self.seen += n
        self.kept += n

    def drop(self, reason: Reason, where: str = "") -> None:
        """Count one sample that was seen and dropped, and remember the first few examples."""
        self.seen += 1
        self.dropped[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if where and len(examples) < EXAMPLES_PER_REASON:
            examples.append(where[:EXAMPLE_CHARACTERS])

    def merge(self, other: "Counts") -> None:
        """Add the counts of another worker or part."""
        self.seen += other.seen
        self.kept += other.kept
        self.dropped.update(other.dropped)
        for reason, examples in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine.extend(examples[: EXAMPLES_PER_REASON - len(mine)])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest: in, out, dropped by reason, examples by reason."""
        reasons = sorted(self.dropped)
        return {
            "in": self.seen,
            "out": self.kept,
            "dropped": {str(reason): self.dropped[reason] for reason in reasons},
            "examples": {str(reason): list(self.examples.get(reason, ())) for reason in reasons},
        }

    def reasons(self) -> str:
        """Return how many were dropped for which reasons, the most frequent first.

        >>> Counts(dropped=Counter({Reason.ROBOTS: 1, Reason.NO_QUERY: 3})).reasons()
        'no_query 3, robots 1'
        """
        return ", ".join(f"{reason} {count}" for reason, count in self.dropped.most_common())

    def settings(self) -> str:
        """Name the settings that keep what was dropped, to follow a piece of advice.

        >>> Counts(dropped=Counter({Reason.TOO_MANY_PIXELS: 1})).settings()
        '; too_many_pixels: set DIPTYCH_MAX_PIXELS=N in the environment'
        """
        return "".join(f"; {name}: set {SETTING_OF[name]}" for name in self.dropped if name in SETTING_OF)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Counts":
        """Read what `as_dict` wrote into a manifest; nothing was seen where nothing was written."""
        try:
            dropped, examples = plain.get("dropped", {}), plain.get("examples", {})
            return cls(
                int(plain.get("in", 0)),
                int(plain.get("out", 0)),
                Counter({Reason(reason): int(count) for reason, count in dropped.items()}),
                {Reason(reason): [*map(str, names)] for reason, names in examples.items()},
            )
        except (ValueError, TypeError, AttributeError) as error:
            what, fix = "counts of samples cannot be read", "run the command that wrote them again"
            actual, wanted = str(error)[:EXAMPLE_CHARACTERS], "in, out, dropped by reason, examples"
            raise IntegrityError(what, found=actual, expected=wanted, fix=fix) from error

    def check(self, max_bad_fraction: float, *, setting: str = MAX_BAD_SETTING) -> None:
        """Raise a `TooMuchBadDataError` if more than a share of the seen samples, in [0, 1], was dropped.

        Rows that were not downloaded are no part of it; `setting` is the share's name for the user.
        """
        dropped = self.dropped.total()
        assert self.seen == self.kept + dropped, f"{self.seen} in is not {self.kept} out + {dropped} dropped"
        absent = self.dropped[Reason.NOT_DOWNLOADED]
        if dropped - absent <= max_bad_fraction * (self.seen - absent):
            return
        first = next((examples[0] for examples in self.examples.values() if examples), "")
        raise TooMuchBadDataError(
            "too many samples had to be dropped",
            where=f"first: {first}" if first else "",
            found=f"{dropped} of {self.seen} dropped ({self.reasons()})",
            expected=f"at most {max_bad_fraction:.1%}",
            fix=f"repair the source, or allow a higher share with {setting}{self.settings()}",
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number: a fraction in [0, 1] unless its name says otherwise, the average over `n` items.

    `ci95` is its 95 % confidence interval, or None where none can be given.
    """

    task: str
    metric: str
    value: float
    ci95: tuple[float, float] | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which has no word for NaN: that becomes null."""
        value = self.value if math.isfinite(self.value) else None
        ci95 = list(self.ci95) if self.ci95 is not None else None
        return {"task": self.task, "metric": self.metric, "value": value, "ci95": ci95, "n": self.n}


class Evaluator(Protocol):
    """What the trainer calls now and then: a name, and numbers about a model."""

    @property
    def name(self) -> str:
        """Name under which the numbers are logged."""

    def __call__(self, model: Any) -> list[Metric]:
        """Measure `model` (a diptych.models.model.Model; core cannot import it)."""
