"""HTTP connections with an end to patience: a request's head must come in time, and not be too large."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_S = 15.0
MAX_HEAD_BYTES = 32 * 1024


class HeadTooLarge(Exception):
    """Raised to the parser, which gives the connection up."""


class PatientProtocol(HttpToolsProtocol):
    """The server's own protocol, which would wait for ever for a head that comes byte by byte."""

    _patience: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _unread = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the server has it
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # The parser tells of a header when it is whole: what it has of one before that is counted here.
        if self._patience is not None and not self.transport.is_closing():
            self._unread += len(data)
            if self._unread > MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._unread = 0
        self._in_head = True
        if self._patience is None:
            self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        # What follows a chunked body would join the head unseen by a proxy that has checked it: a host, an address.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_came()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _count(self, *parts: bytes) -> None:
        self._head_bytes += sum(map(len, parts))
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(HEAD_S, self._out_of_patience)

    def _head_came(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _out_of_patience(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self._refuse(408, f"The request's head was not there within {HEAD_S:g} s.")

    def _refuse_head(self) -> None:
        self._refuse(431, f"The request's head is over the limit of {MAX_HEAD_BYTES} bytes.")

    def _refuse(self, status: int, message: str) -> None:
        text = message.encode()
        head = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + text)
        self.transport.close()
