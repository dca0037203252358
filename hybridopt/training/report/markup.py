"""HTML from names and texts, every text escaped."""

import json
from html import escape
from typing import Any

__all__ = ["Html", "data", "element", "join"]

ALONE = ("meta", "rect", "polyline", "polygon", "line")  # with nothing in them, and no end


class Html(str):
    """Text that is HTML already."""


def element(tag: str, /, *children: str, **attributes: Any) -> Html:
    """Return an element; children that are no Html are escaped, and so are the values of attributes.

    Args:
        tag: name of the element.
        children: what is in it.
        attributes: by name, "_" for "-" and "class_" for "class"; None leaves one out.
    """
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    start = "".join(f' {key}="{escape(str(value))}"' for key, value in given)
    if tag in ALONE:
        return Html(f"<{tag}{start}/>")
    return Html(f"<{tag}{start}>{join(*children)}</{tag}>")


def join(*children: str) -> Html:
    """Return children one after the other, as `element` takes them."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def data(value: Any) -> Html:
    """Return a script element with plain data; no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(f'<script type="application/json">{safe}</script>')
