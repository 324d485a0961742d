"""Conversions of other toolkits' hand parameters, each against smplx or that toolkit's published formula."""

from pathlib import Path

import numpy as np
import pytest

from ops.geometry.transforms import rotvec_to_rotmat
from ops.hands import conventions as conv
from ops.hands import joints as orders
from ops.hands.mano import HandModel, load_models, model_of
from tests.ops.toy_hands import toy_arrays, write_toy_models

SIDES = ("left", "right")
NUM_HANDS = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HandModel]:
    return load_models(write_toy_models(tmp_path_factory.mktemp("hands")))


def values(seed: int) -> tuple[np.ndarray, ...]:
    """hand_pose (or coefficients), r, transl, beta."""
    rng, n = np.random.default_rng(seed), NUM_HANDS
    return rng.normal(0, 0.5, (n, 45)), rng.normal(0, 1.5, (n, 3)), rng.normal(0, 1, (n, 3)), rng.normal(0, 1, (n, 10))


def smplx_hand(side: str, pose: np.ndarray, r: np.ndarray, transl: np.ndarray, beta: np.ndarray, **options: object):
    """Vertices and 16 joints of smplx.MANO in double precision."""
    torch, smplx = pytest.importorskip("torch"), pytest.importorskip("smplx")
    torch.set_num_threads(1)
    arrays = smplx.utils.Struct(**toy_arrays(side))
    hand = smplx.MANO("unused", data_struct=arrays, is_rhand=side == "right", dtype=torch.float64, **options)
    names = ("hand_pose", "global_orient", "transl", "betas")
    out = hand(**{name: torch.tensor(v) for name, v in zip(names, (pose, r, transl, beta), strict=True)})
    return out.vertices.detach().numpy(), out.joints.detach().numpy()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("num", [6, 44])
def test_pca_hands_are_smplx_s(models: dict[str, HandModel], side: str, flat: bool, num: int) -> None:
    coeffs, r, transl, beta = values(1)
    coeffs = coeffs[:, :num]
    vertices, joints = smplx_hand(side, coeffs, r, transl, beta, use_pca=True, num_pca_comps=num, flat_hand_mean=flat)
    model = models[side]
    theta, tau = conv.flat_theta_from_pca(model, coeffs, flat), conv.tau_from_transl(model, transl, beta)
    np.testing.assert_allclose(model.vertices(theta, r, tau, beta), vertices, atol=1e-5)
    np.testing.assert_allclose(conv.mano16_of(model.joints(theta, r, tau, beta)), joints, atol=1e-9)
    np.testing.assert_allclose(conv.pca_from_flat_theta(model, theta, num, flat), coeffs, atol=1e-9)


@pytest.mark.parametrize("side", SIDES)
def test_all_45_coefficients_as_manopth_takes_them(models: dict[str, HandModel], side: str) -> None:
    """DexYCB's form. smplx takes 45 "coefficients" for axis-angles, whatever use_pca says: a trap of its own."""
    coeffs, r, transl, beta = values(1)
    model, arrays = models[side], toy_arrays(side)
    pose = np.einsum("nk,kp->np", coeffs, arrays["hands_components"])
    vertices, _ = smplx_hand(side, pose, r, transl, beta, use_pca=False, flat_hand_mean=False)
    theta, tau = conv.flat_theta_from_pca(model, coeffs), conv.tau_from_transl(model, transl, beta)
    np.testing.assert_allclose(model.vertices(theta, r, tau, beta), vertices, atol=1e-5)
    np.testing.assert_allclose(conv.pca_from_flat_theta(model, theta), coeffs, atol=1e-9)
    trapped, _ = smplx_hand(side, coeffs, r, transl, beta, use_pca=True, num_pca_comps=45, flat_hand_mean=False)
    assert np.abs(trapped - vertices).max() > 0.01


@pytest.mark.parametrize("side", SIDES)
def test_hands_about_the_mean_are_smplx_s(models: dict[str, HandModel], side: str) -> None:
    pose, r, transl, beta = values(2)
    vertices, joints = smplx_hand(side, pose, r, transl, beta, use_pca=False, flat_hand_mean=False)
    model = models[side]
    theta, tau = conv.flat_theta_from_mean(model, pose), conv.tau_from_transl(model, transl, beta)
    np.testing.assert_allclose(model.vertices(theta, r, tau, beta), vertices, atol=1e-5)
    np.testing.assert_allclose(joints[:, 0], tau, atol=1e-12)
    np.testing.assert_allclose(conv.mean_pose_from_flat_theta(model, theta), pose, atol=1e-12)
    np.testing.assert_allclose(conv.transl_from_tau(model, tau, beta), transl, atol=1e-12)


