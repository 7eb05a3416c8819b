"""Builds the site: an index, the guides, and the API reference with one search. `python .docs/build.py DIRECTORY`.

Any warning of pdoc, and any link of a guide that leads nowhere, is an error.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pdoc
import pdoc.render

PROJECT = Path(__file__).parents[1]
GUIDES = PROJECT / "minted_connect" / "guides"
REFERENCE = {
    "minted_connect": "the clients, models, options and errors",
    "minted_connect.sandbox": "the embedded server",
    "minted_connect.otel": "the hook for OpenTelemetry",
    "minted_connect.fastapi": "responses for FastAPI and Starlette",
    "minted_connect.verify": "`minted verify`",
    "minted_connect.audit": "`minted audit`",
    "minted_connect.pytest_plugin": "the fixtures",
}
ORDER = (
    *(
        "quickstart",
        "money-safety",
        "plans",
        "production",
        "errors",
        "orders",
        "prices",
        "data",
        "fleet",
        "testing",
        "cli",
        "frameworks",
        "telemetry",
    ),
    *("evidence", "performance", "design-decisions", "adding-an-operation"),
)
"""The guides in the order of the index."""
ROOT_MODULE = "guides"


def module_name(guide: str) -> str:
    """Return the name of the module that shows a guide: pdoc renders modules only."""
    return guide.replace("-", "_")


def with_links(text: str, folder: str = "") -> str:
    """Let the links between guides lead to their pages."""
    return re.sub(
        r"\]\(([\w-]+)\.md(#[\w-]+)?\)",
        lambda link: f"]({folder}{module_name(link[1])}.html{link[2] or ''})",
        text,
    )


def index(titles: dict[str, str]) -> str:
    """Return the text of the index page."""
    guides = "\n".join(f"- [{title}]({guide}.md)" for guide, title in titles.items())
    reference = "\n".join(f"- [`{name}`]({name.replace('.', '/')}.html): {text}" for name, text in REFERENCE.items())
    return with_links(
        f"# minted_connect\n\nAn asyncio-first Python SDK, with a blocking twin, for Minted Connect.\n\n"
        f"## Guides\n\n{guides}\n\n## API reference\n\n{reference}\n",
        f"{ROOT_MODULE}/",
    )


def write_modules(folder: Path) -> None:
    """Write a package whose docstrings are the guides."""
    texts = {path.stem: path.read_text("utf-8") for path in GUIDES.glob("*.md")}
    if texts.keys() != set(ORDER):
        raise SystemExit(f"ORDER and the guides differ: {', '.join(sorted(texts.keys() ^ set(ORDER)))}")
    titles = {guide: texts[guide].partition("\n")[0].removeprefix("# ") for guide in ORDER}
    package = folder / ROOT_MODULE
    package.mkdir()
    pages = {"__init__": index(titles)} | {module_name(guide): with_links(text) for guide, text in texts.items()}
    for name, text in pages.items():
        source = f'__doc__ = {text!r}\n__docformat__ = "markdown"\n'
        (package / f"{name}.py").write_text(source, "utf-8")


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an anchor or a link."""
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        if tag == "a":
            self.links.append(given.get("href") or "")


def dead_links(site: Path) -> list[str]:
    """Return the links of the guides that lead nowhere."""
    pages: dict[Path, Page] = {}
    dead: list[str] = []
    for file in [site / f"{ROOT_MODULE}.html", *(site / ROOT_MODULE).glob("*.html")]:
        for link in Page(file).links:
            target, _, anchor = link.partition("#")
            if "://" in target or link.startswith("mailto:"):
                continue
            page = (file.parent / target).resolve() if target else file
            if page.is_file() and page not in pages:
                pages[page] = Page(page)
            if page not in pages or (anchor and anchor not in pages[page].anchors):
                dead.append(f"{file.relative_to(site)}: {link}")
    return dead


def build(site: Path) -> None:
    """Write the site."""
    shutil.rmtree(site, ignore_errors=True)
    warnings.simplefilter("error")
    pdoc.render.configure(docformat="google", footer_text="minted_connect")
    with tempfile.TemporaryDirectory() as folder:
        write_modules(Path(folder))
        sys.path[:0] = [folder, str(PROJECT)]
        pdoc.pdoc(ROOT_MODULE, *REFERENCE, output_directory=site)
    redirect = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={ROOT_MODULE}.html">\n'
    (site / "index.html").write_text(redirect, "utf-8")
    if dead := dead_links(site):
        raise SystemExit("links that lead nowhere:\n" + "\n".join(dead))


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
