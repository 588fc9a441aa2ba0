"""Pages of the site that lie outside docs/: README.md is its start, CHANGELOG.md its last page."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# Pages of the project's root, by their name in the site.
OUTSIDE = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the project's root; their links lead to the same pages as there."""
    root = Path(config.docs_dir).parent
    for name, source in OUTSIDE.items():
        text = (root / source).read_text("utf-8")
        files.append(File.generated(config, name, content=inside(text)))
    return files


def inside(text: str) -> str:
    """The text of a page of the root, with links as from docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    for name, source in OUTSIDE.items():
        text = text.replace(f"]({source}", f"]({name}")
    return text