def test_wrong_mean_or_transl_shift_a_hand_by_centimetres(models: dict[str, HandModel]) -> None:
    """What the conversions are for: forgetting one is not a small error."""
    pose, r, transl, beta = values(3)
    model = models["right"]
    right = model.joints(conv.flat_theta_from_mean(model, pose), r, conv.tau_from_transl(model, transl, beta), beta)
    flat = model.joints(pose, r, conv.tau_from_transl(model, transl, beta), beta)
    shifted = model.joints(conv.flat_theta_from_mean(model, pose), r, transl, beta)
    assert np.linalg.norm(flat - right, axis=-1).max() > 0.01
    assert np.linalg.norm(shifted - right, axis=-1).min() > 0.05


def test_mirrored_right_model_is_the_left_one(models: dict[str, HandModel]) -> None:
    mirrored = conv.mirror_model(models["right"])
    assert (mirrored.side, mirrored.name) == ("left", "mano-mirrored")
    for name in ("v_template", "shapedirs", "posedirs", "hands_mean"):
        np.testing.assert_allclose(getattr(mirrored, name), getattr(models["left"], name), atol=1e-15)


def test_mirror_of_parameters_is_the_mirror_of_the_mesh(models: dict[str, HandModel]) -> None:
    theta, r, tau, beta = values(4)
    right = models["right"].vertices(theta, r, tau, beta)
    left = models["left"].vertices(*conv.mirror_hand(theta, r, tau), beta)
    np.testing.assert_allclose(left, conv.mirror_points(right), atol=2e-6)
    np.testing.assert_allclose(
        conv.mirror_rotmat(rotvec_to_rotmat(r)), rotvec_to_rotmat(conv.mirror_rotvec(r)), atol=1e-12
    )
    for value, again in zip((theta, r, tau), conv.mirror_hand(*conv.mirror_hand(theta, r, tau)), strict=True):
        np.testing.assert_array_equal(again, value)


def test_left_hands_of_vitra(models: dict[str, HandModel]) -> None:
    """Its own way: MANO_RIGHT with the root at rest, x turned round, then R (V - J0) + transl."""
    theta, r, tau, beta = values(5)
    still = np.zeros_like(r)
    vertices, joints = smplx_hand("right", theta, still, still, beta, use_pca=False, flat_hand_mean=True)
    vertices, wrist = conv.mirror_points(vertices), conv.mirror_points(joints[:, :1])
    published = np.einsum("nij,nvj->nvi", rotvec_to_rotmat(r), vertices - wrist) + tau[:, None]
    ours = models["left"].vertices(*conv.left_from_mirrored_right(theta, r, tau), beta)
    np.testing.assert_allclose(ours, published, atol=1e-5)


def test_left_shapes_are_fixed_only_where_they_are_wrong(models: dict[str, HandModel]) -> None:
    """MANO_LEFT as published: x offsets of its shapes as the right hand's."""
    arrays = toy_arrays("left")
    published = model_of(arrays | {"shapedirs": arrays["shapedirs"] * [[-1.0], [1.0], [1.0]]}, "left", "mano")
    assert conv.has_left_shape_bug(published, models["right"])
    assert not conv.has_left_shape_bug(models["left"], models["right"])
    fixed = conv.fix_left_shape(published, models["right"])
    assert fixed.name == "mano-fixed"
    np.testing.assert_array_equal(fixed.shapedirs, models["left"].shapedirs)
    hand = values(6)
    np.testing.assert_array_equal(fixed.joints(*hand), models["left"].joints(*hand))
    assert np.abs(published.joints(*hand) - fixed.joints(*hand)).max() > 0.002
    assert conv.fix_left_shape(models["left"], models["right"]) is models["left"]


