"""Values on their way in and out: JSON text below the threshold, an artifact file from there on."""

from __future__ import annotations

import math
from typing import Any

from dagger_dsl.errors import ArtifactNotFound, StoreDamaged, StoreError
from dagger_dsl.store.artifacts import HOW_TO_MEND, ArtifactFiles
from dagger_dsl.store.codec import decode, encode
from dagger_dsl.store.faults import placed

__all__ = ["Payloads"]


class Payloads:
    """Encodes and decodes values; threads may share it.

    Args:
        files: Where large encodings go; None keeps all of them inline.
    """

    def __init__(self, files: ArtifactFiles | None) -> None:
        self.files = files
        self._threshold = math.inf if files is None else files.threshold

    def encode(self, value: Any, path: str = "value") -> tuple[str | None, str | None, int]:
        """Return the inline text, or the artifact's id, and the size in bytes.

        An artifact's file is on the disk when this returns; no row names it yet.

        Raises:
            EncodingError: The value has no stored form.
            StoreError: The file cannot be written.
        """
        data = encode(value, path)
        size = len(data)
        if size < self._threshold:
            return data.decode(), None, size
        return self.place(data)

    def place(self, data: bytes) -> tuple[str | None, str | None, int]:
        """Return where an encoding goes, as `encode` does."""
        size = len(data)
        if self.files is None or size < self._threshold:
            return data.decode(), None, size
        with placed(str(self.files.root)):
            return None, self.files.write(data), size

    def decode(self, inline: str | None, artifact_id: str | None, path: str = "value") -> Any:
        """Return the value of an inline text or of an artifact, verified by its hash.

        Raises:
            DecodingError: This process does not know a stored type.
            StoreDamaged: The file is not what was written, or is missing.
        """
        if artifact_id is not None:
            return decode(self.read(artifact_id), path)
        return None if inline is None else decode(inline.encode(), path)

    def read(self, artifact_id: str) -> bytes:
        """Return the bytes of an artifact's file, verified by its hash."""
        if self.files is None:
            raise StoreError(
                f"artifact {artifact_id} is in a file, and this store has no artifact folder; "
                "open it with artifact_dir="
            )
        with placed(str(self.files.root)):
            try:
                return self.files.read(artifact_id)
            except ArtifactNotFound as error:
                raise StoreDamaged(
                    f"the artifact file {self.files.path(artifact_id)} is missing; copy the "
                    f"artifact folder along with the database, or {HOW_TO_MEND}"
                ) from error
