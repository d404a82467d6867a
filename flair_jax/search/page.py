"""A search's hits as one HTML page with thumbnails in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flair_jax.data.thumbnails import SIDE, thumbnail
from flair_jax.errors import FlairError, printable
from flair_jax.files import no_file, replace_when_complete
from flair_jax.packages import import_jinja
from flair_jax.search.searcher import Hit

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ sentence }}</title>
<style>
  :root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
  body { margin: 2rem auto; max-width: 1240px; padding: 0 1rem }
  h1 { font-size: 1.3rem }
  ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax({{ side }}px, 1fr)); list-style: none;
       padding: 0 }
  figure { margin: 0 }
  img, .missing { align-items: center; background: #8882; display: flex; height: {{ side }}px; justify-content: center;
                  object-fit: contain; width: 100% }
  figcaption { font-size: .85rem; overflow-wrap: anywhere }
  figcaption b { font-variant-numeric: tabular-nums }
</style>
</head>
<body>
<h1>{{ sentence }}</h1>
<p>{{ cards | length }} of {{ indexed }} pictures, best first: text-conditioned cosine (global cosine).</p>
<ol>
{% for hit, thumbnail in cards %}<li><figure>
{% if thumbnail %}<img src="data:image/jpeg;base64,{{ thumbnail }}" alt="">
{% else %}<div class="missing">cannot be read any more</div>
{% endif %}<figcaption>{{ loop.index }}. <b>{{ "%.4f" | format(hit.score) }}</b>
({{ "%.4f" | format(hit.global_score) }})<br>{{ hit.path | printable }}</figcaption>
</figure></li>
{% endfor %}</ol>
</body>
</html>
"""


def write_page(output: Path, sentence: str, hits: Sequence[Hit], indexed: int) -> None:
    """Writes a page that needs no other file: thumbnails are JPEGs within it, about 10 kB each.

    Args:
      output: file to write.
      sentence: what was searched for.
      hits: best first.
      indexed: pictures in the index.

    Raises:
      FlairError: if Jinja2 is not installed, or `output` cannot be a file.
    """
    if reason := no_file(output):
        raise FlairError(f"--html {output}: {reason}; name a file")
    environment = import_jinja("--html").Environment(autoescape=True)
    environment.filters["printable"] = printable
    template = environment.from_string(_PAGE)
    cards = [(hit, thumbnail(hit.path)) for hit in hits]
    text = template.render(sentence=printable(sentence), cards=cards, indexed=f"{indexed:,}", side=SIDE)
    with replace_when_complete(output) as partial:
        partial.write_text(text, encoding="utf-8")
