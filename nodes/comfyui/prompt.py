"""Prompts of the user's own, by ComfyUI's text encoders."""

from torch import Tensor

from ...flowmapsr_core import FlowMap, UserError
from ...flowmapsr_core.files.prompts import are_embeddings
from ...flowmapsr_core.model import NEGATIVE_PROMPT
from ...flowmapsr_core.networks import UNet


def find_prompt(model: FlowMap, text: str, clip, conditioning) -> Tensor | None:
    """Embedding (prompt_dim,) of a text, or the one in a CONDITIONING; None if there is neither.

    SDXL's pooled output is that of its second text encoder, which models are trained on. Raises :class:`UserError` if a
    model was not: the negative prompt, encoded again, must come out as the model has it. Without a text encoder, a
    CONDITIONING is taken as it is.
    """
    if not text.strip() and conditioning is None:
        return None
    if not isinstance(model.network, UNet):
        raise UserError("this model reads no text; leave the prompt empty and disconnect positive")
    dim = model.network.config.prompt_dim
    if conditioning is None:
        if clip is None:
            raise UserError("a prompt of your own needs a text encoder; connect clip, or leave the prompt empty")
        embedding = encode(clip, text, dim)
    else:
        if text.strip():
            raise UserError("there are two prompts; leave the prompt empty, or disconnect positive")
        embedding = last(conditioning[0][1].get("pooled_output"), dim)
    if clip is not None and not are_embeddings(model, encode(clip, NEGATIVE_PROMPT, dim)):
        raise UserError(
            "this model's prompts are not embeddings by the connected text encoders; leave the prompt empty, or "
            "connect SDXL's, if the model was trained on texts at all"
        )
    return embedding


def encode(clip, text: str, dim: int) -> Tensor:
    """Embedding (dim,) of a text."""
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return last(pooled, dim)


def last(pooled: Tensor | None, dim: int) -> Tensor:
    """The second text encoder's part (dim,) of a pooled output."""
    if pooled is None or pooled.shape[-1] < dim:
        found = "none" if pooled is None else f"{pooled.shape[-1]} numbers"
        raise UserError(f"the model needs a pooled output of {dim} numbers, there is {found}; use SDXL text encoders")
    return pooled[0, -dim:]
