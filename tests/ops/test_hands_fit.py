"""The fit against known truth: clean, noisy, incomplete and hopeless joints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ops.geometry.transforms import rotvec_to_rotmat
from ops.hands.fit import MIN_JOINTS, HandFit, Track, fit, fit_tracks
from ops.hands.fit_kernel import fit_poses
from ops.hands.joints import KNUCKLES, OPENPOSE_OF_MANO21, TIPS
from ops.hands.mano import HandModel, load_models
from ops.hands.shape import beta_and_noise
from tests.ops.toy_hands import natural_poses, smooth_motion, write_toy_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HandModel]:
    return load_models(write_toy_models(tmp_path_factory.mktemp("hands")))


def clip(model: HandModel, seed: int, n: int = 64) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    truth = natural_poses(np.random.default_rng(seed), n, model.side)
    return model.joints(*truth), truth


def error_mm(result: HandFit, joints: np.ndarray) -> np.ndarray:
    """Mean joint distance to the truth of every frame."""
    return 1000 * np.linalg.norm(result.joints - joints, axis=-1).mean(axis=1)


def wrist_error_deg(result: HandFit, r: np.ndarray) -> np.ndarray:
    turn = rotvec_to_rotmat(result.r) @ rotvec_to_rotmat(r).transpose(0, 2, 1)
    return np.rad2deg(np.arccos(np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_clean_joints_are_met_and_parameters_put_them_there(models: dict[str, HandModel], side: str) -> None:
    joints, (_, r, tau, beta) = clip(models[side], seed=1)
    result = fit(models[side], joints)
    error = error_mm(result, joints)
    assert error.mean() < 0.15
    assert error.max() < 0.5
    assert wrist_error_deg(result, r).max() < 1
    assert np.abs(result.tau - tau).max() < 5e-4
    assert np.abs(result.beta - beta)[0] < 0.05, "size"
    again = models[side].joints(result.theta, result.r, result.tau, result.beta)
    np.testing.assert_allclose(again, result.joints, atol=1e-12)
    np.testing.assert_allclose(result.residual_mm, error, atol=1e-9)


def test_known_shape_is_kept(models: dict[str, HandModel]) -> None:
    joints, (*_, beta) = clip(models["right"], seed=2)
    result = fit(models["right"], joints, beta=beta)
    np.testing.assert_array_equal(result.beta, beta)
    assert error_mm(result, joints).max() < 0.15


def test_single_frame_is_enough(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=3, n=1)
    assert error_mm(fit(models["right"], joints), joints)[0] < 0.5


def test_fit_turns_and_moves_with_its_input(models: dict[str, HandModel]) -> None:
    """Any rigid motion of the joints moves the hand and changes nothing else."""
    joints, _ = clip(models["right"], seed=4, n=16)
    joints = joints + np.random.default_rng(0).normal(0, 2e-3, joints.shape)
    R, t = rotvec_to_rotmat(np.array([0.4, -1.9, 2.0])), np.array([0.3, -0.2, 1.0])
    still, moved = fit(models["right"], joints), fit(models["right"], joints @ R.T + t)
    np.testing.assert_allclose(moved.beta, still.beta, atol=1e-6)
    np.testing.assert_allclose(moved.joints, still.joints @ R.T + t, atol=1e-5)
    np.testing.assert_allclose(moved.theta, still.theta, atol=2e-3)


def test_frames_do_not_depend_on_their_batch(models: dict[str, HandModel]) -> None:
    joints, (*_, beta) = clip(models["right"], seed=5, n=37)
    joints = joints + np.random.default_rng(1).normal(0, 1e-3, joints.shape)
    together = fit(models["right"], joints, beta=beta)
    mixed = np.random.default_rng(2).permutation(37)
    np.testing.assert_allclose(fit(models["right"], joints[mixed], beta=beta).theta, together.theta[mixed], atol=1e-9)


@pytest.mark.parametrize(("noise_mm", "joint_mm", "vertex_mm"), [(1.0, 1.5, 2.5), (3.0, 4.0, 5.0), (10.0, 12.0, 12.0)])
def test_noise_is_not_amplified(
    models: dict[str, HandModel], noise_mm: float, joint_mm: float, vertex_mm: float
) -> None:
    """The fit is nearer to the truth than the measurement was (1.6 noise_mm on average)."""
    model = models["right"]
    joints, truth = clip(model, seed=6, n=128)
    noisy = joints + np.random.default_rng(3).normal(0, noise_mm / 1000, joints.shape)
    result = fit(model, noisy)
    assert error_mm(result, joints).mean() < joint_mm
    vertices = 1000 * np.linalg.norm(
        model.vertices(result.theta, result.r, result.tau, result.beta) - model.vertices(*truth), axis=-1
    )
    assert vertices.mean() < vertex_mm
    assert result.noise_mm == pytest.approx(noise_mm, rel=0.2)
    assert wrist_error_deg(result, truth[1]).max() < 6 * noise_mm


def test_no_hand_flips(models: dict[str, HandModel]) -> None:
    """Any pose, any orientation: neither the palm nor a finger ends up the wrong way round."""
    for side, model in models.items():
        for seed in range(5):
            joints, (_, r, *_) = clip(model, seed=100 + seed, n=500)
            result = fit(model, joints)
            assert error_mm(result, joints).max() < 0.5, (side, seed)
            assert wrist_error_deg(result, r).max() < 2, (side, seed)


@pytest.mark.slow
def test_no_hand_flips_in_a_hundred_thousand(models: dict[str, HandModel]) -> None:
    model = models["right"]
    for seed in range(100):
        joints, (_, r, *_) = clip(model, seed=1000 + seed, n=1000)
        result = fit(model, joints)
        assert error_mm(result, joints).max() < 0.5, seed
        assert wrist_error_deg(result, r).max() < 2, seed


def test_missing_joints_are_filled_from_the_others(models: dict[str, HandModel]) -> None:
    joints, (_, r, *_) = clip(models["right"], seed=7)
    holes = joints.copy()
    rng = np.random.default_rng(4)
    for frame in range(len(holes)):
        holes[frame, rng.choice(np.arange(2, 21), 4, replace=False)] = np.nan
    result = fit(models["right"], holes)
    assert result.valid.all()
    assert np.array_equal(result.observed, np.isfinite(holes).all(axis=-1))
    seen = np.linalg.norm(result.joints - joints, axis=-1)[result.observed]
    assert 1000 * seen.mean() < 0.15
    assert 1000 * seen.max() < 2, "a tip feels the missing joints of other fingers"
    assert np.isfinite(result.joints).all()
    assert wrist_error_deg(result, r).max() < 2


def test_weight_zero_means_missing(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=8, n=20)
    wrong, nan, weights = joints.copy(), joints.copy(), np.ones((20, 21))
    wrong[:, 12] += 0.5
    nan[:, 12] = np.nan
    weights[:, 12] = 0
    ignored = fit(models["right"], wrong, weights)
    np.testing.assert_allclose(ignored.theta, fit(models["right"], nan).theta, atol=1e-12)
    assert 1000 * np.linalg.norm((ignored.joints - joints)[:, np.arange(21) != 12], axis=-1).mean() < 0.15


def test_small_weight_gives_way(models: dict[str, HandModel]) -> None:
    """A knuckle two centimetres off turns the palm; with a small weight it does not."""
    joints, (_, r, _, beta) = clip(models["right"], seed=9, n=20)
    shifted, weights = joints.copy(), np.ones((20, 21))
    shifted[:, KNUCKLES[1]] += [0, 0, 0.02]
    full = wrist_error_deg(fit(models["right"], shifted, beta=beta, robust=False), r).mean()
    weights[:, KNUCKLES[1]] = 0.01
    light = wrist_error_deg(fit(models["right"], shifted, weights, beta=beta, robust=False), r).mean()
    assert full > 3
    assert light < 0.2 * full


def test_hopeless_frames_are_nan_and_leave_the_rest_alone(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=10, n=12)
    broken = joints.copy()
    broken[0] = np.nan  # no hand
    broken[1, MIN_JOINTS - 1 :] = np.nan  # too few
    broken[2, [0, 1, *KNUCKLES[1:]]] = np.nan  # fingers without a palm
    broken[3, 5:] = broken[3, 5]  # a tracker that put all on one spot
    broken[3, :5] = broken[3, 5]
    broken[4] = joints[4, 0] + np.linspace(0, 0.2, 21)[:, None] * [1, 0, 0]  # a line
    result = fit(models["right"], broken)
    assert result.valid.tolist() == [False] * 5 + [True] * 7
    for field in (result.theta, result.r, result.tau, result.joints, result.residual_mm):
        assert np.isnan(field[:5]).all()
        assert np.isfinite(field[5:]).all()
    assert error_mm(result, joints)[5:].max() < 0.5


def test_nothing_to_fit_invents_nothing(models: dict[str, HandModel]) -> None:
    result = fit(models["right"], np.full((3, 21, 3), np.nan))
    assert not result.valid.any()
    assert np.isnan(result.beta).all()
    empty = fit(models["right"], np.zeros((0, 21, 3)))
    assert empty.theta.shape == (0, 45)
    assert empty.residual_mm.shape == (0,)


def test_outlying_joint_shows_in_the_residual(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=11, n=20)
    joints[7, 16] += [0.08, 0, 0]
    result = fit(models["right"], joints)
    assert result.residual_mm[7] > 5 * np.delete(result.residual_mm, 7).max()


@pytest.mark.parametrize("noise_mm", [0.0, 3.0])
def test_outlying_joints_pull_nothing_after_them(models: dict[str, HandModel], noise_mm: float) -> None:
    """One joint of every second frame is 4 to 8 cm off, in fingers and palm: the others stay where they were."""
    model, rng = models["right"], np.random.default_rng(6)
    joints, (*_, beta) = clip(model, seed=13, n=80)
    measured = joints + rng.normal(0, noise_mm / 1000, joints.shape)
    rows, wrong = np.arange(0, 80, 2), rng.integers(0, 21, 40)
    without = fit(model, measured, beta=beta)
    offset = rng.normal(size=(40, 3))
    measured[rows, wrong] += offset / np.linalg.norm(offset, axis=1)[:, None] * rng.uniform(0.04, 0.08, (40, 1))
    robust, plain = fit(model, measured, beta=beta), fit(model, measured, beta=beta, robust=False)
    others = np.ones((40, 21), bool)
    others[np.arange(40), wrong] = False
    moved = [1000 * np.linalg.norm(f.joints[rows] - without.joints[rows], axis=-1)[others] for f in (robust, plain)]
    assert moved[1].mean() > 2
    assert moved[0].mean() < (0.1 if noise_mm == 0 else 0.35) * moved[1].mean()
    assert np.quantile(robust.trust[rows, wrong], 0.9) < 0.2, "a tip that moved as a finger bends is no outlier"
    assert robust.trust[1::2].min() == 1, "frames without outliers are left alone"
    untouched = 1000 * np.linalg.norm(robust.joints[1::2] - without.joints[1::2], axis=-1)
    assert untouched.mean() < (1e-3 if noise_mm == 0 else 0.2), "the noise found in the clip rises a little"


def test_robust_loss_changes_nothing_in_clean_or_evenly_noisy_joints(models: dict[str, HandModel]) -> None:
    joints, (*_, beta) = clip(models["right"], seed=14)
    for noise_m in (0.0, 3e-3):
        measured = joints + np.random.default_rng(7).normal(0, noise_m, joints.shape)
        robust, plain = (fit(models["right"], measured, beta=beta, robust=value) for value in (True, False))
        np.testing.assert_array_equal(robust.theta, plain.theta)
        assert (robust.trust == 1).all()


# -- the temporal term


def moving_hand(model: HandModel, seed: int, n: int = 128) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    truth = smooth_motion(np.random.default_rng(seed), n, model.side)
    return model.joints(*truth), truth


def test_temporal_term_lowers_the_noise_of_a_moving_hand(models: dict[str, HandModel]) -> None:
    model = models["right"]
    for noise_mm in (1.5, 3.0, 8.0):
        joints, truth = moving_hand(model, seed=40)
        measured = joints + np.random.default_rng(8).normal(0, noise_mm / 1000, joints.shape)
        plain, smooth = fit(model, measured), fit(model, measured, smooth=True)
        assert error_mm(smooth, joints).mean() < 0.75 * error_mm(plain, joints).mean(), noise_mm
        errors = [
            np.linalg.norm(model.vertices(f.theta, f.r, f.tau, f.beta) - model.vertices(*truth), axis=-1).mean()
            for f in (smooth, plain)
        ]
        assert errors[0] < 0.9 * errors[1], noise_mm
        jitter = [np.linalg.norm(np.diff(f.joints - joints, n=2, axis=0), axis=-1).mean() for f in (smooth, plain)]
        assert jitter[0] < 0.3 * jitter[1], noise_mm


def test_temporal_term_leaves_clean_joints_alone(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=15)
    for track in (joints, moving_hand(models["right"], seed=41)[0]):
        plain, smooth = fit(models["right"], track), fit(models["right"], track, smooth=True)
        np.testing.assert_array_equal(smooth.theta, plain.theta)


def test_temporal_term_does_no_harm_to_unrelated_frames(models: dict[str, HandModel]) -> None:
    """Frames in no order of time: their changes are larger than the noise, and stay."""
    joints, _ = clip(models["right"], seed=16, n=128)
    measured = joints + np.random.default_rng(9).normal(0, 3e-3, joints.shape)
    plain, smooth = fit(models["right"], measured), fit(models["right"], measured, smooth=True)
    assert error_mm(smooth, joints).mean() < 1.1 * error_mm(plain, joints).mean()


def test_temporal_term_bridges_gaps_and_outliers(models: dict[str, HandModel]) -> None:
    model = models["right"]
    joints, _ = moving_hand(model, seed=42)
    measured = joints + np.random.default_rng(10).normal(0, 3e-3, joints.shape)
    reference = error_mm(fit(model, measured, smooth=True), joints).mean()
    measured[40:44] = np.nan
    measured[60:70, 8] = np.nan
    measured[90, 12] += [0.06, 0, 0]
    result = fit(model, measured, smooth=True)
    assert not result.valid[40:44].any()
    assert result.valid.sum() == 124
    assert not result.observed[60:70, 8].any()
    error = error_mm(result, joints)
    assert np.nanmean(error) < 1.3 * reference
    assert error[90] < 3 * reference
    assert result.trust[90, 12] < 0.2


def test_residual_is_to_the_measured_joints(models: dict[str, HandModel]) -> None:
    joints, _ = moving_hand(models["right"], seed=43)
    measured = joints + np.random.default_rng(11).normal(0, 3e-3, joints.shape)
    result = fit(models["right"], measured, smooth=True)
    distance = 1000 * np.linalg.norm(result.joints - measured, axis=-1).mean(axis=1)
    np.testing.assert_allclose(result.residual_mm, distance, atol=1e-9)


# -- both hands, many clips


def test_both_hands_and_many_clips_in_one_solve_are_as_fitted_alone(models: dict[str, HandModel]) -> None:
    tracks = []
    for seed, side, n in ((50, "left", 37), (51, "right", 64), (52, "right", 5), (53, "left", 20)):
        joints, _ = clip(models[side], seed, n)
        noisy = joints + np.random.default_rng(seed).normal(0, 1e-3 * (seed - 50), joints.shape)
        tracks.append(Track(models[side], noisy))
    for track, together in zip(tracks, fit_tracks(tracks), strict=True):
        alone = fit(track.model, track.joints)
        for name in ("theta", "r", "tau", "beta", "joints", "residual_mm"):
            np.testing.assert_allclose(getattr(together, name), getattr(alone, name), atol=1e-6)
    assert fit_tracks([]) == []


def test_clips_of_one_subject_share_a_better_shape(models: dict[str, HandModel]) -> None:
    """Short noisy clips: the shape is one for all of them, and nearer to the truth than most have it alone."""
    model, (*_, beta) = models["right"], natural_poses(np.random.default_rng(60), 1)
    tracks, rng = [], np.random.default_rng(61)
    for seed in range(12):
        theta, r, tau, _ = natural_poses(np.random.default_rng(62 + seed), 10)
        joints = model.joints(theta, r, tau, beta)
        tracks.append(Track(model, joints + rng.normal(0, 3e-3, joints.shape), subject="s01"))
    together = fit_tracks([*tracks, Track(models["left"], tracks[0].joints * [-1, 1, 1], subject="s01")])
    shared = together[0].beta
    assert all(np.array_equal(result.beta, shared) for result in together[:-1])
    assert not np.array_equal(together[-1].beta, shared), "the other hand has a model and betas of its own"

    def size_error(found: np.ndarray) -> float:
        rest = [model.keypoints.rest(b[None])[0] for b in (found, beta)]
        return 1000 * np.linalg.norm(rest[0] - rest[1] - (rest[0] - rest[1])[0], axis=-1).mean()

    alone = [size_error(fit(model, track.joints).beta) for track in tracks]
    assert size_error(shared) < 0.8 * np.mean(alone)


def test_subject_with_two_betas_is_refused(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=17, n=4)
    tracks = [Track(models["right"], joints, beta=np.full(10, value), subject="s01") for value in (0.0, 1.0)]
    with pytest.raises(ValueError, match="subject 's01' name different betas"):
        fit_tracks(tracks)


def test_every_result_names_its_hand_model(models: dict[str, HandModel]) -> None:
    joints, _ = clip(models["right"], seed=18, n=4)
    assert fit(models["right"], joints).hand_model == "mano"
    assert fit(replace(models["right"], name="anny-standin"), joints).hand_model == "anny-standin"


def test_prior_keeps_noisy_fingers_anatomical(models: dict[str, HandModel]) -> None:
    """At 10 mm noise fingers neither twist nor bend sideways far, as they do without it."""
    joints, _ = clip(models["right"], seed=19, n=100)
    measured = joints + np.random.default_rng(12).normal(0, 1e-2, joints.shape)
    theta = fit(models["right"], measured).theta.reshape(-1, 15, 3)[:, :12]
    last_two = theta[:, [1, 2, 4, 5, 7, 8, 10, 11]]
    assert np.quantile(np.abs(last_two[..., :2]), 0.98) < 0.5, "twist and sideways of outer finger joints, radians"
    assert np.abs(theta[..., 2]).max() < 2.6


def test_wrong_input_says_what_is_wanted(models: dict[str, HandModel]) -> None:
    good = np.zeros((2, 21, 3))
    with pytest.raises(ValueError, match=r"joints must have shape \(n, 21, 3\)"):
        fit(models["right"], np.zeros((21, 3)))
    with pytest.raises(ValueError, match="weights must have shape"):
        fit(models["right"], good, np.ones((2, 16)))
    with pytest.raises(ValueError, match="at least 0"):
        fit(models["right"], good, -np.ones((2, 21)))
    with pytest.raises(ValueError, match="ten finite numbers"):
        fit(models["right"], good, beta=np.zeros(45))


def test_shape_from_noisy_bones_is_not_biased(models: dict[str, HandModel]) -> None:
    """Distances of noisy points are too long; the hand must not come out larger for that."""
    model, order = models["right"], list(OPENPOSE_OF_MANO21)
    sizes = []
    for seed in range(8):
        joints, (*_, beta) = clip(model, seed=20 + seed, n=256)
        noisy = joints + np.random.default_rng(seed).normal(0, 5e-3, joints.shape)
        found, noise = beta_and_noise(model.keypoints, noisy[:, order], np.ones((256, 21)))
        assert noise == pytest.approx(5e-3, rel=0.15)
        bones = [np.linalg.norm(np.diff(model.keypoints.rest(b[None])[0][1:4], axis=0), axis=1) for b in (found, beta)]
        sizes.append(bones[0] / bones[1])
    assert np.mean(sizes) == pytest.approx(1, abs=0.03)


def test_derivatives_reach_the_minimum_that_a_generic_solver_finds(models: dict[str, HandModel]) -> None:
    """SciPy with numeric derivatives, started at our solution, finds nothing better."""
    from scipy.optimize import least_squares

    model = models["right"]
    joints, (*_, beta) = clip(model, seed=12, n=2)
    noisy = joints + np.random.default_rng(5).normal(0, 3e-3, joints.shape)
    k, order = model.keypoints, list(OPENPOSE_OF_MANO21)
    rest, y = k.rest(beta[None]), np.ascontiguousarray(noisy[:, order])
    start = fit(model, noisy, beta=beta)
    theta, wrist, tau = start.theta.copy(), rotvec_to_rotmat(start.r), start.tau.copy()
    ridge = 1e-5
    prior = np.tile(ridge * np.eye(3), (1, 15, 1, 1))
    which, tiny = np.zeros(2, np.int64), np.full(1, 1e-16)
    fit_poses(
        y, np.ones((2, 21)), which, rest, k.pose[None], k.weights[None], prior, theta, wrist, tau,
        np.ones(2, bool), tiny, tiny, 50,
    )  # fmt: skip
    for n in range(2):

        def residuals(x: np.ndarray, n: int = n) -> np.ndarray:
            hand = model.joints(x[None, :45], x[None, 45:48], x[None, 48:], beta)[0]
            return np.append((hand - noisy[n]).ravel(), np.sqrt(ridge) * x[:45])

        ours = np.concatenate([theta[n], start.r[n], tau[n]])
        turned = least_squares(residuals, ours, x_scale=0.1, ftol=1e-7, max_nfev=60)
        hand = model.joints(theta[n : n + 1], _rotvec(wrist[n]), tau[n : n + 1], beta)[0]
        cost = ((hand - noisy[n]) ** 2).sum() + ridge * (theta[n] ** 2).sum()
        assert cost <= 2 * turned.cost * 1.01


def _rotvec(wrist: np.ndarray) -> np.ndarray:
    from ops.geometry.transforms import rotmat_to_rotvec

    return rotmat_to_rotvec(wrist[None])


def test_standin_of_the_project_is_fitted_too() -> None:
    """The model that the demo uses, where the bootstrap has put it."""
    import os

    folder = Path(os.environ.get("HAND3D_WEIGHTS", "data/weights")) / "hand_model"
    if not (folder / "right.npz").is_file():
        pytest.skip("no stand-in: run the bootstrap")
    for side, model in load_models(folder).items():
        joints, (_, r, *_) = clip(model, seed=30)
        result = fit(model, joints)
        assert error_mm(result, joints).max() < 0.5, side
        assert wrist_error_deg(result, r).max() < 1, side
        assert 1000 * np.linalg.norm((result.joints - joints)[:, TIPS], axis=-1).max() < 0.5
