"""Prompts of the user's own, by ComfyUI's text encoders."""

from torch import Tensor

from ...flowmapsr_core import FlowMap, UserError
from ...flowmapsr_core.networks import LocalNet


def find_prompt(model: FlowMap, text: str, clip, conditioning) -> Tensor | None:
    """Embedding (prompt_dim,) of a text, or the one in a CONDITIONING; None if there is neither.

    SDXL's pooled output is that of its second text encoder, which models are trained on.
    """
    if not text.strip() and conditioning is None:
        return None
    if isinstance(model.network, LocalNet):
        raise UserError("this model reads no text; leave the prompt empty and disconnect positive")
    if conditioning is None:
        if clip is None:
            raise UserError("a prompt of your own needs a text encoder; connect clip, or leave the prompt empty")
        _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    else:
        if text.strip():
            raise UserError("there are two prompts; leave the prompt empty, or disconnect positive")
        pooled = conditioning[0][1].get("pooled_output")
    dim = model.network.config.prompt_dim
    if pooled is None or pooled.shape[-1] < dim:
        found = "none" if pooled is None else f"{pooled.shape[-1]} numbers"
        raise UserError(f"the model needs a pooled output of {dim} numbers, there is {found}; use SDXL text encoders")
    return pooled[0, -dim:]
