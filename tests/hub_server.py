"""A Hub to test against: what huggingface_hub, datasets and transformers ask of it, over real HTTP.

python -m tests.hub_server PORT FOLDER

It knows two tokens: hf_write, which may write under tester/, and hf_read. Faults are ordered with `Fault`.
Written against huggingface_hub 2.4 with HF_HUB_DISABLE_XET=1.
"""

import asyncio
import base64
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import FileResponse, JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.card import LICENSES

TOKENS = {"hf_write": "write", "hf_read": "read"}
OWNER = "tester"
LFS_SUFFIXES = (".parquet", ".safetensors", ".png", ".npy", ".arrow")
LFS_BYTES = 10 * 2**20
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
DATE = "2026-01-01T00:00:00.000Z"
SIZES = re.compile(r"n<1K|1K<n<10K|10K<n<100K|100K<n<1M|1M<n<10M|10M<n<100M|100M<n<1B|1B<n<10B")


# ---- What is stored


@dataclass(frozen=True)
class File:
    """A file of a commit; its content lies under its sha256."""

    size: int
    sha256: str
    git: str
    lfs: bool

    @property
    def oid(self) -> str:
        """What the Hub compares: sha256 of large files, git's hash of others."""
        return self.sha256 if self.lfs else self.git


@dataclass(frozen=True)
class Commit:
    files: dict[str, File]
    title: str
    parent: str | None


