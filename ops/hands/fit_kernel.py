"""Numba kernels of ops.hands.fit: Levenberg-Marquardt on one hand frame after another.

A frame has 51 unknowns: wrist rotation and position (6) and, for each finger, three joints (9). A finger's points
depend on the wrist and on that finger only, so the normal matrix is an arrowhead: five 9 x 9 blocks and a border of
6. Each block is eliminated by its own Cholesky factor, then the border is solved. The same elimination with ten more
border columns gives the shape step shared by all frames. Metres and radians; points in MANO21 order.

The wrist moves by left increments of its rotation matrix, fingers by axis-angle. Derivatives are exact but for one
term: pose blend shapes of a tip are differentiated in its own finger only (the values take all of them).
"""

import numpy as np
from numba import njit

from ops.hands.mano import pose_chain, pose_tips, rodrigues

TIP_OF_FINGER = (17, 18, 20, 19, 16)  # MANO21 index of the tip of index, middle, little, ring, thumb
POSE_COLUMNS = 7  # border columns of a pose step: rotation, position, residual
SHAPE_COLUMNS = 17  # and ten betas before the residual
MAX_ITERATIONS = 25
_FLAGS = {"contract", "nsz", "arcp", "reassoc"}


@njit(cache=True, fastmath=_FLAGS)
def fit_poses(y, weight, rest, pose, skin, prior, theta, wrist, tau, used):
    """Refine theta (n, 45), wrist (n, 3, 3), tau (n, 3) in place; returns the number of iterations a frame (n,).

    y, weight: measured points (n, 21, 3), weights (n, 21). rest (21, 3), pose (5, 3, 135), skin (5, 16): keypoint
    model of one shape. prior (15, 3, 3): quadratic cost of theta, m^2 / rad^2. used: frames to fit.
    """
    state, trial = _workspace(POSE_COLUMNS), _workspace(POSE_COLUMNS)
    has_pose = np.any(pose != 0.0)
    iterations = np.zeros(len(y), np.int64)
    step, new_theta, new_wrist, new_tau = np.empty(51), np.empty(45), np.empty((3, 3)), np.empty(3)
    for n in range(len(y)):
        if not used[n]:
            continue
        damping = 1e-4
        cost = _evaluate(theta[n], wrist[n], tau[n], y[n], weight[n], rest, pose, skin, prior, has_pose, state)
        while iterations[n] < MAX_ITERATIONS and damping < 1e6:
            iterations[n] += 1
            _normal_equations(theta[n], y[n], weight[n], rest, pose, skin, prior, has_pose, state)
            if not _solve_pose(state, damping, step):
                damping *= 10.0
                continue
            for k in range(45):
                new_theta[k] = theta[n, k] + step[6 + k]
            _turn(wrist[n], step, new_wrist)
            for i in range(3):
                new_tau[i] = tau[n, i] + step[3 + i]
            new_cost = _evaluate(
                new_theta, new_wrist, new_tau, y[n], weight[n], rest, pose, skin, prior, has_pose, trial
            )
            if new_cost >= cost:
                if _largest(step) < 1e-6:
                    break
                damping *= 10.0
                continue
            theta[n] = new_theta
            wrist[n] = new_wrist
            tau[n] = new_tau
            state, trial = trial, state
            done = cost - new_cost < 1e-5 * cost + 1e-13
            cost, damping = new_cost, max(damping * 0.1, 1e-9)
            if done:
                break
    return iterations


