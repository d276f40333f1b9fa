"""Handing a message to a client: what it answers, or what went wrong in it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedkd.base.meeting import waited
from fedkd.grids.flower import ErrorCode, PlainMessage, error_reply, plain_message

T = TypeVar("T")

#: Measures how long clients take, in seconds.
clock = time.perf_counter


def run_client(
    client_app: ClientApp,
    message: Message,
    context: Context,
    store: Callable[[bytes], Any] = bytes,
    *,
    timeout: float | None = None,
) -> PlainMessage | None:
    """Hand a message to the client; its reply as a plain value, see `answered`."""
    return answered(client_app, message, context, partial(plain_message, store=store), timeout=timeout)


def answered(
    client_app: ClientApp, message: Message, context: Context, take: Callable[[Message], T], *, timeout: float | None = None
) -> T | None:
    """Hand a message to the client; what ``take`` makes of its reply, or None where it took more than ``timeout`` seconds.

    Where the client raises, it is an error reply, whose reason is ``ClassName: message`` on its first line, then the
    traceback. A client that calls ``sys.exit`` has failed like any other; KeyboardInterrupt passes through.
    """
    begun, before = clock(), waited()
    reply = _answer(client_app, message, context, take)
    return reply if timeout is None or clock() - begun - (waited() - before) <= timeout else None


def _answer(client_app: ClientApp, message: Message, context: Context, take: Callable[[Message], T]) -> T:
    try:
        reply = client_app(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned {type(reply).__name__}, a Message is needed")
        if reply.metadata.reply_to_message_id != message.metadata.message_id:
            raise ValueError("the ClientApp returned a Message that does not answer the one it was given")
        return take(reply)
    except (Exception, SystemExit) as error:
        return take(error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _reason(error)))


def _reason(error: BaseException) -> str:
    lines = traceback.format_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    return f"{type(error).__name__}: {error}\n{''.join(lines)}"
