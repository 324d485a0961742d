"""Imports what every run does, for dagster_project/run_start.py: libraries alone, and none that starts a thread as polars and
numpy do, since a thread is lost in a fork, with whatever it had locked."""

import gc
from importlib import import_module

LIBRARIES = (
    *(
        "dagster._cli.asset",
        "dagster._grpc.impl",
        "dagster._daemon.controller",
        "dagster._core.instance.runs.run_domain",
    ),
    *("dagster._core.storage.sqlite_storage", "dagster._core.storage.local_compute_log_manager"),
    *("dagster._core.definitions.antlr_asset_selection.antlr_asset_selection", "dagster._core.executor.in_process"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql", "alembic.command", "alembic.config"),
    *("dvc.repo", "dvc.repo.artifacts", "dvc.repo.commit", "dvc.repo.metrics", "dvc.repo.params", "dvc.repo.plots"),
    *("dvc.repo.datasets", "dvc.data_cloud", "dvc.lock", "dvc.rwlock", "dvc.scm", "dvc.dependency", "dvc_render"),
    *("dvc_data.hashfile.db.local", "dvc_data.hashfile.status", "scmrepo.git", "ruamel.yaml", "yaml"),
)

for library in LIBRARIES:
    import_module(library)
gc.freeze()  # or a fork's collector would look through all of it, and so copy it