@njit(cache=True, fastmath=_FLAGS)
def shape_step(y, weight, rest, pose, skin, shape, prior, theta, wrist, tau, used):
    """Normal equations (10, 10) and gradient (10,) of the betas shared by all used frames, poses eliminated."""
    space = _workspace(SHAPE_COLUMNS)
    has_pose = np.any(pose != 0.0)
    matrix, gradient = np.zeros((10, 10)), np.zeros(10)
    step = np.empty(51)
    for n in range(len(y)):
        if not used[n]:
            continue
        _evaluate(theta[n], wrist[n], tau[n], y[n], weight[n], rest, pose, skin, prior, has_pose, space)
        _shape_derivatives(shape, skin, space)
        _normal_equations(theta[n], y[n], weight[n], rest, pose, skin, prior, has_pose, space)
        if not _solve_pose(space, 1e-9, step):
            continue
        border = space[6]
        for a in range(10):
            gradient[a] += border[6 + a, SHAPE_COLUMNS - 1]
            for b in range(10):
                matrix[a, b] += border[6 + a, 6 + b]
    return matrix, gradient


@njit(cache=True)
def _workspace(columns):
    """Arrays of one frame: local, world, points; finger blocks, their borders, derivatives; the common border."""
    return (
        np.empty((16, 3, 3)),  # 0 local rotations
        np.empty((16, 3, 3)),  # 1 world rotations
        np.empty((21, 3)),  # 2 points
        np.empty((5, 9, 9)),  # 3 finger blocks, then their Cholesky factors
        np.empty((5, 9, columns)),  # 4 finger borders, then reduced
        np.empty((4, 3, 9)),  # 5 derivatives of a finger's four points
        np.empty((columns, columns)),  # 6 common border, then its Schur complement
        np.empty((21, 3, 10)),  # 7 derivatives of the points by beta
        np.empty((3, columns)),  # 8 one point's row of the border
        np.empty((3, 3, 3)),  # 9 turning axes of a finger's joints, in the world
        np.empty((5, 3)),  # 10 tips with pose offset, before skinning
    )


@njit(cache=True, fastmath=_FLAGS)
def _evaluate(theta, wrist, tau, y, weight, rest, pose, skin, prior, has_pose, space):
    """Forward pass and cost: weighted squared distances plus the prior, m^2."""
    local, world, points = space[0], space[1], space[2]
    world[0] = wrist
    points[0] = tau
    pose_chain(theta, rest, local, world, points)
    pose_tips(rest, pose, skin, has_pose, local, world, points, space[10])
    cost = 0.0
    for j in range(21):
        if weight[j] > 0.0:
            for i in range(3):
                cost += weight[j] * (points[j, i] - y[j, i]) ** 2
    for k in range(15):
        for a in range(3):
            for b in range(3):
                cost += prior[k, a, b] * theta[3 * k + a] * theta[3 * k + b]
    return cost


@njit(cache=True, fastmath=_FLAGS)
def _normal_equations(theta, y, weight, rest, pose, skin, prior, has_pose, space):
    points, blocks, borders, derivatives, border, row = space[2], space[3], space[4], space[5], space[6], space[8]
    blocks[:], borders[:], border[:] = 0.0, 0.0, 0.0
    last = border.shape[0] - 1
    if weight[0] > 0.0:
        _border_row(0, y, space)
        _add_gram(row, weight[0], border)
    for f in range(5):
        _finger_derivatives(f, theta, rest, pose, skin, has_pose, space)
        block, own = blocks[f], borders[f]
        for p in range(4):
            j = 3 * f + 1 + p if p < 3 else TIP_OF_FINGER[f]
            w = weight[j]
            if w <= 0.0:
                continue
            _border_row(j, y, space)
            _add_gram(row, w, border)
            for i in range(3):
                for a in range(3 * p):
                    d = w * derivatives[p, i, a]
                    for b in range(a + 1):
                        block[a, b] += d * derivatives[p, i, b]
                    for c in range(last + 1):
                        own[a, c] += d * row[i, c]
        for m in range(3):
            for a in range(3):
                for b in range(3):
                    value = prior[3 * f + m, a, b]
                    if b <= a:
                        block[3 * m + a, 3 * m + b] += value
                    own[3 * m + a, last] += value * theta[9 * f + 3 * m + b]
    for a in range(last + 1):
        for b in range(a):
            border[b, a] = border[a, b]


