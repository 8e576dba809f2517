"""Models behind servers that speak OpenAI's protocol: vLLM, llama.cpp, Ollama and others.

Every request has a time limit and a bounded number of attempts, and comes to a reply or to a failure that
says why. What would fail for all requests alike is an error with what to do about it. Importing this costs
no HTTP library.
"""

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.chat import Choice, Reply
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import content_id

if TYPE_CHECKING:
    import httpx

DEAD_AFTER = 5
"""Requests in a row that fail, all attempts counted as one, after which nothing more is asked."""

_FIRST_PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
_LONGEST_PAUSE = 120.0  # seconds that a server may ask to wait before it counts as not answering
_MOST_BYTES = 4 * 2**20  # of one reply
_MOST_ALTERNATIVES = 20  # probabilities of a first token that the protocol lets one ask for
_HEARTBEAT = 1.0  # seconds between signs of life while nothing comes in
_QUOTED = 300  # characters of a server's own words in a message
_Result = TypeVar("_Result")


class Endpoint(BaseModel):
    """A model behind a server that speaks OpenAI's protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        description="Address up to /v1, for example http://127.0.0.1:8000/v1.", pattern=r"^https?://"
    )
    model: str = Field(description="The model's name, as the server knows it.", min_length=1)
    api_key: str | None = Field(
        default=None,
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="Name of the environment variable that holds the API key: never the key itself.",
    )
    remote: bool = Field(
        default=False,
        description="The server may be another machine: prompts and responses leave this one.",
    )
    timeout: float = Field(default=120.0, gt=0, description="Seconds that one attempt may take in all.")
    retries: int = Field(default=4, ge=0, le=20, description="Further attempts after one that failed.")
    concurrent: int = Field(default=4, ge=1, le=256, description="Requests that are under way at a time.")

    @model_validator(mode="after")
    def _stays_here_unless_told(self) -> Self:
        address = urlsplit(self.url)
        if not address.hostname or address.port == 0:
            raise ValueError("url names no server")
        if address.username or address.password or address.query or address.fragment:
            raise ValueError("url holds more than an address: name the variable of a key with api_key")
        if not self.remote and not _is_loopback(address.hostname):
            raise ValueError(
                f"{address.hostname} is not this machine: write remote: true if prompts and responses may "
                "leave it"
            )
        if self.api_key and address.scheme == "http" and not _is_loopback(address.hostname):
            raise ValueError("the API key would cross the network in plain text: use https")
        return self

    @property
    def label(self) -> str:
        return f"{self.model} at {self.url}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class _Message(BaseModel):
    content: str | None = None


class _Token(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    top_logprobs: list[_Token]


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Answer(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Completion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_Answer] = Field(min_length=1)
    usage: _Usage | None = None


class _Failed(Exception):
    """An attempt that came to nothing. `again`: another may; `pause`: seconds the server asks to wait."""

    def __init__(self, reason: str, *, again: bool = True, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.again, self.pause = reason, again, pause


class OpenAIChat:
    """A model behind an endpoint, asked in words.

    The weights behind it are the server's affair: `policy_hash` is None. Seeds are sent along; whether the
    same request then gets the same reply is up to the server.

    Raises:
        SelfimpError: the variable of the API key is not set or holds no key.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._key = _key(endpoint)
        self.policy_hash: str | None = None
        self.identity = content_id("endpoint", endpoint.url, endpoint.model)
        self._resume_at = 0.0  # a server that asks one request to wait means all
        self._failed_in_a_row = 0

    def ask(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Reply]]:
        """The replies as they come in.

        Raises:
            SelfimpError: the server refuses the key, does not know the model or the address, or answers
                no request.
        """
        parameters = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }

        def read(request: Request, answer: _Answer, usage: _Usage) -> Reply:
            return Reply(
                request.request_id,
                self._safe(answer.message.content or ""),
                usage.prompt_tokens,
                usage.completion_tokens,
                "length" if answer.finish_reason == "length" else "stop",
            )

        def failed(request: Request, reason: str) -> Reply:
            return Reply(request.request_id, failure=reason)

        return self._replies(requests, parameters, read, failed, on_tokens)

    def choose(
        self,
        requests: Sequence[Request],
        options: Sequence[str],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Choice]]:
        """The probability of each option as the first token, in any case and with spaces about it.

        An option that is not among the likeliest tokens that the server names has the probability 0.

        Raises:
            SelfimpError: as `ask`.
        """
        parameters = {
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _MOST_ALTERNATIVES,
        }

        def read(request: Request, answer: _Answer, usage: _Usage) -> Choice:
            positions = (answer.logprobs and answer.logprobs.content) or []
            if not positions:
                raise self._error(
                    "the server gives no log-probabilities",
                    "ask it in words, or use a server that gives them",
                )
            found = [0.0] * len(options)
            for token in positions[0].top_logprobs:
                for place, option in enumerate(options):
                    if token.token.strip().casefold() == option.casefold() and token.logprob <= 0:
                        found[place] += math.exp(token.logprob)
            return Choice(
                request.request_id,
                tuple(min(1.0, probability) for probability in found),
                usage.prompt_tokens,
                usage.completion_tokens,
            )

        def failed(request: Request, reason: str) -> Choice:
            return Choice(request.request_id, failure=reason)

        return self._replies(requests, parameters, read, failed, on_tokens)

    def describe(self) -> dict[str, Any]:
        """Address and model; no key."""
        return {"engine": "openai", "url": self._endpoint.url, "model": self._endpoint.model}

    def _replies(
        self,
        requests: Sequence[Request],
        parameters: dict[str, Any],
        read: Callable[[Request, _Answer, _Usage], _Result],
        failed: Callable[[Request, str], _Result],
        on_tokens: Callable[[int], None],
    ) -> Iterator[list[_Result]]:
        async def work(put: Callable[[_Result], None]) -> None:
            waiting = iter(requests)
            async with self._client() as client, asyncio.TaskGroup() as group:
                for _ in range(min(self._endpoint.concurrent, len(requests))):
                    group.create_task(one_after_the_other(client, waiting, put))

        async def one_after_the_other(
            client: "httpx.AsyncClient", waiting: Iterable[Request], put: Callable[[_Result], None]
        ) -> None:
            for request in waiting:
                put(await self._attempts(client, request, parameters, read, failed))

        for batch in _in_background(work):
            on_tokens(sum(getattr(result, "completion_tokens", 0) for result in batch))
            if batch:
                yield batch

    def _client(self) -> "httpx.AsyncClient":
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # below it writes a line for every request
        headers = {"Accept-Encoding": "identity"}  # so that the limit on a reply's size holds
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # The proxies of the environment are for other machines.
        return httpx.AsyncClient(headers=headers, timeout=None, trust_env=self._endpoint.remote)

    async def _attempts(
        self,
        client: "httpx.AsyncClient",
        request: Request,
        parameters: dict[str, Any],
        read: Callable[[Request, _Answer, _Usage], _Result],
        failed: Callable[[Request, str], _Result],
    ) -> _Result:
        body = {
            "model": self._endpoint.model,
            "messages": list(request.messages),
            "seed": request.seed % 2**31,  # some servers keep it in 32 bits
            **parameters,
        }
        for attempt in range(self._endpoint.retries + 1):
            while (pause := self._resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            try:
                completion = await self._attempt(client, body)
                result = read(request, completion.choices[0], completion.usage or _Usage())
            except _Failed as trouble:
                reason = trouble.reason
                if trouble.pause is not None:
                    self._resume_at = max(self._resume_at, time.monotonic() + trouble.pause)
                if not trouble.again:
                    break
                if trouble.pause is None and attempt < self._endpoint.retries:
                    await asyncio.sleep(_FIRST_PAUSE * 2**attempt)
            else:
                self._failed_in_a_row = 0
                return result
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= DEAD_AFTER:
            raise self._error(
                f"{DEAD_AFTER} requests in a row came to nothing, the last because: {reason}",
                "see what the server's log says, then run the step again: what was answered is kept",
            )
        return failed(request, reason)

    async def _attempt(self, client: "httpx.AsyncClient", body: dict[str, Any]) -> _Completion:
        import httpx

        content = bytearray()
        try:
            async with (
                asyncio.timeout(self._endpoint.timeout),  # in all: a server may send a byte now and then
                client.stream("POST", f"{self._endpoint.url.rstrip('/')}/chat/completions", json=body) as got,
            ):
                async for piece in got.aiter_bytes():
                    content += piece
                    if len(content) > _MOST_BYTES:
                        raise _Failed(f"the reply is longer than {_MOST_BYTES:,} bytes", again=False)
        except TimeoutError:
            raise _Failed(f"no reply within {self._endpoint.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _Failed(f"no connection: {type(error).__name__} {self._safe(str(error))}".strip()) from None
        if not got.is_success:
            raise self._refused(got, bytes(content))
        try:
            completion = _Completion.model_validate_json(bytes(content))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"])) or "the reply"
            raise _Failed(f"the reply is no chat completion: {place}: {problem['msg']}") from None
        ended = completion.choices[0].finish_reason
        if ended not in (None, "stop", "length"):
            raise _Failed(f"the server ended the reply: {self._safe(ended)}", again=False)
        return completion

    def _refused(self, got: "httpx.Response", content: bytes) -> Exception:
        """What an answer that is no success comes to."""
        status = f"the server answered {got.status_code} {got.reason_phrase}"
        said = self._safe(_said(content))
        reason = f"{status}: {said}" if said else status
        if got.status_code in (401, 403):
            variable = self._endpoint.api_key
            fix = (
                f"put a valid key into {variable}" if variable else "name the variable of a key with api_key"
            )
            return self._error(reason, fix)
        if got.status_code == 404 or got.is_redirect:
            return self._error(reason, "correct url (it ends in /v1, mostly) and model")
        if got.status_code in (408, 429) or got.is_server_error:
            pause = _retry_after(got.headers.get("Retry-After", ""))
            if pause is not None and pause > _LONGEST_PAUSE:
                return self._error(
                    f"{reason}; it asks to wait for {pause:,.0f} s",
                    "run the step again then, or lower concurrent: what was answered is kept",
                )
            return _Failed(reason, pause=pause)
        return _Failed(reason, again=False)

    def _error(self, what: str, fix: str) -> SelfimpError:
        return SelfimpError(what, where=f"endpoint {self._endpoint.label}", fix=fix)

    def _safe(self, text: str) -> str:
        """The text without the API key, which a server may repeat."""
        return text.replace(self._key, "[API key]") if self._key else text


def _key(endpoint: Endpoint) -> str | None:
    if endpoint.api_key is None:
        return None
    key = os.environ.get(endpoint.api_key, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SelfimpError(
            f"the environment variable {endpoint.api_key} {'holds no API key' if key else 'is not set'}",
            where=f"endpoint {endpoint.label}",
            fix=f"set {endpoint.api_key} in the environment of the process that runs the round",
        )
    return key


def _said(content: bytes) -> str:
    """What a server says of an error, on one line: the message of its JSON, else how it begins."""
    text = content.decode("utf-8", "replace")
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        text = str(json.loads(text)["error"]["message"])
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _QUOTED]).split())
    return line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"


