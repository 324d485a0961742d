"""Dagster's sqlite event log with one SQLAlchemy engine a file instead of one an access.

An engine learns its database anew and compiles every statement anew: 5 ms of CPU, a hundred times a materialisation,
because every check is planned, evaluated and looked up. Files, their layout and what is in them are Dagster's own, so
that both can be used on one home in turn.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

ENGINES = 8  # files whose engine is kept: the index, and the runs of a while


class EventLog(SqliteEventLogStorage):
    """event_log_storage of infra/dagster.yaml. Holds for dagster==1.13.27, which is pinned."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"base_dir": dg.Field(dg.StringSource, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: dict[str, str]) -> "EventLog":
        home = os.environ.get("DAGSTER_HOME", "")
        return cls(config_value.get("base_dir") or os.path.join(home, "history", "runs"), inst_data)  # noqa: PTH118

    def has_table(self, table_name: str) -> bool:
        engine = _engine(self.conn_string_for_shard(INDEX_SHARD_NAME))
        with engine.connect() as connection:
            return bool(engine.dialect.has_table(connection, table_name))

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = _engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection


@lru_cache(maxsize=ENGINES)
def _engine(address: str) -> Engine:
    """It holds no connection, and so nothing that a process which is forked off could not use."""
    return create_engine(address, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
