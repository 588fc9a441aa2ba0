"""The code blocks of a page, which of them are run by a test, and how a line of one is run."""

import contextlib
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from sharpcli.cli.main import sharp

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL
)
COMMAND = re.compile(r"^(?:sharp|python|pip|bash|torchrun|srun|sbatch) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: its place, and why no test runs it (None: a test does)."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def of_commands(self):
        """Whether a reader would type it into a shell."""
        if self.language == "text":  # not the output of --help
            return bool(COMMAND.match(self.text) or self.text.startswith(("#!", "#SBATCH")))
        return self.language == "sh"


def blocks(page):
    """The blocks of a page, named from the project's root."""
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(page, text[: m.start()].count("\n") + 1, m[2], m[3], m[1])
        for m in BLOCK.finditer(text)
    ]


def write_files(page):
    """Write the blocks of Python that begin with `# NAME.py` to these files, here."""
    for block in blocks(page):
        name = re.match(r"# (\w+\.py)\n", block.text)
        if block.language == "python" and name:
            Path(name[1]).write_text(block.text, "utf-8")


def lines_to_run(page):
    """The lines of the page's blocks that are run, without those for another program."""
    for block in blocks(page):
        if block.language == "sh" and block.reason is None:
            yield from block.text.replace("\\\n", " ").splitlines()


def run_line(line):
    """Run `sharp …`, perhaps `> FILE`, or `python FILE` in this process, as bash would."""
    command, _, target = line.partition(" #")[0].partition(" > ")
    program, *words = shlex.split(command)
    words = [path for word in words for path in _matching(word)]
    if program == "python":
        with _importing_from_here():
            runpy.run_path(words[0], run_name="__main__")
        return
    assert program == "sharp", line
    done = CliRunner(env={"COLUMNS": "80"}).invoke(sharp, words)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    if target:
        Path(target.strip()).write_text(done.stdout, "utf-8")


def _matching(word):
    """What a shell makes of a word: the files that it matches, or, where there are none, itself."""
    return sorted(str(path) for path in Path().glob(word)) or [word] if "*" in word else [word]


@contextlib.contextmanager
def _importing_from_here():
    """The folder first in the path; modules of it are forgotten at the end."""
    before = set(sys.modules)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if Path(origin).parent == Path.cwd():
                del sys.modules[name]
