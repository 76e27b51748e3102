"""The input ``wrap`` of nodes: which edges of the images meet."""

from ...flowmapsr_core.names import WRAPS

NO_WRAP = "none"
CHOICES = [NO_WRAP, *WRAPS]
TOOLTIP = "No seam where opposite edges meet. x: left and right, as in panoramas. y: top and bottom. xy: both."


def wrap_of(choice: str) -> str:
    """What was chosen, as the core knows it."""
    return "" if choice == NO_WRAP else choice
