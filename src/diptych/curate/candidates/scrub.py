"""Personal data in captions: replaced by a word that says what was there ("[email]").

Where a form alone would also fit prices, sizes, dates or model numbers, the check sum, the grouping of the
country, or a word such as "call" has to agree. Source: RFC 5322 (e-mail), ITU-T E.164 and the North American,
British, French and German plans, ISO/IEC 7812-1 (Luhn), ISO 13616 and 7064 (IBAN), RFC 4291 (IPv6).
"""

import re
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["email", "iban", "card", "ip", "phone"]
Holds = Callable[[re.Match[str]], bool]

# A quick look at a whole column; most captions hold none of this.
_MAY_HOLD = r"[@:]|\d[\d .()/\-]{3,}\d|\bat\b.*\bdot\b|[\[(]at[\])]"

# Possessive and anchored at their left edge, so that no text takes more than linear time.
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w+%'-]++(?:\.[\w+%'-]++)*+@(?P<domain>[\w-]{1,63}(?:\.[\w-]{1,63})++)")
_DOT = r"(?:\.|\s?[\[({](?:dot|\.)[\])}]\s?|\sdot\s)"
_WRITTEN_EMAIL = re.compile(
    rf"(?<![\w.+-])[\w.+-]++(?:\s?[\[({{](?:at|@)[\])}}]\s?|\s@\s)[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}})++",
    re.IGNORECASE,
)
# Last parts of names that are no English words: "look at the dot on the wall".
_SPOKEN_EMAIL = re.compile(
    rf"(?<![\w.+-])[\w.+-]++\sat\s[\w-]{{1,63}}(?:{_DOT}[\w-]{{1,63}})*?\sdot\s(?:com|org|net|edu|gov|info|biz|io|co|eu"
    r"|museum|photo|de|uk|fr|es|nl|ca|au|br|ru|ch|jp|cn|pl|se|dk|cz)(?:\sdot\s[a-z]{2})?(?!\w)",
    re.IGNORECASE,
)
_FILE_ENDINGS = frozenset({"png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "tif", "tiff", "css", "js"})

_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}+(?:[ -]?[A-Z0-9]{1,4})?(?![\w-])")
_CARD = re.compile(r"(?<![\w.,/+-])[0-9](?:[ -]?[0-9]){12,18}+(?![\w/]|[.,-][0-9])")
_CARD_BRANDS = re.compile(
    r"4[0-9]{15}(?:[0-9]{3})?|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|35[0-9]{14}"
)
_CARD_GROUPS = re.compile(
    r"[0-9]{13,19}|[0-9]{4}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{3})?|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5}"
)

_IP4 = re.compile(
    r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])(?::[0-9]{1,5}\b)?(?:/[0-9]{1,2}\b)?"
)
_IP6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]*[0-9])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}+(?![\w:])")
_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|firmware|release|build|update|rev|sdk|driver|kernel|patch)\.?:? ?)$", re.I
)

_CUE = (
    r"(?<!\w)(?:tel(?:e(?:phone|fon))?|phone|ph|call(?: us| me| now| today)?|fax|mob(?:ile)?|cell"
    r"|whats ?app|sms|text(?: us| me)?|hotline|contact|dial|ring|handy|fon|t[ée]l[ée]phone|portable|m[oó]vil)"
)
_AFTER_CUE = re.compile(
    _CUE + r"\b(?:\.|:|#| no\.?:?| number:?| nr\.?:?| at| on| us at| us on| is| =|)*\s*[:.]?\s*"
    r"(?P<number>\+?\(?[0-9](?:[ ./()-]{0,3}[0-9]){6,14}+)(?![\w])",
    re.IGNORECASE,
)
_GAP = r"[ .\-/]"
_PHONE_FORMS = re.compile(
    r"(?<![\w.,/+$€£#=-])(?:"
    rf"\+[0-9]{{1,3}}(?:[ .\-/]?\(?[0-9]{{1,5}}\)?){{2,7}}+"  # international, always with its plus
    rf"|00[1-9][0-9]{{0,2}}(?:{_GAP}\(?[0-9]{{2,5}}\)?){{2,5}}+"
    r"|(?:1[ .-]?)?\([2-9][0-9]{2}\)[ .-]?[2-9][0-9]{2}[ .-][0-9]{4}"  # (555) 234-5678
    r"|(?:1[ .-])?[2-9][0-9]{2}(?P<gap>[ .-])[2-9][0-9]{2}(?P=gap)[0-9]{4}"
    r"|\(0[0-9]{1,4}\)[ /-]?[0-9]{3,4}[ -]?[0-9]{3,5}"
    r"|0[1-9](?:(?P<pair>[ .-])[0-9]{2})(?:(?P=pair)[0-9]{2}){3}"  # 01 23 45 67 89
    r"|0[1-9][0-9]{1,4}[/ -][0-9]{3,4}[ -]?[0-9]{3,5}(?:[ -][0-9]{1,4})?"
    r"|07[0-9]{9}|01[5-7][0-9]{8,9}"  # British and German mobiles without gaps
    r")(?![\w%€£$]|[.,/\-][0-9]|[ ]?[x×][ ]?[0-9])"
)
_NOT_A_PHONE = re.compile(
    r"(?:\b(?:isbn(?:-1[03])?|issn|ean|upc|gtin|asin|sku|item|art(?:icle)?|part|model|mod|ref(?:erence)?|serial"
    r"|s/n|order|id|lot|patent|code|number|nr|no|oem|p/n|mpn)\b\.?[:#]? ?#?)$",
    re.IGNORECASE,
)
_DATE_OR_BOOK = re.compile(
    r"(?:(?:19|20)[0-9]{2}([ ./-])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([ ./-])[0-9]{1,2}\2(?:19|20)[0-9]{2}"
    r"|97[89](?:[ -]?[0-9]){10}|(?:19|20)[0-9]{2}[ /-]+(?:19|20)[0-9]{2})(?![0-9])"
)
_DIGITS_OF_PHONE = range(8, 16)
_BEFORE = 24  # characters before a number that may say what it is


