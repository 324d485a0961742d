"""Reading pickles without running them: an unpickler that knows containers and numpy arrays and refuses all else.

A pickle is a program. Data sets and MANO ship pickles, so they are read by this class or one that adds the few
constructors its files need. Strings of Python 2 are decoded as latin-1.
"""

import collections
import functools
import pickle
from pathlib import Path

import numpy as np

CONTAINERS = {
    "builtins": {
        "set": set, "frozenset": frozenset, "bytearray": bytearray, "complex": complex, "slice": slice, "range": range,
        "list": list, "dict": dict, "tuple": tuple, "int": int, "float": float, "str": str, "bool": bool,
    },
    "collections": {"OrderedDict": collections.OrderedDict, "defaultdict": collections.defaultdict},
}  # fmt: skip
ARRAY_FUNCTIONS = ("_reconstruct", "scalar", "_frombuffer")


class RefusedError(Exception):
    """The file asks for something that no data file needs."""


class ArraysUnpickler(pickle.Unpickler):
    """Containers of Python and arrays, dtypes and scalars of numpy; RefusedError for any other name."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> object:
        found = CONTAINERS.get({"__builtin__": "builtins"}.get(module, module), {}).get(name)
        if found is not None:
            return found
        if module.startswith(("numpy.core.", "numpy._core.")) and name in ARRAY_FUNCTIONS:
            return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
        if module == "numpy" and name in {"ndarray", "dtype"}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return functools.partial(_encode)  # a new object each time: the file may set attributes on it
        raise RefusedError(f"refused: the file asks for {module}.{name}, which data needs not")


def load(path: Path, unpickler: type[ArraysUnpickler] = ArraysUnpickler) -> object:
    """Content of a pickle file. Raises ValueError naming the file: refused, damaged; OSError if it does not open."""
    with Path(path).open("rb") as file:
        return load_stream(file, path, unpickler)


def load_stream(file, path: Path, unpickler: type[ArraysUnpickler] = ArraysUnpickler) -> object:
    """Content of the pickle that an open file stands at. path: for the message."""
    try:
        return unpickler(file).load()
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path}: damaged pickle ({error!r}); fetch the file again") from error


def _encode(text: str, encoding: str) -> bytes:
    """What ``_codecs.encode`` does in pickles of byte strings, for the one codec they use."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"refused: codec {encoding!r}")
    return text.encode("latin1")