def _retry_after(header: str) -> float | None:
    """Seconds to wait by the header Retry-After, a number or a date; None without one that can be read."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _in_background(
    work: Callable[[Callable[[_Result], None]], Awaitable[None]],
) -> Iterator[list[_Result]]:
    """What `work` puts, in batches, an empty one at least every second; its error if it has one.

    The work goes on in a thread with an event loop of its own, so that a caller may have one too, and ends
    when the caller stops listening.
    """
    results: SimpleQueue[_Result | BaseException | None] = SimpleQueue()
    loop = asyncio.new_event_loop()

    async def all_of_it() -> None:
        await work(results.put)

    task = loop.create_task(all_of_it())

    def run() -> None:
        try:
            loop.run_until_complete(task)
            results.put(None)
        except BaseExceptionGroup as group:
            results.put(group.exceptions[0])
        except BaseException as error:
            results.put(error)
        finally:
            loop.close()

    thread = Thread(target=run, name="endpoint", daemon=True)
    thread.start()
    try:
        ended = False
        while not ended:
            batch: list[_Result] = []
            with suppress(Empty):
                result = results.get(timeout=_HEARTBEAT)
                while result is not None and not isinstance(result, BaseException):
                    batch.append(result)
                    result = results.get_nowait()
                ended = True
            yield batch
        if isinstance(result, BaseException):
            raise result
    finally:
        with suppress(RuntimeError):  # the loop was closed meanwhile: there is nothing to cancel
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
