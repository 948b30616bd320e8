"""A Qdrant for tests: its HTTP interface, as far as the app uses it, over the client's own local mode."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from qdrant_client import QdrantClient, models


class Qdrant(ThreadingHTTPServer):
    """What the collections hold is in `client`; `key` is asked for where there is one."""

    daemon_threads = True

    def __init__(self, client: QdrantClient, port: int = 0, key: str | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.client, self.key, self.lock = client, key, Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(client: QdrantClient, port: int = 0, key: str | None = None) -> Iterator[Qdrant]:
    server = Qdrant(client, port, key)
    Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Qdrant

    def do_GET(self) -> None:
        self._answer()

    do_PUT = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if self.server.key and self.headers.get("api-key") != self.server.key:
            self._send(401, {"status": {"error": "Must provide an API key"}})
            return
        found = re.fullmatch(r"/collections/([\w-]+)(/[\w/]+)?(\?.*)?", self.path)
        with self.server.lock:  # the local mode is made for one thread
            result = self._result(found[1], (self.command, found[2] or ""), body)
        self._send(200, {"result": result, "status": "ok", "time": 0.0})

    def _result(self, name: str, call: tuple[str, str], body: dict) -> object:
        client = self.server.client
        if call == ("GET", "/exists"):
            return {"exists": client.collection_exists(name)}
        if call == ("GET", ""):
            return client.get_collection(name).model_dump(mode="json")
        if call == ("PUT", ""):
            return client.create_collection(name, models.VectorParams(**body["vectors"]))
        if call == ("POST", "/points/count"):
            return {"count": client.count(name, exact=body["exact"]).count}
        if call == ("PUT", "/points"):
            client.upsert(name, models.Batch(**body["batch"]))
            return {"operation_id": 0, "status": "completed"}
        if call == ("POST", "/points/query"):
            query, limit = body["query"]["nearest"], body["limit"]
            found = client.query_points(name, query, limit=limit)
            return {"points": [{"id": p.id, "version": 0, "score": p.score} for p in found.points]}
        raise NotImplementedError(call)

    def _send(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
