"""The program `auditkit`, imported once: each call is a fork of a process that has everything loaded.

    python warm_program.py SOCKET           # the process that forks; it says `ready` and then serves calls
    python warm_program.py SOCKET -- ...    # one call, with the arguments of auditkit

A call has the folder, the environment, the three standard streams and the exit code of a program of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import traceback


def serve(address: str) -> None:
    # What calls would import one by one.
    for module in ("auditkit.auditing", "auditkit.terminal", "matplotlib.figure", "matplotlib.backends.backend_svg"):
        importlib.import_module(module)
    from auditkit.cli import main

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = server.accept()
            with connection:
                request, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
                child = os.fork()
                if child == 0:
                    become(json.loads(request), streams, main)
                for stream in streams:
                    os.close(stream)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                connection.sendall(bytes([code % 256]))


def become(call: dict, streams: list[int], main) -> None:
    """Run the program as the caller, and never return."""
    code = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(call["folder"])
        os.environ.clear()
        os.environ.update(call["environment"])
        sys.argv = ["auditkit", *call["arguments"]]
        main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(address: str, arguments: list[str]) -> int:
    request = {"folder": os.getcwd(), "environment": dict(os.environ), "arguments": arguments}  # noqa: PTH109
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        return connection.recv(1)[0]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(call(sys.argv[1], sys.argv[3:]))
