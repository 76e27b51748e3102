"""What a piece of work holds in memory, on any device, by looking on."""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")


def most_held(work: Callable[[], Result]) -> tuple[int, Result]:
    """Most bytes of the tensors that torch makes in ``work``, temporary ones too, that are alive at a time; its result.

    Views of what was there before do not count.
    """
    with Held() as held:
        result = work()
    return held.most, result


class Held(TorchDispatchMode):
    """Counts the bytes of tensors while they are alive.

    Attributes:
        alive: bytes by storage.
        most: most of them at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                key = storage._cdata
                if key not in self.alive and key not in given:  # no view of a weight
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key)
        self.most = max(self.most, sum(self.alive.values()))
        return result
