"""`python -m assets.piped STAGE ... --attest FILE`: `hand3d run` as a process that speaks Dagster Pipes.

What a subprocess and a container run. Needs dagster-pipes, which is one small file, not dagster. Messages are kept far
below the 16 KiB at which container engines cut log lines; the caller trusts FILE, not the messages.
"""

import signal
import sys
from pathlib import Path

from ops import __main__ as console
from ops import jobs
from ops.orphans import leave_with_parent


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code of `hand3d run`, having told the caller what was made."""
    from dagster_pipes import open_dagster_pipes

    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as process 1 of a container it would be ignored
    attest = Path(arguments[arguments.index("--attest") + 1])
    leave_with_parent()  # a run worker that is killed cannot terminate it
    with open_dagster_pipes() as pipes:
        code = console.main(["run", *arguments])
        if code == 0:
            said = jobs.attested(attest)
            told = {"files": said.files, "seconds": said.seconds, "device": said.device}
            pipes.report_asset_materialization(metadata=told)
    return code


if __name__ == "__main__":
    sys.exit(main())
