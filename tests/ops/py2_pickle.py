"""Pickles byte for byte as Python 2 wrote them: how MANO's licensed files and old data sets are stored.

Strings are byte strings (opcodes U, T), so are array contents; modules have their old names; None of Python 3's
detours (`_codecs.encode`, `numpy._core`) occur.
"""

import io
import pickle
import struct
from typing import ClassVar

OLD_MODULES = {
    "builtins": "__builtin__",
    "copyreg": "copy_reg",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "numpy._core.multiarray": "numpy.core.multiarray",
}


class _Py2Pickler(pickle._Pickler):
    """The standard library's pickler in Python, with Python 2's strings and names."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_text(self, text: str) -> None:
        self._byte_string(text.encode("latin1"), text)

    def save_content(self, content: bytes) -> None:
        self._byte_string(content, content)

    def _byte_string(self, content: bytes, key: object) -> None:
        if len(content) < 256:
            self.write(b"U" + bytes([len(content)]) + content)
        else:
            self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(key)

    def save_global(self, obj: object, name: str | None = None) -> None:
        module, name = obj.__module__, name or obj.__qualname__
        self.write(f"c{OLD_MODULES.get(module, module)}\n{name}\n".encode())
        self.memoize(obj)

    dispatch[str] = save_text
    dispatch[bytes] = save_content
    dispatch[type] = save_global
    dispatch[type(len)] = save_global
    dispatch[type(lambda: None)] = save_global


def dumps(content: object) -> bytes:
    """Protocol 2."""
    stream = io.BytesIO()
    _Py2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()
