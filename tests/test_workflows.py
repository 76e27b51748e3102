"""The shipped workflows against the committed node definitions, by comfy-cli's validator and without a server."""

import json
import os
import subprocess
import sys

import pytest
from node_definitions import OBJECT_INFO, WORKFLOWS

pytest.importorskip("comfy_cli", reason="comfy-cli validates workflows")

NOTES = ("Note", "MarkdownNote")


def problems(workflow, folder):
    """What ``comfy workflow validate`` finds wrong with a workflow, as codes."""
    path = folder / "workflow.json"
    path.write_text(json.dumps(workflow))
    command = ["--json", "--skip-prompt", "workflow", "validate", "--workflow", str(path), "--input", str(OBJECT_INFO)]
    surroundings = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "DO_NOT_TRACK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "comfy_cli", *command], cwd=folder, env=surroundings, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["ok"] == (done.returncode == 0)
    assert report["data"]["converted_node_count"] == sum(node["type"] not in NOTES for node in workflow["nodes"])
    return [problem["code"] for kind in ("errors", "warnings") for problem in report["data"][kind]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_valid(path, tmp_path):
    workflow = json.loads(path.read_text())
    assert workflow["version"] == 0.4
    assert problems(workflow, tmp_path) == []
    assert path.with_suffix(".jpg").read_bytes()[:2] == b"\xff\xd8"


def node_of(workflow, kind):
    return next(node for node in workflow["nodes"] if node["type"] == kind)


def rename_a_node(workflow):
    node_of(workflow, "FlowMapSR_Upscale")["type"] = "FlowMapSR_Gone"


def choose_what_is_not_offered(workflow):
    node_of(workflow, "FlowMapSR_Upscale")["widgets_values"][1] = "wild"


def leave_an_input_open(workflow):
    node_of(workflow, "FlowMapSR_Save")["inputs"][0]["link"] = None


def link_another_type(workflow):
    model = node_of(workflow, "FlowMapSR_LoadModel")
    link = next(link for link in workflow["links"] if link[5] == "IMAGE")
    link[1], link[2] = model["id"], 0


@pytest.mark.parametrize("damage", [rename_a_node, choose_what_is_not_offered, leave_an_input_open, link_another_type])
def test_damage_is_found(damage, tmp_path):
    workflow = json.loads(next(path for path in WORKFLOWS if path.stem == "flowmapsr_upscale").read_text())
    damage(workflow)
    assert problems(workflow, tmp_path)
