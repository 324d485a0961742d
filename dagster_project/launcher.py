"""Dagster's launcher of runs on one machine, and a watch over them: runs whose process is gone are ended.

Dagster's own launcher cannot say whether a run's process lives. The code server ends runs of its own whose process
dies; when it was killed with them, by a power cut or the kernel, they would be shown as running for ever, and hold
their places in queue and pools. The daemon's run monitoring asks this launcher.
"""

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from dagster_project.run_process import PROCESS_TAG, killed

PATIENCE = 3
"""Looks at which a code server must have been out of reach: it may be about to come back."""


class WatchedRunLauncher(DefaultRunLauncher):
    """run_launcher of infra/dagster.yaml and infra/dagster-postgres.yaml; the Helm chart's launcher watches its own."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Of a started run. A run that no server was asked for is one of the demo's or of a command's own."""
        if PROCESS_TAG in run.tags:
            why = killed(run.tags)
            return _health(not why, why)
        client = self._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "nothing says which process it runs in")
        missed = self.__dict__.setdefault("_missed", {})
        try:
            answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run.run_id), timeout=10)
        except DagsterUserCodeUnreachableError:
            missed[run.run_id] = missed.get(run.run_id, 0) + 1
            return _health(missed[run.run_id] < PATIENCE, "the code server that ran it is gone: run it again")
        missed.pop(run.run_id, None)
        known = deserialize_value(answer, CanCancelExecutionResult).can_cancel
        return _health(known, "the code server was started anew and the run's process ended with it: run it again")


def _health(alive: bool, why: str) -> CheckRunHealthResult:
    return CheckRunHealthResult(WorkerStatus.RUNNING if alive else WorkerStatus.FAILED, "" if alive else why)
