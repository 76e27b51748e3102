"""Where models come from: the package itself, a file, a folder, or a repository of the Hugging Face Hub."""

from pathlib import Path

from ..errors import UserError
from .safetensors_file import is_checkpoint_file

BUILT_IN = "built-in"
MODELS = Path(__file__).parents[1] / "models"
MINI = MODELS / "flowmapsr-mini.safetensors"
BASE = MODELS / "flowmapsr-base.safetensors"
SHIPPED = {BUILT_IN: MINI, "mini": MINI, "base": BASE}
HUB = "hub:"


def find_model(name: str | Path) -> Path:
    """The checkpoint file, or the diffusers folder, that a user's name for a model stands for.

    Args:
        name: one of SHIPPED; a file; a folder with one FlowMapSR checkpoint at its top, or with a UNet in ``unet/``,
            see :mod:`.diffusers_folder`; ``hub:OWNER/NAME``, a repository laid out like such a folder; or
            ``hub:OWNER/NAME/FILE``, one of its checkpoints. Repositories are downloaded into the Hub's cache
            and found there later; ``HF_HUB_OFFLINE=1`` forbids downloads.

    Raises:
        UserError: a folder holds no model or several; a repository does not exist, or cannot be reached.
    """
    text = name if isinstance(name, str) else name.as_posix()
    if text in SHIPPED:
        return SHIPPED[text]
    path = _download(text) if text.startswith(HUB) else Path(name)
    return _model_in(path, text) if path.is_dir() else path


def vae_beside(checkpoint: Path) -> Path | None:
    """The diffusers folder ``vae`` next to a checkpoint, if there is one."""
    folder = checkpoint.parent / "vae"
    return folder if (folder / "config.json").is_file() else None


def _model_in(folder: Path, name: str) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    checkpoints = [file for file in files if is_checkpoint_file(file)]
    if len(checkpoints) == 1:
        return checkpoints[0]
    if checkpoints:
        names = ", ".join(file.name for file in checkpoints)
        raise UserError(f"{name} holds several FlowMapSR checkpoints ({names}); give one: {name}/{checkpoints[0].name}")
    if (folder / "unet" / "config.json").is_file():
        return folder
    names = ", ".join(file.name for file in files[:3]) or "no .safetensors file"
    raise UserError(
        f"{name} holds no FlowMapSR checkpoint and no unet folder, but {names}; if that is an LBM or SDXL model, "
        f"'flowmapsr convert' makes a checkpoint of it"
    )


def _download(name: str) -> Path:
    """A repository's folder in the Hub's cache, or the file that was named in it."""
    # huggingface_hub takes a while to import, and speaks to the network
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError as NoRepository

    owner, _, rest = name.removeprefix(HUB).partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise UserError(f"{name} is not a repository; write {HUB}OWNER/NAME, or {HUB}OWNER/NAME/FILE.safetensors")
    wanted = [file, "vae/*.safetensors", "vae/*.json"] if file else ["*.safetensors", "*.json"]
    try:
        folder = snapshot_download(
            f"{owner}/{repository}", allow_patterns=wanted, ignore_patterns=["text_encoder*", "tokenizer*"]
        )
    except HFValidationError as error:
        raise UserError(f"{name} is not a repository's name ({error}); write {HUB}OWNER/NAME") from error
    except NoRepository as error:
        raise UserError(
            f"{name}: the Hugging Face Hub has no such repository, or only for those who are let in; check the name, "
            f"or log in with 'hf auth login'"
        ) from error
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"{name} was not downloaded yet, and HF_HUB_OFFLINE forbids it; unset that once") from error
        raise UserError(f"{name} was not downloaded yet, and the Hugging Face Hub cannot be reached now") from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{name} cannot be downloaded: {str(error).partition(chr(10))[0]}; try again later") from error
    if file and not (Path(folder) / file).is_file():
        raise UserError(f"{name}: the repository has no {file}, or it was not downloaded yet")
    return Path(folder, file)
