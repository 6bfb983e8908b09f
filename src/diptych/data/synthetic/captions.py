"""Captions for scenes as people might write them: phrasings, synonyms, word order, case, and some noise."""

from __future__ import annotations

from collections.abc import Callable

from diptych.data.synthetic.vocabulary import Rng, SceneObject

# Other words for the same thing; the name itself is used most of the time. No word serves two names.
SHAPE_WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "disk"),
    "oval": ("ellipse", "egg"),
    "square": ("box", "block"),
    "triangle": ("three-sided shape",),
    "diamond": ("rhombus", "lozenge"),
    "star": ("five-pointed star",),
    "heart": ("love heart", "valentine"),
    "cross": ("plus sign", "plus"),
    "ring": ("hoop", "donut"),
    "moon": ("crescent", "crescent moon"),
    "arrow": ("pointer",),
    "hourglass": ("sand timer", "egg timer"),
    "drop": ("droplet", "teardrop", "raindrop"),
    "flower": ("blossom", "daisy"),
    "cloud": ("fluffy cloud",),
    "bolt": ("lightning bolt", "thunderbolt", "flash of lightning"),
    "leaf": ("fallen leaf",),
    "house": ("home", "cottage", "hut"),
    "key": ("door key",),
    "fish": ("goldfish",),
    "tree": ("fir", "pine tree", "christmas tree"),
    "crown": ("royal crown",),
    "mug": ("cup", "coffee cup"),
    "mushroom": ("toadstool",),
}
COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("crimson", "scarlet"),
    "orange": ("tangerine",),
    "yellow": ("lemon", "golden"),
    "green": ("grass green", "emerald"),
    "teal": ("turquoise", "cyan"),
    "blue": ("royal blue", "cobalt"),
    "purple": ("violet",),
    "pink": ("rose", "light pink"),
    "brown": ("chocolate", "chestnut"),
    "black": ("jet black", "dark"),
    "white": ("snow white", "ivory"),
    "grey": ("gray", "silver"),
}
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("little", "tiny"),
    "medium": ("medium-sized", "mid-sized"),
    "large": ("big", "huge"),
}
FILL_WORDS: dict[str, tuple[str, ...]] = {
    "solid": ("plain", "filled"),
    "outline": ("outlined", "hollow"),
    "striped": ("stripy",),
    "dotted": ("spotted", "polka dot"),
}
FILL_ENDINGS = {"outline": "just the outline", "striped": "with stripes", "dotted": "with dots", "solid": ""}
BACKGROUND_ENDINGS: dict[str, tuple[str, ...]] = {
    "plain": ("on a plain background", "on a simple background"),
    "gradient": ("on a gradient background", "on a soft gradient"),
    "glow": ("on a soft background", "on a glowing background"),
    "dusk": ("in the evening", "at dusk"),
    "checker": ("on a checkered background", "on a chessboard", "on tiles"),
    "paper": ("on paper", "on a sheet of paper"),
    "marble": ("on a cloudy background", "on a blurry background"),
    "horizon": ("in front of hills", "on the hills", "with hills behind"),
}
_PLURALS = {"leaf": "leaves", "box": "boxes", "fish": "fish", "goldfish": "goldfish", "cross": "crosses",
            "hourglass": "hourglasses", "rhombus": "rhombi", "daisy": "daisies", "plus": "pluses",
            "fallen leaf": "fallen leaves", "flash of lightning": "flashes of lightning"}  # fmt: skip
_COUNTS = {2: ("two", "2", "a pair of"), 3: ("three", "3", "a group of three")}
_RELATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left of": (("left of", "to the left of", "on the left of"), ("right of", "to the right of")),
    "above": (("above", "over", "on top of"), ("below", "under", "beneath")),
}
_OPENERS = ("a photo of", "a picture of", "a drawing of", "an image of", "an icon of", "here is", "this is",
            "an illustration of", "my drawing:", "clip art of", "look,")  # fmt: skip
_VAGUE = ("photo", "untitled", "a picture", "my drawing", "image", "clip art", "new upload", "nice one",
          "no description", "pattern", "screenshot", "test")  # fmt: skip
_TAILS = ("free download", "stock image", "hd wallpaper", "clip art", "vector", "by me", "(2)", "#art",
          "photo", "icon", "thumbnail", "- copy")  # fmt: skip

SYNONYM_RATE = 0.16
VAGUE_RATE, NO_COLOR_RATE, NO_SHAPE_RATE = 0.025, 0.03, 0.02
BOILERPLATE_RATE, TYPO_RATE = 0.07, 0.015


def captions(
    objects: tuple[SceneObject, ...], relation: str | None, *, background: str, rng: Rng, noisy: bool
) -> tuple[str, ...]:
    """Write one to three different captions for a scene.

    Args:
        objects: in the order the relation names them.
        relation: how they stand to each other; None for a single object.
        background: the background's kind, which some captions mention.
        rng: makes the choices.
        noisy: whether captions may miss attributes, say little, or carry typos and boilerplate.
    """
    wanted = 1 + rng.below(3)
    texts: dict[str, None] = {}
    for _ in range(wanted):
        if noisy and rng.chance(VAGUE_RATE):
            text = f"img_{1000 + rng.below(9000)}" if rng.chance(0.4) else rng.pick(_VAGUE)
        else:
            if relation is None:
                text = _single(objects[0], background, rng, noisy)
            else:
                text = _SEVERAL.get(relation, _related)(objects, relation, rng)
            text = _disturb(text, rng) if noisy else text
        texts[_recase(text, rng)] = None
    return tuple(texts)


def _word(name: str, synonyms: dict[str, tuple[str, ...]], rng: Rng) -> str:
    return rng.pick(synonyms[name]) if rng.chance(SYNONYM_RATE) else name


