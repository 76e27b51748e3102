"""How much memory there is, and whether it has run out, by torch and the operating system."""

import ctypes
import os
from pathlib import Path
from typing import Any

import torch

# In what torch says of memory that ran out, where its error has no class of its own: MPS and CUDA's own calls ("out of
# memory"), the CPU's allocator on Linux and macOS, on Windows, libraries that use the C++ one, files that are mapped,
# and oneDNN, which convolves on a CPU.
SAYINGS = (
    "out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "bad allocation",
    "cannot allocate memory", "could not create a primitive",
)  # fmt: skip
CGROUP = Path("/sys/fs/cgroup")  # limits of a container, where it is one


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of whatever device. Free what its traceback holds before going on."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error).lower() for saying in SAYINGS)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now; of a kind that does not say how much it has, half a GiB."""
    if device.type == "cpu":
        return min(_free_here(), _free_in_container())
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    backend: Any = getattr(torch, device.type, None)  # cuda, xpu and others have the same functions
    if not hasattr(backend, "mem_get_info"):
        return 2**29
    # torch keeps what was freed for what comes next; to the driver it is taken
    kept = backend.memory_reserved(device) - backend.memory_allocated(device)
    return backend.mem_get_info(device)[0] + kept


def _free_here() -> int:
    """Bytes of main memory that programs can have now."""
    if os.name == "nt":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: its size and the load, then totals and what is available
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # pyright: ignore[reportAttributeAccessIssue]
        return status[2]
    try:
        with open("/proc/meminfo") as meminfo:
            line = next(line for line in meminfo if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):  # macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_in_container() -> int:
    """Bytes that the container's limit leaves; more than any machine has where there is none."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):  # no container, or "max"
        return 2**62
