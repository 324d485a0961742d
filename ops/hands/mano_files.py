"""Reading hand models in MANO's format without running anything that stands in the file.

MANO's licensed files are Python 2 pickles that hold chumpy objects and a sparse matrix. A pickle is a program, so it
is read by an unpickler that knows numpy's and SciPy's array constructors and replaces chumpy by inert stubs; any
other name in the file is refused.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import scipy.sparse

SHAPES = {
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "hands_mean": (45,),
    "f": (1538, 3),
}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a hand model (.npz or .pkl) by MANO's names.

    Raises ValueError for a file that is damaged, of another model, or asks to import anything but arrays.
    """
    path = Path(path)
    data = _read_npz(path) if path.suffix == ".npz" else _read_pickle(path)
    for key, shape in SHAPES.items():
        if key not in data:
            raise ValueError(f"{path}: no {key!r}; a MANO file has {', '.join(SHAPES)}")
        found = np.shape(data[key])
        enough = found[:2] == shape[:2] and found[2] >= 10 if key == "shapedirs" and len(found) == 3 else found == shape
        if not enough:
            raise ValueError(f"{path}: {key} has shape {found}, a MANO file has {shape}")
        if not np.isfinite(np.asarray(data[key], dtype=np.float64)).all():
            raise ValueError(f"{path}: {key} holds values that are not finite")
    return data


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz of plain arrays ({error}); fetch or convert it again") from error


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file, encoding="latin1").load()
        except _RefusedError as error:
            raise ValueError(f"{path}: {error}") from error
        except Exception as error:  # a damaged pickle may raise anything
            raise ValueError(f"{path}: damaged pickle ({error!r}); fetch the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, a MANO file holds a dict")
    return {str(key): _to_array(value) for key, value in content.items() if key in SHAPES or key == "kintree_table"}


class _RefusedError(Exception):
    """The file asks for something that no hand model needs."""


def _encode(text: str, encoding: str) -> bytes:
    """What ``_codecs.encode`` does in pickles of byte strings, for the one codec they use."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"refused: codec {encoding!r}")
    return text.encode("latin1")


class _Chumpy:
    """Stands for any chumpy object: keeps its state, does nothing."""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _ArraysOnly(pickle.Unpickler):
    """Knows arrays, sparse matrices and chumpy stubs; refuses every other name."""

    def find_class(self, module: str, name: str) -> object:
        if module == "chumpy" or module.startswith("chumpy."):
            return _Chumpy
        known = {"_reconstruct", "scalar", "_frombuffer", "ndarray", "dtype"}
        if module.startswith(("numpy.core.", "numpy._core.")) and name in known - {"ndarray", "dtype"}:
            return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
        if module == "numpy" and name in {"ndarray", "dtype"}:
            return getattr(np, name)
        if module in ("scipy.sparse.csc", "scipy.sparse._csc", "scipy.sparse") and name in ("csc_matrix", "csc_array"):
            return getattr(scipy.sparse, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor")):
            return _reconstruct_stub
        if module in ("__builtin__", "builtins") and name in ("object", "set"):
            return {"object": object, "set": set}[name]
        raise _RefusedError(f"refused: the file asks for {module}.{name}, which no MANO file needs")


def _reconstruct_stub(kind: type, base: type, state: object) -> object:
    """Protocol 0/1 objects of Python 2; only stubs and sparse matrices are made this way."""
    if kind not in (_Chumpy, scipy.sparse.csc_matrix) or base is not object:
        raise _RefusedError(f"refused: reconstruction of {kind}")
    return object.__new__(kind)


def _to_array(value: object) -> np.ndarray:
    if scipy.sparse.issparse(value):
        return value.toarray()
    if isinstance(value, _Chumpy):
        return _chumpy_to_array(value)
    return np.asarray(value)


def _chumpy_to_array(stub: _Chumpy) -> np.ndarray:
    """A constant (state ``x``) or a selection (``a``, ``idxs``, ``preferred_shape``) or reshaping of one."""
    if "x" in stub.state:
        return _to_array(stub.state["x"])
    if "a" in stub.state and "idxs" in stub.state:
        picked = _to_array(stub.state["a"]).ravel()[np.asarray(stub.state["idxs"])]
        return picked.reshape(stub.state.get("preferred_shape", picked.shape))
    if "a" in stub.state and "newshape" in stub.state:
        return _to_array(stub.state["a"]).reshape(stub.state["newshape"])
    raise ValueError(f"chumpy object with {sorted(stub.state)}: only constants, selections and reshapings can be read")
