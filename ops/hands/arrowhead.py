"""Least squares of many hands at once: normal equations with an arrowhead structure, LANES frames in step.

A frame has 51 unknowns: wrist rotation and position (6) and, for each finger, three joints (9). A finger's points
depend on the wrist and on that finger only, so the normal matrix has five 9 x 9 blocks and a border. Each block is
eliminated by its own Cholesky factor, then the border is solved. The border has `columns` columns: the wrist's six,
any unknowns shared by all frames (ten betas, or none), and last the residual, which makes the right-hand side.

Single precision: only steps are computed here, residuals and unknowns are kept in double by the caller, so rounding
costs no accuracy. Every array has the frames of a batch (lanes) as its last axis: the innermost loops run over lanes and become vector
instructions. Their length is read from the arrays, not a constant: a constant loop is unrolled before it can be
turned into vectors, and runs three times slower.
"""

import numpy as np
from numba import njit

LANES = 32
_FLAGS = {"contract", "nsz", "arcp", "reassoc"}
TINY = np.float32(1e-18)  # m^2: pivots below are taken for singular
ZERO, ONE = np.float32(0.0), np.float32(1.0)


@njit(cache=True)
def lane_arrays(columns):
    """Arrays of one batch: (inputs) derivatives, rows, weights, pull, damping; (work) blocks, borders, border; (out)
    step, failed; (input) curvature.

    derivatives (5, 9, 9, L): of the coordinates of a finger's joints 2, 3 and tip by its nine angles.
    rows (63, columns, L): border row of each coordinate; wrist and knuckles first (18), then 9 a finger.
    weights (63, L). pull (45, L): gradient of the prior. damping (L): relative, of Levenberg-Marquardt.
    curvature (5, 9, 9, L): of the prior, added to the finger blocks.
    step (51, L): wrist rotation and position, then 9 a finger. failed (L): not positive definite, step is void.
    """
    rows = np.zeros((63, columns, LANES), np.float32)
    for q in range(63):  # every point moves along with the wrist
        rows[q, 3 + q % 3] = ONE
    return (
        np.zeros((5, 9, 9, LANES), np.float32),
        rows,
        np.zeros((63, LANES), np.float32),
        np.zeros((45, LANES), np.float32),
        np.zeros(LANES, np.float32),
        np.zeros((5, 9, 9, LANES), np.float32),
        np.zeros((5, 9, columns, LANES), np.float32),
        np.zeros((columns, columns, LANES), np.float32),
        np.zeros((51, LANES), np.float32),
        np.zeros(LANES, np.bool_),
        np.zeros((5, 9, 9, LANES), np.float32),
    )


@njit(cache=True, fastmath=_FLAGS)
def solve(lanes, scratch):
    """Assemble and solve all lanes. scratch (9, 9, L), single precision.

    Leaves in the border, beyond its first six rows, what is left for further unknowns (the betas).
    """
    (derivatives, rows, weights, pull, damping, blocks, borders, border, step, failed, prior) = lanes
    columns, count = border.shape[0], border.shape[2]
    failed[:] = False
    _gram_border(rows, weights, border)
    for a in range(6):
        for l in range(count):  # noqa: E741
            border[a, a, l] *= ONE + damping[l]
    for f in range(5):
        _assemble_finger(f, derivatives[f], rows, weights, pull, damping, prior[f], blocks[f], borders[f], scratch)
        _eliminate(blocks[f], borders[f], 9, failed)
        for a in range(columns):
            for b in range(a + 1):
                _subtract_gram(borders[f], a, b, border)
    for a in range(columns):
        for b in range(a):
            border[b, a] = border[a, b]
    _eliminate(border, border[:, 6:], 6, failed)
    for i in range(6):
        for a in range(6, columns):
            for b in range(6, columns):
                for l in range(count):  # noqa: E741
                    border[a, b, l] -= border[i, a, l] * border[i, b, l]
    _back_substitute(blocks, borders, border, step)


