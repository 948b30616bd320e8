"""An index, or a Space, becomes a repository on the Hub in one commit."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,  # the client's own: httpx in huggingface_hub 1, httpx2 in 2
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import DatasetInfo, RepoFile, SpaceInfo

from index.hub import LOGIN, HubError, OutOfReach, check_id, in_words
from index.store import file_sha256

PUBLISH_TIMEOUT = 120  # seconds without a sign of life; the client itself would wait for ever
WAITS = (1, 2, 4, 8, 16)  # seconds between attempts to publish
BATCH = 100  # files whose contents are uploaded at a time, before the commit

Say = Callable[[str], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Target:
    """A repository to publish in. One that holds files, but not `mark`, is someone's other work.

    Published files that match `owned`, a pattern, are deleted once they are no longer part of it.
    """

    id: str
    kind: Literal["dataset", "space"]
    mark: str
    owned: str


@dataclass(frozen=True)
class Publication:
    """What is to stand on the Hub: `files` by their names there, as they are on disk or in memory.

    The commit is tagged with `tag`, if there is one; `private` is for a repository that does not exist yet;
    `variables` are the environment of a Space.
    """

    target: Target
    files: Mapping[str, Path | bytes]
    message: str
    private: bool = False
    tag: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """What stands on the Hub now: its page, its commit, and whether that commit is new."""

    url: str
    revision: str
    changed: bool


@dataclass(frozen=True)
class _Difference:
    """What makes the commit `head` equal to a publication."""

    head: str
    adds: tuple[str, ...]
    deletes: tuple[str, ...]


def index_target(repo_id: str) -> Target:
    return Target(repo_id, "dataset", mark="manifest.json", owned=r"data/.*|map\.png")


def sign_in(repo_id: str, say: Say = print) -> None:
    """Makes sure that something can be published under this name with this token. Raises HubError."""
    check_id(repo_id)
    user = _persist(HfApi().whoami, repo_id, say, reached=False)
    token = user.get("auth", {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise HubError(f"Your token for the Hub may only read: {LOGIN}.")


def publish(publication: Publication, say: Say = print) -> Published:
    """Makes a repository on the Hub hold exactly what is to be published, in one commit, and tags that.

    Interrupted at any moment, the Hub shows the old files or the new; the same call then goes on from there.
    Raises HubError, after several attempts where another one may help.
    """
    if publication.tag and not re.fullmatch(r"\w[\w.-]*", publication.tag):
        raise HubError(
            f"{publication.tag!r} cannot be a tag: use letters, digits, dots and dashes, as in v1."
        )
    sign_in(publication.target.id, say)
    hashes = {name: _sha256(content) for name, content in publication.files.items()}
    return _persist(lambda: _publish_once(publication, hashes, say), publication.target.id, say)


def _publish_once(wanted: Publication, hashes: Mapping[str, str], say: Say) -> Published:
    """One attempt, which takes what an earlier one left as done; `hashes` are the sha256 of the files."""
    api, target, tag = HfApi(), wanted.target, wanted.tag
    _create(api, target, wanted.private)
    change = _difference(api, wanted, hashes)
    changed = bool(change.adds or change.deletes)
    tagged = _tagged(api, target, tag)
    if tagged and (changed or tagged != change.head):
        raise HubError(f"The tag {tag} of {target.id} is taken by another revision: choose a new one.")
    _set_variables(api, wanted)
    revision = change.head
    if changed:
        revision = _commit(api, wanted, change, say)
        _verify(api, wanted, hashes, revision)
    if tag and not tagged:
        api.create_tag(target.id, tag=tag, revision=revision, repo_type=target.kind, exist_ok=True)
    return Published(f"{api.endpoint}/{target.kind}s/{target.id}", revision, changed)


def _create(api: HfApi, target: Target, private: bool) -> None:
    """The repository, unless it is there. Raises HubError if it is public and should be private."""
    sdk = "gradio" if target.kind == "space" else None
    api.create_repo(target.id, repo_type=target.kind, private=private or None, space_sdk=sdk, exist_ok=True)
    if private and not _info(api, target).private:
        raise HubError(f"{target.id} is public already: make it private in its settings first.")


def _set_variables(api: HfApi, wanted: Publication) -> None:
    """Sets those of the Space's variables that differ, for each restarts it."""
    there = api.get_space_variables(wanted.target.id) if wanted.variables else {}
    for name, value in wanted.variables.items():
        if name not in there or there[name].value != value:
            api.add_space_variable(wanted.target.id, name, value)


