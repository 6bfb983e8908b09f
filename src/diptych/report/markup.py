"""Write HTML in which nothing can be forgotten to be escaped.

`tag` escapes every child that is plain text and passes on what `tag` itself made; captions, class names and
paths go into a page only through it. Characters that HTML forbids are replaced, so that a page is valid
whatever a web caption holds.
"""

import html
import re

FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
"""Controls, lone surrogates, and the marks that turn the direction of the text around them."""

VOID = frozenset({"img", "meta", "br", "hr"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Turn any text into markup that shows it.

    >>> escaped("<b> & \\u202e")
    '&lt;b&gt; &amp; �'
    """
    return Html(html.escape(FORBIDDEN.sub("\ufffd", text), quote=True))


def tag(name: str, *children: str, **attributes: str | int | float | bool) -> Html:
    """Write one element.

    Args:
        name: of the element.
        children: markup as it is, plain text escaped.
        attributes: `class_` becomes `class`, other underscores become hyphens; True writes the name alone,
            False nothing.

    >>> tag("p", "1 < 2", tag("b", "yes"), class_="note", hidden=True)
    '<p class="note" hidden>1 &lt; 2<b>yes</b></p>'
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(str(value))}"')
        for key, value in attributes.items()
        if value is not False
    )
    inside = join(*children)
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{inside}</{name}>")


def join(*children: str) -> Html:
    """Put pieces side by side: markup as it is, plain text escaped."""
    return Html("".join(child if isinstance(child, Html) else escaped(child) for child in children))
