"""A real ComfyUI server with this pack, for the tests that need one; ``COMFYUI_PATH`` names its folder."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
COMFYUI = os.environ.get("COMFYUI_PATH")
NEEDS_COMFYUI = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH is not set to a ComfyUI folder"),
]


class Server:
    """A ComfyUI server with a base folder of its own, and this pack (or none) in a folder of any name."""

    def __init__(self, base, *arguments, pack=ROOT, name="some-other name"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.base = base
        for part in ("custom_nodes", "input", "output", "models/flowmapsr", "models/loras", "models/vae"):
            (base / part).mkdir(parents=True, exist_ok=True)
        if pack:
            (base / "custom_nodes" / name).symlink_to(pack)
        self.log = (base / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "main.py", "--cpu", "--port", self.address.split(":")[1], "--base-directory", str(base),
             "--disable-auto-launch", "--preview-method", "auto", "--disable-api-nodes", *arguments],
            cwd=COMFYUI, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for _ in range(1200):
            try:
                self.nodes = self.get("/object_info")
                return
            except OSError:
                assert self.process.poll() is None, self.output()
                time.sleep(0.5)
        raise TimeoutError(self.output())

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.log.close()

    def output(self):
        return (self.base / "log.txt").read_text()[-3000:]

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path, data):
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(data).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def run(self, prompt):
        """Queue a prompt and wait for it; its history entry."""
        return self.wait(self.post("/prompt", {"prompt": prompt})["prompt_id"])

    def wait(self, number):
        """The history entry of a queued prompt once it has ended."""
        while True:
            history = self.get(f"/history/{number}")
            if history:
                return history[number]
            time.sleep(0.1)

    def succeed(self, prompt):
        entry = self.run(prompt)
        assert entry["status"]["status_str"] == "success", entry["status"]
        return entry

    def fail(self, prompt):
        """The type of the node that a prompt fails on, and the message on it."""
        entry = self.run(prompt)
        assert entry["status"]["status_str"] == "error"
        (error,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
        return error["node_type"], error["exception_message"]

    def saved(self, entry, node="4"):
        """The images that a node saved, (H, W, 3 or 4) float32."""
        files = entry["outputs"][node]["images"]
        return [np.asarray(Image.open(self.base / "output" / file["filename"]), np.float32) / 255 for file in files]
