"""Captions for scenes as people might write them: phrasings, synonyms, word order, case, and some noise."""

from __future__ import annotations

from collections.abc import Callable

from diptych.data.synthetic.vocabulary import Dice, Thing

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
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
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
FILL_ENDINGS: dict[str, str] = {
    "outline": "just the outline",
    "striped": "with stripes",
    "dotted": "with dots",
    "solid": "",
}
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
VAGUE_RATE, NO_COLOUR_RATE, NO_SHAPE_RATE = 0.025, 0.03, 0.02
BOILERPLATE_RATE, TYPO_RATE = 0.07, 0.015


def captions(
    things: tuple[Thing, ...], relation: str | None, *, background: str, dice: Dice, noisy: bool
) -> tuple[str, ...]:
    """Write one to three captions for a scene.

    Args:
        things: the objects, in the order the relation names them.
        relation: how they stand to each other; None for a single object.
        background: the background's kind, which some captions mention.
        dice: the choices.
        noisy: whether captions may miss attributes, say little, or carry typos and boilerplate.

    Returns:
        Captions, different from each other.
    """
    wanted = 1 + dice.below(3)
    texts: dict[str, None] = {}
    for _ in range(wanted):
        if noisy and dice.chance(VAGUE_RATE):
            text = _vague(dice)
        else:
            text = _describe(things, relation, background, dice, noisy)
            text = _disturb(text, dice) if noisy else text
        texts[_recase(text, dice)] = None
    return tuple(texts)


def _describe(
    things: tuple[Thing, ...], relation: str | None, background: str, dice: Dice, noisy: bool
) -> str:
    if relation is None:
        return _single(things[0], background, dice, noisy)
    if relation == "count":
        return _counted(things, dice)
    if relation == "row":
        return _listed(things, dice)
    return _related(things, relation, dice)


def _word(name: str, synonyms: dict[str, tuple[str, ...]], dice: Dice) -> str:
    return dice.pick(synonyms[name]) if dice.chance(SYNONYM_RATE) else name


def _noun(thing: Thing, dice: Dice) -> str:
    return _word(thing.shape, SHAPE_WORDS, dice)


def _colour(thing: Thing, dice: Dice) -> str:
    return _word(thing.colour, COLOUR_WORDS, dice)


def _adjectives(thing: Thing, dice: Dice) -> str:
    """Size and fill where the writer cares to mention them, each followed by a space."""
    words = ""
    if dice.chance(0.3):
        words += _word(thing.size, SIZE_WORDS, dice) + " "
    if dice.chance(0.06 if thing.fill == "solid" else 0.4):
        words += _word(thing.fill, FILL_WORDS, dice) + " "
    return words