def test_six_numbers_of_a_rotation_in_three_layouts() -> None:
    R = rotvec_to_rotmat(np.random.default_rng(7).normal(0, 1.5, (5, 4, 3)))
    assert conv.sixd_from_rotmat(R[0, 0]).reshape(3, 2)[:, 0].tolist() == R[0, 0, :, 0].tolist()  # Being-H0
    assert conv.sixd_from_rotmat(R[0, 0], "columns").tolist() == [*R[0, 0, :, 0], *R[0, 0, :, 1]]
    assert conv.sixd_from_rotmat(R[0, 0], "rows").tolist() == [*R[0, 0, 0], *R[0, 0, 1]]
    rng = np.random.default_rng(8)
    for layout in conv.SIXD_LAYOUTS:
        sixd = conv.sixd_from_rotmat(R, layout)
        assert sixd.shape == (5, 4, 6)
        np.testing.assert_allclose(conv.rotmat_from_sixd(sixd, layout), R, atol=1e-12)
        free = conv.rotmat_from_sixd(rng.normal(size=(50, 6)), layout)
        np.testing.assert_allclose(free @ free.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(free), 1, atol=1e-12)


def test_matrices_and_quaternions() -> None:
    theta = np.random.default_rng(9).normal(0, 0.6, (6, 45))
    np.testing.assert_allclose(conv.theta_from_rotmats(conv.rotmats_from_theta(theta)), theta, atol=1e-12)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(conv.rotvec_from_quat(np.array([half, 0, 0, half])), [0, 0, np.pi / 2], atol=1e-12)
    np.testing.assert_allclose(conv.rotvec_from_quat(-3 * np.array([half, 0, 0, half])), [0, 0, np.pi / 2], atol=1e-12)
    quat = conv.quat_from_rotvec(theta.reshape(6, 15, 3))
    assert (quat[..., 0] >= 0).all()
    np.testing.assert_allclose(conv.rotvec_from_quat(quat).reshape(6, 45), theta, atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_fingertips_of_both_toolkits(models: dict[str, HandModel], side: str) -> None:
    theta, r, tau, beta = values(10)
    model = models[side]
    vertices, joints16 = smplx_hand(
        side, theta, r, conv.transl_from_tau(model, tau, beta), beta, use_pca=False, flat_hand_mean=True
    )
    ours = conv.joints_of_convention(model, theta, r, tau, beta, "smplx")
    np.testing.assert_allclose(ours, model.joints(theta, r, tau, beta), atol=2e-6)
    np.testing.assert_allclose(ours, conv.with_tips(joints16, vertices, "smplx", side), atol=2e-6)
    theirs = conv.joints_of_convention(model, theta, r, tau, beta, "manopth")
    middle = 445 if side == "left" else 444
    np.testing.assert_allclose(theirs[:, list(orders.TIPS)], vertices[:, [745, 317, middle, 556, 673]], atol=2e-6)
    rest = [k for k in range(21) if k not in orders.TIPS]
    np.testing.assert_allclose(theirs[:, rest], ours[:, rest], atol=1e-12)


def test_wrong_input_says_what_is_wanted(models: dict[str, HandModel]) -> None:
    model = models["right"]
    with pytest.raises(ValueError, match=r"\(n, k\) with k from 1 to 45"):
        conv.flat_theta_from_pca(model, np.zeros((2, 46)))
    with pytest.raises(ValueError, match=r"hand_pose must have shape \(n, 45\)"):
        conv.flat_theta_from_mean(model, np.zeros((2, 48)))
    with pytest.raises(ValueError, match="axis-angle triples"):
        conv.mirror_rotvec(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="unknown 6-D layout 'zhou'"):
        conv.sixd_from_rotmat(np.eye(3), "zhou")
    with pytest.raises(ValueError, match="parallel"):
        conv.rotmat_from_sixd(np.ones(6))
    with pytest.raises(ValueError, match=r"\(n, 15, 3, 3\)"):
        conv.theta_from_rotmats(np.zeros((2, 16, 3, 3)))
    with pytest.raises(ValueError, match="no fingertips 'hamer'"):
        conv.joints_of_convention(model, *(np.zeros((1, k)) for k in (45, 3, 3, 10)), "hamer")


def test_a_file_without_pose_components_is_refused(tmp_path: Path) -> None:
    arrays = toy_arrays("right")
    del arrays["hands_components"]
    for side in SIDES:
        np.savez(tmp_path / f"{side}.npz", **arrays)
    with pytest.raises(ValueError, match="no 'hands_components'"):
        load_models(tmp_path)
