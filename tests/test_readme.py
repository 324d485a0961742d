"""The README is true: its tree exists, its commands exist, and its table names every assumption in the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tree_exists():
    tree = next(block for block in re.findall(r"```\n(.*?)```", README, re.S) if block.startswith("README.md"))
    paths = [line.split()[0] for line in tree.splitlines()]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.M))
    assert {"demo", "test", "ui"} <= named
    assert named <= targets


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^hand3d .*", README, re.M))))
def test_console_commands_are_understood(line):
    from ops.__main__ import parser

    words = line.split("#")[0].split()[1:]
    parser().parse_args(words)


def test_every_assumption_is_listed():
    def assumes(path: Path) -> bool:
        return "ASSUMED" in path.read_text(encoding="utf-8")

    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ops").rglob("*.py") if assumes(path)}
    table = README.split("## Assumptions")[1].split("\n## ")[0]
    assert files - set(re.findall(r"`(ops/[a-z0-9_/]+\.py)`", table)) == set()


def test_help_names_every_stage():
    from ops.stages import STAGES

    run = subprocess.run([sys.executable, "-m", "ops", "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert [stage.name for stage in STAGES if stage.name not in run.stdout] == []
