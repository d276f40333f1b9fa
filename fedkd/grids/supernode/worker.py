"""The process that answers the messages of one app: what ``flwr-clientapp`` does for one message, once for each line of input.

Modules, and the data that an app holds in them, stay from message to message; Flower's Context comes and goes with each.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from logging import ERROR
from pathlib import Path
from typing import Any

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


def answer(address: str, token: str, insecure: bool, certificates: str | None) -> None:
    """Carry out one task of a SuperNode: fetch message, context and app, run the app, send reply and context back.

    Args:
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
        message, context, run, fab = pull_task_input(client)
        reply, details = _reply(message, context, run, fab)
        status = SubStatus.FAILED if details else SubStatus.COMPLETED
        push_message(client, reply, context)
    except KeyboardInterrupt:  # so Flower's heartbeat says that nobody waits for this task any more
        details = "the task was taken back"
    finally:
        if heartbeat.is_running:
            heartbeat.stop()
        push_task_output(client, context=context, sub_status=status, details=details)
        client.close()


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
    for line in sys.stdin:
        try:
            answer(**json.loads(line))
        except Exception as error:  # of the connection: Flower itself notes that this task got no answer
            log(ERROR, "A task could not be answered", exc_info=error)


if __name__ == "__main__":
    main()
