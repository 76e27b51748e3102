"""What GitHub runs: nothing that somebody else can change, and no release without tests."""

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert action.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action


def test_a_release_waits_for_the_tests():
    publish = (WORKFLOWS / "publish.yml").read_text(encoding="utf-8")
    assert "uses: ./.github/workflows/tests.yml" in publish
    assert "needs: tests" in publish
    assert "workflow_call:" in (WORKFLOWS / "tests.yml").read_text(encoding="utf-8")


def test_the_oldest_versions_that_are_declared_are_tested():
    tests, project = (path.read_text(encoding="utf-8") for path in (WORKFLOWS / "tests.yml", ROOT / "pyproject.toml"))
    python = re.search(r'requires-python = ">=(.*?)"', project).group(1)
    comfyui = re.search(r'requires-comfyui = ">=(.*?)"', project).group(1)
    assert f'python: "{python}"\n            resolution: lowest-direct' in tests
    assert f"version: [v{comfyui}," in tests


def test_every_test_can_be_collected_on_windows():
    for path in (ROOT / "tests").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"resource", "fcntl", "pwd", "grp"}, path


def test_the_registrys_pictures_have_the_shape_that_it_asks_for():
    icon, banner = (Image.open(ROOT / ".github" / name) for name in ("icon.png", "banner.jpg"))
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21