def _named(thing: Thing, dice: Dice) -> str:
    """A noun phrase without its article: "small striped red star"."""
    return f"{_adjectives(thing, dice)}{_colour(thing, dice)} {_noun(thing, dice)}"


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a noun phrase.

    >>> with_article("orange key"), with_article("hourglass"), with_article("red key")
    ('an orange key', 'an hourglass', 'a red key')
    """
    return ("an " if phrase[0] in "aeio" or phrase.startswith("hour") else "a ") + phrase


def _plural(noun: str) -> str:
    return _PLURALS.get(noun) or noun + "s"


_SINGLE: tuple[Callable[[Thing, Dice], str], ...] = (
    lambda thing, dice: with_article(_named(thing, dice)),
    lambda thing, dice: with_article(_named(thing, dice)),
    _named,
    lambda thing, dice: f"{_colour(thing, dice)} {_noun(thing, dice)}",
    lambda thing, dice: f"{dice.pick(_OPENERS)} {with_article(_named(thing, dice))}",
    lambda thing, dice: f"{dice.pick(_OPENERS)} {with_article(_named(thing, dice))}",
    lambda thing, dice: (
        f"{with_article(_adjectives(thing, dice) + _noun(thing, dice))} in {_colour(thing, dice)}"
    ),
    lambda thing, dice: f"{with_article(_noun(thing, dice))} that is {_colour(thing, dice)}",
    lambda thing, dice: f"the {_noun(thing, dice)} is {_colour(thing, dice)}",
    lambda thing, dice: f"{_noun(thing, dice)}, {_colour(thing, dice)}, {thing.fill}",
    lambda thing, dice: f"one {_named(thing, dice)}",
    lambda thing, dice: (
        f"{with_article(_colour(thing, dice) + ' ' + _noun(thing, dice))} {FILL_ENDINGS[thing.fill]}"
    ),
)


def _single(thing: Thing, background: str, dice: Dice, noisy: bool) -> str:
    if noisy and dice.chance(NO_COLOUR_RATE):
        return with_article(_adjectives(thing, dice) + _noun(thing, dice))
    if noisy and dice.chance(NO_SHAPE_RATE):
        return f"something {_colour(thing, dice)}"
    text = dice.pick(_SINGLE)(thing, dice).strip()
    if dice.chance(0.1):
        return f"{text} {dice.pick(BACKGROUND_ENDINGS[background])}"
    if dice.chance(0.06) and abs(thing.x - 0.5) > 0.12:
        return f"{text} on the {'left' if thing.x < 0.5 else 'right'}"
    return text


def _counted(things: tuple[Thing, ...], dice: Dice) -> str:
    thing, number = things[0], dice.pick(_COUNTS[len(things)])
    noun = _plural(_noun(thing, dice))
    form = dice.below(4)
    if form == 0:
        return (
            f"{number} {noun}, all {_colour(thing, dice)}"
            if len(things) > 2
            else f"{number} {noun}, both {_colour(thing, dice)}"
        )
    named = f"{number} {_adjectives(thing, dice)}{_colour(thing, dice)} {noun}"
    return f"{dice.pick(_OPENERS)} {named}" if form == 1 else named


def _related(things: tuple[Thing, ...], relation: str, dice: Dice) -> str:
    first, second = things
    forward, backward = _RELATIONS[relation]
    form = dice.below(8)
    if form == 0:
        return f"{with_article(_named(first, dice))} and {with_article(_named(second, dice))}"
    if form == 1:
        places = ("on the left", "on the right") if relation == "left of" else ("at the top", "at the bottom")
        return f"{_named(first, dice)} {places[0]}, {_named(second, dice)} {places[1]}"
    if form in (2, 3):
        first, second, forward = second, first, backward
    text = f"{with_article(_named(first, dice))} {dice.pick(forward)} {with_article(_named(second, dice))}"
    return f"{dice.pick(_OPENERS)} {text}" if form == 4 else text


def _listed(things: tuple[Thing, ...], dice: Dice) -> str:
    one, two, three = (with_article(_named(thing, dice)) for thing in things)
    form = dice.below(4)
    if form == 0:
        return f"from left to right: {one}, {two}, {three}"
    if form == 1:
        return f"{two} between {one} and {three}"
    text = f"{one}, {two} and {three}"
    return f"{dice.pick(_OPENERS)} {text}" if form == 2 else text


def _vague(dice: Dice) -> str:
    return f"img_{1000 + dice.below(9000)}" if dice.chance(0.4) else dice.pick(_VAGUE)


def _disturb(text: str, dice: Dice) -> str:
    """Add what crawled captions carry: a file name, a tail, two letters swapped."""
    if dice.chance(BOILERPLATE_RATE):
        if dice.chance(0.3):
            return f"img_{1000 + dice.below(9000)} {text}"
        return f"{text} {dice.pick(_TAILS)}"
    if dice.chance(TYPO_RATE):
        at = 1 + dice.below(len(text) - 2)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text


def _recase(text: str, dice: Dice) -> str:
    """Choose the case, and sometimes end with a full stop."""
    ending = "." if dice.chance(0.12) else ""
    turn = dice.between(0, 1)
    if turn < 0.64:
        return text + ending
    if turn < 0.84:
        return text[0].upper() + text[1:] + ending
    return text.title() + ending if turn < 0.95 else text.upper() + ending
