"""`python -m tests.trust.nursery ROOT`: a process that has loaded everything and forks one maker a line of input.

A line is JSON: {"stages": [...], "kill_at": N or null}. The maker makes the stages of the shard; where kill_at is given
it kills itself with SIGKILL just before its Nth operation on a file (opening for writing, renaming, linking, removing,
making a folder). Prints the maker's process when it starts. After an empty line it waits for the maker to end and prints
how: the exit code, -9 for SIGKILL. Until then an ended maker keeps its number, which so is nobody else's.
"""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.assets import fakes
from tests.trust import world

CHANGES = {
    "os.rename",
    "os.link",
    "os.symlink",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.truncate",
    "sqlite3.connect",
}


def main() -> None:
    root = Path(sys.argv[1])
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch, root)
        for module in (
            "dvc.repo",
            "dvc.stage.cache",
            "dvc.dependency",
            "dvc_data.hashfile.build",
            "ops.checks",
            "PIL.Image",
        ):
            import_module(module)  # what is loaded late, now; nothing is run, since polars' threads outlive no fork
        print("ready", flush=True)
        while line := sys.stdin.readline():
            task = json.loads(line)
            child = os.fork()
            if child == 0:
                _maker(root, task)
            print(child, flush=True)
            sys.stdin.readline()
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def _maker(root: Path, task: dict) -> None:
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (event in CHANGES or writes):
            return
        count += 1
        if count == task["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = 1
    try:
        world.run(root, tuple(task["stages"]))
        code = 0
    finally:
        (root / "operations.txt").write_text(str(count), encoding="utf-8")
        os._exit(code)


if __name__ == "__main__":
    main()
