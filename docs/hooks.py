"""Makes README.md and others pages of the site, and links between files of the repository links of the site.

Links in the pages are relative paths in the repository, which is what GitHub follows. In the site, a link to a page, a
module or a package becomes one to its page; a link to another file becomes one to a copy of it. Where the text of a
link to a module names something in it, as in [`flair_loss`](../flair_jax/train/losses.py), the link leads there, and
the name must be defined. A link that leads nowhere stays as it is: MkDocs warns of it, which ends a strict build.

The reference of a package begins with its public names, each a link to where it is explained.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages that are not in docs/: file of the repository -> page of the site.
ELSEWHERE = {
    "README.md": "index.md",
    "launch/README.md": "launch.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

# A Markdown link or image within the repository: text, path, anchor.
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<path>[^\s()#:]+)(?P<anchor>#[^\s()]*)?\)")

log = logging.getLogger("mkdocs.hooks.links")
logging.getLogger("mkdocs.plugins.api-autonav").setLevel(logging.WARNING)  # or it would print each module


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(_root(config) / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text with links that lead to pages of the site."""
    uri = page.file.src_uri
    if uri.startswith("api/"):
        return markdown + _public_names(_root(config) / uri.removeprefix("api/").replace("index.md", "__init__.py"))
    source = next((file for file, page_uri in ELSEWHERE.items() if page_uri == uri), f"docs/{uri}")

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        found = _page_of(target, config, files)
        if found is None:
            return match[0]
        anchor = match["anchor"] or _anchor(match["text"], target, config, uri)
        return f"[{match['text']}]({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{anchor})"

    return LINK.sub(link, markdown)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _public_names(module: Path) -> str:
    """A section with the names that a package imports for others, which it does for type checkers alone; "" if none."""
    if module.name != "__init__.py":
        return ""
    imports = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [
        f"- [`{name.name}`][{node.module}.{name.name}]"
        for node in imports
        for name in node.names
        if name.asname == name.name  # the form by which a name is exported (PEP 484)
    ]
    return "\n".join(["\n\n## Public names\n", *sorted(names, key=str.lower), ""]) if names else ""


def _page_of(target: str, config: MkDocsConfig, files: Files) -> str | None:
    """The page or file of the site for a path in the repository; None if there is none."""
    module = _in_package(target)
    for uri in (
        ELSEWHERE.get(target) or ELSEWHERE.get(f"{target}/README.md"),
        f"api/{module.removesuffix('.py')}.md",
        f"api/{module}/index.md",
        target.removeprefix("docs/"),
    ):
        if uri and files.get_file_from_path(uri):
            return uri
    path = _root(config) / target
    if target.startswith("..") or not path.is_file():
        return None
    copy = File.generated(config, f"files/{target}", abs_src_path=str(path))
    files.append(copy)
    return copy.src_uri


def _in_package(target: str) -> str:
    """The place in the package: convert/ and configs/ are parts of it that lie beside it."""
    return target if target.startswith("flair_jax") else f"flair_jax/{target}"


def _anchor(text: str, target: str, config: MkDocsConfig, uri: str) -> str:
    """The anchor in a module's page of what a link's text names, as `Flair.pool`; empty if it names nothing."""
    name = re.fullmatch(r"`([A-Za-z_][\w.]*?)(\(\))?`", text)
    if not name or not target.endswith(".py") or name[1].endswith(".py"):
        return ""
    scope: list[ast.stmt] = ast.parse((_root(config) / target).read_text()).body
    for part in name[1].split("."):
        found = next((node for node in scope if part in _defined(node)), None)
        if found is None:
            log.warning("Doc file '%s' links to %s in %s, which defines no such name.", uri, text, target)
            return ""
        scope = getattr(found, "body", [])
    return f"#{_in_package(target).removesuffix('.py').replace('/', '.')}.{name[1]}"


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
