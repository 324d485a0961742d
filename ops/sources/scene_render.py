"""MuJoCo pictures of a synthetic scene: RGB, labels and depth, off-screen.

The hand in the picture is the HandModel's mesh itself: its vertices (world frame) are written into the renderer's mesh
every frame. Renderer: MUJOCO_GL, by default EGL (a CPU with Mesa will do); `osmesa` is an explicit choice.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8
from scipy.spatial.transform import Rotation

from ops.geometry import transforms
from ops.sources.scene_hands import directions
from ops.sources.scene_motion import Scene
from ops.sources.scene_objects import Part

ZNEAR_M, ZFAR_M = 0.05, 8.0
TEXTURE = 512
SKINS = [
    (0.94, 0.76, 0.65),
    (0.88, 0.67, 0.54),
    (0.80, 0.58, 0.44),
    (0.66, 0.45, 0.33),
    (0.50, 0.33, 0.24),
    (0.38, 0.25, 0.18),
]
LABEL_LEFT, LABEL_RIGHT = 100, 101
ARM_M = np.array([0.0, 0.012, 0.03, 0.06, 0.10, 0.16, 0.26, 0.50])  # rings of the forearm, from the wrist
SLEEVE_M = ARM_M[4:]
ELBOW = np.array([0.30, -0.42, 0.04])  # the right one, world
HAND_LABELS = {"left": LABEL_LEFT, "right": LABEL_RIGHT}


@dataclass(frozen=True, eq=False)
class Picture:
    """labels: 0 background, 1 + i object i, HAND_LABELS hands (without arm). depth_m: z, metres; NaN beyond ZFAR_M;
    None where it was not asked for."""

    index: int
    rgb: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]
    depth_m: Float32[np.ndarray, "H W"] | None


def pictures(scene: Scene, seed: tuple[int, ...], depth_frames: Collection[int] = ()) -> Iterator[Picture]:
    """Every frame of a scene, with depth at some. seed: of all that only shows (colours, textures, lights, clutter).

    Raises RuntimeError with advice where no off-screen renderer is to be had.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported
    try:
        import mujoco

        renderer = _Renderer(mujoco, scene, np.random.default_rng([*seed, 1]))
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise RuntimeError(
            f"no off-screen renderer with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}): install Mesa's EGL "
            "(infra/system-packages.sh), or set MUJOCO_GL=osmesa where libosmesa is installed"
        ) from error
    try:
        for index in range(scene.num_frames):
            yield renderer.picture(index, index in depth_frames)
    finally:
        renderer.close()


