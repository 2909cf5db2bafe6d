"""A web server for tests: it sends one file, and can be told to behave badly."""
import contextlib
import http.server
import threading


@contextlib.contextmanager
def server(data, cuts=(), ranges=True, status=200, length=True):
    """Serve `data` at every address -> the address, and a list of the ranges that are asked for.

    cuts: answer i ends after cuts[i] bytes, though it promised all. ranges: whether the server
    knows them. status: what it answers to a request for all. length: whether it says how much
    will come.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range", "")
            asked.append(wanted)
            start = 0
            if wanted and ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))

            code = status
            if start:
                code = 206                        # a part
            if start >= len(data):
                code = 416                        # behind the end
            body = b""
            if code in (200, 206):
                body = data[start:]

            self.send_response(code)
            if length:
                self.send_header("Content-Length", str(len(body)))
            if code == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if len(asked) <= len(cuts):
                body = body[:cuts[len(asked) - 1]]
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
