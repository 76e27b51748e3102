"""What the pack does to a real ComfyUI besides its nodes: nothing."""

import json
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from comfyui_process import import_nodes
from comfyui_server import COMFYUI, NEEDS_COMFYUI, ROOT, Server
from node_definitions import BLUEPRINTS, LOCALES, OBJECT_INFO, TEMPLATES, definition, is_ours
from PIL import Image

pytestmark = NEEDS_COMFYUI

PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {"class_type": "FlowMapSR_Upscale", "inputs": {"image": ["1", 0], "factor": 2.0, "look": "faithful"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "pack"}},
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The pack as the registry hands it out."""
    left_out = [line.strip("/") for line in (ROOT / ".comfyignore").read_text().splitlines() if line[0] != "#"]
    assert all((ROOT / name).exists() for name in left_out)
    folder = tmp_path_factory.mktemp("registry") / "flowmapsr"
    kept_by_git = shutil.ignore_patterns("__pycache__", ".venv*", ".git", ".*_cache", "*.egg-info", "build", "runs")
    shutil.copytree(
        ROOT, folder, ignore=lambda path, names: {*kept_by_git(path, names), *(left_out if path == str(ROOT) else ())}
    )
    return folder


@pytest.fixture(scope="module")
def server(pack, tmp_path_factory):
    """A server with the pack. It logs warnings, and every module that it imports."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPROFILEIMPORTTIME", "1")
        running = Server(tmp_path_factory.mktemp("comfyui"), "--verbose", "WARNING", pack=pack, name="FlowMapSR")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A server without the pack."""
    running = Server(tmp_path_factory.mktemp("bare"), "--verbose", "WARNING", pack=None)
    yield running
    running.stop()


def files(*folders):
    found = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def written(server, pack):
    """The files that a run of the built-in model has written, but for ComfyUI's own settings."""
    Image.new("RGB", (48, 32), "orange").save(server.base / "input" / "example.png")
    before = files(server.base, pack)
    server.succeed(PROMPT)
    return {path for path in files(server.base, pack) - before if path.parent != server.base / "user"}


def imports(server):
    """The modules that a server has imported."""
    return re.findall(r"^import time: +\d+ \| +\d+ \| +(.+)$", (server.base / "log.txt").read_text(), re.MULTILINE)


def test_comfyui_brings_what_the_requirements_leave_out():
    from test_layers import FROM_COMFYUI

    packages = (Path(COMFYUI) / "requirements.txt").read_text().lower()
    assert set(re.findall(r"^[\w-]+", packages, re.MULTILINE)) >= FROM_COMFYUI


def test_what_is_too_old_is_said_in_one_line(tmp_path, monkeypatch):
    import_nodes(tmp_path)
    from flowmapsr.flowmapsr_core import UserError
    from flowmapsr.nodes.comfyui import versions

    project = (ROOT / "pyproject.toml").read_text()
    assert all(f'"{name}>={version}"' in project for name, version in versions.OLDEST.items())
    versions.check_versions()
    for package, version in (("PIL", "11.2.1"), ("PIL", "9.5.0.post2"), ("torch", "2.4.1+cu121")):
        with monkeypatch.context() as patch:
            patch.setattr(f"{package}.__version__", version)
            with pytest.raises(UserError, match=re.escape(f"here is {version};")):
                versions.check_versions()


def test_definitions_are_the_committed_ones(server):
    committed = json.loads(OBJECT_INFO.read_text())
    ours = {name: definition(node) for name, node in server.nodes.items() if is_ours(name)}
    assert ours == {name: node for name, node in committed.items() if is_ours(name)}


def test_other_nodes_are_as_without_the_pack(server, other):
    assert {name: node for name, node in server.nodes.items() if not is_ours(name)} == other.nodes


def test_help_locales_and_workflows_are_served(server):
    for name in filter(is_ours, server.nodes):
        # ComfyUI itself finds no page of a pack whose folder has a space in its name
        for file in (f"{name}.md", f"{name}/zh.md"):
            with urllib.request.urlopen(f"http://{server.address}/extensions/FlowMapSR/docs/{file}") as page:
                assert page.read() == (ROOT / "web" / "docs" / file).read_bytes()
    served = server.get("/i18n")
    for language in ("en", "zh"):
        assert served[language]["nodeDefs"] == json.loads((LOCALES / language / "nodeDefs.json").read_text())
    templates = server.get("/workflow_templates")["FlowMapSR"]
    assert sorted(templates) == [path.stem for path in TEMPLATES]


def test_blueprints_are_served(server):
    try:
        served = server.get("/global_subgraphs")
    except urllib.error.HTTPError:
        pytest.skip("this version of ComfyUI has no blueprints")
    ours = {key: entry for key, entry in served.items() if entry["info"]["node_pack"].endswith("FlowMapSR")}
    assert sorted(entry["name"] for entry in ours.values()) == [path.stem for path in BLUEPRINTS]
    for key, entry in ours.items():
        path = next(path for path in BLUEPRINTS if path.stem == entry["name"])
        assert server.get(f"/global_subgraphs/{key}")["data"] == path.read_text(encoding="utf-8")


def test_diffusers_waits_for_a_model_that_needs_it(server, written):
    imported = imports(server)
    assert [module for module in imported if module.endswith("/FlowMapSR.nodes")]
    assert [module for module in imported if module.split(".")[0] == "diffusers"] == []


def test_a_run_writes_to_output_and_temp_only(server, written):
    assert {path.parent for path in written} == {server.base / "output", server.base / "temp"}


def test_no_warning_in_the_log(server, other, written):
    def lines(running):
        log = (running.base / "log.txt").read_text().splitlines()
        return {line for line in log if not line.startswith("import time:")}

    assert lines(server) - lines(other) == set()
