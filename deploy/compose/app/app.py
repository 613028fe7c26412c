"""A stand-in for your app: each GET is answered with what CarePortals says of the account, asked through the sidecar."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BASE_URL = os.environ["CAREPORTALS_BASE_URL"]


def account():
    """Status and name. The sidecar starts after the app, whose network it joins: for a moment nobody listens there."""
    try:
        with urllib.request.urlopen(f"{BASE_URL}/users/account", timeout=15) as answer:
            return answer.status, json.load(answer)["firstName"]
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError:
        return 502, None


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        status, name = account()
        body = json.dumps({"status": status, "name": name}).encode()
        self.send_response(200 if status == 200 else 502)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


server = ThreadingHTTPServer(("0.0.0.0", 8080), Page)


def stop(*_):
    """Its last call, which matters to apps that say goodbye."""
    print("last call:", account()[0], flush=True)
    threading.Thread(target=server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
server.serve_forever()
