"""Time, memory and FLOPs of the largest network, preset ``xl``, with random weights on the CPU in bfloat16.

``python benchmarks/xl.py``: a picture of 128x128 to 512x512 in 2 steps, through a VAE of SDXL's shape with random
weights. It takes 6 GB. The operations of sampling are predicted from shapes, and counted while it runs.
"""

import resource
import time

import torch
from flowmapsr.flowmapsr_core.codecs import VAECodec
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.flowmapsr_core.method.flow import sample
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet, flops
from torch.utils.flop_counter import FlopCounterMode

SIDE, FACTOR, STEPS = 128, 4, 2


def peak() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build() -> Model:
    """The model with torch's initial weights, never in another precision than it runs in."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = Model(FlowMap(UNet(PRESETS["xl"])), VAECodec())
    torch.set_default_dtype(torch.float32)
    model.flow.dtype = torch.bfloat16
    model.flow.requires_grad_(False).to(memory_format=torch.channels_last).eval()
    return model


class Clock:
    """Prints rows of the table: what has been done since the last one."""

    def __init__(self) -> None:
        print("| part | seconds | peak memory so far, GiB |\n|---|---|---|")
        self.start = time.perf_counter()

    def row(self, name: str) -> None:
        print(f"| {name} | {time.perf_counter() - self.start:.1f} | {peak():.2f} |", flush=True)
        self.start = time.perf_counter()


@torch.inference_mode()
def main() -> None:
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    clock = Clock()
    model = build()
    clock.row("building")
    x1 = model.codec.encode(resize(image, (FACTOR * SIDE, FACTOR * SIDE)))
    clock.row("encoding")
    with FlopCounterMode(display=False) as counter:
        x0 = sample(model.velocity(2.0), x1, STEPS, lambda done, steps, x: clock.row(f"evaluation {done} of {steps}"))
    result = model.codec.decode(x0)
    clock.row("decoding")
    assert result.isfinite().all()
    weights = sum(parameter.numel() for parameter in model.network.parameters())
    predicted, counted = STEPS * flops(model.network, *x1.shape[2:]) / 1e12, counter.get_total_flops() / 1e12
    print(
        f"\nlatent {tuple(x1.shape)}, picture {tuple(result.shape)}; {weights / 1e9:.2f} billion weights of the network"
    )
    print(f"sampling: {predicted:.3f} TFLOP predicted, {counted:.3f} counted (with the times' embeddings)")


if __name__ == "__main__":
    main()
