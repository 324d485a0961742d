"""One Dagster run in a process of its own, begun as a code server does it, and the CPU seconds that went into it: stages_s,
in the stages' own functions; checks_s, in their checks; total_s, of the process from its start, with its children. What is
neither is what orchestration adds: imports and definitions, Dagster's run with its steps and events, DVC's commits.
"""

import json
import os
import time
import warnings
from collections import Counter
from multiprocessing.queues import SimpleQueue

from dagster_project import run_start

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def cpu_s() -> float:
    """Of this process, exactly, and of the children it waited for, to 10 ms."""
    return time.process_time() + sum(os.times()[2:4])


def spent(shard: str, stages: str) -> dict[str, float]:
    """Raises RuntimeError where the run fails; it has said why."""
    forks = run_start.context()
    queue = forks.SimpleQueue()
    run = forks.Process(target=_run, args=(shard, stages, queue))
    run.start()
    run.join()
    if run.exitcode:
        raise RuntimeError(f"{stages} of {shard} failed")
    return queue.get()


def _run(shard: str, stages: str, queue: SimpleQueue) -> None:
    from dagster._cli.asset import asset_materialize_command

    from ops import artefacts, checks

    seconds: Counter[str] = Counter()

    def timed(what, function):
        def inner(*arguments):
            start = cpu_s()
            made = function(*arguments)
            seconds[what] += cpu_s() - start
            return made

        return inner

    evaluate = checks.evaluate
    artefacts.run_stage = timed("stages_s", artefacts.run_stage)
    checks.evaluate = timed("checks_s", lambda made: list(evaluate(made)))
    warnings.simplefilter("ignore")  # that Dagster has another command for a person
    command = ["--select", stages, "--partition", shard, "-m", "dagster_project.definitions"]
    asset_materialize_command.main([*command, "--config-json", json.dumps(QUIET)], standalone_mode=False)
    queue.put({**seconds, "total_s": cpu_s()})
