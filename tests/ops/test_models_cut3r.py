import argparse
import logging
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ops.models import cut3r
from ops.models.cut3r import Cut3r, Cut3rConfig, state_positions
from ops.models.cut3r_heads import camera_pose, points_and_confidence
from ops.models.cut3r_layers import CrossAttention, DecoderBlock, grid_positions, rope_table, rotate
from tests.ops.small_models import CUT3R


def small(config: Cut3rConfig = CUT3R, seed: int = 0) -> Cut3r:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Cut3r(config).eval()


def frames(seed: int, num: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(2, num, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The released files hold each `scratch.layer_rn.i` a second time as `scratch.layer{i+1}_rn`."""
    return {
        name.replace(f"layer_rn.{i}.", f"layer{i + 1}_rn."): tensor
        for name, tensor in state.items()
        for i in range(4)
        if f"scratch.layer_rn.{i}." in name
    }


def test_size_and_keys_are_the_released_models() -> None:
    with torch.device("meta"):
        model = Cut3r(Cut3rConfig())
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 793_307_858
    assert len(state) == 1_236
    assert len(state | aliases(state)) == 1_248
    assert state["dec_blocks_state.11.cross_attn.projq.weight"].shape == (768, 768)
    assert state["pose_retriever.mem"].shape == (1, 256, 1536)
    assert state["downstream_head.dpt_cross.head.4.bias"].shape == (4,)
    assert Cut3rConfig().state_heads == 16
    assert Cut3rConfig().heads == 12


def save(path: Path, state: dict, args: object) -> Path:
    torch.save({"args": args, "model": state}, path)
    return path


def test_public_layout_loads_strictly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    original = small()
    state = original.state_dict()
    public = {f"module.{k}": v for k, v in (state | aliases(state) | {"something.else": torch.zeros(1)}).items()}
    args = argparse.Namespace(model="ARCroco3DStereo(ARCroco3DStereoConfig(enc_num_heads=2, dec_num_heads=3))")
    with caplog.at_level(logging.WARNING):
        loaded = cut3r.load(save(tmp_path / "a.pth", public, args), CUT3R)
    assert "something.else" in caplog.text
    images = frames(1, 2)
    assert torch.equal(original.spatial_tokens(images), loaded.spatial_tokens(images))


def test_wrong_checkpoints_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    with pytest.raises(ValueError, match=r"missing or have another shape.*dec_norm"):
        cut3r.load(save(tmp_path / "a.pth", {k: v for k, v in state.items() if "dec_norm." not in k}, None), CUT3R)
    with pytest.raises(ValueError, match="another shape"):
        cut3r.load(save(tmp_path / "b.pth", state, None), replace(CUT3R, state_size=8))
    told = argparse.Namespace(model="Net(enc_num_heads = 2, dec_num_heads=3, state_dec_num_heads=4)")
    with pytest.raises(ValueError, match=r"state_dec_num_heads=4, the configuration 2"):
        cut3r.load(save(tmp_path / "c.pth", state, told), CUT3R)
    (tmp_path / "d.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a torch checkpoint"):
        cut3r.load(tmp_path / "d.pth", CUT3R)
    with pytest.raises(ValueError, match="no CUT3R checkpoint"):
        cut3r.load(tmp_path / "e.pth", CUT3R)


class Trap:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return tempfile.mkdtemp, ("", "", str(self.folder))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    (tmp_path / "caught").mkdir()
    path = save(tmp_path / "a.pth", small().state_dict(), {"trap": Trap(tmp_path / "caught")})
    cut3r.load(path, CUT3R)
    assert not list((tmp_path / "caught").iterdir())
    torch.load(path, weights_only=False)
    assert list((tmp_path / "caught").iterdir()), "the trap works"


def test_configuration_objects_of_the_training_code_are_read(tmp_path: Path) -> None:
    args = OmegaConf.create({"model": "Net(dec_num_heads=3, state_dec_num_heads=2)", "lr": 1e-4, "sizes": [1, 2]})
    cut3r.load(save(tmp_path / "a.pth", small().state_dict(), args), CUT3R)
    args.model = "Net(state_dec_num_heads=12)"
    with pytest.raises(ValueError, match="state_dec_num_heads=12"):
        cut3r.load(save(tmp_path / "b.pth", small().state_dict(), args), CUT3R)


def complex_rotate(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Second route: pairs (j, j + D/4) of each half are complex numbers turned by position * 100^(-2j / (D/2))."""
    out = torch.empty_like(x)
    half = x.shape[-1] // 2
    for axis in range(2):
        part = x[..., axis * half : (axis + 1) * half]
        for j in range(half // 2):
            angle = positions[:, axis] * 100 ** (-2 * j / half)
            turned = torch.complex(part[..., j], part[..., j + half // 2]) * torch.polar(
                torch.ones(len(angle)), angle.float()
            )
            out[..., axis * half + j], out[..., axis * half + j + half // 2] = turned.real, turned.imag
    return out


def test_rotary_positions_equal_complex_turning_also_below_zero() -> None:
    positions = torch.tensor([[-1, -1], [0, 0], [3, 1], [27, 5]])
    x = torch.randn(1, 2, 4, 24, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rotate(x, rope_table(positions[None], 24)), complex_rotate(x, positions), atol=1e-5)
    with pytest.raises(ValueError, match="divisible by 4"):
        rope_table(positions[None], 6)


def test_state_tokens_stand_on_an_even_grid() -> None:
    positions = state_positions(768, torch.device("cpu"))
    assert positions[27].tolist() == [0, 27]
    assert positions[28].tolist() == [1, 0]
    assert positions[767].tolist() == [767 // 28, 767 % 28]


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, where: tuple) -> torch.Tensor:
    out = []
    for q1, k1, v1 in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        if where[0] is not None:
            q1, k1 = complex_rotate(q1, where[0]), complex_rotate(k1, where[1])
        out.append(((q1 @ k1.transpose(1, 2)) / math.sqrt(q1.shape[-1])).softmax(-1) @ v1)
    return torch.cat(out, dim=-1)


def naive_block(block: DecoderBlock, x: torch.Tensor, y: torch.Tensor, heads: int, px, py) -> torch.Tensor:
    q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, -1)
    x = x + block.attn.proj(naive_attention(q, k, v, heads, (px, px)))
    c: CrossAttention = block.cross_attn
    memory = block.norm_y(y)
    x = x + c.proj(naive_attention(c.projq(block.norm2(x)), c.projk(memory), c.projv(memory), heads, (px, py)))
    return x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm3(x))))


@torch.no_grad()
def test_two_recurrent_frames_equal_a_naive_rollout() -> None:
    model, images = small(), frames(2, 2)
    grid = torch.cat((torch.tensor([[-1, -1]]), grid_positions(2, 3, torch.device("cpu"))))
    places = state_positions(7, torch.device("cpu"))
    state = model.decoder_embed_state(model.register_tokens.weight).expand(2, -1, -1)
    memory = model.pose_retriever.mem.expand(2, -1, -1)
    retriever, out = model.pose_retriever, []
    for i in range(2):
        tokens = model.encode(images[:, i])
        key = retriever.proj_q(tokens.mean(1, keepdim=True))
        asked = torch.cat((key, retriever.masked_token.expand(2, 1, -1)), -1)
        for block in retriever.read_blocks:
            asked = naive_block(block, asked, memory, 3, None, None)
        pose = model.pose_token.expand(2, -1, -1) if i == 0 else asked[..., 24:]
        image = torch.cat((pose, model.decoder_embed(tokens)), 1)
        for block, block_state in zip(model.dec_blocks, model.dec_blocks_state, strict=True):
            image, state = (
                naive_block(block, image, state, 3, grid, places),
                naive_block(block_state, state, image, 2, places, grid),
            )
        state, last = model.dec_norm_state(state), model.dec_norm(image)
        pair = torch.cat((key, last[:, :1]), -1)
        for block in retriever.write_blocks:
            memory = naive_block(block, memory, pair, 3, None, None)
        out.append(last)
    assert torch.allclose(model.spatial_tokens(images), torch.stack(out, 1), atol=1e-5)


@torch.no_grad()
def test_frames_pass_through_one_state_in_order() -> None:
    model, images = small(), frames(3, 3)
    tokens = model.spatial_tokens(images)
    assert tokens.shape == (2, 3, 1 + 2 * 3, 24)
    assert torch.allclose(tokens[:, :1], model.spatial_tokens(images[:, :1]), atol=1e-6)
    assert torch.allclose(tokens[:, :2], model.spatial_tokens(images[:, :2]), atol=1e-6)
    assert (tokens[:, 2] - model.spatial_tokens(images[:, 2:])[:, 0]).abs().max() > 1e-3
    assert torch.allclose(tokens[1:], model.spatial_tokens(images[1:]), atol=1e-6), "samples do not see each other"


@torch.no_grad()
def test_views_are_well_formed() -> None:
    for height, width in ((32, 48), (48, 80)):  # 3 x 5 patches: the coarsest level is rounded up and cropped
        for view in small()(frames(4, 2, height, width)):
            assert (
                view.pts3d_in_self_view.shape
                == view.pts3d_in_other_view.shape
                == view.rgb.shape
                == (2, height, width, 3)
            )
            assert view.conf.shape == view.conf_self.shape == (2, height, width)
            assert min(view.conf.min(), view.conf_self.min()) >= 1
            assert view.rgb.abs().max() <= 1
            assert torch.allclose(view.camera_pose[:, 3:].norm(dim=-1), torch.ones(2), atol=1e-5)
            assert (view.camera_pose[:, 3] >= 0).all()


def test_output_formulas_by_hand() -> None:
    points, confidence = points_and_confidence(torch.tensor([0.0, 3.0, 4.0, math.log(2.0)]).reshape(1, 4, 1, 1))
    assert points.flatten().tolist() == pytest.approx([0, 0.6 * math.expm1(5), 0.8 * math.expm1(5)], rel=1e-6)
    assert confidence.item() == pytest.approx(3)
    pose = camera_pose(torch.tensor([[0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0]]))
    assert pose.tolist() == [[0, 0, 0, 1, 0, 0, 0]]


@torch.no_grad()
def test_number_of_state_heads_matters_though_every_shape_fits() -> None:
    model, other = small(), small(replace(CUT3R, state_heads=3))
    other.load_state_dict(model.state_dict(), strict=True)
    images = frames(5, 2)
    assert (model.spatial_tokens(images)[:, 1] - other.spatial_tokens(images)[:, 1]).abs().max() > 1e-4


def test_odd_image_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        small().spatial_tokens(torch.zeros(1, 1, 3, 30, 32))
