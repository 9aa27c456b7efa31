"""A small Hugging Face Hub: a real HTTP server in a thread that speaks what huggingface_hub (0.36
and 2.x) asks of the real one.

Out: `HubServer`, used as a context manager: `url` is its HF_ENDPOINT and `token` its only user's
     HF_TOKEN. It knows model repositories on the branch `main`, whose state changes in one step a
     commit; Git LFS uploads (whole, or in parts of `part_size` bytes) with verification, but no xet
     (which huggingface_hub 2.x asks for when it uploads a path, not an open file). Downloads by
     snapshot_download, resumed by `Range`. `requests` records everything asked. `break_blob` cuts
     the line in the middle of an upload, or stops reading there.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = (
    "hf_" + "t" * 34
)  # looks like a real one, so that a test can see whether anyone writes it down
LFS_FROM = 1000  # bytes


def is_lfs(path: str, size: int) -> bool:
    """As the real Hub keeps binary and large files."""
    return path.endswith(".safetensors") or size >= LFS_FROM


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """git's id of the blob; of an LFS file, of its pointer."""
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize "
            f"{len(self.content)}\n"
        ).encode()
        content = pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    message: str
    parent: str
    files: dict[str, File]

    @property
    def oid(self) -> str:
        names = sorted((path, file.oid) for path, file in self.files.items())
        return hashlib.sha1(repr((self.message, self.parent, names)).encode()).hexdigest()


@dataclass
class Repository:
    """A commit is made beside the list and appended whole: readers see the old state or the new
    one.
    """

    private: bool
    commits: list[Commit] = field(
        default_factory=lambda: [
            Commit("initial commit", "", {".gitattributes": File(b"*.safetensors lfs\n", False)})
        ]
    )
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        """What `main` holds, without the Hub's own .gitattributes."""
        return {
            path: file.content
            for path, file in self.commits[-1].files.items()
            if path != ".gitattributes"
        }


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    authorization: str | None


