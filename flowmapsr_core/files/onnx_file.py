"""One evaluation of a model as an ONNX graph, for programs that run it without torch.

The graph takes pictures on the HR grid already and pads them to whole cells itself; what else the chain does around an
evaluation (see :mod:`..upscaling.pipeline`) is left to who calls it, and the file's description says what that is.
"""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..atomic import replacing
from ..codecs import PixelCodec
from ..errors import UserError, check
from ..method.methods import FlowMapMethod
from ..model import Model
from ..networks.communitynet import CommunityNet

OPSET = 18
AXES = ("n", 3, "height", "width")
OF_LATENTS = "{} works on a VAE's latents; give a model that works on pixels"
IDENTITY = ("title", "author", "license", "hash_sha256")  # of a model's metadata, kept in the file


class OneEvaluation(nn.Module):
    """LR pictures on the HR grid to HR ones, by one jump from time 1 to 1 - realism without guidance.

    Raises :class:`UserError` if a model needs more than its pictures and one evaluation, sees all of them at once, or
    is an upscaler of the community, which does not see the HR grid.
    """

    def __init__(self, model: Model, name: str) -> None:
        super().__init__()
        check(not isinstance(model.network, CommunityNet), f"{name} is another upscaler; 'flowmapsr convert' it first")
        check(isinstance(model.codec, PixelCodec), OF_LATENTS.format(name))
        check(model.network.receptive_radius is not None, f"{name} sees all of a picture at once; give a local model")
        plain = isinstance(model.method, FlowMapMethod) and not model.method.noise
        check(plain, f"{name} starts from noise; give a model that starts from the picture itself")
        self.flow, self.codec = model.flow, model.codec
        self.cell = model.codec.factor * model.network.stride  # pixels that sides must be multiples of

    def forward(self, lr: Tensor, realism: Tensor) -> Tensor:
        """lr (N, 3, H, W) in [0, 1] and realism () in [0, 1] to HR (N, 3, H, W) about [0, 1], not clamped."""
        height, width = lr.shape[-2:]
        padded = F.pad(lr, (0, -width % self.cell, 0, -height % self.cell), mode="replicate")
        latent = self.codec.encode(padded)
        x1 = self.flow.method.ends(latent, latent, None)[1]
        one = torch.ones(1, device=lr.device)
        # flow.sample with one step: the chord from x1 through the state at 1 - realism, prolonged to time 0
        x0 = x1 - self.flow.velocity()(x1, one, one - realism)
        return self.codec.decode(x0[:, : latent.shape[1]])[..., :height, :width]


def export_onnx(model: Model, name: str, path: Path) -> None:
    """Write :class:`OneEvaluation` of a model in float32, under a temporary name first; ``name`` is for messages.

    Raises :class:`UserError` if the model has no such graph or a package is missing, ``OSError`` if the file cannot be
    written.
    """
    graph = OneEvaluation(model, name).eval()
    try:
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise UserError("an export to ONNX needs two packages; run: pip install onnx onnxscript") from error
    check(
        hasattr(torch.export.Dim, "DYNAMIC"),
        f"an export to ONNX needs torch 2.6, here is {torch.__version__}; update it",
    )
    free = torch.export.Dim.DYNAMIC
    example = torch.rand(2, 3, 3 * graph.cell + 1, 4 * graph.cell + 1), torch.tensor(0.5)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's remarks on its own parts
        program = torch.onnx.export(
            graph, example, dynamo=True, verbose=False, opset_version=OPSET,
            input_names=["lr", "realism"], output_names=["hr"],
            dynamic_shapes={"lr": {0: free, 2: free, 3: free}, "realism": None},
        )  # fmt: skip
    assert program is not None  # it is None only where torch writes the file itself
    proto = program.model_proto
    del proto.graph.value_info[:]  # shapes in between, by torch's names of the axes
    for tensor in (proto.graph.input[0], proto.graph.output[0]):
        for place, axis in zip(tensor.type.tensor_type.shape.dim, AXES, strict=True):
            if isinstance(axis, str):
                place.dim_param = axis
    proto.producer_name, proto.doc_string = "FlowMapSR", description(model)
    for key in IDENTITY:
        if value := model.info.get(key):
            proto.metadata_props.add(key=key, value=str(value))
    with replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString())


def description(model: Model) -> str:
    """What the graph takes and gives, and what is left to do around it."""
    looks = ", ".join(f"{name} {look.realism:g}" for name, look in model.looks.items() if look.steps == 1)
    least = f" of at least {model.least_factor:g} (shrink what is to be smaller afterwards)"
    return (
        f"One evaluation of the FlowMapSR model {model.info.get('title', '')}, ONNX opset {OPSET}, float32.\n"
        "lr: (n, 3, height, width), RGB in [0, 1] as files have it: the low-resolution picture, enlarged "
        f"to its final size by bicubic interpolation, a factor{least if model.least_factor > 1 else ''}, and clamped.\n"
        f"realism: one number from 0 (closest to the source) to 1 (most detail); looks: {looks}.\n"
        "hr: (n, 3, height, width), RGB about [0, 1], to be clamped.\n"
        "Left outside: the enlargement, tiles, colour correction and alpha."
    )
