"""One evaluation of a model by torch and, of its ONNX export, by onnxruntime on the CPU, in one run.

``pip install -e ".[onnx]" && python benchmarks/runtimes.py [MODEL...] [--size WxH]``: the best of three evaluations
of a picture that has been enlarged to that size already, in as many threads as torch uses; and how far onnxruntime's
picture is from torch's in float32. Seconds are by the clock, and those that all threads have worked.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from flowmapsr.flowmapsr_core import load_model
from flowmapsr.flowmapsr_core.files.onnx_file import OneEvaluation, export_onnx
from torch import Tensor

RUNS = 3


def seconds(evaluate: Callable[[], object]) -> tuple[float, float]:
    """The best of several runs, after one that does not count: by the clock, and of work."""
    evaluate()
    times, work = [], []
    for _ in range(RUNS):
        start, begun = time.perf_counter(), time.process_time()
        evaluate()
        times.append(time.perf_counter() - start)
        work.append(time.process_time() - begun)
    return min(times), min(work)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.no_grad()
def compare(name: str, lr: Tensor, realism: Tensor, folder: Path) -> None:
    graph = OneEvaluation(load_model(name), name)
    expected = graph(lr, realism)
    times = {"torch, float32": seconds(lambda: graph(lr, realism))}
    half = OneEvaluation(load_model(name, dtype=torch.bfloat16), name)
    times["torch, bfloat16"] = seconds(lambda: half(lr, realism))
    file = folder / "model.onnx"
    export_onnx(load_model(name), name, file)
    exported, inputs = session(file), {"lr": lr.numpy(), "realism": realism.numpy()}
    times["onnxruntime, float32"] = seconds(lambda: exported.run(None, inputs))
    difference = (torch.from_numpy(exported.run(None, inputs)[0]) - expected).abs().max().item()
    megapixels = lr.shape[2] * lr.shape[3] / 1e6
    for by, (taken, work) in times.items():
        print(f"| {name} | {by} | {taken:.2f} | {taken / megapixels:.2f} | {work / megapixels:.2f} |")
    print(f"\n{name}: onnxruntime is {difference:.1e} from torch in float32 at most\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["built-in"])
    parser.add_argument("--size", default="960x640")
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    lr, realism = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)), torch.tensor(0.7)
    print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {torch.get_num_threads()} threads\n")
    print("| model | by | seconds | seconds a megapixel | CPU seconds a megapixel |\n|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            compare(name, lr, realism, Path(folder))


if __name__ == "__main__":
    main()
