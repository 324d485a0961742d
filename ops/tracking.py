"""Runs, curves and the model registry in MLflow. The only module that knows mlflow.

Where: ``MLFLOW_TRACKING_URI`` if set, else ``sqlite:///<root>/mlflow.db`` with artefacts in ``<root>/mlruns``.
A run says what it was made from: all parameters, the resolved configuration, the commit, and one content version
for each upstream artefact. Everything goes through a client bound to one URI, never through mlflow's global state,
so that two runs of one process cannot mix.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

EXPERIMENT = "hand3d"
DVC_TAGS = {"DVC_EXP_NAME": "dvc_experiment", "DVC_EXP_BASELINE_REV": "dvc_experiment_from"}
MAX_BATCH = 1000  # metrics a log_batch call takes; MLflow's limit
MAX_PARAMS = 100  # and parameters
MAX_PARAM_CHARS = 6000  # of one parameter; config.json keeps all of it


def _mlflow():
    """Import late: the import takes a second. MLflow's usage reports to its maker are switched off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    return mlflow


def tracking_uri(root: Path) -> str:
    """URI of the tracking store and of the registry for this workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def client(root: Path):
    """An MlflowClient bound to the workspace's store."""
    uri = tracking_uri(root)
    return _mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(root: Path) -> str:
    """The one experiment of a workspace, made when missing. Safe against a second process making it meanwhile."""
    mlflow, store = _mlflow(), client(root)
    found = store.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    # a tracking server keeps artefacts where it was told to; the embedded store would use the working directory
    local = tracking_uri(root).startswith("sqlite:")
    location = (root.resolve() / "mlruns").as_uri() if local else None
    try:
        return store.create_experiment(EXPERIMENT, artifact_location=location)
    except mlflow.exceptions.MlflowException:
        found = store.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return found.experiment_id


NO_CONTENT = frozenset({"report.json", "training.json"})
"""Files about how an artefact was made: timings and run ids, which differ where the content is the same."""


def folder_version(folder: Path) -> str:
    """sha256 over names and bytes of a folder's files, but for NO_CONTENT: the data version of an artefact."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in NO_CONTENT):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def git_state() -> dict[str, str]:
    """Tags "git_commit" and "git_dirty" of the code that runs; "unknown" outside a checkout. An image is built from a
    clean one, and says which (HAND3D_GIT_COMMIT)."""
    if "HAND3D_GIT_COMMIT" in os.environ:
        return {"git_commit": os.environ["HAND3D_GIT_COMMIT"], "git_dirty": "False"}
    if shutil.which("git") is None:
        return {"git_commit": "unknown", "git_dirty": "unknown"}

    def git(*args: str) -> str | None:
        run = subprocess.run(["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True)
        return run.stdout.strip() if run.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": git("rev-parse", "HEAD") or "unknown",
        "git_dirty": "unknown" if status is None else str(bool(status)),
    }


@dataclass
class Run:
    """One MLflow run in progress. Metrics are buffered: a single call costs 30 ms, a batch of 1000 costs 200 ms."""

    root: Path
    run_id: str
    _client: Any
    _buffer: list = field(default_factory=list)

    def metric(self, name: str, value: float, step: int = 0) -> None:
        """Remember one number; written by `flush`."""
        entity = _mlflow().entities.Metric(name, float(value), int(time.time() * 1000), step)
        self._buffer.append(entity)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        for name, value in values.items():
            self.metric(name, value, step)

    def flush(self) -> None:
        while self._buffer:
            self._client.log_batch(self.run_id, metrics=self._buffer[:MAX_BATCH])
            del self._buffer[:MAX_BATCH]

    def tag(self, name: str, value: object) -> None:
        self._client.set_tag(self.run_id, name, str(value))

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file (a picture, a table) with the run."""
        self._client.log_artifact(self.run_id, str(path), folder or None)


@contextmanager
def start_run(root: Path, stage: str, config: object, inputs: Mapping[str, Path]) -> Iterator[Run]:
    """Open a run for a stage; it ends FINISHED, or FAILED when the block raises.

    config: a dataclass (the stage's section, or all of params.yaml); flattened into parameters and kept as JSON.
    inputs: upstream artefact -> folder; each becomes the tag ``data_version/<artefact>``.
    """
    store = client(root)
    tags = {"stage": stage, **git_state(), "mlflow.runName": stage}
    # inside `dvc exp run`, so that its rows and these runs find each other
    tags |= {tag: os.environ[name] for name, tag in DVC_TAGS.items() if name in os.environ}
    tags |= {f"data_version/{name}": folder_version(folder) for name, folder in inputs.items()}
    run_id = store.create_run(experiment_id(root), tags=tags).info.run_id
    resolved = json.loads(json.dumps(asdict(config), default=str))  # type: ignore[call-overload]
    params = [_mlflow().entities.Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in _flat(resolved)]
    for start in range(0, len(params), MAX_PARAMS):
        store.log_batch(run_id, params=params[start : start + MAX_PARAMS])
    store.log_dict(run_id, resolved, "config.json")
    run, monitor = Run(root, run_id, store), _system_monitor(root, run_id)
    try:
        yield run
    except BaseException:
        _finish(run, monitor, "FAILED")
        raise
    _finish(run, monitor, "FINISHED")


def _finish(run: Run, monitor: Any, status: str) -> None:
    run.flush()
    monitor.finish()
    run._client.set_terminated(run.run_id, status)


