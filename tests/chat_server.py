"""A small server that speaks OpenAI's protocol, on 127.0.0.1, and answers as a test tells it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What the server sends: `trickle` seconds between the bytes of the body."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    trickle: float = 0.0


def completion(text: str | None, finish_reason: str | None = "stop", **more: Any) -> Answer:
    """A chat completion as vLLM sends it."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
        **more,
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return Answer(
        json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    )


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as OpenAI sends it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(json.dumps({"error": {"message": message}}).encode(), status, named)


@dataclass
class ChatServer:
    """What the server was asked: bodies and headers in the order in which they came."""

    answer: Callable[[dict[str, Any]], Answer] = lambda body: completion("hello")
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server that runs within the context."""
    served = ChatServer()
    lock, stopped = threading.Lock(), threading.Event()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                under_way += 1
                served.most_at_once = max(served.most_at_once, under_way)
                served.asked.append(body)
                served.headers.append(dict(self.headers))
                answer = (
                    served.answer(body) if self.path == "/v1/chat/completions" else refusal(404, "no route")
                )
            stopped.wait(answer.delay)
            try:
                self._send(answer)
            except OSError:
                """The client has gone."""
            finally:
                with lock:
                    under_way -= 1

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for header, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if not answer.trickle:
                self.wfile.write(answer.body)
                return
            for place in range(len(answer.body)):
                self.wfile.write(answer.body[place : place + 1])
                if stopped.wait(answer.trickle):
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
