"""Evaluations as one HTML page, with the pictures of the queries that went most wrong in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flair_jax.data.sets.retrieval_data import Picture, read_picture
from flair_jax.data.thumbnails import SIDE, thumbnail
from flair_jax.errors import ImageError, printable
from flair_jax.evaluate import summary
from flair_jax.files import replace_when_complete
from flair_jax.packages import import_jinja

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ checkpoint }}</title>
<style>
  :root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
  body { margin: 2rem auto; max-width: 1240px; padding: 0 1rem }
  h1 { font-size: 1.3rem; overflow-wrap: anywhere }
  h2 { font-size: 1.1rem }
  .wide { overflow-x: auto }
  table { border-collapse: collapse }
  th, td { border-bottom: 1px solid #8884; padding: .25rem .6rem; text-align: left; white-space: nowrap }
  td:nth-child(5), td:nth-child(6) { font-variant-numeric: tabular-nums; text-align: right }
  ol { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); padding: 0;
       list-style: none }
  .pair { display: grid; gap: .5rem; grid-template-columns: 1fr 1fr }
  figure { margin: 0 }
  img, .missing { align-items: center; background: #8882; display: flex; height: 160px; justify-content: center;
                  object-fit: contain; width: 100% }
  figcaption { font-size: .8rem; overflow-wrap: anywhere }
  blockquote { margin: 0 0 .5rem; max-height: 12rem; overflow: auto; overflow-wrap: anywhere }
</style>
</head>
<body>
<h1>{{ checkpoint }}</h1>
<div class="wide"><table>
<tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% for name, queries in sets %}<h2>{{ name }}: captions that missed their pictures the most</h2>
<ol>
{% for query in queries %}<li><blockquote>{{ query.text }}</blockquote><div class="pair">
{% for what, path, data in query.pictures %}<figure>
{% if data %}<img src="data:image/jpeg;base64,{{ data }}" alt="">
{% else %}<div class="missing">cannot be read any more</div>
{% endif %}<figcaption>{{ what }}<br>{{ path }}</figcaption></figure>
{% endfor %}</div></li>
{% endfor %}</ol>
{% endfor %}</body>
</html>
"""


def write_report(output: Path, outcomes: Sequence[summary.Outcome]) -> None:
    """Writes a page that needs no other file: HTML with pictures, or, if its name ends in .md, Markdown without.

    Args:
      output: file to write.
      outcomes: one at least.

    Raises:
      FlairError: if it is HTML and Jinja2 is not installed.
    """
    text = summary.markdown(outcomes) if output.suffix == ".md" else _html(outcomes)
    with replace_when_complete(output) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def _html(outcomes: Sequence[summary.Outcome]) -> str:
    template = import_jinja("--report").Environment(autoescape=True).from_string(_PAGE)
    return str(
        template.render(
            checkpoint=printable(outcomes[0].environment["settings"]["checkpoint"]),
            head=summary.HEAD,
            rows=list(summary.rows(outcomes)),
            sets=[(each.result["dataset"], _queries(each)) for each in outcomes if each.result.get("worst")],
            side=SIDE,
        )
    )


def _queries(outcome: summary.Outcome) -> list[dict[str, Any]]:
    return [
        {
            "text": printable(each["text"]),
            "pictures": [
                (what, printable(each[key]), _thumbnail(outcome.pictures.get(each[key])))
                for what, key in ((f"its own, at rank {each['rank']:,}", "image"), ("found first", "first"))
            ],
        }
        for each in outcome.result["worst"]
    ]


def _thumbnail(picture: Picture | None) -> str:
    try:
        return "" if picture is None else thumbnail(read_picture(picture))
    except (OSError, ImageError):
        return ""
