"""Thin a triangle mesh with one boundary loop to an exact number of vertices, keeping vertices where they are.

Half-edge collapses in order of quadric error: a removed vertex merges into a neighbour, so that the result is a
subset of the vertices and skinning weights and shape offsets carry over unchanged. Used once, to bring the stand-in
hand to MANO's counts.
"""

import heapq

import numpy as np
from jaxtyping import Float64, Int64


class _Mesh:
    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.vertices = vertices
        self.faces = {row: tuple(int(v) for v in face) for row, face in enumerate(faces)}
        self.faces_at: dict[int, set[int]] = {}
        for row, face in self.faces.items():
            for v in face:
                self.faces_at.setdefault(v, set()).add(row)
        self.quadrics = self._quadrics()

    def neighbours(self, v: int) -> set[int]:
        return {u for row in self.faces_at[v] for u in self.faces[row]} - {v}

    def is_boundary_edge(self, v: int, u: int) -> bool:
        return len(self.faces_at[v] & self.faces_at[u]) == 1

    def is_boundary(self, v: int) -> bool:
        return any(self.is_boundary_edge(v, u) for u in self.neighbours(v))

    def cost(self, v: int, u: int) -> float:
        """Squared distances of u to the planes met by both, and a little edge length to keep triangles even."""
        point = np.append(self.vertices[u], 1.0)
        length = float(((self.vertices[v] - self.vertices[u]) ** 2).sum())
        return float(point @ (self.quadrics[v] + self.quadrics[u]) @ point) + 1e-2 * length * length

    def can_collapse(self, v: int, u: int) -> bool:
        """Link condition (stays a surface) and no triangle turned over."""
        shared = self.faces_at[v] & self.faces_at[u]
        if len(self.neighbours(v) & self.neighbours(u)) != len(shared):
            return False
        for row in self.faces_at[v] - shared:
            before = self._normal(self.faces[row])
            after = self._normal(tuple(u if corner == v else corner for corner in self.faces[row]))
            if before @ after < 0.3 * np.linalg.norm(before) * np.linalg.norm(after) or np.linalg.norm(after) < 1e-9:
                return False
        return True

    def collapse(self, v: int, u: int) -> None:
        for row in self.faces_at[v] & self.faces_at[u]:
            for corner in self.faces[row]:
                self.faces_at[corner].discard(row)
            del self.faces[row]
        for row in self.faces_at.pop(v):
            self.faces[row] = tuple(u if corner == v else corner for corner in self.faces[row])
            self.faces_at[u].add(row)
        self.quadrics[u] += self.quadrics[v]

    def _normal(self, face: tuple[int, ...]) -> np.ndarray:
        a, b, c = self.vertices[list(face)]
        return np.cross(b - a, c - a)

    def _quadrics(self) -> np.ndarray:
        """Sum of area-weighted plane quadrics (n, 4, 4) of the faces at each vertex."""
        quadrics = np.zeros((len(self.vertices), 4, 4))
        for face in self.faces.values():
            normal = self._normal(face)
            area = np.linalg.norm(normal)
            plane = np.append(normal, -normal @ self.vertices[face[0]]) / max(area, 1e-12)
            quadrics[list(face)] += area * np.outer(plane, plane)
        return quadrics


def decimate(
    vertices: Float64[np.ndarray, "n 3"],
    faces: Int64[np.ndarray, "m 3"],
    num_vertices: int,
    loop: int,
    keep: frozenset[int],
) -> tuple[Int64[np.ndarray, " v"], Int64[np.ndarray, "f 3"]]:
    """Indices of the vertices that stay (sorted) and faces in old indices; the boundary gets `loop` vertices.

    Raises ValueError if the counts cannot be reached.
    """
    mesh = _Mesh(vertices, faces)
    boundary = {v for v in mesh.faces_at if mesh.is_boundary(v)}
    _collapse_cheapest(mesh, boundary - keep, len(boundary) - loop, along_boundary=True)
    interior = set(mesh.faces_at) - {v for v in boundary if v in mesh.faces_at} - keep
    _collapse_cheapest(mesh, interior, len(mesh.faces_at) - num_vertices, along_boundary=False)
    return np.array(sorted(mesh.faces_at)), np.array([mesh.faces[row] for row in sorted(mesh.faces)])


def _collapse_cheapest(mesh: _Mesh, candidates: set[int], count: int, along_boundary: bool) -> None:
    def moves(v: int) -> list[tuple[float, int, int]]:
        ends = (u for u in sorted(mesh.neighbours(v)) if not along_boundary or mesh.is_boundary_edge(v, u))
        return [(mesh.cost(v, u), v, u) for u in ends]

    heap = [move for v in sorted(candidates) for move in moves(v)]
    heapq.heapify(heap)
    for _ in range(count):
        v, u = _pop_valid(mesh, heap)
        mesh.collapse(v, u)
        for w in sorted({u} | mesh.neighbours(u)):
            if w in candidates:
                for move in moves(w):
                    heapq.heappush(heap, move)


def _pop_valid(mesh: _Mesh, heap: list[tuple[float, int, int]]) -> tuple[int, int]:
    """Cheapest collapse whose cost is current and that keeps the surface sound."""
    while heap:
        cost, v, u = heapq.heappop(heap)
        alive = v in mesh.faces_at and u in mesh.faces_at and u in mesh.neighbours(v)
        if alive and abs(cost - mesh.cost(v, u)) <= 1e-12 * max(cost, 1e-12) and mesh.can_collapse(v, u):
            return v, u
    raise ValueError("mesh cannot be thinned to the wanted counts: no valid collapse is left")
