"""The trainer with its weights spread over CPU processes by FSDP, which accelerate itself offers for GPUs only."""

import os
import sys

os.environ |= {
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}

from accelerate import PartialState
from accelerate.utils import DistributedType
from flowmapsr.trainer.__main__ import main

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU  # what FSDP is chosen from

sys.exit(main())
