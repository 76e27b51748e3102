"""This process's share of the work, where ``accelerate launch`` started several."""

import os
from typing import TypeVar, cast

import torch

from ..errors import UserError
from ..upscaling.host import find_device

T = TypeVar("T")


class Share:
    """All of the work in a process of its own; its part in one of several, on one host or many.

    Attributes:
        is_main: whether this is the process that speaks to the user.

    Raises:
        UserError: there are several processes, and accelerate is not installed.
    """

    def __init__(self) -> None:
        self.state = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise UserError(f"several processes need accelerate ({error}); pip install accelerate") from error
            self.state = PartialState(cpu=os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"))
        self.is_main = self.state is None or self.state.is_main_process

    def device(self, name: str) -> torch.device:
        """Each process has a GPU of its own, unless the user names a device."""
        return cast(torch.device, self.state.device) if self.state is not None and name == "auto" else find_device(name)

    def of(self, items: list[T]) -> list[T]:
        """This process's part of a list that is the same in all: one item after another, in turns."""
        return items if self.state is None else items[self.state.process_index :: self.state.num_processes]

    def gather(self, items: list[T]) -> list[T]:
        """The items of all processes, in each of them."""
        if self.state is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)
