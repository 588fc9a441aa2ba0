"""Each page of a tool, run from top to bottom: its script writes files, its command reads them."""

import pytest
from page_blocks import lines_to_run, run_line, write_files

NEEDED = {
    "accelerate": ["accelerate"],
    "huggingface": ["transformers", "accelerate", "tokenizers"],
    "lightning": ["lightning"],
    "peft": ["peft"],
    "timm": ["timm"],
}


@pytest.mark.parametrize("tool", NEEDED)
# the scripts are run as a reader would run them: warnings are only printed
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tools_page_from_top_to_bottom(tool, tmp_path, monkeypatch):
    for name in NEEDED[tool]:
        pytest.importorskip(name, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    page = f"docs/from/{tool}.md"
    write_files(page)
    lines = list(lines_to_run(page))
    assert lines[0] == "python train.py" and len(lines) >= 2
    for line in lines:
        run_line(line)