def scrubbed(caption: str) -> tuple[str, Counter[Kind]]:
    """Replace personal data in one caption; return it and how many of each kind there were.

    >>> scrubbed("Mail jo.doe@example.org or call 555-234-5678, print 1920x1080")
    ('Mail [email] or call [phone], print 1920x1080', Counter({'email': 1, 'phone': 1}))
    """
    counts: Counter[Kind] = Counter()
    for kind, pattern, holds in _RULES:

        def tag(match: re.Match[str], kind: Kind = kind, holds: Holds = holds) -> str:
            if not holds(match):
                return match[0]
            counts[kind] += 1
            number = match.groupdict().get("number", match[0])
            return f"{match[0][: -len(number)]}[{kind}]"  # the word before a number says nothing personal

        caption = pattern.sub(tag, caption)
    return caption, counts


def scrub_column(column: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, Counter[Kind]]:
    """Replace personal data in a column of captions, nulls among them; return it and the counts.

    >>> column, counts = scrub_column(pa.array(["a dog", "me@example.org"]))
    >>> column.to_pylist(), dict(counts)
    (['a dog', '[email]'], {'email': 1})
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    suspects = pc.fill_null(pc.match_substring_regex(whole, _MAY_HOLD, ignore_case=True), False)
    counts: Counter[Kind] = Counter()
    texts: list[str] = []
    for caption in whole.filter(suspects).to_pylist():
        text, more = scrubbed(caption)
        texts.append(text)
        counts += more
    return pc.replace_with_mask(whole, suspects, pa.array(texts, whole.type)), counts


def _digits(text: str) -> str:
    return "".join(character for character in text if "0" <= character <= "9")


def _before(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - _BEFORE) : match.start()]


def _is_email(match: re.Match[str]) -> bool:
    ending = match["domain"].rsplit(".", 1)[-1].lower()
    return not ending.isdecimal() and ending not in _FILE_ENDINGS  # logo@2x.png is none


def _is_iban(match: re.Match[str]) -> bool:
    plain = re.sub("[ -]", "", match[0])
    turned = "".join(str(int(character, 36)) for character in plain[4:] + plain[:4])
    return 15 <= len(plain) <= 34 and int(turned) % 97 == 1


def _is_card(match: re.Match[str]) -> bool:
    plain = _digits(match[0])
    if not (_CARD_GROUPS.fullmatch(match[0]) and _CARD_BRANDS.fullmatch(plain)):
        return False
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(plain))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_ip(match: re.Match[str]) -> bool:
    address = match[0].partition("/")[0]
    address = address.partition(":")[0] if "." in address else address
    try:
        ip_address(address)
    except ValueError:
        return False
    return not _VERSION.search(_before(match))


def _is_phone(match: re.Match[str]) -> bool:
    count = len(_digits(match[0]))
    return count in _DIGITS_OF_PHONE and not _NOT_A_PHONE.search(_before(match))


def _is_phone_by_word(match: re.Match[str]) -> bool:
    number = match["number"]
    return 6 < len(_digits(number)) < _DIGITS_OF_PHONE.stop and not _DATE_OR_BOOK.match(number)


_RULES: tuple[tuple[Kind, re.Pattern[str], Holds], ...] = (
    ("email", _EMAIL, _is_email),
    ("email", _WRITTEN_EMAIL, lambda _: True),
    ("email", _SPOKEN_EMAIL, lambda _: True),
    ("iban", _IBAN, _is_iban),
    ("card", _CARD, _is_card),
    ("ip", _IP4, _is_ip),
    ("ip", _IP6, _is_ip),
    ("phone", _AFTER_CUE, _is_phone_by_word),
    ("phone", _PHONE_FORMS, _is_phone),
)
