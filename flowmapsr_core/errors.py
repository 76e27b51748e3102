"""The exceptions that speak to users, and errors in a line."""

from pathlib import Path


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was wrong, where, and what to do. The command line prints it and exits with
    status 2; ComfyUI shows it on the node.
    """


class WithoutVAE(UserError):
    """A model of a VAE's latents comes without one, and none is given."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} comes without its VAE; give one with --vae (a .safetensors file, or a folder)")


def check(holds: bool, message: str) -> None:
    """Raise :class:`UserError` unless a value is as it should be."""
    if not holds:
        raise UserError(message)


def one_line(error: Exception) -> str:
    """An error in one line, also one without a text."""
    return " ".join(str(error).split()) or type(error).__name__
