#!/usr/bin/env python3
"""A static file server that hands files to the kernel with sendfile, for curl in benches/pair.py.

    file-server.py DIR PORT
"""

import http.server
import pathlib
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    """One directory, no listing."""

    def do_GET(self):
        try:
            file = open(FOLDER / pathlib.PurePosixPath(self.path).name, "rb")
        except OSError:
            self.send_error(404)
            return
        with file:
            self.send_response(200)
            self.send_header("Content-Length", str(pathlib.Path(file.name).stat().st_size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1])
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