@njit(cache=True, fastmath=_FLAGS)
def _border_row(j, y, space):
    """Derivatives of point j by wrist rotation, wrist position and (wide border) beta, then its residual."""
    points, by_beta, row = space[2], space[7], space[8]
    x, yy, z = points[j, 0] - points[0, 0], points[j, 1] - points[0, 1], points[j, 2] - points[0, 2]
    row[:, :6] = 0.0
    row[0, 1], row[0, 2], row[1, 2] = z, -yy, x
    row[1, 0], row[2, 0], row[2, 1] = -z, yy, -x
    last = row.shape[1] - 1
    for i in range(3):
        row[i, 3 + i] = 1.0
        row[i, last] = points[j, i] - y[j, i]
        for b in range(6, last):
            row[i, b] = by_beta[j, i, b - 6]


@njit(cache=True, fastmath=_FLAGS)
def _add_gram(row, weight, border):
    for a in range(border.shape[0]):
        for b in range(a + 1):
            border[a, b] += weight * (row[0, a] * row[0, b] + row[1, a] * row[1, b] + row[2, a] * row[2, b])


@njit(cache=True, fastmath=_FLAGS)
def _finger_derivatives(f, theta, rest, pose, skin, has_pose, space):
    """Derivatives of a finger's joints 2, 3 and tip by its nine angles: turning axis x lever."""
    world, points, derivatives, axes, posed = space[1], space[2], space[5], space[9], space[10]
    first, tip = 3 * f + 1, TIP_OF_FINGER[f] - 16
    lever, share = np.zeros(3), 0.0
    for m in range(2, -1, -1):
        k = first + m
        _turning_axes(theta[3 * k - 3], theta[3 * k - 2], theta[3 * k - 1], world[k], axes[m])
        weight = skin[tip, k]
        share += weight
        for i in range(3):  # weighted sum of the tip as carried by this joint and those after it
            carried = points[k, i]
            for j in range(3):
                carried += world[k, i, j] * (posed[tip, j] - rest[k, j])
            lever[i] += weight * carried
        for p in range(m + 1, 4):
            if p < 3:
                q = points[first + p]
                x, y, z = q[0] - points[k, 0], q[1] - points[k, 1], q[2] - points[k, 2]
            else:
                x, y, z = (
                    lever[0] - share * points[k, 0],
                    lever[1] - share * points[k, 1],
                    lever[2] - share * points[k, 2],
                )
            for c in range(3):
                a0, a1, a2 = axes[m, 0, c], axes[m, 1, c], axes[m, 2, c]
                derivatives[p, 0, 3 * m + c] = a1 * z - a2 * y
                derivatives[p, 1, 3 * m + c] = a2 * x - a0 * z
                derivatives[p, 2, 3 * m + c] = a0 * y - a1 * x
    if has_pose:
        _add_pose_derivatives(f, tip, pose, skin, space)


@njit(cache=True, fastmath=_FLAGS)
def _turning_axes(x, y, z, world, axes):
    """Columns: world axes about which a joint turns as its three angles grow (world rotation times right Jacobian)."""
    square = x * x + y * y + z * z
    if square < 1e-8:
        b, c = 0.5 - square / 24.0, 1.0 / 6.0 - square / 120.0
    else:
        angle = np.sqrt(square)
        b, c = (1.0 - np.cos(angle)) / square, (angle - np.sin(angle)) / (square * angle)
    for i in range(3):
        w0, w1, w2 = world[i, 0], world[i, 1], world[i, 2]
        along = w0 * x + w1 * y + w2 * z  # row i of W (I - b [t]x + c [t]x^2)
        axes[i, 0] = w0 - b * (w1 * z - w2 * y) + c * (along * x - w0 * square)
        axes[i, 1] = w1 - b * (w2 * x - w0 * z) + c * (along * y - w1 * square)
        axes[i, 2] = w2 - b * (w0 * y - w1 * x) + c * (along * z - w2 * square)


