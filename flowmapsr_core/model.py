"""A flow-map model: the map itself, which is trained, and the frozen codec beside it."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .codecs import CODECS, Codec, FrozenVAE
from .errors import UserError
from .method.flow import Velocity
from .method.looks import LOOKS, Looks, changes, looks_with
from .method.methods import METHODS, FlowMapMethod, Method
from .networks import NETWORKS, Network

POSITIVE_PROMPT = "a high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting"
NEGATIVE_PROMPT = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"
# a precision, or what chooses one of those that a network supports
Precision: TypeAlias = torch.dtype | Callable[[Sequence[torch.dtype]], torch.dtype]
CODEC = "codec."  # what the names of a codec's weights begin with
# what to do with an upscaler of the community where a checkpoint is wanted
USED_AS_IT_IS = "evaluate takes it as --baseline, and 'flowmapsr convert' makes a checkpoint to train and to save"
PLAIN = FlowMapMethod()  # of checkpoints that name no method


class FlowMap(nn.Module):
    """A network and the embeddings of its two prompts: what is trained, averaged, sharded and patched.

    Attributes:
        network: predicts the average velocity.
        method: what its output means, and which states it is a velocity of.
        prompts: embeddings "positive" and "negative", each (prompt_dim,).
        dtype: precision of the evaluation, set by :meth:`set_precision`; single weights may be stored in another one.
    """

    network: Network

    def __init__(self, network: Network, method: Method = PLAIN) -> None:
        super().__init__()
        self.network, self.method = network, method
        self.dtype = torch.float32
        dim = network.config.prompt_dim
        self.prompts = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in ("positive", "negative")})

    def set_precision(self, dtype: torch.dtype) -> None:
        """Evaluate in ``dtype``, and convert the weights to it, in place."""
        self.dtype = dtype
        self.to(dtype)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, guidance: Tensor, negative: Tensor) -> Tensor:
        """Average velocity u of states x; t, s, guidance (B,) float32, negative (B,) bool picks the prompt."""
        prompt = torch.where(negative[:, None], self.prompts["negative"], self.prompts["positive"])
        return self.method.velocity(self.network(x, t, s, prompt, guidance), x, t)

    def velocity(self, guidance: float = 1.0, prompt: Tensor | None = None) -> Velocity:
        """u(x, t, s) with a prompt and a guidance scale bound, evaluated in :attr:`dtype`.

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
                prompts = embedding.to(t.device, self.dtype).expand(len(t), -1)
                times, condition = (t, s), self.network.embed(t, s, prompts, torch.full_like(t, guidance))
            return self.method.velocity(self.network.evaluate(x.to(self.dtype), condition).to(x.dtype), x, t)

        return u


