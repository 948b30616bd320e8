"""The Hub: a dataset there becomes a folder here, and what it refuses is said in one sentence."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_session, hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the client's own: httpx in huggingface_hub 1, httpx2 in 2
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from index.manifest import FormatError
from index.store import file_sha256, load_manifest

INDEX_FILES = ["README.md", "manifest.json", "data/*.parquet"]
PASSING = (408, 412, 429, 500, 502, 503, 504)  # statuses after which another attempt may succeed
LOGIN = "run `hf auth login` with a token that may write, or set HF_TOKEN"


class HubError(FormatError):
    """The Hub did not give or take what was asked; the message is one sentence with what to do.

    `temporary` says whether the same may succeed later.
    """

    def __init__(self, message: str, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class OutOfReach(HubError):
    """The Hub does not answer at all, which may pass."""

    def __init__(self, message: str) -> None:
        super().__init__(message, temporary=True)


# ---- From the Hub to a folder


@dataclass(frozen=True)
class Fetched:
    """The folder of an index; for a Hub dataset its commit too, and whether an earlier download was taken.

    `reason` says why it had to be, None where the Hub was asked or did not need to be: the commit was pinned.
    """

    folder: Path
    revision: str | None = None
    from_cache: bool = False
    reason: str | None = None


def fetch_index(location: str, revision: str | None = None) -> Path:
    """The folder of an index, as `fetch_snapshot` finds it. Raises FormatError."""
    return fetch_snapshot(location, revision).folder


def fetch_snapshot(location: str, revision: str | None = None) -> Fetched:
    """An index as a folder: `location` itself, or the snapshot of a Hub dataset, downloaded or cached.

    A pinned commit that is here is taken without asking the Hub. What is damaged, by the checksums of the
    manifest, is downloaded again. Raises HubError where the index cannot be had, FormatError if unsound.
    """
    folder = Path(location).expanduser()
    if folder.is_dir():
        return Fetched(folder)
    check_id(location)
    cached = _cached(location, revision)
    if cached and cached.name == revision:
        fetched = Fetched(cached, revision, from_cache=True)
    else:
        try:
            folder = _download(location, revision)
            fetched = Fetched(folder, folder.name)
        except HubError as error:
            if not cached:
                raise
            fetched = Fetched(cached, cached.name, from_cache=True, reason=str(error))
    _mend(location, fetched)
    return fetched


def is_hub_id(location: str) -> bool:
    """Whether `location` has the form of a repository's name, owner/name."""
    try:
        validate_repo_id(location)
    except HFValidationError:
        return False
    return location.count("/") == 1


def check_id(repo_id: str) -> None:
    """Raises HubError unless `repo_id` has the form of a repository's name, owner/name."""
    if not is_hub_id(repo_id):
        raise HubError(f"{repo_id} is neither a folder nor a Hub id: those look like owner/name.")


