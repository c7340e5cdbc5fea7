"""Serves S3 on loopback from memory, by moto: what scripts/s3-server starts.

    s3_server.py DIR BUCKET PORT [CERTIFICATE KEY]

With PORT 0 the system chooses one; the port is written to DIR/port once the bucket is there.
"""

import io
import os
import signal
import sys
import threading
from pathlib import Path

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client


class OneAtATime:
    """moto looks whether an object exists and stores it in two steps. S3 does both in one
    (`If-None-Match: *`), and so does this: it reads the request, which may be slow, and then lets
    one request at a time through."""

    def __init__(self, app):
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        stream = environ["wsgi.input"]
        if environ.get("wsgi.input_terminated"):
            body = stream.read()
        else:
            length = int(environ.get("CONTENT_LENGTH") or 0)
            body = stream.read(length)
            if len(body) < length:
                start_response("400 Bad Request", [("Content-Length", "0"), ("Connection", "close")])
                return []
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        with self.lock:
            answer = self.app(environ, start_response)
            try:
                return list(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()


class Handler(WSGIRequestHandler):
    # Connections are kept, as real servers do, and small answers are not held back.
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, *args):
        pass


def main():
    directory, bucket, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    tls = tuple(sys.argv[4:6]) or None
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=Handler, ssl_context=tls)
    made = Client(app).put(f"/{bucket}", base_url=f"http://127.0.0.1:{server.port}")
    if made.status_code != 200:
        sys.exit(f"cannot make the bucket {bucket}: {made.status} {made.text}")
    unfinished = directory / "port.new"
    unfinished.write_text(f"{server.port}\n")
    unfinished.rename(directory / "port")
    server.serve_forever()


main()
