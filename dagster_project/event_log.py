"""Dagster's sqlite event log with less work an event: one SQLAlchemy engine a file instead of one an access, the index's
connection kept open, and planned events written together.

An engine learns its database anew and compiles every statement anew: 5 ms of CPU, a hundred times a materialisation,
because every check is planned, evaluated and looked up. Files, their layout and what is in them are Dagster's own, so
that both can be used on one home in turn.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool, QueuePool

ENGINES = 8  # files whose engine is kept: the index, and the runs of a while


class EventLog(SqliteEventLogStorage):
    """event_log_storage of infra/dagster.yaml. Holds for dagster==1.13.27, which is pinned."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None):
        self._batch = threading.local()  # .connections: of the batch that this thread is writing
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"base_dir": dg.Field(dg.StringSource, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: dict[str, str]) -> "EventLog":
        home = os.environ.get("DAGSTER_HOME", "")
        return cls(config_value.get("base_dir") or os.path.join(home, "history", "runs"), inst_data)  # noqa: PTH118

    def has_table(self, table_name: str) -> bool:
        engine = self._engine(INDEX_SHARD_NAME)
        with engine.connect() as connection:
            return bool(engine.dialect.has_table(connection, table_name))

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """In one transaction a file, whole or not at all: what a run plans, 50 events, with the disk synced once."""
        with self._db_lock, ExitStack() as stack:
            shards = dict.fromkeys([*(event.run_id for event in events), INDEX_SHARD_NAME])
            self._batch.connections = {shard: stack.enter_context(self._transaction(shard)) for shard in shards}
            stack.callback(self._batch.__dict__.clear)
            for event in events:
                self.store_event(event)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        held = self._batch.__dict__.get("connections", {})
        if shard in held:
            yield held[shard]
            return
        with self._db_lock, self._transaction(shard) as connection:
            yield connection

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[Connection]:
        if shard not in self._initialized_dbs:
            self._initdb(_engine(self.conn_string_for_shard(shard)))
            self._initialized_dbs.add(shard)
        with self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> Engine:
        """The index's keeps its connection, for this process and this very file. A run's does not: closing writes into the
        file, by which the web server notices new events."""
        address = self.conn_string_for_shard(shard)
        if shard != INDEX_SHARD_NAME:
            return _engine(address)
        file = Path(self.path_for_shard(shard))
        return _open_engine(address, os.getpid(), file.stat().st_ino if file.exists() else 0)


@lru_cache(maxsize=ENGINES)
def _engine(address: str) -> Engine:
    """It holds no connection, and so nothing that a process which is forked off could not use."""
    return create_engine(address, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})


@lru_cache(maxsize=2)
def _open_engine(address: str, process: int, file: int) -> Engine:
    """Threads take the connection in turn; what is asked for meanwhile gets one of its own."""
    options = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
    return create_engine(address, poolclass=QueuePool, pool_size=1, max_overflow=-1, connect_args=options)
