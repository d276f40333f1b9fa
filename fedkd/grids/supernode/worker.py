"""The process that answers the messages of one app: what ``flwr-clientapp`` does for one message, once for each line of input.

Modules, and the data that an app holds in them, stay from message to message; Flower's Context comes and goes with each.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import Future, wait
from importlib import import_module
from logging import ERROR
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

from flwr.app import Context, Error, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp.client_app import LoadClientAppError
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore import log
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedkd.grids.backoff import shorten_first_backoff

_INSTALLED: set[str] = set()
#: In seconds: how often one who waits for a message looks whether it is still wanted.
LOOK = 0.5


def answer(tasks: SimpleQueue[str], address: str, token: str, insecure: bool, certificates: str | None) -> None:
    """Carry out one task of a SuperNode: fetch message, context and app, run the app, send reply and context back.

    Args:
        tasks: those that come after this one.
        address: of the SuperNode's Runtime API.
        token: of the task.
        insecure: whether the connection is plain HTTP.
        certificates: the file of the root certificates, where it is not.
    """
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=insecure,
        root_certificates=Path(certificates).read_bytes() if certificates else None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), RuntimeTokenHttpInterceptor(token)],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    status, details, context = SubStatus.FAILED, "the task could not be fetched", None
    try:
        message, context, run, fab = _fetch(client, tasks)
        reply, details = _reply(message, context, run, fab)
        status = SubStatus.FAILED if details else SubStatus.COMPLETED
        push_message(client, reply, context)
    except NoLongerWantedError as error:
        details = str(error)
    except KeyboardInterrupt:  # so Flower's heartbeat says that nobody waits for this task any more
        details = "the task was taken back"
    finally:
        if heartbeat.is_running:
            heartbeat.stop()
        push_task_output(client, context=context, sub_status=status, details=details)
        client.close()


class NoLongerWantedError(Exception):
    """Nobody waits for this task any more."""


def _fetch(client: RuntimeHttpClient, tasks: SimpleQueue[str]) -> tuple[Message, Context, Any, Any]:
    """What a task is about. NoLongerWantedError if the next task, or the end, comes before the whole message does.

    A SuperNode waits for one answer at a time. It goes on without this one where the run has ended while it pulled the
    message: then the rest of the message never comes, and Flower's own function waits for it for ever.
    """
    fetched: Future[tuple[Message, Context, Any, Any]] = Future()

    def fetch() -> None:
        try:
            fetched.set_result(pull_task_input(client))
        except BaseException as error:  # it is raised where it is waited for
            fetched.set_exception(error)

    Thread(target=fetch, daemon=True).start()
    while not wait([fetched], timeout=LOOK).done:
        if not tasks.empty():
            raise NoLongerWantedError("the run ended before the whole message was there")
    return fetched.result()


def _reply(message: Message, context: Context, run: Any, fab: Any) -> tuple[Message, str]:
    """The app's reply, and an empty text; or an error reply, and its reason, as ``flwr-clientapp`` words it."""
    try:
        if fab.hash_str not in _INSTALLED:
            install_from_fab(fab.content, skip_prompt=True)
            _INSTALLED.add(fab.hash_str)
        app = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)(
            run.fab_id, run.fab_version, fab.hash_str
        )
        return app(message=message, context=context), ""
    except Exception as error:  # whatever the user's app raises becomes the reply
        log(ERROR, "ClientApp raised an exception", exc_info=error)
        code, reason = ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>"
        if isinstance(error, LoadClientAppError):
            code, reason = ErrorCode.LOAD_CLIENT_APP_EXCEPTION, "An exception was raised when attempting to load `ClientApp`"
        return Message(Error(code=code, reason=reason), reply_to=message), reason


def main() -> None:
    """``python -m fedkd.grids.supernode.worker MODULE...``: a task a line, in JSON, until the input ends."""
    shorten_first_backoff()
    for module in sys.argv[1:]:
        import_module(module)
    tasks: SimpleQueue[str] = SimpleQueue()
    Thread(target=_read, args=(sys.stdin, tasks), daemon=True).start()
    while task := tasks.get():
        try:
            answer(tasks, **json.loads(task))
        except Exception as error:  # of the connection: Flower itself notes that this task got no answer
            log(ERROR, "A task could not be answered", exc_info=error)


def _read(source: TextIO, tasks: SimpleQueue[str]) -> None:
    """Line by line; an empty text is the end."""
    for line in source:
        tasks.put(line)
    tasks.put("")


if __name__ == "__main__":
    main()
