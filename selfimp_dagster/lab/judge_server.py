"""A judge behind an address of this machine: it speaks OpenAI's protocol and says what it is told to."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Opinion = Callable[[str, str], bool]
"""Whether a judge holds a response (second) to a prompt (first) for right."""

Preference = Callable[[str, str, str], str]
"""What a judge says of two responses to a prompt (first): A for the one that stands first, B, or tie."""

_QUOTED = re.compile(r"(?:^> ?.*\n?)+", re.MULTILINE)


def draw(*parts: object) -> float:
    """A number from 0 to 1 that depends on nothing but the parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
    return int(digest[:13], 16) / 16**13


def reply(question: str, opinion: Opinion, preference: Preference) -> str:
    """What the judge says to a question of the rewards `judge` and `pairwise_judge`.

    Raises:
        ValueError: the question quotes neither a prompt with one response nor one with two.
    """
    quotations = [_unquoted(found[0]) for found in _QUOTED.finditer(question)]
    match quotations:
        case [prompt, response]:
            return f"I worked it out myself.\nGrade: {5 if opinion(prompt, response) else 0}"
        case [prompt, first, second]:
            return f"I worked it out myself.\nVerdict: {preference(prompt, first, second)}"
        case _:
            raise ValueError(f"a question with {len(quotations)} quotations")


@contextmanager
def judge_server(opinion: Opinion, preference: Preference) -> Iterator[str]:
    """The address of a judge of these opinions, on the loopback interface, within the context."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for many questions
        wbufsize = -1  # a reply is one packet, or the client's delayed acknowledgement holds it up

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = reply(asked["messages"][-1]["content"], opinion, preference)
            body = json.dumps(_completion(text, len(asked["messages"][-1]["content"]))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the campaign's own record says what was asked."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _completion(text: str, characters: int) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": characters // 4, "completion_tokens": 12, "total_tokens": characters // 4 + 12}
    return {"id": "lab", "object": "chat.completion", "choices": [choice], "usage": usage}


def _unquoted(block: str) -> str:
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in block.rstrip("\n").split("\n"))
