"""``python -m flowmapsr.flowmapsr_core``: the same as the ``flowmapsr`` command."""

import sys

from .cli.command import main

sys.exit(main())
