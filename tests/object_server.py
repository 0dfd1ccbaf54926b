"""A small local server that speaks as much of S3's protocol as clients of one object need.

It keeps objects in memory, and fails on request: `drop_after` cuts the next answer with a body off
after so many bytes, `refuse` answers the next requests with a status.
"""

import contextlib
import hashlib
import http.server
import socket
import threading
import urllib.parse


class ObjectServer:
    def __init__(self):
        self.objects = {}
        self.uploads = {}
        self.requests = []
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
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def variables(self):
        """The environment in which clients of S3 come here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "nowhere-1",
        }

    def methods(self, name):
        """The methods of the requests about an object, with `?` where a query came along."""
        return [method for method, path in self.requests if urllib.parse.urlsplit(path).path == f"/{name}"]

    def handle(self, handler):
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        address = urllib.parse.urlsplit(handler.path)
        query = urllib.parse.parse_qs(address.query, keep_blank_values=True)
        name = urllib.parse.unquote(address.path).lstrip("/")
        self.requests.append((handler.command, handler.path))
        if self.refusals:
            status = self.refusals.pop(0)
            return self.answer(handler, status, b"<Error><Code>Refused</Code></Error>")
        if handler.command in ("GET", "HEAD"):
            return self.read(handler, name)
        if handler.command == "POST" and "uploads" in query:
            upload = str(len(self.uploads))
            self.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self.answer(handler, 200, text.encode())
        if handler.command == "PUT" and "uploadId" in query:
            self.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
            return self.answer(handler, 200, b"", ETag=etag(body))
        if handler.command == "POST" and "uploadId" in query:
            parts = self.uploads.pop(query["uploadId"][0])
            self.objects[name] = b"".join(parts[number] for number in sorted(parts))
            text = f"<CompleteMultipartUploadResult><ETag>{etag(self.objects[name])}</ETag></CompleteMultipartUploadResult>"
            return self.answer(handler, 200, text.encode())
        if handler.command == "DELETE" and "uploadId" in query:
            self.uploads.pop(query["uploadId"][0], None)
            return self.answer(handler, 204, b"")
        if handler.command == "PUT":
            self.objects[name] = body
            return self.answer(handler, 200, b"", ETag=etag(body))
        return self.answer(handler, 501, b"")

    def read(self, handler, name):
        if name not in self.objects:
            return self.answer(handler, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        content = self.objects[name]
        headers = {"ETag": etag(content), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Accept-Ranges": "bytes"}
        status, piece = 200, content
        wanted = handler.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(content)
            status, piece = 206, content[start:end]
            headers["Content-Range"] = f"bytes {start}-{start + len(piece) - 1}/{len(content)}"
        self.answer(handler, status, piece, **headers)

    def answer(self, handler, status, body, **headers):
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
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


def etag(content):
    return '"' + hashlib.md5(content).hexdigest() + '"'


@contextlib.contextmanager
def object_server():
    server = ObjectServer()
    server.thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()
