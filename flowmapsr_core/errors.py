"""The one exception that speaks to users."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was wrong, where, and what to do. The command line prints it and exits with
    status 2; ComfyUI shows it on the node.
    """


def check(holds: bool, message: str) -> None:
    """Raise :class:`UserError` unless a value is as it should be."""
    if not holds:
        raise UserError(message)
