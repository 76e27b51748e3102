"""Frames of a clip, enlarged, that steady one another: what flickers is not the same in neighbours, what is shown is.

Each frame becomes a mean of itself and its neighbours, moved onto it by optical flow and weighed, pixel by pixel, by
how well they agree. So what a neighbour does not show, or shows elsewhere, stays out, as after a cut. OpenCV, which
the extra ``video`` brings, finds the flow and moves the pixels.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..images.metrics import luma

REACH = 2  # frames before and after that a frame sees: no more, so that parts of a clip are made apart
# A neighbour that is so far off, root mean square about a pixel, weighs 1/e. More flickers less, but what moves over
# something else begins to show through.
AGREE = 24 / 255
ABOUT = 2.0  # pixels, sigma of the Gaussian over which they are compared
CUT = 0.2  # least mean weight of a neighbour: across a cut it is below 0.1, within a scene in heavy noise 0.3
LEAST = 32  # pixels a side: of smaller frames there is no flow to be found
STEPS = 65535  # of 16 bits: so finely do frames wait for one another, in half the memory of float32

Frame = tuple[int, Tensor]  # a stamp, and a picture (1, 3, H, W) in [0, 1]


def opencv() -> Any:
    """The module ``cv2``; :class:`UserError` if it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"steadying frames needs OpenCV ({error}); pip install opencv-python-headless, in ComfyUI with its Python, "
            f"or leave it out (--no-temporal, or the node's switch)"
        ) from error
    return cv2


def steadied(frames: Iterable[Frame], wanted: Collection[int]) -> Iterator[Frame]:
    """The frames of the stamps that are wanted, steadied by up to :data:`REACH` frames before and after each."""
    window: deque[Frame | None] = deque([None] * (2 * REACH + 1), maxlen=2 * REACH + 1)
    for frame in chain(frames, repeat(None, REACH)):
        window.append(frame and (frame[0], _packed(frame[1])))
        del frame  # while the next one is made, this one is to be there in 16 bits alone
        middle = window[REACH]
        if middle is not None and middle[0] in wanted:
            others = (_unpacked(other[1]) for other in window if other is not None and other is not middle)
            yield middle[0], steady(_unpacked(middle[1]), others)


def steady(picture: Tensor, others: Iterable[Tensor]) -> Tensor:
    """The mean of a picture (1, 3, H, W) in [0, 1] and of others, moved onto it, as far as they agree with it.

    The flow is that of Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (2016), in a preset that is too
    coarse to follow the flicker itself: finer ones leave more of it.
    """
    if min(picture.shape[-2:]) < LEAST:
        return picture
    cv2 = opencv()
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    total, weights, own = picture.clone(), torch.ones_like(picture[:, :1]), _eight_bit_luma(picture)
    for other in others:
        moved = _moved(other, flow.calc(own, _eight_bit_luma(other), None), cv2)
        apart = (moved - picture).square_().mean(dim=1)[0]
        weight = torch.from_numpy(cv2.GaussianBlur(apart.numpy(), (0, 0), ABOUT)).div_(-(AGREE**2)).exp_()
        if weight.mean() >= CUT:
            total += moved.mul_(weight)
            weights += weight
    return total.div_(weights).clamp_(0, 1)


def _packed(picture: Tensor) -> Tensor:
    return picture.clamp(0, 1).mul_(STEPS).round_().to(torch.uint16)


def _unpacked(picture: Tensor) -> Tensor:
    return picture.float().div_(STEPS)


def _eight_bit_luma(picture: Tensor) -> np.ndarray:
    return (luma(picture)[0, 0] * 255).round().byte().numpy()


def _moved(picture: Tensor, flow: np.ndarray, cv2: Any) -> Tensor:
    """What a picture (1, 3, H, W) shows where a flow (H, W, 2), in pixels along and down, leads from each pixel."""
    places = flow + np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in flow.shape[1::-1])), axis=-1)
    moved = torch.empty_like(picture)
    for channel, into in zip(picture[0], moved[0], strict=True):
        cv2.remap(channel.numpy(), places, None, cv2.INTER_CUBIC, into.numpy(), cv2.BORDER_REPLICATE)
    return moved
