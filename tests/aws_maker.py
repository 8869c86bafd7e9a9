"""AWS on loopback: the metadata of instances and containers, STS, and an S3 that checks who asks.

`FakeAws` hands out keys that expire, as AWS does, and forwards an S3 request to the server behind it only where its signature
was made with keys that are good at that moment. One server, one port; `issued` and `refused` tell what happened.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

ROLE = "arn:aws:iam::123456789012:role/lake"
STS = "https://sts.amazonaws.com/doc/2011-06-15/"
IMDS = "/latest/meta-data/iam/security-credentials/"
HOP_HEADERS = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")


@dataclass(frozen=True)
class Grant:
    """Keys that were handed out, by which service, and until when (seconds since 1970) they are good."""

    kind: str
    secret: str
    token: str
    until: float


@dataclass
class FakeAws:
    """The services. Keys live for `lifetime_s`; a kind of service in `down` answers 503."""

    target: str  # address of the S3 server behind
    lifetime_s: float = 3600
    grants: dict[str, Grant] = field(default_factory=dict)  # by access key
    issued: Counter[str] = field(default_factory=Counter)  # by service
    used: Counter[str] = field(default_factory=Counter)  # requests to S3, by the service that gave their keys
    refused: Counter[str] = field(default_factory=Counter)  # by error code
    down: set[str] = field(default_factory=set)
    delay_s: float = 0.0  # before each answer of S3
    web_identity: str = "the-web-identity-itself"
    container_token: str = "the-container-token-itself"

    def __post_init__(self) -> None:
        self._server = Server(self)

    @property
    def endpoint(self) -> str:
        """Address of all services."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeAws:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def grant(self, kind: str, lifetime_s: float | None = None, token: bool = True) -> dict[str, str]:
        """New keys: AccessKeyId, SecretAccessKey, Token and Expiration."""
        until = time.time() + (self.lifetime_s if lifetime_s is None else lifetime_s)
        key, given = (
            f"ASIA{secrets.token_hex(8).upper()}",
            Grant(kind, secrets.token_hex(20), secrets.token_hex(20), until),
        )
        given = given if token else Grant(kind, given.secret, "", until)
        self.grants[key] = given
        self.issued[kind] += 1
        shown = datetime.fromtimestamp(int(until), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"AccessKeyId": key, "SecretAccessKey": given.secret, "Token": given.token, "Expiration": shown}

    @property
    def secrets(self) -> list[str]:
        """All that nobody may find anywhere."""
        return [word for key, given in self.grants.items() for word in (key, given.secret, given.token) if word]

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that lead to these services, and to the files `config` and `credentials` of a folder; no keys are there."""
        return {
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ENDPOINT_URL_STS": self.endpoint,
            "AWS_REGION": "us-east-1",
        }

    def profile(self, kind: str, **settings: str) -> str:
        """Lines of a credentials file that hold new keys, which have no token and live for ever."""
        keys = self.grant(kind, 10**8, token=False)
        lines = {"aws_access_key_id": keys["AccessKeyId"], "aws_secret_access_key": keys["SecretAccessKey"], **settings}
        return "\n".join(f"{name} = {value}" for name, value in lines.items()) + "\n"


class Server(ThreadingHTTPServer):
    """Serves on a free port of loopback."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, aws: FakeAws) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.aws = aws


