"""A model on the Hub becomes a folder here."""

import hashlib
import json
import re
from pathlib import Path

from huggingface_hub import HfApi, get_session, hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the client's own: httpx in huggingface_hub 1, httpx2 in 2
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

MODEL_FILES = ("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json")
NEEDED = {"config.json", "preprocessor_config.json"}
UNREACHABLE = (HfHubHTTPError, HTTPError, OfflineModeIsEnabled, OSError)


class ModelError(Exception):
    """A model cannot be had or used; the message is one sentence.

    `temporary` says whether the same may succeed later.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


def fetch_snapshot(model: str, revision: str | None) -> Path:
    """The files of a Hub id in a folder named after the commit, downloaded or cached. Raises ModelError.

    A pinned commit that is here is taken without asking the Hub, any other one where the Hub does not answer.
    What the cache holds damaged is downloaded again.
    """
    _check_id(model)
    cached = _cached(model, revision)
    try:
        folder = cached if cached and cached.name == revision else _download(model, revision)
    except UNREACHABLE:
        if not cached:
            reason = "is not in the cache and the Hub is out of reach: check the network, or give a folder"
            raise ModelError(f"The model {model} {reason}.", temporary=True) from None
        folder = cached
    for name in _damaged(folder):
        _download_again(model, folder, name)
    return folder


def _check_id(model: str) -> None:
    """Raises ModelError unless it has the form owner/name, as every DINOv2 model's id on the Hub has."""
    try:
        validate_repo_id(model)
        valid = "/" in model  # a published index says of a model in a folder no more than the folder's name
    except HFValidationError:
        valid = False
    if not valid:
        raise ModelError(
            f"The model {model} is no folder here that holds config.json: give one that does, or a Hub id."
        )


def _cached(model: str, revision: str | None) -> Path | None:
    """The snapshot of an earlier download, if there is a complete one."""
    try:
        folder = _snapshot(model, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether all files that a killed download may have left out are there."""
    names = set(NEEDED)
    for index in folder.glob("*.safetensors.index.json"):
        names |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((folder / name).is_file() for name in names) and any(folder.glob("*.safetensors"))


def _download(model: str, revision: str | None) -> Path:
    """The snapshot of what the revision is now. Raises ModelError where the Hub says that there is none."""
    try:
        # without a timeout of its own this call, unlike others, waits for ever (huggingface_hub 2.4)
        commit = HfApi().model_info(model, revision=revision, timeout=HF_HUB_ETAG_TIMEOUT).sha
        get_session().timeout = HF_HUB_ETAG_TIMEOUT
        folder = _snapshot(model, commit, local_files_only=False)
        if revision != commit:  # writes down which commit the branch or tag is, for when the Hub is gone
            hf_hub_download(model, "config.json", revision=revision)
    except RevisionNotFoundError:
        missing = f"The model {model} has no revision {revision} on the Hub."
        raise ModelError(missing, temporary=True) from None
    except RepositoryNotFoundError:
        missing = f"The Hub has no model {model}, or it is private (then: hf auth login)."
        raise ModelError(missing, temporary=True) from None
    return folder


def _snapshot(model: str, revision: str | None, local_files_only: bool) -> Path:
    patterns = list(MODEL_FILES)
    folder = snapshot_download(
        model, revision=revision, allow_patterns=patterns, local_files_only=local_files_only
    )
    return Path(folder)


def _damaged(folder: Path) -> list[str]:
    """The files whose content is not what the cache calls it: the sha256 of large ones, git's hash of others.

    Where the cache has no links (Windows without the right to make them) nothing can be told.
    """
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    return [file.name for file in files if not _is_sound(file.resolve())]


def _is_sound(blob: Path) -> bool:
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        with blob.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == blob.name
    if re.fullmatch(r"[0-9a-f]{40}", blob.name):
        data = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == blob.name
    return True


def _download_again(model: str, folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    try:
        hf_hub_download(model, name, revision=folder.name, force_download=True)
    except (*UNREACHABLE, ValueError):  # a ValueError is how a forced download says that the Hub is gone
        raise ModelError(
            f"The downloaded {name} of {model} is damaged, and the Hub is out of reach: check the network.",
            temporary=True,
        ) from None