def _noun(obj: SceneObject, rng: Rng) -> str:
    return _word(obj.shape, SHAPE_WORDS, rng)


def _color(obj: SceneObject, rng: Rng) -> str:
    return _word(obj.color, COLOR_WORDS, rng)


def _adjectives(obj: SceneObject, rng: Rng) -> str:
    """Size and fill where the writer cares to mention them, each followed by a space."""
    words = ""
    if rng.chance(0.3):
        words += _word(obj.size, SIZE_WORDS, rng) + " "
    if rng.chance(0.06 if obj.fill == "solid" else 0.4):
        words += _word(obj.fill, FILL_WORDS, rng) + " "
    return words


def _named(obj: SceneObject, rng: Rng) -> str:
    return f"{_adjectives(obj, rng)}{_color(obj, rng)} {_noun(obj, rng)}"


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a noun phrase.

    >>> with_article("orange key"), with_article("hourglass"), with_article("red key")
    ('an orange key', 'an hourglass', 'a red key')
    """
    return ("an " if phrase[0] in "aeio" or phrase.startswith("hour") else "a ") + phrase


_SINGLE: tuple[Callable[[SceneObject, Rng], str], ...] = (
    lambda obj, rng: with_article(_named(obj, rng)),
    lambda obj, rng: with_article(_named(obj, rng)),
    _named,
    lambda obj, rng: f"{_color(obj, rng)} {_noun(obj, rng)}",
    lambda obj, rng: f"{rng.pick(_OPENERS)} {with_article(_named(obj, rng))}",
    lambda obj, rng: f"{rng.pick(_OPENERS)} {with_article(_named(obj, rng))}",
    lambda obj, rng: f"{with_article(_adjectives(obj, rng) + _noun(obj, rng))} in {_color(obj, rng)}",
    lambda obj, rng: f"{with_article(_noun(obj, rng))} that is {_color(obj, rng)}",
    lambda obj, rng: f"the {_noun(obj, rng)} is {_color(obj, rng)}",
    lambda obj, rng: f"{_noun(obj, rng)}, {_color(obj, rng)}, {obj.fill}",
    lambda obj, rng: f"one {_named(obj, rng)}",
    lambda obj, rng: f"{with_article(_color(obj, rng) + ' ' + _noun(obj, rng))} {FILL_ENDINGS[obj.fill]}",
)


def _single(obj: SceneObject, background: str, rng: Rng, noisy: bool) -> str:
    if noisy and rng.chance(NO_COLOR_RATE):
        return with_article(_adjectives(obj, rng) + _noun(obj, rng))
    if noisy and rng.chance(NO_SHAPE_RATE):
        return f"something {_color(obj, rng)}"
    text = rng.pick(_SINGLE)(obj, rng).strip()
    if rng.chance(0.1):
        return f"{text} {rng.pick(BACKGROUND_ENDINGS[background])}"
    if rng.chance(0.06) and abs(obj.x - 0.5) > 0.12:
        return f"{text} on the {'left' if obj.x < 0.5 else 'right'}"
    return text


def _counted(objects: tuple[SceneObject, ...], _relation: str, rng: Rng) -> str:
    obj, number = objects[0], rng.pick(_COUNTS[len(objects)])
    noun = _noun(obj, rng)
    noun = _PLURALS.get(noun) or noun + "s"
    form = rng.below(4)
    if form == 0:
        return f"{number} {noun}, {'all' if len(objects) > 2 else 'both'} {_color(obj, rng)}"
    named = f"{number} {_adjectives(obj, rng)}{_color(obj, rng)} {noun}"
    return f"{rng.pick(_OPENERS)} {named}" if form == 1 else named


def _listed(objects: tuple[SceneObject, ...], _relation: str, rng: Rng) -> str:
    one, two, three = (with_article(_named(obj, rng)) for obj in objects)
    form = rng.below(4)
    if form == 0:
        return f"from left to right: {one}, {two}, {three}"
    if form == 1:
        return f"{two} between {one} and {three}"
    text = f"{one}, {two} and {three}"
    return f"{rng.pick(_OPENERS)} {text}" if form == 2 else text


def _related(objects: tuple[SceneObject, ...], relation: str, rng: Rng) -> str:
    first, second = objects
    forward, backward = _RELATIONS[relation]
    form = rng.below(8)
    if form == 0:
        return f"{with_article(_named(first, rng))} and {with_article(_named(second, rng))}"
    if form == 1:
        places = ("on the left", "on the right") if relation == "left of" else ("at the top", "at the bottom")
        return f"{_named(first, rng)} {places[0]}, {_named(second, rng)} {places[1]}"
    if form in (2, 3):
        first, second, forward = second, first, backward
    text = f"{with_article(_named(first, rng))} {rng.pick(forward)} {with_article(_named(second, rng))}"
    return f"{rng.pick(_OPENERS)} {text}" if form == 4 else text


_SEVERAL = {"count": _counted, "row": _listed}


def _disturb(text: str, rng: Rng) -> str:
    """Add what crawled captions carry: a file name, a tail, two letters swapped."""
    if rng.chance(BOILERPLATE_RATE):
        if rng.chance(0.3):
            return f"img_{1000 + rng.below(9000)} {text}"
        return f"{text} {rng.pick(_TAILS)}"
    if rng.chance(TYPO_RATE):
        at = 1 + rng.below(len(text) - 2)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text


def _recase(text: str, rng: Rng) -> str:
    """Choose the case, and sometimes end with a full stop."""
    ending = "." if rng.chance(0.12) else ""
    turn = rng.between(0, 1)
    if turn < 0.64:
        return text + ending
    if turn < 0.84:
        return text[0].upper() + text[1:] + ending
    return text.title() + ending if turn < 0.95 else text.upper() + ending
