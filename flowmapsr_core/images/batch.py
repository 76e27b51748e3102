"""Batches made image by image."""

from collections.abc import Iterable

from torch import Tensor


def batch_of(count: int, singles: Iterable[Tensor]) -> Tensor:
    """So many images (1, ...) of one shape as a batch (count, ...).

    It takes the memory of the batch and of one image: each is copied to its place, and may be forgotten then.
    """
    batch, made = None, iter(singles)
    for index in range(count):  # enumerate would hold on to the last one while the next is made
        single = next(made)
        if count == 1:
            return single
        if batch is None:
            batch = single.new_empty((count, *single.shape[1:]))
        batch[index] = single[0]
        del single
    if batch is None:
        raise ValueError("there are no images")
    return batch