@njit(cache=True, fastmath=_FLAGS)
def _add_pose_derivatives(f, tip, pose, skin, space):
    """How a tip's pose blend shapes move it when its own finger's joints turn."""
    local, world, derivatives, axes = space[0], space[1], space[5], space[9]
    blend = np.zeros((3, 3))
    for k in range(16):
        if skin[tip, k] != 0.0:
            for i in range(3):
                for j in range(3):
                    blend[i, j] += skin[tip, k] * world[k, i, j]
    for m in range(3):
        k = 3 * f + 1 + m
        for c in range(3):
            # d local = local [axis in the joint's own frame]x
            a0, a1, a2 = 0.0, 0.0, 0.0
            for i in range(3):
                a0 += world[k, i, 0] * axes[m, i, c]
                a1 += world[k, i, 1] * axes[m, i, c]
                a2 += world[k, i, 2] * axes[m, i, c]
            o0, o1, o2 = 0.0, 0.0, 0.0
            for i in range(3):
                l0, l1, l2 = local[k, i, 0], local[k, i, 1], local[k, i, 2]
                d0, d1, d2 = l1 * a2 - l2 * a1, l2 * a0 - l0 * a2, l0 * a1 - l1 * a0
                column = 9 * (k - 1) + 3 * i
                o0 += pose[tip, 0, column] * d0 + pose[tip, 0, column + 1] * d1 + pose[tip, 0, column + 2] * d2
                o1 += pose[tip, 1, column] * d0 + pose[tip, 1, column + 1] * d1 + pose[tip, 1, column + 2] * d2
                o2 += pose[tip, 2, column] * d0 + pose[tip, 2, column + 1] * d1 + pose[tip, 2, column + 2] * d2
            for i in range(3):
                derivatives[3, i, 3 * m + c] += blend[i, 0] * o0 + blend[i, 1] * o1 + blend[i, 2] * o2


@njit(cache=True, fastmath=_FLAGS)
def _shape_derivatives(shape, skin, space):
    """Derivatives of the 21 points by beta at fixed pose and wrist position."""
    world, by_beta = space[1], space[7]
    by_beta[0] = 0.0
    for k in range(1, 16):
        parent = 0 if (k - 1) % 3 == 0 else k - 1
        for i in range(3):
            for b in range(10):
                value = by_beta[parent, i, b]
                for j in range(3):
                    value += world[parent, i, j] * (shape[k, j, b] - shape[parent, j, b])
                by_beta[k, i, b] = value
    by_beta[16:] = 0.0
    for tip in range(5):
        for k in range(16):
            weight = skin[tip, k]
            if weight != 0.0:
                for i in range(3):
                    for b in range(10):
                        value = by_beta[k, i, b]
                        for j in range(3):
                            value += world[k, i, j] * (shape[16 + tip, j, b] - shape[k, j, b])
                        by_beta[16 + tip, i, b] += weight * value


@njit(cache=True, fastmath=_FLAGS)
def _solve_pose(space, damping, step):
    """Eliminate the fingers, then the wrist; fill `step` (51). False if a block is not positive definite.

    Leaves in the common border, beyond its first six rows, what is left for further unknowns (the betas).
    """
    blocks, borders, border = space[3], space[4], space[6]
    columns = border.shape[0]
    for a in range(6):
        border[a, a] *= 1.0 + damping
    for f in range(5):
        for a in range(9):
            blocks[f, a, a] *= 1.0 + damping
        if not _eliminate(blocks[f], borders[f], 9):
            return False
        for i in range(9):
            for a in range(columns):
                value = borders[f, i, a]
                for b in range(columns):
                    border[a, b] -= value * borders[f, i, b]
    if not _eliminate(border, border[:, 6:], 6):
        return False
    for i in range(6):
        for a in range(6, columns):
            for b in range(6, columns):
                border[a, b] -= border[i, a] * border[i, b]
    for i in range(5, -1, -1):
        value = -border[i, columns - 1]
        for j in range(i + 1, 6):
            value -= border[j, i] * step[j]
        step[i] = value / border[i, i]
    for f in range(5):
        for i in range(8, -1, -1):
            value = -borders[f, i, columns - 1]
            for j in range(6):
                value -= borders[f, i, j] * step[j]
            for j in range(i + 1, 9):
                value -= blocks[f, j, i] * step[6 + 9 * f + j]
            step[6 + 9 * f + i] = value / blocks[f, i, i]
    return True


