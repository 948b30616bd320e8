"""A folder or a Hub id becomes a folder that holds an index."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from index.manifest import FormatError

INDEX_FILES = ["README.md", "manifest.json", "data/*.parquet"]


def fetch_index(location: str, revision: str | None = None) -> Path:
    """The folder of an index: `location` itself, or the snapshot of a Hub dataset, downloaded or cached.

    Raises FormatError, with what to do, where there is no such index or it cannot be had.
    """
    folder = Path(location).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(
            snapshot_download(location, repo_type="dataset", revision=revision, allow_patterns=INDEX_FILES)
        )
    except HFValidationError:
        raise FormatError(
            f"there is no index in {location}: give a folder, or a Hub id such as owner/name"
        ) from None
    except RevisionNotFoundError:
        raise FormatError(f"the Hub dataset {location} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise FormatError(
            f"the Hub has no dataset {location}, or it is private (then: hf auth login)"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise FormatError(
            f"the Hub dataset {location} is neither in the cache nor to be had now: check the network"
        ) from None
