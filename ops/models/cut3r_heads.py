"""CUT3R's outputs: dense prediction (DPT) heads and the camera pose.

Points are metres up to the checkpoint's scale, OpenCV axes; `self` is this camera's frame, `other` the first view's.
Pose is camera-to-world: translation, then a unit quaternion wxyz with w >= 0. Confidences are at least 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ops.models.cut3r_layers import Mlp, ModulatedBlock, Rope


@dataclass(frozen=True)
class DptConfig:
    """Widths of a DPT head; the defaults are the released model's."""

    layer_widths: tuple[int, ...] = (96, 192, 384, 768)
    """Channels at 1/4, 1/8, 1/16 and 1/32 of the image."""
    width: int = 256
    """Channels of the fusion pyramid."""
    last_width: int = 128


@dataclass(frozen=True)
class View:
    """Everything CUT3R says about one frame; h x w is the input image."""

    pts3d_in_self_view: Float[Tensor, "B h w 3"]
    conf_self: Float[Tensor, "B h w"]
    pts3d_in_other_view: Float[Tensor, "B h w 3"]
    conf: Float[Tensor, "B h w"]
    camera_pose: Float[Tensor, "B 7"]
    rgb: Float[Tensor, "B h w 3"]
    """In [-1, 1]."""


class ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


class RefineNet(nn.Module):
    """Add the finer level, refine, double the resolution. The coarsest level has no finer one to add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(width, width, 1)
        self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        x = self.resConfUnit2(x)
        return self.out_conv(functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class Pyramid(nn.Module):
    """Namespace `scratch` of the checkpoint."""

    def __init__(self, config: DptConfig) -> None:
        super().__init__()
        self.layer_rn = nn.ModuleList(nn.Conv2d(w, config.width, 3, padding=1, bias=False) for w in config.layer_widths)
        for level in (1, 2, 3, 4):
            self.add_module(f"refinenet{level}", RefineNet(config.width))


class DptHead(nn.Module):
    """Four token maps of one grid -> (B, C, h, w) at the image's resolution."""

    def __init__(self, token_widths: tuple[int, int, int, int], channels: int, config: DptConfig) -> None:
        super().__init__()
        widths = config.layer_widths
        self.act_postprocess = nn.ModuleList(
            nn.Sequential(nn.Conv2d(token, width, 1), *_rescale(level, width))
            for level, (token, width) in enumerate(zip(token_widths, widths, strict=True))
        )
        self.scratch = Pyramid(config)
        self.head = nn.Sequential(
            nn.Conv2d(config.width, config.width // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(config.width // 2, config.last_width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.last_width, channels, 1),
        )

    def forward(self, tokens: list[Float[Tensor, "B N _"]], grid: tuple[int, int]) -> Float[Tensor, "B C h w"]:
        maps = [
            rn(post(t.transpose(1, 2).unflatten(2, grid)))
            for t, post, rn in zip(tokens, self.act_postprocess, self.scratch.layer_rn, strict=True)
        ]
        rows, columns = maps[2].shape[-2:]
        x = self.scratch.refinenet4(maps[3])[..., :rows, :columns]  # an odd grid was rounded up by the stride of 2
        x = self.scratch.refinenet3(x, maps[2])
        x = self.scratch.refinenet2(x, maps[1])
        return self.head(self.scratch.refinenet1(x, maps[0]))


def _rescale(level: int, width: int) -> list[nn.Module]:
    """Bring a level of the 1/16 grid to 1/4, 1/8, 1/16 or 1/32."""
    return [
        [nn.ConvTranspose2d(width, width, 4, stride=4)],
        [nn.ConvTranspose2d(width, width, 2, stride=2)],
        [],
        [nn.Conv2d(width, width, 3, stride=2, padding=1)],
    ][level]


class PoseHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = Mlp(width, 4 * width, 7)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B 7"]:
        return self.mlp(x)


class DownstreamHead(nn.Module):
    """The released `dpt` head: points in both frames, colour, pose."""

    def __init__(self, encoder_width: int, width: int, num_heads: int, config: DptConfig) -> None:
        super().__init__()
        widths = (encoder_width, width, width, width)
        self.dpt_self = DptHead(widths, 4, config)
        self.final_transform = nn.ModuleList(ModulatedBlock(width, num_heads) for _ in range(2))
        self.dpt_cross = DptHead(widths, 4, config)
        self.dpt_rgb = DptHead(widths, 3, config)
        self.pose_head = PoseHead(width)

    def forward(self, levels: list[Tensor], pose_token: Tensor, rope: Rope, grid: tuple[int, int]) -> View:
        world = levels[-1]
        for block in self.final_transform:
            world = block(world, pose_token, rope)
        pts_self, conf_self = points_and_confidence(self.dpt_self(levels, grid))
        pts_other, conf = points_and_confidence(self.dpt_cross([*levels[:-1], world], grid))
        rgb = (torch.sigmoid(self.dpt_rgb(levels, grid)) * (1 - 2e-6) + 1e-6 - 0.5) * 2
        pose = camera_pose(self.pose_head(pose_token))
        return View(pts_self, conf_self, pts_other, conf, pose, rgb.permute(0, 2, 3, 1))


def points_and_confidence(raw: Float[Tensor, "B 4 h w"]) -> tuple[Float[Tensor, "B h w 3"], Float[Tensor, "B h w"]]:
    """Direction times expm1 of the length; 1 + exp."""
    xyz = raw[:, :3].permute(0, 2, 3, 1)
    return _expand(xyz), 1 + raw[:, 3].exp()


def camera_pose(raw: Float[Tensor, "B 7"]) -> Float[Tensor, "B 7"]:
    quaternion = functional.normalize(raw[:, 3:], dim=-1)
    sign = torch.where(quaternion[:, :1] < 0, -1.0, 1.0)
    return torch.cat((_expand(raw[:, :3]), quaternion * sign), dim=-1)


def _expand(vector: Tensor) -> Tensor:
    length = vector.norm(dim=-1, keepdim=True)
    return vector / length.clamp(min=1e-8) * torch.expm1(length)
