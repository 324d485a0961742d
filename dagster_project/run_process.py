"""Which process a run is in that no code server was asked for, as the demo's: a tag says so, Dagster itself does not."""

from collections.abc import Mapping

import psutil

PROCESS_TAG = "hand3d/process"


def killed(tags: Mapping[str, str]) -> str:
    """Why the run with these tags has lost its process; "" where it lives, or where no tag says which it is."""
    process = tags.get(PROCESS_TAG)
    return f"process {process} is gone: it was killed" if process and not psutil.pid_exists(int(process)) else ""