class _Renderer:
    def __init__(self, mujoco, scene: Scene, rng: np.random.Generator):
        self.mj, self.scene = mujoco, scene
        self.model = mujoco.MjModel.from_xml_string(_mjcf(scene, rng))
        self.data = mujoco.MjData(self.model)
        _paint(mujoco, self.model, rng)
        self.hand_geom = {side: self._id("GEOM", f"hand_{side}") for side in scene.hands}
        for mesh in range(self.model.nmesh):  # meshes are given in world coordinates
            geom = int(
                np.flatnonzero((self.model.geom_dataid == mesh) & (self.model.geom_type == mujoco.mjtGeom.mjGEOM_MESH))[
                    0
                ]
            )
            self.model.geom_pos[geom], self.model.geom_quat[geom] = 0, (1, 0, 0, 0)
            self.model.geom_sameframe[geom] = 0
        self.sleeve_m = 0.006 if self.model.mat_rgba[self._id("MATERIAL", "cloth"), 3] == 1 else -0.004
        self.cuffs = {side: Cuff.of(hand.model.faces) for side, hand in scene.hands.items()}
        self.label_of_geom = self._labels()
        width, height = scene.camera.width, scene.camera.height
        self.gl = mujoco.GLContext(width, height)
        self.gl.make_current()
        # multisampling costs Mesa's CPU renderer 28 of 48 ms a frame; a slight blur takes its place
        self.model.vis.quality.offsamples = 0
        self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self.view = mujoco.MjvScene(self.model, self.model.ngeom + 20)
        self.option, self.rect = mujoco.MjvOption(), mujoco.MjrRect(0, 0, width, height)
        self.eye = mujoco.MjvCamera()
        self.eye.type, self.eye.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0

    def close(self) -> None:
        self.gl.make_current()
        self.context.free()
        self.gl.free()

    def picture(self, index: int, with_depth: bool) -> Picture:
        mj = self.mj
        self.gl.make_current()
        self._pose(index)
        mj.mjv_updateScene(self.model, self.data, self.option, None, self.eye, mj.mjtCatBit.mjCAT_ALL, self.view)
        rgb, _ = self._draw(ids=False, with_depth=False)
        ids, depth = self._draw(ids=True, with_depth=with_depth)
        if ids[..., 1:].any():
            raise RuntimeError("more than 255 things in the scene: their ids need another byte")
        rgb = cv2.GaussianBlur(rgb, (3, 3), 0.55)
        return Picture(index, rgb, self._label_of_segment()[ids[..., 0]], None if depth is None else _metres(depth))

    def _pose(self, index: int) -> None:
        scene, data = self.scene, self.data
        T_world_cam = transforms.invert(scene.T_cam_world[index])
        bodies = [T_world_cam @ np.diag([1.0, -1.0, -1.0, 1.0]), *scene.T_world_obj[index]]
        for i, T in enumerate(bodies):
            data.mocap_pos[i] = T[:3, 3]
            data.mocap_quat[i] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
        for side, hand in scene.hands.items():
            vertices = scene.vertices_world[side][index]
            self._write_mesh(f"hand_{side}", vertices, hand.model.faces)
            fingers, _ = directions(side, scene.R_world_wrist[side][index])
            for name, where, thicker in (("arm", ARM_M, 0.0), ("sleeve", SLEEVE_M, self.sleeve_m)):
                cuff = self.cuffs[side]
                arm = cuff.arm(vertices, -fingers, ELBOW * [1 if side == "right" else -1, 1, 1], where, thicker)
                self._write_mesh(f"{name}_{side}", arm, cuff.faces(len(where)))
        self.mj.mj_kinematics(self.model, data)
        self.mj.mj_camlight(self.model, data)

    def _write_mesh(self, name: str, vertices: np.ndarray, faces: np.ndarray) -> None:
        model, mesh = self.model, self._id("MESH", name)
        first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        normal, normals = model.mesh_normaladr[mesh], model.mesh_normalnum[mesh]
        assert count == normals == len(vertices), f"the renderer changed {name}: {count} vertices, {normals} normals"
        model.mesh_vert[first : first + count] = vertices
        model.mesh_normal[normal : normal + normals] = _normals(vertices, faces)
        self.mj.mjr_uploadMesh(model, self.context, mesh)

    def _draw(self, ids: bool, with_depth: bool) -> tuple[np.ndarray, np.ndarray | None]:
        mj, height, width = self.mj, self.rect.height, self.rect.width
        for flag in (mj.mjtRndFlag.mjRND_SEGMENT, mj.mjtRndFlag.mjRND_IDCOLOR):
            self.view.flags[flag] = ids
        mj.mjr_render(self.rect, self.view, self.context)
        rgb = np.empty((height, width, 3), np.uint8)
        depth = np.empty((height, width), np.float32) if with_depth else None
        mj.mjr_readPixels(rgb, depth, self.rect, self.context)
        return np.ascontiguousarray(rgb[::-1]), None if depth is None else depth[::-1]

    def _label_of_segment(self) -> np.ndarray:
        out = np.zeros(65536, np.uint8)
        for geom in self.view.geoms[: self.view.ngeom]:
            if geom.segid >= 0 and geom.objtype == self.mj.mjtObj.mjOBJ_GEOM:
                out[geom.segid + 1] = self.label_of_geom[geom.objid]
        return out

    def _labels(self) -> np.ndarray:
        labels = np.zeros(self.model.ngeom, np.uint8)
        for i in range(len(self.scene.objects)):
            labels[self.model.geom_bodyid == self._id("BODY", f"object_{i}")] = 1 + i
        for side, geom in self.hand_geom.items():
            labels[geom] = HAND_LABELS[side]
        return labels

    def _id(self, kind: str, name: str) -> int:
        return self.mj.mj_name2id(self.model, getattr(self.mj.mjtObj, f"mjOBJ_{kind}"), name)


