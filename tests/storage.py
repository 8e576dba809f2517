"""A real S3 server on this machine, behind a relay that lets it vanish, come back, and lose answers."""

import socket
import threading
from contextlib import suppress
from time import sleep
from typing import Any
from uuid import uuid4

import boto3
from moto.server import ThreadedMotoServer

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
}

_BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: 46\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message/></Error>"
)


class Storage:
    """The server; `endpoint` is where the relay listens."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._upstream = self._server.get_host_and_port()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._left: int | None = None  # bytes to the server until it vanishes
        self.is_away = False
        self._busy = self._lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def bucket(self) -> str:
        """The URL of a new bucket with a prefix."""
        name = f"team-{uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}/selfimp"

    def client(self) -> Any:
        """For tests to look and damage with: not through the relay."""
        host, port = self._upstream
        return boto3.session.Session().client("s3", endpoint_url=f"http://{host}:{port}")

    def objects(self, url: str) -> dict[str, bytes]:
        """What is under a URL, by name."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        client = self.client()
        listing = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", ())
        return {
            item["Key"].removeprefix(f"{prefix}/"): client.get_object(Bucket=bucket, Key=item["Key"])[
                "Body"
            ].read()
            for item in listing
        }

    def overwrite(self, url: str, name: str, content: bytes | None) -> None:
        """Puts something else in the place of an object, with the metadata that it had; or nothing."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        client, key = self.client(), f"{prefix}/{name}"
        if content is None:
            client.delete_object(Bucket=bucket, Key=key)
            return
        metadata = client.head_object(Bucket=bucket, Key=key)["Metadata"]
        client.put_object(Bucket=bucket, Key=key, Body=content, Metadata=metadata)

    def vanish(self, after: int = 0) -> None:
        """The server is gone, once it was sent so many bytes more."""
        with self._changing:
            self._left = after
        if not after:
            self._cut()

    def come_back(self) -> None:
        with self._changing:
            self._left, self.is_away = None, False

    def be_busy(self, times: int) -> None:
        """The next requests are answered with 503."""
        self._busy = times

    def lose_answers(self, times: int) -> None:
        """The next requests are carried out, and the connection ends before the answer."""
        self._lost = times

    def stop(self) -> None:
        self._listener.close()
        self._server.stop()

    def _cut(self) -> None:
        with self._changing:
            self.is_away = True
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.is_away:
                near.close()
                continue
            if self._busy:
                self._busy -= 1
                threading.Thread(target=self._refuse, args=(near,), daemon=True).start()
                continue
            far = socket.create_connection(self._upstream)
            with self._changing:
                self._open |= {near, far}
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _refuse(self, near: socket.socket) -> None:
        with near, suppress(OSError):
            near.recv(65536)
            near.sendall(_BUSY)
            near.shutdown(socket.SHUT_WR)
            while near.recv(65536):  # what else was sent: a reset would take the answer with it
                pass

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if up and self._left is not None:
                    with self._changing:
                        data, self._left = data[: self._left], max(0, self._left - len(data))
                    target.sendall(data)
                    if self._left == 0:
                        self._cut()
                        break
                    continue
                if not up and self._lost:
                    self._lost -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        if not up:
            sleep(0.05)
            for end in (source, target):
                with self._changing:
                    self._open.discard(end)
                end.close()