@njit(cache=True, fastmath=_FLAGS)
def _gram_border(rows, weights, border):
    count = border.shape[2]
    border[:] = ZERO
    for a in range(border.shape[0]):
        for b in range(a + 1):
            for q in range(0, 63, 9):
                for l in range(count):  # noqa: E741
                    total = ZERO
                    for k in range(9):
                        total += weights[q + k, l] * rows[q + k, a, l] * rows[q + k, b, l]
                    border[a, b, l] += total


@njit(cache=True, fastmath=_FLAGS)
def _assemble_finger(f, derivatives, rows, weights, pull, damping, prior, block, own, weighted):
    count = block.shape[2]
    first = 18 + 9 * f
    last = own.shape[1] - 1
    for k in range(9):
        for a in range(9):
            for l in range(count):  # noqa: E741
                weighted[k, a, l] = weights[first + k, l] * derivatives[k, a, l]
    for a in range(9):
        for b in range(a + 1):
            for l in range(count):  # noqa: E741
                total = prior[a, b, l]
                for k in range(9):
                    total += weighted[k, a, l] * derivatives[k, b, l]
                block[a, b, l] = total
        for l in range(count):  # noqa: E741
            block[a, a, l] *= ONE + damping[l]
        for c in range(last + 1):
            for l in range(count):  # noqa: E741
                total = ZERO
                for k in range(9):
                    total += weighted[k, a, l] * rows[first + k, c, l]
                own[a, c, l] = total
        for l in range(count):  # noqa: E741
            own[a, last, l] += pull[9 * f + a, l]


@njit(cache=True, fastmath=_FLAGS)
def _subtract_gram(own, a, b, border):
    count = border.shape[2]
    for l in range(count):  # noqa: E741
        total = ZERO
        for k in range(9):
            total += own[k, a, l] * own[k, b, l]
        border[a, b, l] -= total


@njit(cache=True, fastmath=_FLAGS)
def _eliminate(block, border, size, failed):
    """Lower Cholesky factor of the leading block in place, and border <- L^-1 border."""
    count = block.shape[2]
    for i in range(size):
        for j in range(i):
            for k in range(j):
                for l in range(count):  # noqa: E741
                    block[i, j, l] -= block[i, k, l] * block[j, k, l]
            for l in range(count):  # noqa: E741
                block[i, j, l] /= block[j, j, l]
                block[i, i, l] -= block[i, j, l] * block[i, j, l]
        for l in range(count):  # noqa: E741
            if not block[i, i, l] > TINY:
                failed[l] = True
                block[i, i, l] = ONE
            block[i, i, l] = np.sqrt(block[i, i, l])
        for c in range(border.shape[1]):
            for k in range(i):
                for l in range(count):  # noqa: E741
                    border[i, c, l] -= block[i, k, l] * border[k, c, l]
            for l in range(count):  # noqa: E741
                border[i, c, l] /= block[i, i, l]


@njit(cache=True, fastmath=_FLAGS)
def _back_substitute(blocks, borders, border, step):
    count = border.shape[2]
    last = border.shape[0] - 1
    for i in range(5, -1, -1):
        for l in range(count):  # noqa: E741
            step[i, l] = -border[i, last, l]
        for j in range(i + 1, 6):
            for l in range(count):  # noqa: E741
                step[i, l] -= border[j, i, l] * step[j, l]
        for l in range(count):  # noqa: E741
            step[i, l] /= border[i, i, l]
    for f in range(5):
        for i in range(8, -1, -1):
            row = 6 + 9 * f + i
            for l in range(count):  # noqa: E741
                step[row, l] = -borders[f, i, last, l]
            for j in range(6):
                for l in range(count):  # noqa: E741
                    step[row, l] -= borders[f, i, j, l] * step[j, l]
            for j in range(i + 1, 9):
                for l in range(count):  # noqa: E741
                    step[row, l] -= blocks[f, j, i, l] * step[6 + 9 * f + j, l]
            for l in range(count):  # noqa: E741
                step[row, l] /= blocks[f, i, i, l]
