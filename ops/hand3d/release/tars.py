"""Tar files whose bytes depend on their contents alone: no times, no owners, a fixed number of samples each."""

import io
import tarfile
from pathlib import Path, PurePosixPath
from types import TracebackType


class TarShards:
    """<prefix>-00000.tar, <prefix>-00001.tar, ...: samples_per_tar samples each, in the order they are added."""

    def __init__(self, prefix: Path, samples_per_tar: int):
        if samples_per_tar < 1:
            raise ValueError(f"hand3d_dataset.samples_per_tar is {samples_per_tar}: give at least 1")
        self._prefix, self._per_tar, self._count = prefix, samples_per_tar, 0
        self._tar: tarfile.TarFile | None = None
        self.paths: list[Path] = []

    def add(self, members: dict[str, bytes]) -> list[tuple[str, int, int]]:
        """Add one sample. Returns where each member's bytes lie: (name of the tar, offset, size)."""
        if self._count % self._per_tar == 0:
            self._next()
        self._count += 1
        return [(self.paths[-1].name, self._member(name, data), len(data)) for name, data in members.items()]

    def _member(self, name: str, data: bytes) -> int:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name!r} would lie outside the folder the tar is unpacked in: rename the clip")
        assert self._tar is not None
        info = tarfile.TarInfo(name)  # time 0, no owner
        info.size, info.mode = len(data), 0o644
        self._tar.addfile(info, io.BytesIO(data))
        return self._tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def _next(self) -> None:
        self.close()
        path = self._prefix.with_name(f"{self._prefix.name}-{len(self.paths):05d}.tar")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.paths.append(path)
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - open across calls

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def __enter__(self) -> "TarShards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()
