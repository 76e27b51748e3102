"""Arrows point one way: nodes -> flowmapsr_core <- trainer, in both a folder sees only the floors below it.

Only nodes know ComfyUI.
"""

import ast
import graphlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 320

# Each line may import the lines above it; names on one line do not see each other.
FLOORS = {
    "flowmapsr_core": [
        ["errors", "names"],
        ["atomic"],
        ["images", "method"],
        ["codecs", "video"],
        ["networks"],
        ["model"],
        ["files"],
        ["upscaling"],
        ["evaluation"],
        ["cli"],
        ["__init__", "__main__"],
    ],
    "trainer": [
        ["__init__"],
        ["objectives"],
        ["data", "losses", "learning"],
        ["recipe"],
        ["run"],
        ["tools", "teach"],
        ["__main__"],
    ],
}


def files_of(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def own_imports(path):
    """Files of the project that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in [module, *(module / alias.name for alias in node.names)]:
                if name.with_suffix(".py").is_file():
                    yield name.with_suffix(".py")
                elif (name / "__init__.py").is_file():
                    yield name / "__init__.py"


@pytest.mark.parametrize("folder", ["flowmapsr_core", "trainer", "nodes"])
def test_imports_follow_the_arrows(folder):
    files = files_of(folder)
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


@pytest.mark.parametrize("folder", FLOORS)
def test_a_folder_sees_the_floors_below_it(folder):
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS[folder]) for room in rooms}
    for path in files_of(folder):
        here = path.relative_to(ROOT / folder).with_suffix("").parts[0]
        assert here in floor_of, f"{path} is on no floor"
        for target in own_imports(path):
            if target.is_relative_to(ROOT / folder):
                there = target.relative_to(ROOT / folder).with_suffix("").parts[0]
                message = f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
                assert there == here or floor_of[there] < floor_of[here], message


def test_no_import_circle():
    files = [path for folder in ("flowmapsr_core", "trainer", "nodes") for path in files_of(folder)]
    # A folder's __init__ gathers its files, so a file may name the folder it lies in.
    graph = {path: {to for to in own_imports(path) if to != path.parent / "__init__.py"} for path in files}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, naming the files


def test_no_file_is_too_long():
    for folder in ("flowmapsr_core", "trainer", "nodes"):
        for path in files_of(folder):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= LONGEST_FILE, f"{path} has {lines} lines"


def test_the_node_pack_works_in_a_folder_of_any_name():
    assert not any(name.startswith("flowmapsr") for name in imported(ROOT / "__init__.py"))


FROM_COMFYUI = {"torch", "numpy", "pillow", "safetensors", "tqdm"}  # test_comfyui_pack.py holds it against the real one


def test_requirements_are_the_packages_that_comfyui_does_not_bring():
    """With what it brings, pip would replace a torch made for the user's GPU."""
    requirements = (ROOT / "requirements.txt").read_text().split()
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = re.findall(r'"(.*?)"', re.search(r"\ndependencies = \[(.*?)\]", project, re.DOTALL).group(1))
    assert requirements == [package for package in dependencies if package.split(">=")[0] not in FROM_COMFYUI]
    assert {package.split(">=")[0] for package in dependencies} > FROM_COMFYUI


# What a package is called where it is imported, if not by its name; and what nobody needs for the rest to work.
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "ot": "POT"}
OPTIONAL = {
    "flowmapsr_core": {
        "accelerate",
        "av",
        "matplotlib",
        "onnxscript",
        "OpenEXR",
        "opencv-python-headless",
        "POT",
        "pyiqa",
        "scipy",
        "spandrel",
        "tifffile",
        "torchmetrics",
        "transformers",
    },
    "trainer": set(),
    "nodes": {"av"},  # which ComfyUI brings
}
COMFYUI = {"comfy", "comfy_api", "folder_paths"}


@pytest.mark.parametrize("folder", OPTIONAL)
def test_what_is_imported_is_declared(folder):
    project = (ROOT / "pyproject.toml").read_text()
    dependencies, extra = (
        {re.split("[><=; ]", line)[0] for line in re.findall(r'"(.*?)"', re.search(found, project, re.DOTALL).group(1))}
        for found in (r"\ndependencies = \[(.*?)\]", r"\ntrain = \[(.*?)\]")
    )
    allowed = dependencies | OPTIONAL[folder] | (extra if folder == "trainer" else set())
    allowed |= COMFYUI if folder == "nodes" else set()
    for path in files_of(folder):
        for name in imported(path):
            package = name.split(".")[0]
            if package and package not in sys.stdlib_module_names | {"tomllib"}:
                assert PACKAGES.get(package, package) in allowed, f"{path} imports {name}"


def test_pillow_is_one_whose_tiles_can_be_decoded_anew():
    """Below 11.3 some 16-bit images are read wrongly or not at all, and JPEG loses XMP."""
    import re

    major, minor = re.search(r'"pillow>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    assert (int(major), int(minor)) >= (11, 3)