def _system_monitor(root: Path, run_id: str):
    """CPU, memory, disk (and GPU where there is one) every second: MLflow's default of ten misses short stages."""
    _mlflow()
    import logging

    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=1, samples_before_logging=1, tracking_uri=tracking_uri(root)
    )
    monitor.start()
    return monitor


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def run_metrics(root: Path, run_id: str) -> dict[str, float]:
    """Last value of every metric of a run."""
    return dict(client(root).get_run(run_id).data.metrics)


def run_tags(root: Path, run_id: str) -> dict[str, str]:
    return dict(client(root).get_run(run_id).data.tags)


# The registry. A version is a folder of safetensors and JSON, never a pickle.


def register(root: Path, model_name: str, run_id: str, folder: Path, tags: Mapping[str, object]) -> int:
    """Copy a policy's folder to the run's artefacts and register it. Returns the new version's number.

    Raises FileNotFoundError where the folder holds no safetensors: what cannot be loaded is not registered.
    """
    if not any(folder.rglob("*.safetensors")):
        raise FileNotFoundError(f"{folder} holds no *.safetensors: register the folder of a checkpoint")
    mlflow, store = _mlflow(), client(root)
    try:
        store.get_registered_model(model_name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        store.create_registered_model(model_name)
    store.log_artifacts(run_id, str(folder), "policy")
    source = f"{store.get_run(run_id).info.artifact_uri}/policy"
    version = store.create_model_version(
        model_name, source, run_id, tags={key: str(value) for key, value in tags.items()}
    )
    return int(version.version)


def set_alias(root: Path, model_name: str, alias: str, version: int) -> None:
    client(root).set_registered_model_alias(model_name, alias, str(version))


def get_alias(root: Path, model_name: str, alias: str) -> int | None:
    """Version behind an alias; None where the model or the alias does not exist (MLflow raises for both)."""
    mlflow = _mlflow()
    try:
        return int(client(root).get_model_version_by_alias(model_name, alias).version)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def delete_alias(root: Path, model_name: str, alias: str) -> None:
    """Remove an alias; one that is not set is left at that."""
    if get_alias(root, model_name, alias) is not None:
        client(root).delete_registered_model_alias(model_name, alias)


def version_tags(root: Path, model_name: str, version: int) -> dict[str, str]:
    return dict(client(root).get_model_version(model_name, str(version)).tags)


def set_version_tag(root: Path, model_name: str, version: int, name: str, value: object) -> None:
    client(root).set_model_version_tag(model_name, str(version), name, str(value))


def delete_version_tag(root: Path, model_name: str, version: int, name: str) -> None:
    client(root).delete_model_version_tag(model_name, str(version), name)


def version_run_id(root: Path, model_name: str, version: int) -> str:
    """Run that a version came from (ModelVersion.model_id is None on the sqlite store, run_id is not)."""
    return client(root).get_model_version(model_name, str(version)).run_id


def versions(root: Path, model_name: str) -> Sequence[int]:
    """All version numbers, oldest first."""
    quote = '"' if "'" in model_name else "'"
    found = client(root).search_model_versions(f"name = {quote}{model_name}{quote}")
    return sorted(int(version.version) for version in found)


def download(root: Path, model_name: str, version: int, target: Path) -> Path:
    """Copy a registered policy's folder below `target`; returns the folder."""
    source = client(root).get_model_version(model_name, str(version)).source
    path = _mlflow().artifacts.download_artifacts(
        artifact_uri=source, dst_path=str(target), tracking_uri=tracking_uri(root)
    )
    return Path(path)


def aliases(root: Path, model_name: str) -> dict[str, int]:
    """Alias -> version; empty where the model does not exist."""
    mlflow = _mlflow()
    try:
        return {name: int(version) for name, version in client(root).get_registered_model(model_name).aliases.items()}
    except mlflow.exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def models(root: Path) -> list[str]:
    """Names of all registered models of the store."""
    names, token = [], None
    while True:
        page = client(root).search_registered_models(page_token=token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            return sorted(names)


def exists(root: Path) -> bool:
    """Whether there is a store to ask. Asking an embedded one that is not there would make an empty one."""
    uri = tracking_uri(root)
    return not uri.startswith("sqlite:") or Path(uri.removeprefix("sqlite:///")).is_file()


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """In the block, a registry that does not answer raises OSError that says so, within half a minute."""
    mlflow = _mlflow()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    if not exists(root):
        raise FileNotFoundError(
            f"there is no registry at {tracking_uri(root)}: nothing was registered, or it was moved"
        )
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        said = " ".join(str(error).split())[:300]
        raise OSError(f"the registry at {_without_secret(tracking_uri(root))} cannot be read: {said}") from error


def keep_folder(root: Path, run_id: str, folder: Path, path: str) -> None:
    """Keep a folder's files with a run, below `path`."""
    client(root).log_artifacts(run_id, str(folder), path)


def fetch(root: Path, run_id: str, path: str, target: Path) -> Path:
    """Copy what a run keeps at `path` below `target`. Raises FileNotFoundError where it keeps nothing there."""
    try:
        return Path(client(root).download_artifacts(run_id, path, str(target)))
    except (OSError, _mlflow().exceptions.MlflowException) as error:
        said = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"run {run_id} does not hold {path} (any more): {said}") from error


def _without_secret(uri: str) -> str:
    head, at, tail = uri.rpartition("@")
    return f"{head.split('://')[0]}://...@{tail}" if at else uri
