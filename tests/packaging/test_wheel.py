"""The wheel has what the program reads, and the source archive makes the same wheel."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]


def built(source, kind, folder):
    """The archive that hatchling makes of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    return archive


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return built(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def test_the_wheel_has_every_file_of_the_package(wheel):
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sharpcli").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in contents(wheel) if not name.startswith("sharpcli-")}
    assert found == package
    assert {"sharpcli/py.typed", "sharpcli/documents/schema.json"} <= found
    assert len([name for name in found if name.endswith(".py.txt")]) >= 4


def test_the_wheel_starts_sharp_and_names_its_license(wheel):
    files = contents(wheel)
    (described,) = (name for name in files if name.endswith("dist-info/METADATA"))
    folder = described.removesuffix("METADATA")
    assert b"sharp = sharpcli.cli.start:main" in files[f"{folder}entry_points.txt"]
    assert files[f"{folder}licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"Requires-Python: >=3.11" in files[described]


def test_the_source_archive_makes_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        # Python 3.11.2 knows no filters; the archive is our own
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "source", **safe)
    (source,) = (tmp_path / "source").iterdir()
    for name in ("README.md", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml", "docs/cli.md"):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes(), name
    again = contents(built(source, "wheel", tmp_path / "again"))
    assert again == contents(wheel)


def test_the_wheel_runs_alone(wheel, tmp_path):
    """Of the package only what the wheel holds: a command that reads a template and the schema."""
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import sharpcli; assert '.whl' in sharpcli.__file__, sharpcli.__file__\n"
        "from sharpcli.documents.schema import problem_of\n"
        "assert problem_of({}) is not None\n"
        "sys.argv = ['sharp', 'init']\n"
        "from sharpcli.cli.main import main; main()"
    )
    command = [sys.executable, "-P", "-c", code]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "def model" in (tmp_path / "task.py").read_text("utf-8")
