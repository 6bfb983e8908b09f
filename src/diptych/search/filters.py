"""Filters of a search: `year >= 2020 and camera like 'Pixel%'` becomes an SQL condition with parameters.

Names are looked up in a table and values are passed beside the condition: no part of the text is run as SQL.

    condition  = and-terms joined by `or`; terms joined by `and`; `not`; parentheses
    term       = name (= | == | != | <> | < | <= | > | >=) value, name [not] like 'pattern%',
                 name [not] in (value, …), name [not] between value and value, name is [not] null
    value      = a number, 'a text' or "a text", true, false
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from diptych.core.errors import UsageError, unknown_name
from diptych.core.records import Field
from diptych.search.items import quoted

# What a name stands for; names of places hold for an item if they hold for one of its places.
NAMES = {
    "bytes": "bytes", "width": "width", "height": "height", "format": "format", "taken": "taken",
    "year": "year", "camera": "camera", "latitude": "latitude", "longitude": "longitude",
    "caption": "caption", "seconds": "seconds", "date": "substr(taken, 1, 10)",
    "month": "CAST(substr(taken, 6, 2) AS INTEGER)", "day": "CAST(substr(taken, 9, 2) AS INTEGER)",
    "hour": "CAST(substr(taken, 12, 2) AS INTEGER)", "megapixels": "width * height / 1e6",
}  # fmt: skip
PLACE_NAMES = {"path": "path", "source": "source", "key": "key"}
# A missing value is different from every value, and no condition holds for it.
COMPARISONS = {
    "=": "=",
    "==": "=",
    "!=": "IS NOT",
    "<>": "IS NOT",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}
MAX_DEPTH, MAX_CHARACTERS = 50, 10_000
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])|'(?P<single>(?:[^']|'')*)'|"(?P<double>(?:[^"]|"")*)"
    |(?P<name>[^\W\d][\w:]*)|`(?P<quoted>[^`]+)`|(?P<sign><=|>=|==|!=|<>|[=<>(),]))""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """An SQL condition over the items of an index, and the values of its question marks."""

    sql: str
    values: tuple[Field, ...]


def parse_filter(text: str, columns: Collection[str] = ()) -> Callable[[Collection[str]], Condition]:
    """Read a filter.

    Args:
        text: the filter.
        columns: names of the source's columns, besides `NAMES` and `PLACE_NAMES`.

    Returns:
        What makes the condition for a segment that has some of the columns; the others are null there.

    Raises:
        UsageError: the text is no filter; a name is unknown.
    """
    _Parser(text, columns, columns).condition()  # now, before any segment
    return lambda present: _Parser(text, columns, present).condition()


class _Parser:
    def __init__(self, text: str, columns: Collection[str], present: Collection[str]) -> None:
        self.text, self.columns, self.present = text, columns, present
        self.tokens = self._tokens()
        self.position = self.depth = 0
        self.values: list[Field] = []

    def condition(self) -> Condition:
        sql = self._either()
        if self.position < len(self.tokens):
            raise self._error("the end, `and` or `or`")
        return Condition(sql, tuple(self.values))

    def _tokens(self) -> list[tuple[str, str, int]]:
        if len(self.text) > MAX_CHARACTERS:
            raise UsageError(
                "a filter is too long", found=len(self.text), expected=f"{MAX_CHARACTERS} at most"
            )
        tokens, end, whole = [], 0, self.text.rstrip()
        while end < len(whole):
            match = _TOKEN.match(whole, end)
            if match is None:
                raise self._error("a name, a value or a comparison", at=end)
            tokens.append(
                (str(match.lastgroup), match[str(match.lastgroup)], match.start(str(match.lastgroup)))
            )
            end = match.end()
        return tokens

    def _either(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(f"at most {MAX_DEPTH} parentheses")
        terms = [self._all()]
        while self._word("or"):
            terms.append(self._all())
        self.depth -= 1
        return f"({' OR '.join(terms)})"

    def _all(self) -> str:
        terms = [self._one()]
        while self._word("and"):
            terms.append(self._one())
        return f"({' AND '.join(terms)})"

    def _one(self) -> str:
        negations = 0
        while self._word("not"):
            negations += 1
        sql = self._group() if self._sign("(") else self._term()
        return f"NOT IFNULL({sql}, 0)" if negations % 2 else sql

    def _group(self) -> str:
        sql = self._either()
        if not self._sign(")"):
            raise self._error("a closing parenthesis")
        return sql

    def _term(self) -> str:
        kind, name = self._next("name", "quoted")
        place = kind == "name" and name.lower() in PLACE_NAMES
        subject = PLACE_NAMES[name.lower()] if place else self._subject(kind, name)
        negated = self._word("not")
        sql = f"{subject} {self._comparison(negated)}"
        if place:
            sql = f"row IN (SELECT row FROM places WHERE {sql})"
        return f"(NOT IFNULL({sql}, 0))" if negated else f"({sql})"

    def _subject(self, kind: str, name: str) -> str:
        if kind == "name" and name.lower() in NAMES:
            return NAMES[name.lower()]
        if name not in self.columns:
            known = [*NAMES, *PLACE_NAMES, *self.columns]
            raise unknown_name("name in a filter", name, known, where=self.text)
        return quoted(f"f:{name}") if name in self.present else "NULL"

    def _comparison(self, negated: bool) -> str:
        if self._word("like"):
            return f"LIKE {self._value()}"
        if self._word("between"):
            low = self._value()
            if not self._word("and"):
                raise self._error("`and` and a second value")
            return f"BETWEEN {low} AND {self._value()}"
        if self._word("in"):
            return f"IN ({', '.join(self._list())})"
        if not negated and self._word("is"):
            absent = "IS NOT NULL" if self._word("not") else "IS NULL"
            if not self._word("null"):
                raise self._error("null")
            return absent
        if negated:
            raise self._error("like, in or between")
        return f"{COMPARISONS[self._next('sign', among=COMPARISONS)[1]]} {self._value()}"

    def _list(self) -> list[str]:
        if not self._sign("("):
            raise self._error("a list of values in parentheses")
        values = [self._value()]
        while self._sign(","):
            values.append(self._value())
        if not self._sign(")"):
            raise self._error("a comma or a closing parenthesis")
        return values

    def _value(self) -> str:
        kind, text = self._next("number", "single", "double", "name")
        if kind == "name":
            if text.lower() not in ("true", "false"):
                self.position -= 1
                raise self._error("a value; texts stand in quotes")
            self.values.append(text.lower() == "true")
        elif kind == "number":
            self.values.append(float(text) if re.search("[.eE]", text) else int(text))
        else:
            mark = "'" if kind == "single" else '"'
            self.values.append(text.replace(2 * mark, mark))
        return "?"

    def _next(self, *kinds: str, among: Collection[str] = ()) -> tuple[str, str]:
        if self.position < len(self.tokens):
            kind, text, _ = self.tokens[self.position]
            if kind in kinds and (not among or text in among):
                self.position += 1
                return kind, text
        wanted = {
            "quoted": "a name",
            "sign": f"a comparison: {', '.join(COMPARISONS)}, like, in, between, is",
        }
        raise self._error(wanted.get(kinds[-1], "a value"))

    def _word(self, word: str) -> bool:
        return self._skip("name", word)

    def _sign(self, sign: str) -> bool:
        return self._skip("sign", sign)

    def _skip(self, kind: str, text: str) -> bool:
        there = self.position < len(self.tokens) and self.tokens[self.position][0] == kind
        if there and self.tokens[self.position][1].lower() == text:
            self.position += 1
            return True
        return False

    def _error(self, expected: str, at: int | None = None) -> UsageError:
        if at is None:
            at = self.tokens[self.position][2] if self.position < len(self.tokens) else len(self.text)
        found = repr(self.text[at : at + 20]) if at < len(self.text) else "the end"
        where = f"{self.text[:80]!r}, character {at + 1}"
        return UsageError("a filter cannot be read", where=where, found=found, expected=expected)
