"""Write what the code itself knows into the pages: `python docs/write_reference.py`.

docs/cli.md is the real --help of every command; docs/python.md has the public names' docstrings;
docs/measures.md and docs/schedules.md hold tables of their registries; docs/claims.md has the
results of experiments that the package keeps; docs/schema.json is made from the dataclasses of
results and settings, and sharpcli/documents/schema.json is the same without its descriptions: what
`sharp` checks saved results against. A test fails where one of them is out of date.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from python_reference import python_page
from schema_of import contract

from sharpcli.cli.main import COMMANDS, sharp
from sharpcli.measures import known_measures
from sharpcli.render.files.claims_page import write_claims_page
from sharpcli.runs.experiments import saved_results
from sharpcli.training.plateaus import PLATEAUS
from sharpcli.training.policies import POLICIES

DOCS = Path(__file__).parent
BEGIN, END = "<!-- from the registry -->", "<!-- until here -->"


def cli_page() -> str:
    """The help of `sharp` and of each of its commands."""
    parts = [
        "# Commands",
        "What `sharp --help` and `sharp COMMAND --help` print. Written by "
        "`python docs/write_reference.py`.",
    ]
    for words in ([], *([name] for name in COMMANDS)):
        done = CliRunner(env={"COLUMNS": "100"}).invoke(
            sharp, [*words, "--help"], prog_name="sharp"
        )
        parts += [f"## {' '.join(['sharp', *words])}", f"```text\n{done.stdout.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def measures_page(page: str) -> str:
    """`page` with the table between its marks made anew."""
    rows = [
        "| name | meaning | formula | cost | invariances | source | warns of |",
        "|---" * 7 + "|",
    ]
    for known in known_measures().values():
        cells = (
            f"`{known.name}`" + ("" if known.default else " (on request)"),
            known.meaning,
            known.formula,
            known.cost,
            known.invariances,
            known.source,
            known.warns,
        )
        rows.append(_row(cells))
    return _with_table(page, rows)


def schedules_page(page: str) -> str:
    """`page` with the table of policies between its marks made anew."""
    rows = ["| policy | value at step t |", "|---" * 2 + "|"]
    listed = (*POLICIES.values(), *PLATEAUS.values())
    rows += [_row((f"`{policy.usage}`", policy.formula)) for policy in listed]
    return _with_table(page, rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _with_table(page: str, rows: Sequence[str]) -> str:
    before, _, rest = page.partition(BEGIN)
    return "\n".join([f"{before}{BEGIN}", *rows, f"{END}{rest.partition(END)[2]}"])


def schema_page() -> str:
    """The contract with its descriptions."""
    return json.dumps(contract(), indent=2, ensure_ascii=False) + "\n"


def shipped_schema() -> str:
    """The contract in one line, without its descriptions."""

    def bare(node: Any) -> Any:
        if isinstance(node, list):
            return [bare(each) for each in node]
        if not isinstance(node, dict):
            return node
        described = isinstance(node.get("description"), str)
        return {k: bare(v) for k, v in node.items() if not (described and k == "description")}

    return json.dumps(bare(contract()), separators=(",", ":")) + "\n"


def main() -> None:
    """Write the pages and the shipped schema."""
    (DOCS / "cli.md").write_text(cli_page(), "utf-8")
    (DOCS / "python.md").write_text(python_page(), "utf-8")
    for name, made_anew in (("measures.md", measures_page), ("schedules.md", schedules_page)):
        page = DOCS / name
        page.write_text(made_anew(page.read_text("utf-8")), "utf-8")
    (DOCS / "schema.json").write_text(schema_page(), "utf-8")
    (DOCS.parent / "sharpcli" / "documents" / "schema.json").write_text(shipped_schema(), "utf-8")
    write_claims_page(saved_results(()), DOCS / "claims.md")


if __name__ == "__main__":
    main()