def _metres(depth: np.ndarray) -> np.ndarray:
    """OpenGL's reversed depth (near 1, far 0) -> z along the optical axis; NaN for the empty background."""
    depth = depth.astype(np.float64)
    z = ZNEAR_M * ZFAR_M / (ZNEAR_M + depth * (ZFAR_M - ZNEAR_M))
    return np.where(depth > 0, z, np.nan).astype(np.float32)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted vertex normals, for smooth shading."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    out = np.zeros((len(vertices), 3))
    for k in range(3):
        for axis in range(3):
            out[:, axis] += np.bincount(faces[:, k], across[:, axis], len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True, eq=False)
class Cuff:
    """The open edge of a hand mesh at the wrist, from which a forearm is drawn on without a seam."""

    loop: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, faces: np.ndarray) -> "Cuff":
        edges = {(int(f[k]), int(f[(k + 1) % 3])) for f in faces for k in range(3)}
        after = {a: b for a, b in edges if (b, a) not in edges}
        loop = [min(after)]
        while after[loop[-1]] != loop[0]:
            loop.append(after[loop[-1]])
        return cls(np.array(loop))

    def faces(self, rings: int) -> Int[np.ndarray, "m 3"]:
        n = len(self.loop)
        i = np.arange(n)
        j = (i + 1) % n
        bands = [
            [(j + k * n, i + k * n, i + k * n + n), (j + k * n, i + k * n + n, j + k * n + n)] for k in range(rings - 1)
        ]
        return np.concatenate([np.stack(triangle, 1) for band in bands for triangle in band])

    def arm(
        self, vertices: np.ndarray, back: np.ndarray, elbow: np.ndarray, where_m: np.ndarray, thicker: float
    ) -> np.ndarray:
        """Rings of the wrist's outline along a curve that leaves the hand backwards and turns to the elbow."""
        edge = vertices[self.loop]
        start = edge.mean(axis=0)
        goal = (elbow - start) / np.linalg.norm(elbow - start)
        fine = np.linspace(0, where_m[-1], 41)
        share = 1 - np.exp(-fine / 0.05)[:, None]
        tangents = (1 - share) * back + share * goal
        tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
        curve = start + np.concatenate([np.zeros((1, 3)), np.cumsum(tangents[:-1] * np.diff(fine)[:, None], axis=0)])
        rings = []
        for distance in where_m:
            k = round(distance / fine[-1] * 40)
            spread = (edge - start) @ _shortest_turn(back, tangents[k]).T * (1 + 0.4 * min(distance / 0.25, 1.0))
            rings.append(curve[k] + spread + thicker * spread / np.linalg.norm(spread, axis=1, keepdims=True))
        return np.concatenate(rings)


