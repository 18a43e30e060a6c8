"""nginx with curl: plaintext and unverified, or over TLS 1.3 with b3sum afterwards."""

import os
import subprocess
import time
import urllib.request

from common import machine
from rivals.rival import Rival, fresh, run, sync

CONFIGURATION = """daemon off;
master_process on;
worker_processes auto;
{user}
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  ssl_certificate {place}/cert.pem;
  ssl_certificate_key {place}/key.pem;
  ssl_protocols TLSv1.3;
  ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
  server {{
    listen {address}:{port};
    listen {address}:{tls_port} ssl;
    root {root};
  }}
}}
"""


def version() -> str:
    """Its version."""
    return subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip().split("/")[-1]


class Nginx(machine.Server):
    """Serves a folder, plain and over TLS."""

    core = None

    def __init__(self, place: str, root: str, address: str = "127.0.0.1", inside: list[str] | None = None):
        fresh(place)
        machine.certificate(place)
        # A namespace has ports of its own; fixed ones below those given to clients are free there.
        self.port, self.tls_port = (8080, 8443) if inside else (machine.free_port(), machine.free_port())
        self.address = address
        user = "user root;" if os.geteuid() == 0 else ""
        path = os.path.join(place, "nginx.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(place=place, root=root, user=user, address=address, port=self.port,
                                            tls_port=self.tls_port))
        super().__init__([*(inside or []), "nginx", "-c", path, "-e", os.path.join(place, "error.log")],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        if self.process.poll() is not None:
            raise RuntimeError("nginx did not start")

    def url(self, path: str, tls: bool) -> str:
        """Of a file."""
        scheme, port = ("https", self.tls_port) if tls else ("http", self.port)
        return f"{scheme}://{self.address}:{port}/{urllib.request.pathname2url(path)}"


class Curl(Rival):
    """One file by curl. `verify` is its BLAKE3: b3sum reads what was written; without it, plaintext."""

    def __init__(self, server: Nginx, path: str, b3sum: str, verify: str | None = None, inside: list[str] | None = None):
        self.name = "nginx_tls" if verify else "nginx"
        self.server, self.path, self.b3sum, self.verify, self.inside = server, path, b3sum, verify, inside

    def pids(self) -> list[int]:
        return [self.server.pid]

    def fetch(self, target: str) -> None:
        tls = ["--tlsv1.3", "--insecure"] if self.verify else []
        url = self.server.url(self.path, bool(self.verify))
        run("curl", "-sS", "--fail", *tls, "-o", target, url, inside=self.inside)
        if self.verify and run(self.b3sum, "--no-names", target).strip() != self.verify:
            raise RuntimeError("the file is not what it was")
        sync(target)
