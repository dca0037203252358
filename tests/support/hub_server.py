"""A hub of models and data sets on this machine, which speaks over HTTP what huggingface_hub asks."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
OF_REPO = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info|preupload|commit)/([^/]+)(/.*)?)?"
)
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
LARGE = "*.safetensors"


class Hub:
    """Repositories, each a folder `models/org/name` or `datasets/org/name`, and what was asked.

    Args:
        place: folder of the repositories.
    """

    def __init__(self, place):
        self.place, self.asked, self.commits, self.url = Path(place), [], [], ""
        self.gated: set[str] = set()  # names of repositories that are given to those alone who have asked

    def folder(self, kind, name):
        """The folder of a repository."""
        return self.place / kind / name

    def commit(self, name):
        """The name of a repository's last commit."""
        return hashlib.sha1(f"{name} {len(self.commits)}".encode()).hexdigest()

    def stored(self, oid):
        """Where the bytes of a large file wait for the commit that names them."""
        return self.place / "lfs" / oid


@contextmanager
def serving(place):
    """Yield a Hub that answers at its `url`, until the block ends."""
    hub = Hub(place)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self):
        self._file(FILE.fullmatch(self._path()))

    def do_GET(self):
        path = self._path()
        if found := FILE.fullmatch(path):
            return self._file(found)
        if not (found := OF_REPO.fullmatch(path)):
            return self._missing("EntryNotFound")
        kind, name, what, _, below = found.groups()
        if not (folder := self.hub.folder(kind, name)).is_dir():
            return self._missing("RepoNotFound")
        if what == "tree":
            below = (below or "").strip("/")
            return self._json([each for each in _tree(folder) if each["path"].startswith(below)])
        files = [{"rfilename": each["path"]} for each in _tree(folder)]
        self._json(
            {"id": name, "sha": self.hub.commit(name), "siblings": files, "tags": [], "private": False, "downloads": 0}
        )

    def do_POST(self):
        path, body = self._path(), self._body()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.folder("models", name).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        if found := BATCH.fullmatch(path):
            return self._json(
                {"transfer": "basic", "objects": [self._large(each) for each in json.loads(body)["objects"]]}
            )
        if not (found := OF_REPO.fullmatch(path)):
            return self._missing("EntryNotFound")
        kind, name, what, *_ = found.groups()
        folder = self.hub.folder(kind, name)
        if not folder.is_dir():
            return self._missing("RepoNotFound")
        if what == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else _form(body)
            return self._json([each for each in _tree(folder) if each["path"] in wanted])
        if what == "preupload":
            files = [
                {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if what == "commit":
            self._commit(folder, [json.loads(line) for line in body.splitlines() if line])
            return self._json(
                {
                    "commitUrl": f"{self.hub.url}/{name}/commit/{self.hub.commit(name)}",
                    "commitOid": self.hub.commit(name),
                    "success": True,
                }
            )
        self._missing("EntryNotFound")

    def do_PUT(self):
        store = self.hub.stored(self._path().rpartition("/")[2])
        store.parent.mkdir(parents=True, exist_ok=True)
        store.write_bytes(self._body())
        self._answer(200, b"")

    def log_message(self, *_):
        pass

    def _large(self, asked):
        href = {"href": f"{self.hub.url}/lfs/{asked['oid']}"}
        return {**asked, "actions": {"upload": href}}

    def _commit(self, folder, lines):
        self.hub.commits.append(lines)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                _write(folder / value["path"], base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                _write(folder / value["path"], self.hub.stored(value["oid"]).read_bytes())
            elif line["key"] == "deletedFile":
                (folder / value["path"]).unlink()

    def _file(self, found):
        kind, name, _, file = found.groups() if found else (None, "", "", "")
        folder = self.hub.folder("datasets" if kind else "models", name)
        if not found or not folder.is_dir():
            return self._missing("RepoNotFound")
        if name in self.hub.gated:
            return self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        path = folder / file
        if not path.is_file():
            return self._missing("EntryNotFound")
        content = path.read_bytes()
        about = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": self.hub.commit(name),
            "Accept-Ranges": "bytes",
        }
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if start and self.command == "GET":
            first, last = int(start[1]), int(start[2] or len(content) - 1)
            about["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._answer(206, content[first : last + 1], about)
        self._answer(200, content, about)

    def _path(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, value):
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code):
        self._answer(404, b"", {"X-Error-Code": code})

    def _answer(self, status, content, about=()):
        self.send_response(status)
        for name, value in dict(about).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [_entry(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]


def _entry(name, content):
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    large = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
    return {"type": "file", "path": name, "oid": oid, "size": len(content), **(large if _mode(name) == "lfs" else {})}


def _mode(name):
    return "lfs" if fnmatch(name, LARGE) else "regular"


def _form(body):
    from urllib.parse import parse_qs

    return parse_qs(body.decode()).get("paths", [])


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