def _difference(
    api: HfApi, wanted: Publication, hashes: Mapping[str, str], revision: str = "main"
) -> _Difference:
    """What is to be added to a revision and deleted. Raises HubError if it is someone's other work."""
    target, files = wanted.target, wanted.files
    head = str(_info(api, target, revision).sha)
    tree = api.list_repo_tree(target.id, recursive=True, revision=head, repo_type=target.kind)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    if target.mark not in there and set(there) - {".gitattributes", "README.md"}:
        raise HubError(f"{target.id} holds something else on the Hub: choose another name.")
    same = lambda name: name in there and _equal(there[name], files[name], hashes[name])  # noqa: E731
    return _Difference(
        head,
        adds=tuple(name for name in files if not same(name)),
        deletes=tuple(name for name in there if name not in files and re.fullmatch(target.owned, name)),
    )


def _commit(api: HfApi, wanted: Publication, change: _Difference, say: Say) -> str:
    """The hash of one commit on top of `change.head` and nothing else.

    Contents are uploaded before it, batch by batch, which changes nothing that anyone sees; what the Hub has
    is not sent again. So a large index, too, is one commit: the Hub cannot move main to a staged branch.
    """
    target = wanted.target
    adds = [CommitOperationAdd(name, wanted.files[name]) for name in change.adds]
    deletes = [CommitOperationDelete(name) for name in change.deletes]
    say(f"Sending {len(adds)} file(s) to {target.id}, removing {len(deletes)}.")
    for start in range(0, len(adds), BATCH):
        batch = adds[start : start + BATCH]
        api.preupload_lfs_files(target.id, batch, repo_type=target.kind, free_memory=False)
    commit = api.create_commit(
        target.id,
        [*adds, *deletes],
        commit_message=wanted.message,
        repo_type=target.kind,
        parent_commit=change.head,
    )
    return commit.oid


def _verify(api: HfApi, wanted: Publication, hashes: Mapping[str, str], revision: str) -> None:
    """Raises HubError unless the commit holds what was to be published."""
    left = _difference(api, wanted, hashes, revision)
    if wrong := [*left.adds, *left.deletes]:
        raise HubError(f"{wrong[0]} of {wanted.target.id} is not on the Hub as it is here: publish again.")


def _info(api: HfApi, target: Target, revision: str = "main") -> DatasetInfo | SpaceInfo:
    return api.repo_info(target.id, repo_type=target.kind, revision=revision, timeout=PUBLISH_TIMEOUT)


def _tagged(api: HfApi, target: Target, tag: str | None) -> str | None:
    """The commit that the tag names already, if any."""
    tags = api.list_repo_refs(target.id, repo_type=target.kind).tags if tag else []
    return next((ref.target_commit for ref in tags if ref.name == tag), None)


def _equal(entry: RepoFile, content: Path | bytes, sha256: str) -> bool:
    """Whether a file on the Hub holds `content`: large ones are known by sha256, others as git knows them."""
    if entry.lfs:
        return entry.lfs.sha256 == sha256
    data = content if isinstance(content, bytes) else content.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(content: Path | bytes) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_sha256(content)


# ---- Attempts


def _persist(attempt: Callable[[], Result], repo_id: str, say: Say, reached: bool = True) -> Result:
    """What `attempt` returns, tried again after a pause where that may help. Raises HubError.

    Unless the Hub was `reached` before, it is said at once that it cannot be.
    """
    waits = iter(WAITS)
    while True:
        try:
            return _ask(attempt, repo_id)
        except HubError as problem:
            wait = next(waits, None)
            if wait is None or not problem.temporary or (isinstance(problem, OutOfReach) and not reached):
                raise
            say(f"{problem} Trying again in {wait} s.")
            time.sleep(wait)


def _ask(attempt: Callable[[], Result], repo_id: str) -> Result:
    """What `attempt` returns. Raises HubError."""
    get_session().timeout = PUBLISH_TIMEOUT
    try:
        return attempt()
    except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, EntryNotFoundError) as error:
        raise in_words(error, repo_id) from None
    except RuntimeError as error:  # what an upload in a thread raises, whatever happened
        if not isinstance(error.__cause__, HTTPError):
            raise
        raise in_words(error.__cause__, repo_id) from None
