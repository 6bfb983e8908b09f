"""Guess the language of a caption from its letters and its smallest words, without a model.

Captions are short: what has no function word of any language ("red shoes", "Audi A4") is taken for English
if all of its letters are ASCII. Source: Grefenstette 1995, "Comparing two language identification schemes".
"""

import pyarrow as pa
import regex

_SMALL_WORDS = {  # of one letter only where it is English: initials and sizes are everywhere
    "en": "a the of and to in is on with for by from at this that his her are was an as it its our your my",
    "de": "der die das und mit von für auf im ist ein eine einen einer dem den des zum zur nicht auch",
    "fr": "le la les des du et avec pour dans sur une un est au aux par en ce cette son sa ses qui que chez",
    "es": "el la los las del con para en una un es por al su sus que este esta como de lo",
    "it": "il lo la gli le della dello dei degli con per nel nella una un è al alla di da che sul",
    "pt": "os as do da dos das com para em uma um no na é ao por seu sua que não",
    "nl": "de het een en van met voor op in is bij uit zijn niet aan te der naar ook",
    "pl": "na do się jest nie dla od po za przez oraz jak ze",
    "sv": "och en ett med på för av är den det som till från inte om",
    "tr": "ve bir bu için ile da de çok en olan gibi daha",
    "id": "dan di yang untuk dengan dari pada ini itu ke adalah dalam",
}
_LANGUAGES_OF = {
    word: tuple(code for code, words in _SMALL_WORDS.items() if word in words.split())
    for words in _SMALL_WORDS.values()
    for word in words.split()
}
_SCRIPTS = {
    "ja": r"\p{Hiragana}|\p{Katakana}", "ko": r"\p{Hangul}", "zh": r"\p{Han}", "ru": r"\p{Cyrillic}",
    "ar": r"\p{Arabic}", "el": r"\p{Greek}", "he": r"\p{Hebrew}", "th": r"\p{Thai}", "hi": r"\p{Devanagari}"
}  # fmt: skip
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_OTHER = regex.compile(r"(?![\p{Latin}\p{Common}\p{Inherited}])\p{L}")
_SCRIPT_OF = {code: regex.compile(pattern) for code, pattern in _SCRIPTS.items()}
UNKNOWN = "und"  # ISO 639-2: undetermined


def guessed(captions: pa.Array) -> pa.Array:
    """Return the ISO 639-1 code of each of (N,) captions, or "und".

    >>> guessed(pa.array(["a dog on the beach", "ein Hund mit Ball", "犬", "red shoes"])).to_pylist()
    ['en', 'de', 'zh', 'en']
    """
    return pa.array([language_of(caption or "") for caption in captions.to_pylist()], pa.string())


def language_of(caption: str) -> str:
    """Guess the language of one caption; see `guessed`."""
    words = [word for word in _WORD.findall(caption.lower()) if not word.isdecimal()]
    letters = sum(map(len, words))
    if letters == 0:
        return UNKNOWN
    if 2 * len(_OTHER.findall(caption)) > letters:
        return next((code for code, script in _SCRIPT_OF.items() if script.search(caption)), UNKNOWN)
    votes = dict.fromkeys(_SMALL_WORDS, 0.0)
    for word in words:
        known = _LANGUAGES_OF.get(word, ())
        for code in known:
            votes[code] += 1 / len(known)
    best = max(votes, key=votes.__getitem__)  # English is first, so it wins a draw
    if votes[best] > 0:
        return best
    return "en" if all(word.isascii() for word in words) else UNKNOWN
