"""A small local server that speaks as much of three stores' protocols as clients of one object need.

It keeps objects in memory by their path, and speaks S3, Google's XML interface, which is the same but
for how requests are signed, and Azure's blob interface; to those who ask for a path without
signing it is a plain web server. It fails on request: `drop_after` cuts the next answer with
a body off after so many bytes, `refuse` answers the next requests with a status.
"""

import contextlib
import hashlib
import http.server
import re
import socket
import ssl
import threading
import urllib.parse


class ObjectServer:
    """`buckets` exist; requests elsewhere find nothing. `tls` is a file with a key and a certificate."""

    def __init__(self, buckets=("data", "put"), tls=None):
        self.buckets = buckets
        self.objects = {}
        self.uploads = {}
        self.blocks = {}
        self.requests = []
        self.ranges = []
        self.signatures = set()
        self.drop_after = []
        self.refusals = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.handle(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}"

    @property
    def variables(self):
        """The environment in which clients of all three stores come here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "nowhere-1",
            "GOOGLE_BASE_URL": self.url,
            "GOOGLE_BEARER_TOKEN": "token",
            "AZURE_STORAGE_ENDPOINT": self.url,
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0",
        }

    def methods(self, name):
        """The methods of the requests about an object, in order."""
        return [method for method, path in self.requests if path_of(path) == name]

    def handle(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        address = urllib.parse.urlsplit(handler.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(address.query, keep_blank_values=True).items()}
        name = path_of(handler.path)
        self.requests.append((handler.command, handler.path))
        # "AWS4-HMAC-SHA256 …", "Bearer …" or "SharedKey …"
        self.signatures.add(handler.headers.get("Authorization", "none").split()[0])
        if self.refusals:
            status = self.refusals.pop(0)
            return self.answer(handler, status, b"<Error><Code>Refused</Code></Error>")
        if name.split("/")[0] not in self.buckets:
            return self.answer(handler, 404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if handler.command in ("GET", "HEAD"):
            return self.read(handler, name)
        if "comp" in query:
            return self.write_blocks(handler, name, query, body)
        if "uploads" in query or "uploadId" in query:
            return self.write_parts(handler, name, query, body)
        if handler.command == "PUT":
            self.objects[name] = body
            return self.answer(handler, 201, b"", ETag=etag(body))
        return self.answer(handler, 501, b"")

    def write_parts(self, handler, name, query, body):
        """An upload in parts, as S3 and Google have it."""
        if "uploads" in query:
            upload = str(len(self.requests))
            self.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self.answer(handler, 200, text.encode())
        upload = query["uploadId"]
        if handler.command == "PUT":
            self.uploads[upload][int(query["partNumber"])] = body
            return self.answer(handler, 200, b"", ETag=etag(body))
        parts = self.uploads.pop(upload)
        if handler.command == "DELETE":
            return self.answer(handler, 204, b"")
        self.objects[name] = b"".join(parts[number] for number in sorted(parts))
        text = f"<CompleteMultipartUploadResult><ETag>{etag(self.objects[name])}</ETag></CompleteMultipartUploadResult>"
        return self.answer(handler, 200, text.encode())

    def write_blocks(self, handler, name, query, body):
        """An upload in parts, as Azure has it: a list says which blocks make up the object."""
        if query["comp"] == "block":
            self.blocks[name, query["blockid"]] = body
            return self.answer(handler, 201, b"")
        ids = re.findall(r"<(?:Uncommitted|Latest)>(.*?)</", body.decode())
        self.objects[name] = b"".join(self.blocks.pop((name, block)) for block in ids)
        self.blocks = {key: block for key, block in self.blocks.items() if key[0] != name}
        return self.answer(handler, 201, b"", ETag=etag(self.objects[name]))

    def read(self, handler, name):
        if name not in self.objects:
            return self.answer(handler, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        content = self.objects[name]
        headers = {"ETag": etag(content), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        status, piece = 200, content
        wanted = handler.headers.get("Range")
        if wanted:
            self.ranges.append(wanted)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(content)
            status, piece = 206, content[start:end]
            headers["Content-Range"] = f"bytes {start}-{start + len(piece) - 1}/{len(content)}"
        self.answer(handler, status, piece, **headers)

    def answer(self, handler, status, body, **headers):
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if handler.command == "HEAD":
                return
            if body and status in (200, 206) and self.drop_after:
                handler.wfile.write(body[: self.drop_after.pop(0)])
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            handler.wfile.write(body)


def path_of(target):
    return urllib.parse.unquote(urllib.parse.urlsplit(target).path).lstrip("/")


def etag(content):
    return '"' + hashlib.md5(content).hexdigest() + '"'


@contextlib.contextmanager
def object_server(**options):
    server = ObjectServer(**options)
    server.thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
