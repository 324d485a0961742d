"""What the tests of source readers share: comparing a clip with its truth, and a second way from raw labels to joints."""

from dataclasses import replace

import numpy as np

from ops.hands.joints import MANO21_OF_OPENPOSE
from ops.sources.base import Clip
from ops.sources.example import SKIN, Truth
from tests.ops.toy_hands import toy_arrays

JOINTS16 = [openpose for openpose, mano in enumerate(MANO21_OF_OPENPOSE) if mano < 16]
MANO_OF_JOINTS16 = [mano for mano in MANO21_OF_OPENPOSE if mano < 16]


def assert_hands(clip: Clip, truth: Truth, atol: float) -> None:
    """Same sides, same valid frames, same numbers in them (rotations as such), finite ones elsewhere."""
    assert clip.hands.keys() == truth.hands.keys()
    for side, known in truth.hands.items():
        hand = clip.hands[side]
        assert hand.theta.shape == (clip.num_frames, 45)
        np.testing.assert_array_equal(hand.valid, known.valid)
        for name in ("theta", "r", "tau"):
            found = getattr(hand, name)
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found[known.valid], getattr(known, name)[known.valid], atol=atol, err_msg=name)
        np.testing.assert_allclose(hand.beta, known.beta, atol=atol)
        model = truth.models[side]
        joints = model.joints(hand.theta, hand.r, hand.tau, hand.beta)
        np.testing.assert_allclose(joints[known.valid], truth.joints_cam[side][known.valid], atol=atol)


def smplx_joints(side: str, rotmats: np.ndarray, betas: np.ndarray, seed: int = 0) -> np.ndarray:
    """16 joints (n, 16, 3) of smplx's own skinning of the toy hand, not moved: rotmats (n, 16, 3, 3), betas (n, 10)."""
    import torch
    from smplx.lbs import lbs

    torch.set_num_threads(1)
    toy = {key: torch.tensor(np.asarray(value, np.float64)) for key, value in toy_arrays(side, seed).items()}
    parents = torch.tensor(toy_arrays(side, seed)["kintree_table"][0].astype(np.int64))
    parents[0] = -1
    posedirs = toy["posedirs"].reshape(-1, 135).T
    _, joints = lbs(
        torch.tensor(betas), torch.tensor(np.ascontiguousarray(rotmats)), toy["v_template"][None].expand(len(betas), -1, -1),
        toy["shapedirs"], posedirs, toy["J_regressor"], parents, toy["weights"], pose2rot=False,
    )  # fmt: skip
    return joints.numpy()


def in_openpose(joints16: np.ndarray) -> np.ndarray:
    """The 16 MANO joints in OpenPose's order; compare with `joints_cam[:, JOINTS16]`."""
    return joints16[:, MANO_OF_JOINTS16]


def skin_share(rgb: np.ndarray, px: np.ndarray, side: str) -> float:
    """Share of pixels that have the skin colour of a side in an example's picture, whatever the light."""
    height, width = rgb.shape[:2]
    at = np.floor(px).astype(int).clip(0, [width - 1, height - 1])
    colours = rgb[at[:, 1], at[:, 0]].astype(float)
    skin = np.array(SKIN[side], float)
    light = colours @ skin / (skin @ skin)
    return float(np.mean((np.abs(colours - light[:, None] * skin).max(axis=1) < 14) & (light > 0.5)))


def without(truth: Truth, side: str) -> Truth:
    """The same clip without labels of one hand."""
    hands = {s: hand for s, hand in truth.hands.items() if s != side}
    return replace(truth, hands=hands, joints_cam={s: truth.joints_cam[s] for s in hands})


def unlabelled(truth: Truth, side: str, frames: list[int]) -> Truth:
    """The same clip with a hand that is not labelled in some frames."""
    valid = truth.hands[side].valid.copy()
    valid[frames] = False
    return replace(truth, hands=truth.hands | {side: replace(truth.hands[side], valid=valid)})