@dataclass
class Fault:
    after: int
    times: int
    holding: bool
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Refused(Exception):
    """An answer that is no success."""

    def __init__(
        self, status: int, message: str, code: str = "", body: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message} | (body or {})
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class HubServer:
    def __init__(self, part_size: int | None = None) -> None:
        self.user, self.token, self.part_size = "someone", TOKEN, part_size
        self.writable = {
            "someone",
            "organisation",
        }  # names of whom this user may make and change repositories
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: dict[str, Fault] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.Lock()
        self.before_commit: Callable[[], None] = lambda: None
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self})
        )
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self.faults.values():
            fault.released.set()
        self._http.shutdown()
        self._http.server_close()

    def break_blob(self, sha256: str, after: int, times: int = 1, holding: bool = False) -> Fault:
        """The next `times` uploads of this blob end in a closed connection once `after` bytes of it
        are read (`holding`: when `released`).
        """
        self.faults[sha256] = Fault(after, times, holding)
        return self.faults[sha256]

    def seed(self, name: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """A repository that is there before anyone pushes."""
        commit = Commit(
            "seed",
            "",
            {path: File(content, is_lfs(path, len(content))) for path, content in files.items()},
        )
        blobs = {file.sha256: file.content for file in commit.files.values() if file.lfs}
        self.repositories[name] = Repository(private, [commit], blobs)
        return self.repositories[name]

    def uploads(self) -> list[str]:
        """SHA-256 of every blob that someone began to upload, in order."""
        return [
            found[1]
            for request in self.requests
            if request.method == "PUT" and (found := re.search(r"/lfs/(\w{64})", request.path))
        ]

    def asked(self, method: str, pattern: str) -> list[str]:
        return [
            request.path
            for request in self.requests
            if request.method == method and re.search(pattern, request.path)
        ]

    # What it answers; `name` is organisation/name.

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        namespace = asked.get("organization") or self.user
        name = f"{namespace}/{asked['name']}"
        if namespace not in self.writable:
            raise Refused(
                403,
                f'You don\'t have the rights to create a model under the namespace "{namespace}"',
            )
        if name in self.repositories:
            raise Refused(
                409, "You already created this model repo", body={"url": f"{self.url}/{name}"}
            )
        self.repositories[name] = Repository(
            private=bool(asked.get("private")) or asked.get("visibility") == "private"
        )
        return {"url": f"{self.url}/{name}", "name": name, "id": "0"}

    def preupload(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        held = self.repositories[name].commits[-1].files
        files = []
        for file in asked["files"]:
            mode = "lfs" if is_lfs(file["path"], file["size"]) else "regular"
            row = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if found := held.get(file["path"]):
                row["oid"] = found.sha256 if found.lfs else found.oid
            files.append(row)
        return {"files": files}

    def lfs_batch(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        """An object the server has comes without actions: its client sends nothing."""
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            row: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.repositories[name].blobs:
                href = f"{self.url}/{name}/lfs/{oid}"
                upload: dict[str, Any] = {"href": f"{href}?signed=1"}
                if self.part_size and size > self.part_size:
                    count = -(-size // self.part_size)
                    parts = {str(i): f"{href}?signed=1&part={i}" for i in range(1, count + 1)}
                    upload = {
                        "href": f"{href}/complete?signed=1",
                        "header": {"chunk_size": str(self.part_size), **parts},
                    }
                row["actions"] = {
                    "upload": upload,
                    "verify": {"href": f"{self.url}/{name}.git/info/lfs/objects/verify"},
                }
            objects.append(row)
        return {"transfer": "multipart" if self.part_size else "basic", "objects": objects}

    def lfs_store(self, name: str, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "the blob's digest is another")
        self.repositories[name].blobs[oid] = content

    def lfs_verify(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        if len(self.repositories[name].blobs.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such blob")
        return {}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        self.before_commit()
        repository = self.repositories[name]
        with self.lock:
            header, head = lines[0]["value"], repository.commits[-1]
            if header.get("parentCommit") not in (None, head.oid):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
                elif line["key"] == "lfsFile":
                    if value["oid"] not in repository.blobs:
                        raise Refused(
                            400,
                            f"LFS pointer pointed to a file that does not exist: {value['path']}",
                        )
                    files[value["path"]] = File(repository.blobs[value["oid"]], lfs=True)
                else:
                    raise Refused(400, f"unknown operation {line['key']}")
            repository.commits.append(Commit(header["summary"], head.oid, files))
        oid = repository.commits[-1].oid
        return {
            "success": True,
            "commitOid": oid,
            "commitUrl": f"{self.url}/{name}/commit/{oid}",
            "hookOutput": "",
        }

    def at(self, name: str, revision: str) -> Commit:
        commits = self.repositories[name].commits
        found = (
            commits[-1:]
            if revision == "main"
            else [commit for commit in commits if commit.oid == revision]
        )
        if not found:
            raise Refused(404, "Invalid rev id: " + revision, "RevisionNotFound")
        return found[0]

    def info(self, name: str, revision: str) -> dict[str, Any]:
        commit = self.at(name, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return {
            "_id": "0",
            "id": name,
            "sha": commit.oid,
            "private": self.repositories[name].private,
            "siblings": siblings,
            "tags": [],
        }

    def tree(self, name: str, revision: str, below: str) -> list[dict[str, Any]]:
        """The files of a folder ("" for all), those of its folders too."""
        files = {
            path: file
            for path, file in self.at(name, revision).files.items()
            if path.startswith(f"{below}/" if below else "")
        }
        if not files:
            raise Refused(404, f"{below} does not exist on {revision!r}", "EntryNotFound")
        rows = []
        for path, file in sorted(files.items()):
            row: dict[str, Any] = {
                "type": "file",
                "path": path,
                "size": len(file.content),
                "oid": file.oid,
            }
            if file.lfs:
                row["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}
            rows.append(row)
        return rows


REPO = r"(?P<name>[\w.-]+/[\w.-]+)"


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"  # connections are kept, as the real Hub keeps them

    def do_GET(self) -> None:
        self.respond()

    do_HEAD = do_POST = do_PUT = do_GET

    def respond(self) -> None:
        self.hub.requests.append(
            Request(self.command, self.path, self.headers.get("Authorization"))
        )
        try:
            status, headers, content = self.route(urlsplit(self.path).path)
        except Refused as refused:
            status, headers, content = (
                refused.status,
                refused.headers,
                json.dumps(refused.body).encode(),
            )
        except ConnectionError:  # the line is cut, or the client is gone
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        ).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def route(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.command == "PUT" and (
            found := re.fullmatch(f"/{REPO}/lfs/(?P<oid>[0-9a-f]{{64}})", path)
        ):
            return self.receive_blob(found["name"], found["oid"])
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if found := re.fullmatch(
            f"/{REPO}/lfs/(?P<oid>[0-9a-f]{{64}})/complete", path
        ):  # signed like the PUT
            numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
            self.hub.lfs_store(
                found["name"],
                found["oid"],
                b"".join(self.hub.parts[found["oid"], number] for number in numbers),
            )
            return 200, {}, b"{}"
        if found := re.fullmatch(f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path):
            self.check_login(found["name"])
            return self.send_file(found["name"], unquote(found["revision"]), unquote(found["file"]))
        return 200, {}, json.dumps(self.answer(path, body)).encode()

    def answer(self, path: str, body: bytes) -> Any:
        hub = self.hub
        if found := re.fullmatch(
            f"/api/models/{REPO}(?:/(?P<what>revision|tree)/(?P<revision>[^/]+)/?(?P<below>.*))?",
            path,
        ):
            self.check_login(found["name"])
            name, revision, below = (
                found["name"],
                unquote(found["revision"] or "main"),
                unquote(found["below"] or ""),
            )
            return (
                hub.tree(name, revision, below)
                if found["what"] == "tree"
                else hub.info(name, revision)
            )
        if path == "/api/agent-harnesses":  # a public list that clients of 2.x read first
            return {"standardEnvVars": [], "harnesses": {}}
        self.check_login()
        if path == "/api/whoami-v2":
            return {
                "type": "user",
                "name": hub.user,
                "orgs": [{"name": "organisation"}],
                "auth": {"type": "access_token"},
            }
        if path == "/api/repos/create":
            return hub.create(json.loads(body))
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if found := re.fullmatch(f"/{REPO}.git/info/lfs/objects/(?P<what>batch|verify)", path):
            self.check_login(found["name"], write=True)
            return (hub.lfs_batch if found["what"] == "batch" else hub.lfs_verify)(
                found["name"], json.loads(body)
            )
        if found := re.fullmatch(f"/api/models/{REPO}/(?P<what>preupload|commit)/main", path):
            self.check_login(found["name"], write=True)
            if found["what"] == "preupload":
                return hub.preupload(found["name"], json.loads(body))
            return hub.commit(found["name"], [json.loads(line) for line in body.splitlines()])
        raise Refused(404, f"{self.command} {path} is nothing this server knows")

    def check_login(self, name: str | None = None, write: bool = False) -> None:
        """Every request but those to a signed address needs the token; a public repository may be
        read without.
        """
        given, repository = self.headers.get("Authorization"), self.hub.repositories.get(name or "")
        if given not in (None, f"Bearer {self.hub.token}"):
            raise Refused(401, "Invalid credentials in Authorization header")
        if name and (repository is None or (repository.private and given is None)):
            raise Refused(404 if given else 401, "Repository not found", "RepoNotFound")
        if given is None and (name is None or write):
            raise Refused(401, "Invalid username or password.")
        if write and name and name.split("/")[0] not in self.hub.writable:
            raise Refused(403, f"you may not write to {name}")

    def receive_blob(self, name: str, oid: str) -> tuple[int, dict[str, str], bytes]:
        fault, size = self.hub.faults.get(oid), int(self.headers["Content-Length"])
        if fault and fault.times:
            fault.times -= 1
            self.rfile.read(min(fault.after, size))
            fault.reached.set()
            if fault.holding:
                fault.released.wait()
            raise ConnectionAbortedError
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionAbortedError
        if part := parse_qs(urlsplit(self.path).query).get("part"):
            self.hub.parts[oid, int(part[0])] = content
            return 200, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}, b""
        self.hub.lfs_store(name, oid, content)
        return 200, {}, b""

    def send_file(self, name: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        commit = self.hub.at(name, revision)
        if path not in commit.files:
            raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        file = commit.files[path]
        etag = f'"{file.sha256 if file.lfs else file.oid}"'
        headers = {
            "X-Repo-Commit": commit.oid,
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.lfs:
            headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": etag}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            size, first = len(file.content), int(wanted[1])
            last = min(int(wanted[2] or size), size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            return 206, headers, file.content[first : last + 1]
        return 200, headers, file.content

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: `requests` holds it all."""
