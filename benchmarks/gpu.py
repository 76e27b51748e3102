"""Time of one picture on a GPU by the large model and by what it competes with, side by side, in one run.

``pip install spandrel && python benchmarks/gpu.py``: FlowMapSR of preset ``xl`` with 1, 2 and 4 steps, a one-step model
of OSEDiff's shape (the UNet and VAE of Stable Diffusion 2.1, without the network that finds its prompt) and
Real-ESRGAN's RRDBNet, all with random weights in bfloat16, untiled, for pictures of 512, 1024 and 2048 px. The floor is
the time that the operations would take at the rate of a large matrix product, measured first. Milliseconds are the
median of 5 runs after 2. ``--compile`` compiles the networks; ``--smoke`` runs the script itself on anything, with
networks far too small to say something.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.method.flow import sample
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SIZES, STEPS, SCALE = (512, 1024, 2048), (1, 2, 4), 4
WARMUP, RUNS = 2, 5
Stages = dict[str, Callable[[Tensor], Tensor]]


@dataclass
class Bench:
    """Where and with what sizes everything runs."""

    device: torch.device
    smoke: bool
    compile: bool
    rate: float = 0.0

    def place(self, build: Callable[[], nn.Module]) -> nn.Module:
        """A module with random weights, made on the device in bfloat16."""
        torch.set_default_dtype(torch.bfloat16)
        with self.device:
            module = build()
        torch.set_default_dtype(torch.float32)
        return module.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def compiled(self, function: Callable) -> Callable:
        return torch.compile(function) if self.compile else function

    def wait(self) -> float:
        """The time, once everything before is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, function: Callable, *arguments) -> float:
        times = []
        for _ in range(WARMUP + RUNS):
            start = self.wait()
            function(*arguments)
            times.append(self.wait() - start)
        return statistics.median(times[WARMUP:])

    def measure_rate(self) -> None:
        """Operations a second of a large matrix product."""
        side = 512 if self.smoke else 8192
        a, b = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        self.rate = 2 * side**3 / self.seconds(torch.mm, a, b)

    def row(self, name: str, size: int, stages: Stages) -> None:
        """Run stages one after another, each on what the last one gave, and print a line."""
        x = torch.rand(1, 3, size, size, device=self.device, dtype=torch.bfloat16)
        cells, total, flops = [], 0.0, 0
        for stage in stages.values():
            with FlopCounterMode(display=False) as counter:
                result = stage(x)
            flops += counter.get_total_flops()
            seconds = self.seconds(stage, x)
            total += seconds
            cells.append(seconds)
            x = result
        parts = dict(zip(stages, cells, strict=True))
        columns = [f"{1e3 * parts[key]:.1f}" if key in parts else "" for key in ("encode", "network", "decode")]
        floor = flops / self.rate
        figures = [f"{1e3 * total:.1f}", f"{flops / 1e12:.2f}", f"{1e3 * floor:.1f}", f"{total / floor:.1f}"]
        print(f"| {size} | {name} | {' | '.join(columns + figures)} |", flush=True)


def flowmapsr(bench: Bench, steps: int, model: Model) -> Stages:
    u = model.velocity(guidance=2.0)
    return {"encode": model.codec.encode, "network": lambda x1: sample(u, x1, steps), "decode": model.codec.decode}


def osediff_shaped(bench: Bench, codec: VAECodec) -> Stages:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    widths = (32, 64, 64, 64) if bench.smoke else (320, 640, 1280, 1280)
    arguments = {"cross_attention_dim": 1024, "attention_head_dim": (1, 2, 2, 2) if bench.smoke else (5, 10, 20, 20)}
    unet = bench.place(lambda: UNet2DConditionModel(block_out_channels=widths, use_linear_projection=True, **arguments))
    forward = bench.compiled(unet)
    text = torch.randn(1, 77, 1024, device=bench.device, dtype=torch.bfloat16)
    last = torch.tensor([999], device=bench.device)
    return {
        "encode": codec.encode,
        "network": lambda x: x - forward(x, last, text).sample,
        "decode": codec.decode,
    }


def real_esrgan(bench: Bench) -> Stages:
    from spandrel.architectures.ESRGAN import ESRGAN

    shape = {"num_filters": 8, "num_blocks": 1} if bench.smoke else {"num_filters": 64, "num_blocks": 23}
    network = bench.compiled(bench.place(lambda: ESRGAN(scale=SCALE, **shape)))
    return {"network": lambda x: network(x[..., ::SCALE, ::SCALE])}


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile the networks with torch.compile")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, also without a GPU")
    options = parser.parse_args()
    if not (torch.cuda.is_available() or options.smoke):
        print("this needs a CUDA GPU; --smoke tries the script without one")
        return 2
    bench = Bench(torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.smoke, options.compile)
    bench.measure_rate()
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, matrix product {bench.rate / 1e12:.1f} TFLOP/s, bfloat16\n")
    print("| px | model | encode, ms | network, ms | decode, ms | all, ms | TFLOP | floor, ms | times floor |")
    print("|---|---|---|---|---|---|---|---|---|")
    preset, widths = ("tiny", (8, 8, 8, 8)) if options.smoke else ("xl", VAECodecConfig().block_out_channels)
    groups = 8 if options.smoke else 32
    codec = VAECodecConfig(block_out_channels=widths, norm_num_groups=groups)
    model = Model(bench.place(lambda: FlowMap(UNet(PRESETS[preset]))), bench.place(lambda: VAECodec(codec)))
    model.network.evaluate = bench.compiled(model.network.evaluate)
    for size in (64,) if options.smoke else SIZES:
        for steps in STEPS:
            bench.row(f"FlowMapSR-{steps}", size, flowmapsr(bench, steps, model))
        bench.row("OSEDiff's shape, 1 step", size, osediff_shaped(bench, model.codec))
        bench.row("Real-ESRGAN's RRDBNet", size, real_esrgan(bench))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
