"""A flow-map model: network, codec and the embeddings of its two prompts, as one module."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from .codecs import CODECS, Codec, FrozenVAE
from .method.flow import Velocity
from .networks import NETWORKS, Network

POSITIVE_PROMPT = "a high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting"
NEGATIVE_PROMPT = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"


class FlowMap(nn.Module):
    """Network, codec and prompts; what a checkpoint holds.

    Attributes:
        network: predicts the average velocity.
        codec: between images in [0, 1] and latents.
        prompts: embeddings "positive" and "negative", each (prompt_dim,).
        info: the checkpoint's descriptive metadata (title, training summary...), str to anything JSON can hold.
    """

    network: Network
    codec: Codec

    def __init__(self, network: Network, codec: Codec, info: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.network = network
        self.codec = codec
        self.info = info or {}
        if network.channels != codec.channels:
            raise ValueError(f"the network takes {network.channels} channels, the codec gives {codec.channels}")
        dim = network.config.prompt_dim
        self.prompts = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in ("positive", "negative")})

    @classmethod
    def from_config(cls, config: dict[str, Any], info: dict[str, Any] | None = None) -> "FlowMap":
        """Build with fresh weights from what :meth:`config` returned; ``ValueError`` naming what is wrong with it."""
        network = _build(NETWORKS, config.get("network", {}), "network")
        return cls(network, _build(CODECS, config.get("codec", {}), "codec"), info)

    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the module, as JSON data."""
        return {
            "network": {"type": type(self.network).__name__, **dataclasses.asdict(self.network.config)},
            "codec": {"type": type(self.codec).__name__, **dataclasses.asdict(self.codec.config)},
            "prompts": {"positive": POSITIVE_PROMPT, "negative": NEGATIVE_PROMPT},
        }

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network's weights, and of the evaluation."""
        return next(self.network.parameters()).dtype

    def set_precision(self, dtype: torch.dtype) -> None:
        """Convert the weights, in place: the network's to ``dtype``, a VAE's to bfloat16 if that is, else to float32.

        SDXL's VAE overflows in float16.
        """
        self.network.to(dtype)
        self.prompts.to(dtype)
        if isinstance(self.codec, FrozenVAE):
            self.codec.to(dtype if dtype == torch.bfloat16 else torch.float32)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, guidance: Tensor, negative: Tensor) -> Tensor:
        """Average velocity u of x (B, C, H, W); t, s, guidance (B,) float32, negative (B,) bool picks the prompt."""
        prompt = torch.where(negative[:, None], self.prompts["negative"], self.prompts["positive"])
        return self.network(x, t, s, prompt, guidance)

    def velocity(self, guidance: float = 1.0, prompt: Tensor | None = None) -> Velocity:
        """u(x, t, s) with a prompt and a guidance scale bound, evaluated in the weights' dtype.

        ``prompt`` is an embedding (prompt_dim,), by default the positive prompt's. t and s are (B,), or (1,) for all
        of x. What depends on them alone is computed once for a pair of tensors, however many tiles are evaluated with
        it.
        """
        times: tuple[Tensor, Tensor] | None = None
        condition = torch.empty(0)
        embedding = self.prompts["positive"] if prompt is None else prompt

        def u(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            nonlocal times, condition
            if times is None or times[0] is not t or times[1] is not s:
                prompts = embedding.to(t.device).expand(len(t), -1)
                times, condition = (t, s), self.network.embed(t, s, prompts, torch.full_like(t, guidance))
            return self.network.evaluate(x.to(self.dtype), condition).to(x.dtype)

        return u


def _build(kinds: dict[str, Any], section: dict[str, Any], name: str) -> Any:
    """One of ``kinds`` from a section ``{"type": ..., **arguments}``."""
    arguments = dict(section)
    kind = kinds.get(arguments.pop("type", ""))
    if kind is None:
        raise ValueError(f"{name}.type is {section.get('type')!r}, not one of {', '.join(kinds)}")
    settings = getattr(kind, "Config", kind)
    unknown = arguments.keys() - {field.name for field in dataclasses.fields(settings)}
    if unknown:
        raise ValueError(f"unknown key {name}.{sorted(unknown)[0]}")
    configured = settings(**arguments)
    return configured if settings is kind else kind(configured)