class Handler(BaseHTTPRequestHandler):
    """Answers as the service would that a request is meant for."""

    server: Server
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        with suppress(ConnectionError):
            if path == "/latest/api/token" or path.startswith(IMDS):
                self.instance(path)
            elif path == "/container":
                self.container()
            elif self.command == "POST" and path == "/" and "x-amz-target" not in self.headers:
                self.sts(parse_qs(body.decode()))
            else:
                self.s3(path, body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve

    def instance(self, path: str) -> None:
        """Instance metadata, version 2: nothing without a session token."""
        if "instance" in self.server.aws.down:
            self.say(503, b"")
        elif path == "/latest/api/token":
            asked = self.command == "PUT" and "x-aws-ec2-metadata-token-ttl-seconds" in self.headers
            self.say(*((200, b"metadata-session") if asked else (400, b"")))
        elif self.headers.get("x-aws-ec2-metadata-token") != "metadata-session":
            self.say(401, b"")
        elif path == IMDS:
            self.say(200, b"lake-role")
        else:
            keys = {"Code": "Success", "Type": "AWS-HMAC", **self.server.aws.grant("instance")}
            self.say(200, json.dumps(keys).encode())

    def container(self) -> None:
        """Metadata of a container (ECS, EKS pod identity)."""
        if self.headers.get("Authorization") != self.server.aws.container_token:
            self.say(401, b"")
        else:
            self.say(200, json.dumps(self.server.aws.grant("container")).encode())

    def sts(self, form: dict[str, list[str]]) -> None:
        """AssumeRole, signed with good keys, and AssumeRoleWithWebIdentity, with the right token."""
        aws, action = self.server.aws, form["Action"][0]
        if "sts" in aws.down:
            return self.say(503, b"")
        if action == "AssumeRoleWithWebIdentity":
            kind, allowed = "web identity", form["WebIdentityToken"] == [aws.web_identity]
        else:
            kind, allowed = "role", self.signer() is not None
        if not allowed or form["RoleArn"] != [ROLE]:
            return self.refuse(403, "AccessDenied", f"<ErrorResponse xmlns='{STS}'><Error>", "</Error></ErrorResponse>")
        keys = aws.grant(kind)
        keys["SessionToken"] = keys.pop("Token")
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
        user = f"<AssumedRoleUser><Arn>{ROLE}</Arn><AssumedRoleId>A:b</AssumedRoleId></AssumedRoleUser>"
        result = f"<{action}Result>{user}<Credentials>{inner}</Credentials></{action}Result>"
        return self.say(200, f"<{action}Response xmlns='{STS}'>{result}</{action}Response>".encode(), "text/xml")

    def signer(self) -> Grant | None:
        """Whose keys the Authorization header names; None where nobody has such keys."""
        header = self.headers.get("Authorization", "")
        _, _, rest = header.partition("Credential=")
        return self.server.aws.grants.get(rest.partition("/")[0])

    def s3(self, path: str, body: bytes) -> None:
        """Forward a request that is signed with keys that are good now."""
        aws, grant = self.server.aws, self.signer()
        if grant is None:
            return self.refuse(403, "InvalidAccessKeyId" if "Authorization" in self.headers else "AccessDenied")
        if self.headers.get("x-amz-security-token", "") != grant.token:
            return self.refuse(400, "InvalidToken")
        if time.time() >= grant.until:
            return self.refuse(400, "ExpiredToken")
        if not self.is_signed_with(grant.secret, path, body):
            return self.refuse(403, "SignatureDoesNotMatch")
        aws.used[grant.kind] += 1
        time.sleep(aws.delay_s)
        connection = HTTPConnection(urlsplit(aws.target).netloc, timeout=60)
        try:
            connection.request(self.command, self.path, body or None, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        if answer.status != 204:
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        return None if self.command == "HEAD" else self.wfile.write(content) and None

    def is_signed_with(self, secret: str, path: str, body: bytes) -> bool:
        """Whether the signature (AWS4-HMAC-SHA256) is that of these keys."""
        _, _, rest = self.headers["Authorization"].partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        scope, names = parts["Credential"].partition("/")[2], parts["SignedHeaders"].split(";")
        pairs = parse_qsl(urlsplit(self.path).query, keep_blank_values=True)
        query = "&".join(sorted(f"{quote(name, '-_.~')}={quote(value, '-_.~')}" for name, value in pairs))
        headers = "".join(f"{name}:{' '.join((self.headers[name] or '').split())}\n" for name in names)
        digest = self.headers.get("x-amz-content-sha256") or hashlib.sha256(body).hexdigest()
        lines = [self.command, quote(unquote(path), "/-_.~"), query, headers, ";".join(names), digest]
        request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, request])
        key = f"AWS4{secret}".encode()
        for word in [*scope.split("/"), text]:
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        return hmac.compare_digest(key.hex(), parts["Signature"])

    def refuse(self, status: int, code: str, before: str = "<Error>", after: str = "</Error>") -> None:
        """An error of AWS."""
        self.server.aws.refused[code] += 1
        self.say(status, f"{before}<Code>{code}</Code><Message>{code}.</Message>{after}".encode(), "text/xml")

    def say(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """An answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
