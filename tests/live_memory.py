"""Counts what torch holds, and pretends to hold it."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that torch makes on a device, temporary ones too, while they are alive.

    torch's device "meta", on which nothing is computed, may play a GPU of any size: its tensors arrive in host memory
    as zeros.

    Attributes:
        peak: most bytes that were alive at a time.
    """

    def __init__(self, device="cpu"):
        super().__init__()
        self.device = device
        self.alive = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {storage_of(x)._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = run(function, args, kwargs or {})
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.device.type == self.device:
                storage = storage_of(x)
                if storage._cdata not in self.alive and storage._cdata not in given:  # not a view of a weight
                    self.alive[storage._cdata] = storage.nbytes()
                    self.total += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.total)
        return result

    def _free(self, key):
        self.total -= self.alive.pop(key)


def storage_of(x):
    return x.untyped_storage()


def run(function, args, kwargs):
    """The operation; from "meta" to the CPU, zeros."""
    if function is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
        return torch.zeros_like(args[0], **kwargs)
    if function is torch.ops.aten.copy_.default and args[1].is_meta and not args[0].is_meta:
        return args[0]
    return function(*args, **kwargs)