def _shortest_turn(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Rotation matrix that takes one unit vector to another, not opposite one."""
    x, y, z = np.cross(start, end)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + start @ end)


# -- the scene as MJCF


def _mjcf(scene: Scene, rng: np.random.Generator) -> str:
    camera = scene.camera
    root = Element("mujoco")
    SubElement(root, "compiler", autolimits="true")
    SubElement(root, "statistic", extent="1", center="0 0 0")
    visual = SubElement(root, "visual")
    SubElement(visual, "global", offwidth=str(camera.width), offheight=str(camera.height))
    SubElement(visual, "quality", shadowsize="1024")
    SubElement(visual, "map", znear=str(ZNEAR_M), zfar=str(ZFAR_M), shadowclip="1.2")
    glow = rng.uniform(0.32, 0.42)
    SubElement(visual, "headlight", ambient=_v([glow] * 3), diffuse=_v([rng.uniform(0.1, 0.25)] * 3), specular="0 0 0")
    assets, world = SubElement(root, "asset"), SubElement(root, "worldbody")
    eye = SubElement(world, "body", mocap="true", name="head")
    fovy = 2 * np.rad2deg(np.arctan(camera.height / 2 / camera.fy))
    SubElement(eye, "camera", name="eye", fovy=repr(float(fovy)))
    for i, thing in enumerate(scene.objects):
        body = SubElement(world, "body", mocap="true", name=f"object_{i}")
        shine = rng.uniform(0.1, 0.5)
        SubElement(assets, "material", name=f"object_{i}", specular=str(shine), shininess=str(shine))
        for part in thing.parts:
            _part(body, part, f"object_{i}")
    skin, cloth = _skin(rng), rng.uniform(0.05, 0.85, 3)
    SubElement(assets, "material", name="skin", specular="0.15", shininess="0.3")
    # bare arms: the sleeve lies inside the arm, marked by its material's alpha
    bare = rng.random() < 0.3
    SubElement(assets, "material", name="cloth", specular="0", shininess="0", rgba=f"1 1 1 {0.5 if bare else 1}")
    for side, hand in scene.hands.items():
        _mesh(assets, world, f"hand_{side}", hand.model.v_template, hand.model.faces, skin, "skin")
        cuff = Cuff.of(hand.model.faces)
        for name, where, rgb in (("arm", ARM_M, skin), ("sleeve", SLEEVE_M, cloth)):
            shape = cuff.arm(hand.model.v_template, np.array([1.0, 0, 0]), np.array([2.0, 0.1, 0]), where, 0.0)
            _mesh(
                assets,
                world,
                f"{name}_{side}",
                shape,
                cuff.faces(len(where)),
                rgb,
                "skin" if name == "arm" else "cloth",
            )
    _room(assets, world, rng)
    return tostring(root, encoding="unicode")


_MASSLESS = {"contype": "0", "conaffinity": "0"}


def _v(values) -> str:
    return " ".join(repr(float(x)) for x in values)


def _skin(rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.array(SKINS[rng.integers(len(SKINS))]) + rng.uniform(-0.04, 0.04, 3), 0, 1)


def _part(body: Element, part: Part, material: str) -> None:
    z = np.array(part.axis)
    x = np.cross([0.0, 1.0, 0.0], z) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = x / np.linalg.norm(x)
    axes = _v([*x, *np.cross(z, x)])
    SubElement(
        body,
        "geom",
        type=part.kind,
        size=_v(part.size),
        pos=_v(part.position),
        xyaxes=axes,
        rgba=_v([*part.rgb, 1]),
        material=material,
        **_MASSLESS,
    )


def _mesh(
    assets: Element, world: Element, name: str, vertices: np.ndarray, faces: np.ndarray, rgb: np.ndarray, material: str
) -> None:
    text = {"vertex": _v(vertices.ravel()), "face": " ".join(str(int(i)) for i in faces.ravel())}
    # inertia of a shell: the mesh is open at the wrist
    SubElement(assets, "mesh", name=name, inertia="shell", normal=_v(_normals(vertices, faces).ravel()), **text)
    SubElement(world, "geom", name=name, type="mesh", mesh=name, rgba=_v([*rgb, 1]), material=material, **_MASSLESS)


def _room(assets: Element, world: Element, rng: np.random.Generator) -> None:
    """Table, walls, floor, lights, and clutter behind the table; only looks, no labels."""
    for name in ("table", "wall", "floor", "stuff"):
        SubElement(assets, "texture", name=name, type="2d", builtin="flat", width=str(TEXTURE), height=str(TEXTURE))
        repeat = {"table": 1.5, "wall": 1.2, "floor": 1.5, "stuff": 4.0}[name] * rng.uniform(0.8, 1.3)
        uniform = "true" if name == "stuff" else "false"
        SubElement(
            assets,
            "material",
            name=name,
            texture=name,
            texrepeat=_v([repeat, repeat]),
            texuniform=uniform,
            specular="0.05",
            shininess="0.1",
        )
    half = (rng.uniform(0.65, 0.9), rng.uniform(0.40, 0.55))
    SubElement(
        world, "geom", type="box", size=_v([*half, 0.02]), pos=_v([0, 0.10, -0.02]), material="table", **_MASSLESS
    )
    back = rng.uniform(0.8, 1.6)
    SubElement(
        world,
        "geom",
        type="plane",
        size="4 3 1",
        pos=_v([0, back, 0]),
        xyaxes="1 0 0 0 0 1",
        material="wall",
        **_MASSLESS,
    )
    SubElement(world, "geom", type="plane", size="4 4 1", pos="0 0 -0.75", material="floor", **_MASSLESS)
    for _ in range(int(rng.integers(3, 9))):
        size = rng.uniform([0.03, 0.02, 0.03], [0.12, 0.08, 0.16])
        x, y = rng.uniform(-0.7, 0.7), rng.uniform(0.42, 0.6)
        height = size[2] if y - 0.10 < half[1] and abs(x) < half[0] else size[2] - 0.75
        euler = Rotation.from_euler("z", rng.uniform(-0.6, 0.6)).as_quat(scalar_first=True)
        colour = np.clip(rng.uniform(0.1, 0.9, 3), 0, 1)
        SubElement(
            world,
            "geom",
            type="box",
            size=_v(size),
            pos=_v([x, y, height]),
            quat=_v(euler),
            material="stuff",
            rgba=_v([*colour, 1]),
            **_MASSLESS,
        )
    warm = rng.uniform(-0.06, 0.06)
    strength = rng.uniform(0.45, 0.7) * np.array([1 + warm, 1, 1 - warm])
    towards = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.7), -1.0])
    SubElement(
        world,
        "light",
        directional="true",
        castshadow="true",
        pos=_v(-1.2 * towards),
        dir=_v(towards),
        diffuse=_v(strength),
        specular="0.3 0.3 0.3",
        ambient="0 0 0",
    )


def _paint(mujoco, model, rng: np.random.Generator) -> None:
    """Fill the textures: noise of several scales, planks, checks or prints, so that views can be matched."""
    for name in ("table", "wall", "floor", "stuff"):
        texture = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TEXTURE, name)
        first, size = model.tex_adr[texture], TEXTURE * TEXTURE * 3
        model.tex_data[first : first + size] = _texture(rng, bright=name == "stuff").ravel()


def _texture(rng: np.random.Generator, bright: bool) -> np.ndarray:
    stretch = rng.choice([1, 1, 6])  # 6: grain along one axis, as of wood
    field = sum(
        _noise(rng, cells, stretch) * weight
        for cells, weight in ((4, 1.0), (12, 0.7), (40, 0.6), (120, 0.6), (256, 0.6))
    )
    field = (field - field.min()) / (field.max() - field.min())
    grey = rng.uniform(0.55, 0.75) if bright else rng.uniform(0.2, 0.6)
    low = grey + rng.uniform(-0.14, 0.14, 3)  # rooms are seldom gaudy
    high = np.clip(low + rng.uniform(0.15, 0.35) + rng.uniform(-0.08, 0.08, 3), 0, 1)
    picture = low + field[..., None] * (high - low)
    picture = picture * _pattern(rng)[..., None]
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cells: int, stretch: int) -> np.ndarray:
    grid = rng.random((cells, max(2, cells // stretch))).astype(np.float32)
    return cv2.resize(grid, (TEXTURE, TEXTURE), interpolation=cv2.INTER_CUBIC)


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """Darkening of planks, tiles or scattered print, or none."""
    out = np.ones((TEXTURE, TEXTURE), np.float32)
    kind = rng.choice(["plain", "planks", "tiles", "print"])
    if kind in ("planks", "tiles"):
        step = int(rng.choice([64, 128]))
        out[::step] = out[1::step] = 0.7
        if kind == "tiles":
            out[:, ::step] = out[:, 1::step] = 0.7
    if kind == "print":
        for _ in range(120):
            x, y = (int(v) for v in rng.integers(0, TEXTURE, 2))
            cv2.circle(out, (x, y), int(rng.integers(2, 9)), float(rng.uniform(0.6, 1.2)), -1)
    return out
