"""A model whose weights ComfyUI brings, as the core's functions see it."""

import math
from collections.abc import Sequence

import comfy.model_management
import comfy.model_patcher
from torch import Tensor

from ...flowmapsr_core.codecs import Codec
from ...flowmapsr_core.method.flow import Velocity
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.plan import LARGEST_BLEND, MOST_AT_ONCE, SMALLEST_TILE, latent_cells


class ManagedModel(Model):
    """A model whose weights are loaded now, and again when it is about to be evaluated.

    In between, a VAE may have taken their place.

    Args:
        patcher: of the model.
        size: height and width of the images, to tell ComfyUI how much memory the work needs.
        codec: in place of the model's own.
        prompt: embedding (prompt_dim,) in place of the positive prompt's.
    """

    def __init__(
        self,
        patcher: comfy.model_patcher.ModelPatcher,
        size: Sequence[int],
        codec: Codec | None = None,
        prompt: Tensor | None = None,
    ) -> None:
        model = patcher.attachments["model"]
        super().__init__(patcher.model, codec or model.codec, model.info, model.looks, model.least_factor)
        self.patcher, self.prompt = patcher, prompt
        cells = math.prod(latent_cells(self, size))
        if self.network.receptive_radius is None:
            cells = min(cells, MOST_AT_ONCE * LARGEST_BLEND**2)
        per_cell = self.network.floats_per_cell * self.dtype.itemsize
        self.wanted, self.needed = (int(per_cell * number) for number in (cells, min(cells, SMALLEST_TILE**2)))
        self.load()

    def load(self) -> None:
        """Have the weights where they are used, and memory beside them, as far as there is any."""
        comfy.model_management.load_models_gpu(
            [self.patcher], memory_required=self.wanted, minimum_memory_required=self.needed
        )

    def velocity(self, guidance: float = 1.0) -> Velocity:
        """As :meth:`FlowMap.velocity`, for the prompt of this model."""
        self.load()
        return self.flow.velocity(guidance, self.prompt)