def _cached(location: str, revision: str | None) -> Path | None:
    """The snapshot of an earlier download, as far as the cache knows complete, if there is one."""
    try:
        return _snapshot(location, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def index_revision(location: str, revision: str | None = None) -> str:
    """The commit that a tag, a branch or None names on the Hub now. Raises HubError if that is no index."""
    try:
        # without a timeout of its own this call, unlike others, waits for ever (huggingface_hub 2.4)
        info = HfApi().dataset_info(location, revision=revision, timeout=HF_HUB_ETAG_TIMEOUT)
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise in_words(error, location, revision) from None
    if not any(file.rfilename == "manifest.json" for file in info.siblings or ()):
        raise HubError(f"The Hub's dataset {location} is not an index: it has no manifest.json.")
    return str(info.sha)


def _download(location: str, revision: str | None) -> Path:
    """The snapshot of a revision; files that are here already are not downloaded. Raises HubError."""
    commit = index_revision(location, revision)
    get_session().timeout = HF_HUB_ETAG_TIMEOUT
    try:
        folder = _snapshot(location, commit, local_files_only=False)
        # writes down which commit the branch or tag is, for when the Hub is gone
        hf_hub_download(location, "manifest.json", repo_type="dataset", revision=revision)
    except (HTTPError, OSError, EntryNotFoundError) as error:
        raise in_words(error, location, revision) from None
    return folder


def _snapshot(location: str, revision: str | None, local_files_only: bool) -> Path:
    return Path(
        snapshot_download(
            location,
            repo_type="dataset",
            revision=revision,
            allow_patterns=INDEX_FILES,
            local_files_only=local_files_only,
        )
    )


def _mend(location: str, fetched: Fetched) -> None:
    """Downloads again what the cache holds damaged. Raises HubError, or FormatError if that does not help."""
    for _ in range(2):  # a damaged manifest first, then the files that it names
        damaged = _damaged(fetched.folder)
        if not damaged:
            return
        for name in damaged:
            _download_again(location, fetched, name)
    load_manifest(fetched.folder)  # says what is wrong with it
    if damaged := _damaged(fetched.folder):
        raise FormatError(
            f"{damaged[0]} of {location} is not what its manifest says: publish the index again"
        )


def _download_again(location: str, fetched: Fetched, name: str) -> None:
    (fetched.folder / name).unlink(missing_ok=True)  # a link to the blob, or a copy of it
    try:
        hf_hub_download(location, name, repo_type="dataset", revision=fetched.revision, force_download=True)
    except (HTTPError, OSError, EntryNotFoundError, ValueError) as error:
        # a ValueError is how a forced download says that the Hub did not answer
        cause = error.__cause__ if isinstance(error, ValueError) and error.__cause__ else error
        problem = in_words(cause, location, fetched.revision)
        raise HubError(f"The downloaded {name} is damaged. {problem}", problem.temporary) from None


def _damaged(folder: Path) -> list[str]:
    """The files of a snapshot that are not what the manifest says. Raises FormatError if it names others."""
    try:
        files = load_manifest(folder).files
    except FormatError:
        return ["manifest.json"]
    if strange := [name for name in files if not re.fullmatch(r"data/[\w.-]+\.parquet", name)]:
        raise FormatError(f"manifest.json names {strange[0]}, expected data/*.parquet only")
    whole = lambda name: (folder / name).is_file() and file_sha256(folder / name) == files[name]  # noqa: E731
    return [name for name in files if not whole(name)]


# ---- When the Hub does not do it


def in_words(error: Exception, repo_id: str, revision: str | None = None) -> HubError:
    """What a failed call means for the person who made it, and what to do."""
    if isinstance(error, LocalTokenNotFoundError):
        return HubError(f"You are not logged in to the Hub: {LOGIN}.")
    if isinstance(error, OfflineModeIsEnabled):
        return OutOfReach("The Hub is not asked, because HF_HUB_OFFLINE is set: unset it.")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{repo_id} has no revision {revision} on the Hub: its page lists those it has.")
    if isinstance(error, HfHubHTTPError):
        return _status_in_words(error, repo_id)
    if isinstance(error, OSError) and not isinstance(error, EntryNotFoundError):
        return HubError(f"{repo_id} cannot be downloaded: {str(error).splitlines()[0]}", temporary=True)
    where = HfApi().endpoint
    return OutOfReach(f"The Hub ({where}) cannot be reached: check the network.")


def _status_in_words(error: HfHubHTTPError, repo_id: str) -> HubError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return HubError(f"{repo_id} is gated on the Hub: ask for access on its page, then `hf auth login`.")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"There is no {repo_id} here or on the Hub, or it is private: then run `hf auth login`."
        )
    if isinstance(error, EntryNotFoundError):
        return HubError(f"A file of {repo_id} is missing on the Hub: publish the index again.")
    if status == 401:
        return HubError(f"The Hub does not know your token: {LOGIN}.")
    if status == 403:
        return HubError(f"Your token does not open {repo_id}: choose a name of your own, or {LOGIN}.")
    if status == 412:
        return HubError(f"Someone else has just changed {repo_id}.", temporary=True)
    if status in PASSING:
        return HubError(f"The Hub has trouble now, it answers {status}: try again later.", temporary=True)
    said = (error.server_message or str(error)).strip().split("\n")[0]
    return HubError(f"The Hub refused {repo_id} with {status}: {said}")
