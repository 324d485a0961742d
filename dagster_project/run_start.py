"""A code server's runs begin as forks of a process that has imported the libraries, not in a fresh interpreter: 1.1 s of CPU
less for each, and sooner under way.

Only libraries are imported beforehand, none of ours: a run works by our code as it is when it starts. Python's own fork
server makes the forks; it has one thread, and what is imported here starts none before it is used.
"""

import multiprocessing
import sys
from functools import cache
from multiprocessing.context import BaseContext

PRELOADED = "dagster_project.preloaded"


@cache
def context() -> BaseContext:
    """Where processes begin so."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([PRELOADED])
    return forks


def install() -> None:
    """In a code server, which has asked for our definitions; elsewhere nothing happens. Holds for dagster==1.13.27, which
    is pinned: its server takes the context of its runs from an attribute."""
    server = sys.modules.get("dagster._grpc.server")
    if server is not None:
        server.DagsterApiServer._mp_ctx = property(lambda self: context(), lambda self, given: None)