@njit(cache=True, fastmath=_FLAGS)
def _eliminate(block, border, size):
    """Lower Cholesky factor of the leading block in place, and border <- L^-1 border."""
    for i in range(size):
        for j in range(i):
            value = block[i, j]
            for k in range(j):
                value -= block[i, k] * block[j, k]
            block[i, j] = value / block[j, j]
        value = block[i, i]
        for k in range(i):
            value -= block[i, k] * block[i, k]
        if not value > 1e-18:
            return False
        block[i, i] = np.sqrt(value)
        for c in range(border.shape[1]):
            value = border[i, c]
            for k in range(i):
                value -= block[i, k] * border[k, c]
            border[i, c] = value / block[i, i]
    return True


@njit(cache=True)
def _turn(wrist, step, out):
    """out = exp(step[:3]) wrist."""
    turn = np.empty((3, 3))
    rodrigues(step[0], step[1], step[2], turn)
    for i in range(3):
        for j in range(3):
            out[i, j] = turn[i, 0] * wrist[0, j] + turn[i, 1] * wrist[1, j] + turn[i, 2] * wrist[2, j]


@njit(cache=True)
def _largest(step):
    largest = 0.0
    for value in step:
        largest = max(largest, abs(value))
    return largest


@njit(cache=True, fastmath=_FLAGS)
def place_fingers(y, weight, rest, theta, wrist, tau, used):
    """Fill theta by turning each bone the shortest way onto the measured one, from the knuckle outwards."""
    local, world, points = np.empty((16, 3, 3)), np.empty((16, 3, 3)), np.empty((16, 3))
    bone, wanted = np.empty(3), np.empty(3)
    for n in range(len(y)):
        if not used[n]:
            continue
        world[0] = wrist[n]
        points[0] = tau[n]
        for k in range(1, 16):
            first = (k - 1) % 3 == 0
            parent = 0 if first else k - 1
            end = TIP_OF_FINGER[(k - 1) // 3] if k % 3 == 0 else k + 1
            for i in range(3):
                points[k, i] = points[parent, i]
                bone[i] = rest[end, i] - rest[k, i]
                for j in range(3):
                    points[k, i] += world[parent, i, j] * (rest[k, j] - rest[parent, j])
            if weight[n, end] > 0.0:
                measured = weight[n, k] > 0.0
                for i in range(3):
                    wanted[i] = 0.0
                    for j in range(3):
                        wanted[i] += world[parent, j, i] * (y[n, end, j] - (y[n, k, j] if measured else points[k, j]))
                _shortest_turn(bone, wanted, theta[n, 3 * k - 3 : 3 * k])
            rodrigues(theta[n, 3 * k - 3], theta[n, 3 * k - 2], theta[n, 3 * k - 1], local[k])
            for i in range(3):
                for j in range(3):
                    world[k, i, j] = (
                        world[parent, i, 0] * local[k, 0, j]
                        + world[parent, i, 1] * local[k, 1, j]
                        + world[parent, i, 2] * local[k, 2, j]
                    )


@njit(cache=True, fastmath=_FLAGS)
def _shortest_turn(start, end, out):
    """Axis-angle of the smallest rotation between two directions; none for opposite or vanishing ones."""
    x = start[1] * end[2] - start[2] * end[1]
    y = start[2] * end[0] - start[0] * end[2]
    z = start[0] * end[1] - start[1] * end[0]
    sine = np.sqrt(x * x + y * y + z * z)
    cosine = start[0] * end[0] + start[1] * end[1] + start[2] * end[2]
    if sine < 1e-12:
        out[:] = 0.0
        return
    angle = np.arctan2(sine, cosine)
    out[0], out[1], out[2] = x * angle / sine, y * angle / sine, z * angle / sine