@dataclass
class Repo:
    """A repository of any kind."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or at least seven digits of a hash name."""
        named = self.branches.get(revision) or self.tags.get(revision)
        digits = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        return named or next(iter(digits), None)

    def add(self, branch: str, files: dict[str, File], title: str) -> str:
        parent = self.branches.get(branch)
        text = json.dumps([title, parent, time.time_ns(), sorted(files)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(files, title, parent)
        self.branches[branch] = sha
        return sha


class Blobs:
    """Contents by their sha256, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def put(self, data: bytes, lfs: bool = False) -> File:
        sha256 = hashlib.sha256(data).hexdigest()
        self.path(sha256).write_bytes(data)
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return File(len(data), sha256, git, lfs)

    def large(self, sha256: str) -> File:
        """A file that was uploaded before its commit."""
        if not self.path(sha256).is_file():
            raise refusal(400, f"LFS object {sha256} was not uploaded")
        return File(self.path(sha256).stat().st_size, sha256, hashlib.sha1(sha256.encode()).hexdigest(), True)


# ---- Faults


@dataclass
class Fault:
    """Something that goes wrong for `times` requests whose "METHOD /path" matches `pattern`, past `skip`.

    Once `after` bytes of the body have come, `status` is answered, or without one the connection is dropped;
    with `hang` the server first waits until `release` is called. `seen` is set when the fault strikes.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    after: int = 0
    hang: bool = False
    skip: int = 0
    lost: bool = False  # the request is carried out, but its answer never comes
    seen: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


class Faults:
    """The middleware that carries out faults and keeps the log of requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.orders: list[Fault] = []
        self.log: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        line = f"{scope['method']} {scope['path']}"
        self.log.append(line)
        fault = next((each for each in self.orders if each.times and re.search(each.pattern, line)), None)
        if fault is None or fault.skip:
            if fault:
                fault.skip -= 1
            await self.app(scope, receive, send)
            return
        fault.times -= 1
        await self._strike(fault, scope, receive, send)

    async def _strike(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.lost:
            await self.app(scope, receive, _nowhere)
        came = 0
        while came < fault.after:
            message = await receive()
            came += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        fault.seen.set()
        while fault.hang and not fault.released.is_set():
            await asyncio.sleep(0.02)
        if fault.status:
            await JSONResponse({"error": "ordered"}, fault.status)(scope, receive, send)
            return
        # an answer shorter than announced makes uvicorn close the connection
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})


async def _nowhere(message: Message) -> None:
    return


# ---- The interface


def refusal(status: int, words: str, code: str | None = None) -> HTTPException:
    """An error as the Hub says it: in headers."""
    headers = {"X-Error-Message": words} | ({"X-Error-Code": code} if code else {})
    return HTTPException(status, words, headers)


class Hub:
    """The repositories, by (kind, id), and who may do what with them."""

    def __init__(self, folder: Path) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs = Blobs(folder)
        self.lock = threading.Lock()

    def role(self, request: Request) -> str | None:
        """What the request's token may do, None without one. Raises a 401 for an unknown token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in TOKENS:
            raise refusal(401, "Invalid credentials in Authorization header")
        return TOKENS[token]

    def readable(self, request: Request, kind: str, repo_id: str) -> Repo:
        role = self.role(request)
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and role is None):
            raise refusal(404 if role else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, request: Request, kind: str, repo_id: str) -> Repo:
        self.may_write(request, repo_id)
        return self.readable(request, kind, repo_id)

    def may_write(self, request: Request, repo_id: str) -> None:
        role = self.role(request)
        if role is None:
            raise refusal(401, "Invalid username or password.")
        if role != "write" or not repo_id.startswith(f"{OWNER}/"):
            raise refusal(403, f"You don't have the rights to write to {repo_id}")

    def files(self, request: Request, kind: str, repo_id: str, revision: str) -> tuple[str, dict[str, File]]:
        """The commit that a revision names, and its files."""
        repo = self.readable(request, kind, repo_id)
        sha = repo.find(unquote(revision))
        if sha is None:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repo.commits[sha].files


def entry(path: str, file: File) -> dict:
    """A file as the tree lists it."""
    listed = {"type": "file", "path": path, "size": file.size, "oid": file.git}
    large = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.lfs else {}
    return listed | large


def create_app(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)

    serve_accounts(app, hub)
    serve_reading(app, hub)
    serve_references(app, hub)
    serve_commits(app, hub)
    serve_spaces(app, hub)
    serve_files(app, hub)  # last, for its paths match almost anything
    return app


def serve_accounts(app: FastAPI, hub: Hub) -> None:
    """Who asks, new repositories, and whether a card is valid."""

    @app.get("/api/whoami-v2")
    def whoami(request: Request) -> dict:
        role = hub.role(request)
        if role is None:
            raise refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": role}
        return {"type": "user", "name": OWNER, "orgs": [], "auth": {"type": "token", "accessToken": token}}

    @app.post("/api/repos/create")
    async def create(request: Request) -> Response:
        wanted = await request.json()
        repo_id = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        kind = f"{wanted.get('type') or 'model'}s"
        hub.may_write(request, repo_id)
        url = f"{request.base_url}{'' if kind == 'models' else kind + '/'}{repo_id}"
        with hub.lock:
            if (kind, repo_id) in hub.repos:
                return JSONResponse({"error": "You already created this repo", "url": url}, 409)
            repo = Repo(private=wanted.get("visibility") == "private")
            repo.add("main", {".gitattributes": hub.blobs.put(ATTRIBUTES)}, "initial commit")
            hub.repos[kind, repo_id] = repo
        return JSONResponse({"url": url, "name": repo_id, "id": repo_id})

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Response:
        asked = await request.json()
        errors = list(card_errors(asked["content"], asked["repoType"]))
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        return JSONResponse(answer, 400 if errors else 200)


def card_errors(card: str, kind: str) -> Iterable[str]:
    """What the Hub would say of a card's front matter, as far as the project's cards go."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.S)
    try:
        front = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        yield f"front matter is no YAML: {error}"
        return
    if kind != "dataset":
        return
    if front.get("license") not in LICENSES | {"other"}:
        yield f'"license" must be one of the known ones, not {front.get("license")}'
    if front.get("license") == "other" and not re.fullmatch(r"[a-z0-9.-]+", front.get("license_name", "")):
        yield '"license_name" must be lower-case letters, digits, dots and dashes'
    if not all(SIZES.fullmatch(size) for size in front.get("size_categories", [])):
        yield f'"size_categories" cannot be {front["size_categories"]}'
    if not all(isinstance(tag, str) for tag in front.get("tags", [])):
        yield '"tags" must be strings'
    for config in front.get("configs", []):
        if not {"config_name", "data_files"} <= set(config):
            yield '"configs" need config_name and data_files'


def serve_reading(app: FastAPI, hub: Hub) -> None:
    """What a repository is and which files it has."""

    @app.get("/api/{kind}/{owner}/{name}")
    @app.get("/api/{kind}/{owner}/{name}/revision/{revision:path}")
    def info(request: Request, kind: str, owner: str, name: str, revision: str = "main") -> dict:
        repo_id = f"{owner}/{name}"
        sha, files = hub.files(request, kind, repo_id, revision)
        return {
            **{"_id": "0", "id": repo_id, "modelId": repo_id, "author": owner, "sha": sha},
            **{"private": hub.repos[kind, repo_id].private, "gated": False, "disabled": False},
            **{"downloads": 0, "likes": 0, "tags": [], "lastModified": DATE, "createdAt": DATE},
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }

    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}")
    @app.get("/api/{kind}/{owner}/{name}/tree/{revision}/{folder:path}")
    def tree(
        request: Request,
        kind: str,
        owner: str,
        name: str,
        revision: str,
        folder: str = "",
        recursive: bool = False,
    ) -> Response:
        sha, files = hub.files(request, kind, f"{owner}/{name}", revision)
        start = folder.strip("/") + "/" if folder.strip("/") else ""
        listed = list(tree_entries(files, start, recursive))
        if start and not listed:
            raise refusal(404, f'{folder} does not exist on "{revision}"', "EntryNotFound")
        return JSONResponse(listed, headers={"X-Repo-Commit": sha})

    @app.post("/api/{kind}/{owner}/{name}/paths-info/{revision}")
    async def paths_info(request: Request, kind: str, owner: str, name: str, revision: str) -> list[dict]:
        _, files = hub.files(request, kind, f"{owner}/{name}", revision)
        if "json" in request.headers.get("content-type", ""):
            asked = (await request.json())["paths"]
        else:
            asked = (await request.form()).getlist("paths")
        everything = {found["path"]: found for found in tree_entries(files, "", recursive=True)}
        return [everything[path.strip("/")] for path in asked if path.strip("/") in everything]


def tree_entries(files: dict[str, File], start: str, recursive: bool) -> Iterable[dict]:
    """The files and folders under `start`."""
    folders = set()
    for path, file in sorted(files.items()):
        if not path.startswith(start):
            continue
        parts = path[len(start) :].split("/")
        for depth in range(1, len(parts)):
            folder = start + "/".join(parts[:depth])
            if folder not in folders and (recursive or depth == 1):
                folders.add(folder)
                oid = hashlib.sha1(folder.encode()).hexdigest()
                yield {"type": "directory", "path": folder, "oid": oid, "size": 0}
        if recursive or len(parts) == 1:
            yield entry(path, file)


def serve_references(app: FastAPI, hub: Hub) -> None:
    """Branches, tags and the history."""

    @app.get("/api/{kind}/{owner}/{name}/refs")
    def refs(request: Request, kind: str, owner: str, name: str) -> dict:
        repo = hub.readable(request, kind, f"{owner}/{name}")
        named = lambda group, commits: [  # noqa: E731
            {"name": ref, "ref": f"refs/{group}/{ref}", "targetCommit": sha} for ref, sha in commits.items()
        ]
        references = {"branches": named("heads", repo.branches), "tags": named("tags", repo.tags)}
        return {**references, "converts": [], "pullRequests": []}

    @app.get("/api/{kind}/{owner}/{name}/commits/{revision}")
    def commits(request: Request, kind: str, owner: str, name: str, revision: str) -> list[dict]:
        sha, _ = hub.files(request, kind, f"{owner}/{name}", revision)
        repo, listed = hub.repos[kind, f"{owner}/{name}"], []
        while sha:
            commit = repo.commits[sha]
            listed.append({"id": sha, "title": commit.title, "message": "", "date": DATE, "authors": []})
            sha = commit.parent
        return listed

    @app.post("/api/{kind}/{owner}/{name}/tag/{revision}")
    async def tag(request: Request, kind: str, owner: str, name: str, revision: str) -> dict:
        repo = hub.writable(request, kind, f"{owner}/{name}")
        sha, _ = hub.files(request, kind, f"{owner}/{name}", revision)
        wanted = (await request.json())["tag"]
        if wanted in repo.tags:
            raise refusal(409, "Tag already exists")
        repo.tags[wanted] = sha
        return {}

    @app.post("/api/{kind}/{owner}/{name}/branch/{branch}")
    async def branch(request: Request, kind: str, owner: str, name: str, branch: str) -> dict:
        repo = hub.writable(request, kind, f"{owner}/{name}")
        if unquote(branch) in repo.branches:
            raise refusal(409, "Reference already exists")
        start = json.loads(await request.body() or b"{}").get("startingPoint", "main")
        repo.branches[unquote(branch)], _ = hub.files(request, kind, f"{owner}/{name}", start)
        return {}


def serve_commits(app: FastAPI, hub: Hub) -> None:
    """Uploads: which way a file goes, large contents, and the commit itself."""

    @app.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
    async def preupload(request: Request, kind: str, owner: str, name: str, revision: str) -> dict:
        hub.may_write(request, f"{owner}/{name}")
        _, there = hub.files(request, kind, f"{owner}/{name}", revision)
        answers = []
        for asked in (await request.json())["files"]:
            path, size = asked["path"], asked["size"]
            mode = "lfs" if size > LFS_BYTES or path.endswith(LFS_SUFFIXES) else "regular"
            oid = there[path].oid if path in there else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    @app.post("/{repo:path}.git/info/lfs/objects/batch")
    async def batch(request: Request, repo: str) -> Response:
        hub.may_write(request, "/".join(repo.split("/")[-2:]))
        objects = []
        for asked in (await request.json())["objects"]:
            upload = {"upload": {"href": f"{request.base_url}_lfs/{asked['oid']}", "header": {}}}
            missing = not hub.blobs.path(asked["oid"]).is_file()
            objects.append(asked | ({"authenticated": True, "actions": upload} if missing else {}))
        answer = json.dumps({"transfer": "basic", "objects": objects})
        return Response(answer, media_type="application/vnd.git-lfs+json")

    @app.put("/_lfs/{oid}")
    async def upload(request: Request, oid: str) -> Response:
        try:
            data = await request.body()
        except ClientDisconnect:  # the client was killed: nobody is there to be answered
            return Response(status_code=400)
        if hashlib.sha256(data).hexdigest() != oid:
            raise refusal(400, "the content is not what was announced")
        hub.blobs.put(data)
        return Response()

    @app.post("/api/{kind}/{owner}/{name}/commit/{revision}")
    async def commit(request: Request, kind: str, owner: str, name: str, revision: str) -> dict:
        repo = hub.writable(request, kind, f"{owner}/{name}")
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        branch = unquote(revision)
        with hub.lock:
            header = lines[0]["value"]
            if not repo.branches[branch].startswith(header.get("parentCommit") or ""):
                raise refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo.commits[repo.branches[branch]].files)
            for line in lines[1:]:
                apply_change(files, line["key"], line["value"], hub.blobs)
            sha = repo.add(branch, files, header["summary"])
        page = f"{request.base_url}{kind}/{owner}/{name}".replace("/models/", "/")
        return {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}"}


def apply_change(files: dict[str, File], key: str, value: dict, blobs: Blobs) -> None:
    """One line of a commit, carried out on `files`."""
    path = value["path"]
    if key == "file":
        files[path] = blobs.put(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        files[path] = blobs.large(value["oid"])
    elif key == "deletedFile" and path in files:
        del files[path]
    else:
        raise refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")


def serve_spaces(app: FastAPI, hub: Hub) -> None:
    """The variables of a Space."""

    @app.get("/api/spaces/{owner}/{name}/variables")
    def variables(request: Request, owner: str, name: str) -> dict:
        repo = hub.writable(request, "spaces", f"{owner}/{name}")
        return {key: {"key": key, "value": value} for key, value in repo.variables.items()}

    @app.post("/api/spaces/{owner}/{name}/variables")
    async def add_variable(request: Request, owner: str, name: str) -> dict:
        wanted = await request.json()
        hub.writable(request, "spaces", f"{owner}/{name}").variables[wanted["key"]] = wanted["value"]
        return variables(request, owner, name)


def serve_files(app: FastAPI, hub: Hub) -> None:
    """The contents of files, whole or in ranges."""

    def serve(request: Request, kind: str, repo_id: str, revision: str, path: str) -> Response:
        sha, files = hub.files(request, kind, repo_id, revision)
        if path not in files:
            missing = refusal(404, "Entry not found", "EntryNotFound")
            missing.headers = {**missing.headers, "X-Repo-Commit": sha}
            raise missing
        file = files[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
        content = hub.blobs.path(file.sha256)
        return FileResponse(content, headers=headers, media_type="application/octet-stream")

    methods = ["GET", "HEAD"]

    @app.api_route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", methods=methods)
    def of_kind(request: Request, kind: str, owner: str, name: str, revision: str, path: str) -> Response:
        return serve(request, kind, f"{owner}/{name}", revision, path)

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=methods)
    def of_model(request: Request, owner: str, name: str, revision: str, path: str) -> Response:
        return serve(request, "models", f"{owner}/{name}", revision, path)


# ---- Running


class HubServer:
    """A Hub on a loopback port that a test can stop and start again; it keeps what it holds."""

    def __init__(self, folder: Path, port: int) -> None:
        self.hub = Hub(folder)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._faults = Faults(create_app(self.hub))
        self._server: uvicorn.Server | None = None

    @property
    def log(self) -> list[str]:
        """The requests so far, as "METHOD /path"."""
        return self._faults.log

    def order(self, fault: Fault) -> Fault:
        self._faults.orders.append(fault)
        return fault

    def forget(self) -> None:
        """Ends all faults and empties the log."""
        for fault in self._faults.orders:
            fault.release()
        self._faults.orders.clear()
        self._faults.log.clear()

    def start(self) -> None:
        config = uvicorn.Config(self._faults, port=self.port, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="hub", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        if not self._server.started:
            raise OSError(f"port {self.port} is taken")

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def repo(self, repo_id: str, kind: str = "datasets") -> Repo:
        return self.hub.repos[kind, repo_id]

    def put(self, repo_id: str, files: dict[str, bytes], kind: str = "datasets", title: str = "Put") -> str:
        """Commits files as somebody else would, making the repository if need be; the commit's hash."""
        repo = self.hub.repos.setdefault((kind, repo_id), Repo(private=False))
        there = repo.head().files if repo.branches else {}
        added = {path: self.hub.blobs.put(data) for path, data in files.items()}
        added = {path: replace(file, lfs=path.endswith(LFS_SUFFIXES)) for path, file in added.items()}
        return repo.add("main", there | added, title)

    def read(self, repo_id: str, path: str, kind: str = "datasets", revision: str = "main") -> bytes:
        repo = self.repo(repo_id, kind)
        return self.hub.blobs.path(repo.commits[repo.find(revision)].files[path].sha256).read_bytes()


if __name__ == "__main__":
    server = HubServer(Path(sys.argv[2]), int(sys.argv[1]))
    server.start()
    print(f"HF_ENDPOINT={server.url} HF_TOKEN=hf_write HF_HUB_DISABLE_XET=1", flush=True)
    server._thread.join()
