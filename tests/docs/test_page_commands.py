"""Every command of README and docs is run by a test, or the page says in a comment why not."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from page_blocks import ROOT, blocks, lines_to_run, run_line, write_files
from torch import nn

from sharpcli.checkpoint import save_checkpoint
from sharpcli.cli.commands.init import template_text

PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
GENERATED = {"docs/cli.md", "docs/python.md"}
# Whose commands other tests run.
ELSEWHERE = {
    "docs/guide.md": "tests/test_docs.py",
    "docs/tasks.md": "tests/test_docs.py",
    "docs/tools.md": "tests/interop/test_tools_page.py",
    **{
        f"docs/from/{tool}.md": "tests/interop/test_tool_pages.py"
        for tool in ("accelerate", "huggingface", "lightning", "peft", "timm")
    },
}
BY_CI = "python -m pip install "  # .ci/run takes these lines from README.md


def trained(path, *options, task="digits"):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    width = ["-O", "width=4"] if task == "digits" else []
    run_line(" ".join(["sharp train", task, *width, "--epochs 1 --output", path, *options]))


def of_readme():
    trained("sharp-demo/sgd-batch-8.safetensors")
    trained("sharp-demo/sgd-batch-1442.safetensors", "--seed 1")
    Path("started.py").write_text(template_text("plain", Path("started.py")), "utf-8")
    for optimizer in ("sgd", "adam"):
        setting = f"--optimizer {optimizer} --batch-size 8"
        trained(f"runs/{optimizer}/model.safetensors", setting, task="started.py")


def of_json():
    for name in ("run-1/model", "run-2/model", "a", "b"):
        trained(f"{name}.safetensors", f"--seed {len(name)}")


TASK = """
import torch

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

def data(split):
    return torch.eye(3).repeat(4, 1), torch.arange(12) % 2
"""


def of_checkpoints():
    Path("task.py").write_text(TASK, "utf-8")

    def weights():
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).state_dict()

    torch.save({"state_dict": weights(), "state_dict_ema": weights()}, "run.pth.tar")
    torch.save({"state_dict": weights(), "current_model_state": weights()}, "last.ckpt")
    discriminator = nn.Linear(2, 1).state_dict()
    torch.save({"generator": weights(), "discriminator": discriminator}, "gan.pt")
    head = {name: tensor for name, tensor in weights().items() if name.startswith("2.")}
    save_checkpoint(Path("adapter"), head, {})


def nothing():
    pass


SCENES = {
    "README.md": of_readme,
    "docs/json.md": of_json,
    "docs/checkpoints.md": of_checkpoints,
    "docs/schedules.md": nothing,
    "docs/from/torch.md": nothing,
}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED])
def test_every_block_of_commands_is_run_or_says_why_not(page):
    for block in blocks(page):
        if not block.of_commands:
            continue
        place = f"{page}:{block.line}: {block.text.splitlines()[0]}"
        if block.reason is not None:
            assert len(block.reason) > 10, place
            continue
        hint = "write <!-- not run: why --> before it, or make it `sh` and let a test run it"
        assert block.language == "sh", f"{place}\n{hint}"
        assert page in SCENES or page in ELSEWHERE, f"{place}\n{hint}"


@pytest.mark.parametrize("page", SCENES)
def test_the_commands_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SCENES[page]()
    write_files(page)
    run = 0
    for line in lines_to_run(page):
        if line.startswith(BY_CI) or not line:
            continue
        if line.startswith("jq "):
            assert Path(re.findall(r"\S+\.json", line)[0]).exists()
            if shutil.which("jq"):
                subprocess.run(["bash", "-c", line], check=True, capture_output=True)
            continue
        run_line(line)
        run += 1
    assert run > 0
