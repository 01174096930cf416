# SPDX-License-Identifier: Apache-2.0
"""A small Hub on 127.0.0.1: what the real `huggingface_hub` client needs to make a repository, push
to it, and open what lies there, over real HTTP, with faults at will.

Repositories live in memory, with commits, branches, and large files that are stored by their hash.
Whatever it does not serve is a 404 of the Hub's kind.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER = "tester"
TOKENS = {"hf_write": "write", "hf_read": "read"}
LARGE = (".safetensors", ".png")  # what goes into the large file storage
API = "/api/models/(?P<repo>[^/]+/[^/]+)"
# Tried in this order; the name is also that of the method that answers.
ROUTES = [
    ("whoami", "GET", "/api/whoami-v2"),
    ("create", "POST", "/api/repos/create"),
    ("validate", "POST", "/api/validate-yaml"),
    ("preupload", "POST", f"{API}/preupload/(?P<revision>[^/]+)"),
    ("commit", "POST", f"{API}/commit/(?P<revision>[^/]+)"),
    ("branch", "POST", f"{API}/branch/(?P<revision>[^/]+)"),
    ("tree", "GET", f"{API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?"),
    ("info", "GET", f"{API}(/revision/(?P<revision>[^/]+))?"),
    ("batch", "POST", "/(?P<repo>[^/]+/[^/]+).git/info/lfs/objects/batch"),
    ("upload", "PUT", "/storage/(?P<oid>[0-9a-f]{64})(/(?P<part>[0-9]+))?"),
    ("complete", "POST", "/storage/(?P<oid>[0-9a-f]{64})/complete"),
    ("verify", "POST", "/storage/(?P<oid>[0-9a-f]{64})/verify"),
    ("stored", "GET", "/storage/(?P<oid>[0-9a-f]{64})"),
    ("resolve", "GET", "/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
]


@dataclass
class File:
    """A file of a commit: its content, or the hash under which the storage has it."""

    content: bytes = b""
    oid: str | None = None

    @property
    def etag(self) -> str:
        """The SHA-256 of a large file, git's own hash of any other."""
        header = f"blob {len(self.content)}\0".encode()
        return self.oid or hashlib.sha1(header + self.content).hexdigest()


