"""Artifacts as the database knows them: small ones in the row, large ones in a file that it names.

The row holds the content's hash, never a path that was chosen elsewhere; whichever tier an artifact
is in, what is given out was compared with its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import sqlalchemy as sa

from dagger_dsl.errors import ArtifactNotFound, ConfigurationError, StoreDamaged
from dagger_dsl.store.arguments import check_text
from dagger_dsl.store.batches import INSERT_ARTIFACT, INSERT_LINK, file_row
from dagger_dsl.store.database import Database
from dagger_dsl.store.locks import FILES
from dagger_dsl.store.payloads import Payloads
from dagger_dsl.store.schema import artifact_links, artifacts, node_runs
from dagger_dsl.store.transactions import Transaction, run_transaction

__all__ = ["ArtifactRows", "files_kept"]

_ID: Final = re.compile(r"[0-9a-f]{64}")


@contextlib.contextmanager
def files_kept(database: Database) -> Iterator[None]:
    """Let nobody take a file for a leftover that is written inside and has no row yet."""
    database.open()
    locks = database.locking()
    locks.lock(FILES, database.busy_timeout, shared=True)
    try:
        yield
    finally:
        locks.unlock(FILES)


class ArtifactRows:
    """The artifacts of one database, for `Store`.

    Args:
        database, payloads: What the store is made of.
    """

    def __init__(self, database: Database, payloads: Payloads) -> None:
        self._database = database
        self._payloads = payloads

    def store(self, data: bytes, kind: str, run_id: str | None, node_id: str | None) -> str:
        """See `Store.store_artifact`."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ConfigurationError(f"an artifact is bytes, not {type(data).__name__}; encode it")
        if node_id is not None and run_id is None:
            raise ConfigurationError("an artifact of a node needs its run_id too")
        check_text("an artifact's kind", kind)
        for name, value in (("run_id", run_id), ("node_id", node_id)):
            if value is not None:
                check_text(name, value)
        data = bytes(data)
        database, files = self._database, self._payloads.files
        with files_kept(database):
            if files is None or len(data) < files.threshold:
                artifact_id = hashlib.sha256(data).hexdigest()
                row: tuple[Any, ...] = (artifact_id, kind, len(data), "inline", data, None)
            else:
                row = file_row(files.write(data), len(data), kind)
                artifact_id = row[0]

            def insert(tx: Transaction) -> None:
                tx.execute(INSERT_ARTIFACT(database.dialect), row)
                if run_id is not None:
                    tx.execute(INSERT_LINK(database.dialect), (artifact_id, run_id, node_id or ""))

            run_transaction(database, insert, pages=8 + len(data) // 1024)
        return artifact_id

    def get(self, artifact_id: str) -> bytes:
        """See `Store.get_artifact`."""
        row = self._row(artifact_id)
        if row.storage_location == "file":
            return self._payloads.read(artifact_id)
        return _verified(self._database.where, artifact_id, row.inline_data)

    def open(self, artifact_id: str) -> BinaryIO:
        """See `Store.open_artifact`."""
        row = self._row(artifact_id)
        if row.storage_location == "file" and self._payloads.files is not None:
            return self._payloads.files.open(artifact_id)
        return io.BytesIO(self.get(artifact_id))

    def _row(self, artifact_id: str) -> Any:
        if not isinstance(artifact_id, str) or not _ID.fullmatch(artifact_id):
            raise ArtifactNotFound(
                f"an artifact's id has 64 hexadecimal digits; there is none of id {artifact_id!r}"
            )
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(artifacts.c.storage_location, artifacts.c.inline_data).where(
                    artifacts.c.artifact_id == artifact_id
                )
            ).one_or_none()
        if row is None:
            raise ArtifactNotFound(f"{self._database.where} has no artifact {artifact_id}")
        return row

    def by_node(self, run_id: str) -> dict[str, list[str]]:
        """See `Store.artifacts_by_node`."""
        check_text("a run's id", run_id)
        outputs = sa.select(node_runs.c.node_id, node_runs.c.output_artifact_id).where(
            node_runs.c.run_id == run_id, node_runs.c.output_artifact_id.is_not(None)
        )
        links = sa.select(artifact_links.c.node_id, artifact_links.c.artifact_id).where(
            artifact_links.c.run_id == run_id
        )
        found: dict[str, list[str]] = {}
        with self._database.reading() as connection:
            rows = connection.execute(outputs.union(links)).all()
        for node_id, artifact_id in sorted(tuple(row) for row in rows):
            found.setdefault(node_id, []).append(artifact_id)
        return found


def _verified(where: str, artifact_id: str, data: bytes) -> bytes:
    if hashlib.sha256(data).hexdigest() != artifact_id:
        raise StoreDamaged(
            f"{where}: artifact {artifact_id} is not what was written; restore a backup of the "
            "database, or start the graph as a new run in another one"
        )
    return data
