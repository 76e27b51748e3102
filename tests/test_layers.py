"""Arrows point one way: nodes -> flowmapsr_core <- trainer, and only nodes know ComfyUI."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("folder", ["flowmapsr_core", "trainer", "nodes"])
def test_imports_follow_the_arrows(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            if folder != "nodes":
                assert not name.startswith(("comfy", "folder_paths")), f"{path} imports {name}"
            if folder != "trainer":
                assert "trainer" not in name, f"{path} imports {name}"
            if folder == "flowmapsr_core" and path.name != "share.py":  # which runs under "accelerate launch" only
                assert "accelerate" not in name, f"{path} imports {name}"
            assert not name.startswith("flowmapsr"), f"{path}: imports inside the package are relative"


def test_requirements_are_the_packages_that_inference_needs():
    import re

    requirements = (ROOT / "requirements.txt").read_text().split()
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.search(r"\ndependencies = \[(.*?)\]", project, re.DOTALL).group(1)
    assert sorted(requirements) == sorted(re.findall(r'"(.*?)"', dependencies))