@dataclass
class Repository:
    """Commits and branches; the first commit is empty, as on the Hub it nearly is."""

    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=lambda: {"0" * 40: {}})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})

    def resolve(self, revision: str) -> str | None:
        """Returns the hash of a branch's commit, or of the commit itself."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong on a route, and how often.

    `drop` closes the connection: `"before"` the request is read, `"midway"` through its body, or
    `"after"` it was carried out, so that only the answer is lost.
    """

    times: int
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"<html>the Hub is having a rest</html>"
    drop: str | None = None


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, *, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """The server and what it stores; a context manager that runs it.

    Args:
        part_size: bytes of a part of a large file; `None` takes large files in one piece.
    """

    def __init__(self, *, part_size: int | None = None):
        self.part_size = part_size
        self.repositories: dict[str, Repository] = {}
        self.storage: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.faults: dict[str, Fault] = {}
        self.spoiled: set[str] = set()  # paths that are given out with another byte in them
        self.log: list[tuple[str, float]] = []  # each request's route and when it came
        self.lock = threading.RLock()
        handler = type("HandlerOfThisHub", (Handler,), {"hub": self})
        # As on the Hub, large files lie on another host than everything else.
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.endpoint, self.storage_endpoint = (
            f"http://127.0.0.1:{server.server_port}" for server in self.servers
        )

    def __enter__(self):
        for server in self.servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def fail(self, route: str, *, times: int = 1, **how):
        """Lets the next requests of a route fail."""
        self.faults[route] = Fault(times, **how)

    def times_of(self, route: str) -> list[float]:
        """Returns when the requests of a route came."""
        return [when for name, when in self.log if name == route]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Returns what a revision holds, as it was stored."""
        repository = self.repositories[repo_id]
        commit = repository.commits[repository.resolve(revision)]
        return {path: self.content(file) for path, file in commit.items()}

    def content(self, file: File) -> bytes:
        """Returns the content of a file."""
        return file.content if file.oid is None else self.storage[file.oid]


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other; each route has a method of its name."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        """Says nothing."""

    def answer_any(self):
        """Finds the route, fails if it is its turn, and answers."""
        self.url = urlsplit(self.path)
        method = "GET" if self.command == "HEAD" else self.command
        found = (
            (name, re.fullmatch(pattern, self.url.path))
            for name, wanted, pattern in ROUTES
            if wanted == method
        )
        route, match = next(((n, m) for n, m in found if m), ("unknown", None))
        with self.hub.lock:
            self.hub.log.append((route, time.monotonic()))
            fault = self.hub.faults.get(route)
            if fault is not None and fault.times > 0:
                fault.times -= 1
            else:
                fault = None
        if fault is not None and fault.drop in ("before", "midway"):
            if fault.drop == "midway":
                self.rfile.read(max(1, int(self.headers.get("Content-Length") or 2) // 2))
            return self.drop()
        self.body = self.read_body()
        if fault is not None and fault.drop is None:
            return self.reply(fault.status, fault.body, **fault.headers, Content_Type="text/html")
        self.drops_answer = fault is not None
        try:
            with self.hub.lock:
                if match is None:
                    raise Refused(404, f"no such route: {self.command} {self.path}")
                words = {key: unquote(value or "") for key, value in match.groupdict().items()}
                getattr(self, route)(**words)
        except Refused as refused:
            self.reply_json(
                {"error": str(refused)},
                status=refused.status,
                X_Error_Message=str(refused),
                **({"X_Error_Code": refused.code} if refused.code else {}),
            )

    do_GET = do_HEAD = do_POST = do_PUT = answer_any

    def read_body(self) -> bytes:
        """Reads the body of a request, whole or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def drop(self):
        """Closes the connection so that the other side notices."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def reply(self, status: int, content: bytes = b"", **headers: str):
        """Sends an answer; underscores in the names of headers are dashes."""
        if getattr(self, "drops_answer", False):
            return self.drop()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply_json(self, content, *, status: int = 200, **headers: str):
        """Sends a JSON answer."""
        headers = {"Content_Type": "application/json", **headers}
        self.reply(status, json.dumps(content).encode(), **headers)

    # Rights

    def role(self) -> str | None:
        """Returns what the token may do; `None` without one."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in TOKENS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return TOKENS[token]

    def may_write(self, owner: str):
        """Refuses those who may not write for an owner."""
        role = self.role()
        if role is None:
            raise Refused(401, "Invalid username or password.")
        if role != "write" or owner != OWNER:
            raise Refused(403, f"You don't have the rights to write under the namespace {owner!r}.")

    def repository(self, repo: str, *, writes: bool = False) -> Repository:
        """Returns a repository that the caller may read, or write to."""
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.role() is None):
            raise Refused(401 if self.role() is None else 404, "Not found", code="RepoNotFound")
        if writes:
            self.may_write(repo.split("/")[0])
        return found

    def commit_of(self, repository: Repository, revision: str) -> tuple[str, dict[str, File]]:
        """Returns the hash and the files of a revision."""
        commit = repository.resolve(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return commit, repository.commits[commit]

    # Repositories

    def whoami(self):
        """Says whose token it is."""
        if self.role() is None:
            raise Refused(401, "Invalid username or password.")
        self.reply_json({"name": OWNER, "type": "user", "orgs": []})

    def create(self):
        """Makes a repository."""
        wanted = json.loads(self.body)
        owner = wanted.get("organization") or OWNER
        self.may_write(owner)
        repo = f"{owner}/{wanted['name']}"
        taken = repo in self.hub.repositories
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repositories.setdefault(repo, Repository(private=bool(private)))
        answer = {"url": f"{self.hub.endpoint}/{repo}", "name": repo}
        error = {"error": "You already created this model repo"} if taken else {}
        self.reply_json({**answer, **error}, status=409 if taken else 200)

    def branch(self, repo: str, revision: str):
        """Makes a branch."""
        repository = self.repository(repo, writes=True)
        if revision in repository.branches:
            raise Refused(409, f"Reference already exists: {revision}")
        wanted = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[revision] = self.commit_of(repository, wanted)[0]
        self.reply_json({})

    def info(self, repo: str, revision: str):
        """Says which commit a revision is and which files it has."""
        commit, files = self.commit_of(self.repository(repo), revision or "main")
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repositories[repo].private
        self.reply_json(
            {"id": repo, "modelId": repo, "sha": commit, "private": private, "siblings": siblings}
        )

    def tree(self, repo: str, revision: str, path: str):
        """Lists the files of a revision, which has no folders."""
        _, files = self.commit_of(self.repository(repo), revision)
        if path:
            raise Refused(404, f"{path} does not exist", code="EntryNotFound")
        entries = []
        for name, file in files.items():
            size = len(self.hub.content(file))
            entry = {"type": "file", "path": name, "size": size, "oid": file.etag}
            if file.oid is not None:
                entry["lfs"] = {"oid": file.oid, "size": size, "pointerSize": 134}
            entries.append(entry)
        self.reply_json(entries)

    # Pushing

    def validate(self):
        """Checks that a card's metadata can be read."""
        content = json.loads(self.body)["content"]
        try:
            metadata = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else {}
        except yaml.YAMLError as error:
            return self.reply_json({"errors": [{"message": str(error)}]}, status=400)
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata"}]
        self.reply_json({"errors": [], "warnings": warnings})

    def preupload(self, repo: str, revision: str):
        """Says which files go into the storage, and which the revision has already."""
        _, files = self.commit_of(self.repository(repo, writes=True), revision)
        answers = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answers.append({**answer, "oid": files[path].etag if path in files else None})
        self.reply_json({"files": answers})

    def batch(self, repo: str):
        """Says where large files are to be put, unless the storage has them."""
        self.repository(repo, writes=True)
        objects = [self.place_for(wanted) for wanted in json.loads(self.body)["objects"]]
        transfer = "basic" if self.hub.part_size is None else "multipart"
        self.reply_json({"transfer": transfer, "objects": objects})

    def place_for(self, wanted: dict) -> dict:
        """Returns the actions for one large file."""
        oid, size, part_size = wanted["oid"], wanted["size"], self.hub.part_size
        if oid in self.hub.storage:
            return {"oid": oid, "size": size}
        address = f"{self.hub.storage_endpoint}/storage/{oid}"
        upload: dict = {"href": address}
        if part_size is not None:
            places = {str(n + 1): f"{address}/{n + 1}" for n in range(-(-size // part_size))}
            header = {"chunk_size": str(part_size), **places}
            upload = {"href": f"{address}/complete", "header": header}
        actions = {"upload": upload, "verify": {"href": f"{address}/verify"}}
        return {"oid": oid, "size": size, "actions": actions}

    def upload(self, oid: str, part: str):
        """Stores a large file, or a part of one."""
        if part:
            self.hub.parts[oid, int(part)] = self.body
        else:
            self.store(oid, self.body)
        self.reply(200, ETag=f'"{hashlib.md5(self.body).hexdigest()}"')

    def complete(self, oid: str):
        """Puts a large file together from its parts."""
        parts = [self.hub.parts[oid, part["partNumber"]] for part in json.loads(self.body)["parts"]]
        self.store(oid, b"".join(parts))
        self.reply_json({"success": True})

    def store(self, oid: str, content: bytes):
        """Stores what has the hash that it is said to have."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "The content has another SHA-256 than was said")
        self.hub.storage[oid] = content

    def verify(self, oid: str):
        """Checks that a large file arrived."""
        if len(self.hub.storage.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Refused(404, "No such large file")
        self.reply_json({"success": True})

    def commit(self, repo: str, revision: str):
        """Makes a commit."""
        repository = self.repository(repo, writes=True)
        parent, files = self.commit_of(repository, revision)
        if revision not in repository.branches:
            raise Refused(400, f"{revision} is no branch")
        files = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.storage:
                    raise Refused(400, f"{value['path']} points to nothing in the storage")
                files[value["path"]] = File(oid=value["oid"])
        told = [parent, *(f"{path} {file.etag}" for path, file in sorted(files.items()))]
        commit = hashlib.sha1("\n".join(told).encode()).hexdigest()
        repository.commits[commit] = files
        repository.branches[revision] = commit
        url = f"{self.hub.endpoint}/{repo}/commit/{commit}"
        self.reply_json({"success": True, "commitOid": commit, "commitUrl": url})

    # Opening

    def resolve(self, repo: str, revision: str, path: str):
        """Gives out a file; a large one by the storage's address."""
        commit, files = self.commit_of(self.repository(repo), revision)
        if path not in files:
            self.no_entry(path, commit)
            return
        file = files[path]
        content = self.given_out(path, file)
        told = {"X_Repo_Commit": commit, "ETag": f'"{file.etag}"'}
        if file.oid is None:
            self.reply(200, content, **told, Content_Type="application/octet-stream")
            return
        size = str(len(content))
        told |= {"X_Linked_ETag": f'"{file.oid}"', "X_Linked_Size": size}
        spoiled = "?spoiled=1" if path in self.hub.spoiled else ""
        self.reply(302, **told, Location=f"{self.hub.storage_endpoint}/storage/{file.oid}{spoiled}")

    def no_entry(self, path: str, commit: str):
        """Says that a revision has no such file."""
        self.reply_json(
            {"error": f"Entry not found: {path}"},
            status=404,
            X_Error_Code="EntryNotFound",
            X_Error_Message="Entry not found",
            X_Repo_Commit=commit,
        )

    def given_out(self, path: str, file: File) -> bytes:
        """Returns what is given out for a file."""
        content = self.hub.content(file)
        return spoil(content) if path in self.hub.spoiled else content

    def stored(self, oid: str):
        """Gives out a large file, from the byte on that is asked for."""
        content = self.hub.storage[oid]
        if "spoiled" in parse_qs(self.url.query):
            content = spoil(content)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            return self.reply(200, content, ETag=f'"{oid}"')
        start = int(wanted[1])
        place = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.reply(206, content[start:], ETag=f'"{oid}"', Content_Range=place)


def spoil(content: bytes) -> bytes:
    """Returns the content with another last byte."""
    return content[:-1] + bytes([content[-1] ^ 1])
