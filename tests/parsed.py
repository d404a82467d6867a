"""Pages as a strict parser of HTML reads them, for tests of what writes them."""

import re
from typing import NamedTuple

import html5lib

# Attributes that make a browser load something at once; what `a` leads to is loaded only when asked for.
LOADED = ("src", "srcset", "data", "poster", "background", "action", "xlink:href")


class Page(NamedTuple):
    """Tags with their attributes, all text but of style sheets, and the style sheets."""

    tags: list[tuple[str, dict[str, str]]]
    text: str
    styles: str


def parse(source: str) -> Page:
    """Fails if the page is not valid HTML, or would load something that is not in it or in a file beside it."""
    root = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(source)
    tags, text, styles = [], [], []
    for element in root.iter():
        if not isinstance(element.tag, str):
            continue  # a comment
        (styles if element.tag == "style" else text).append(element.text or "")
        text.append(element.tail or "")
        name = element.tag.rpartition("}")[2]
        attributes = {str(key).rpartition("}")[2]: value for key, value in element.attrib.items()}
        tags.append((name, attributes))
        assert name not in ("script", "iframe", "object", "embed", "base"), name
        loaded = [attributes[key] for key in LOADED if key in attributes]
        loaded += [attributes["href"]] if name in ("link", "image", "use") else []
        for address in loaded:
            assert not re.match(r"(?!data:)([a-z][a-z0-9+.-]*:|//)", address, re.I), address
        assert name != "img" or attributes.get("alt"), attributes
        assert not [key for key in attributes if key.startswith("on")], attributes
    assert "url(" not in "".join(styles)
    assert "@import" not in "".join(styles)
    return Page(tags, "".join(text), "".join(styles))