@dataclass
class Model:
    """What a checkpoint holds.

    Attributes:
        flow: the flow map, between latents.
        codec: frozen, between images in [0, 1] and latents.
        info: descriptive metadata (title, licence, training summary...), str to anything JSON can hold.
        looks: what the names of looks stand for.
        least_factor, most_factor: the least and the most at which it paints; pictures of factors below or above are
            painted at these, and resized.
        resampling: how LR is put on the grid that is painted on, a mode of :func:`.images.resize.resize`.
        color: colour correction where nobody asks for another, a method of :data:`.images.color.METHODS`.

    Raises:
        ValueError: the network's latents have another number of channels than the codec's, or it takes another number
            of images than the method stacks in a state.
    """

    flow: FlowMap
    codec: Codec
    info: dict[str, Any] = field(default_factory=dict)
    looks: Looks = field(default_factory=lambda: LOOKS)
    least_factor: float = 1.0
    most_factor: float = math.inf
    resampling: str = "bicubic"
    color: str = "lr-residual"

    def __post_init__(self) -> None:
        network, codec = self.network, self.codec
        if not self.least_factor >= 1:
            raise ValueError(f"least_factor is {self.least_factor}, and must be 1 or more")
        if network.channels != codec.channels:
            raise ValueError(f"the network takes {network.channels} channels, the codec gives {codec.channels}")
        if network.config.inputs != self.method.images:
            raise ValueError(f"network.inputs is {network.config.inputs}, the method stacks {self.method.images}")

    @classmethod
    def from_config(cls, config: dict[str, Any], info: dict[str, Any] | None = None) -> "Model":
        """Build with fresh weights from what :meth:`config` returned; ``ValueError`` naming what is wrong with it."""
        method = _build(METHODS, config["method"], "method") if "method" in config else PLAIN
        network = _build(NETWORKS, {"inputs": method.images, **config.get("network", {})}, "network")
        looks = looks_with(config.get("looks", {}))
        codec, least = _build(CODECS, config.get("codec", {}), "codec"), config.get("least_factor", 1.0)
        return cls(FlowMap(network, method), codec, info or {}, looks, least)

    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the model, as JSON data.

        The sections for the method, the looks and the least factor are there only where they differ from the defaults.

        Raises :class:`UserError` for an upscaler of the community, which stays in the file that it came in.
        """
        if type(self.network).__name__ not in NETWORKS:
            name = self.info.get("title", "the model")
            raise UserError(f"{name} is an upscaler, used as it is; {USED_AS_IT_IS}")
        sections: dict[str, Any] = {
            "network": {"type": type(self.network).__name__, **dataclasses.asdict(self.network.config)},
            "codec": {"type": type(self.codec).__name__, **dataclasses.asdict(self.codec.config)},
            "prompts": {"positive": POSITIVE_PROMPT, "negative": NEGATIVE_PROMPT},
        }
        del sections["network"]["inputs"]  # the method says it
        if self.method != PLAIN:
            name = next(name for name, kind in METHODS.items() if isinstance(self.method, kind))
            sections["method"] = {"type": name, **dataclasses.asdict(self.method)}
        if changes(self.looks):
            sections["looks"] = changes(self.looks)
        if self.least_factor != 1:
            sections["least_factor"] = self.least_factor
        return sections

    @property
    def network(self) -> Network:
        """The flow map's."""
        return self.flow.network

    @property
    def method(self) -> Method:
        """The flow map's."""
        return self.flow.method

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the flow map's evaluation."""
        return self.flow.dtype

    @property
    def device(self) -> torch.device:
        """Where the flow map's weights are."""
        return next(self.flow.parameters()).device

    def velocity(self, guidance: float = 1.0) -> Velocity:
        """As :meth:`FlowMap.velocity`, for the positive prompt."""
        return self.flow.velocity(guidance)

    def set_precision(self, precision: Precision) -> None:
        """Evaluate in a precision, weights converted in place; a VAE in float32 unless that is bfloat16.

        SDXL's VAE overflows in float16. Raises :class:`UserError` if the network does not support the precision.
        """
        supported = self.network.dtypes
        dtype = precision if isinstance(precision, torch.dtype) else precision(supported)
        if dtype not in supported:
            names = ", ".join(str(known).removeprefix("torch.") for known in supported)
            kind, wrong = type(self.network).__name__, str(dtype).removeprefix("torch.")
            raise UserError(f"a {kind} does not work in {wrong}; choose auto or one of {names}")
        self.flow.set_precision(dtype)
        if isinstance(self.codec, FrozenVAE):
            self.codec.to(dtype if dtype == torch.bfloat16 else torch.float32)

    def to(self, device: str | torch.device) -> "Model":
        """Move all weights to a device, in place; returns the model."""
        self.flow.to(device)
        if isinstance(self.codec, FrozenVAE):
            self.codec.to(device)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All weights by the names that they have in a checkpoint: ``network.``, ``prompts.``, ``codec.vae.``."""
        own = self.codec.state_dict() if isinstance(self.codec, FrozenVAE) else {}
        return {**self.flow.state_dict(), **{CODEC + name: weight for name, weight in own.items()}}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Put these in the place of the weights, by the names of :meth:`tensors`; a codec may be left out."""
        codec = {name.removeprefix(CODEC): weight for name, weight in tensors.items() if name.startswith(CODEC)}
        flow = {name: weight for name, weight in tensors.items() if not name.startswith(CODEC)}
        self.flow.load_state_dict(flow, assign=True)
        if codec and isinstance(self.codec, FrozenVAE):
            self.codec.load_state_dict(codec, assign=True)


def _build(kinds: dict[str, Any], section: dict[str, Any], name: str) -> Any:
    """One of ``kinds`` from a section ``{"type": ..., **arguments}``."""
    arguments = dict(section)
    kind = kinds.get(arguments.pop("type", ""))
    if kind is None:
        raise ValueError(f"{name}.type is {section.get('type')!r}, not one of {', '.join(kinds)}")
    settings = getattr(kind, "Config", kind)
    unknown = arguments.keys() - {known.name for known in dataclasses.fields(settings)}
    if unknown:
        raise ValueError(f"unknown key {name}.{sorted(unknown)[0]}")
    configured = settings(**arguments)
    return configured if settings is kind else kind(configured)
