"""CUT3R as ops.perception's point-map estimator: the frames of a clip in, one point map a frame out (paper 3.2.1).

Points are in each frame's own camera, in the scale the network gives. Frames are resized so that the longer edge is
512 pixels and both are multiples of the patch, which changes the shape of a frame by less than one patch.
"""

from pathlib import Path

import cv2
import numpy as np
import torch

from ops.models.cut3r import Cut3r, Cut3rConfig, load

LONG_EDGE = 512  # of the released checkpoint cut3r_512_dpt_4_64.pth


class Cut3rMaps:
    """Runs on the GPU if there is one."""

    def __init__(self, model: Cut3r, long_edge: int = LONG_EDGE) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.long_edge = model.eval().to(self.device), long_edge

    @torch.inference_mode()
    def maps(self, frames: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """RGB uint8 frames of one clip, in order -> (points (h, w, 3), confidence (h, w)) each, float32."""
        if not frames:
            return []
        size = self._size(frames[0])
        pixels = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        return [
            (view.pts3d_in_self_view[0].cpu().numpy(), view.conf_self[0].cpu().numpy())
            for view in self.model.views(images)
        ]

    def _size(self, frame: np.ndarray) -> tuple[int, int]:
        height, width = frame.shape[:2]
        shrink, patch = self.long_edge / max(height, width), self.model.config.patch
        return tuple(max(patch, round(edge * shrink / patch) * patch) for edge in (width, height))


def load_estimator(weights: Path) -> Cut3rMaps:
    """Raises ValueError if the file is not the public checkpoint."""
    return Cut3rMaps(load(weights, Cut3rConfig()))
