"""Numba kernels of ops.hands.fit: Levenberg-Marquardt on 21 points, and the shape step shared by a clip's frames.

Geometry is computed frame by frame, the linear algebra for LANES frames at once (ops.hands.arrowhead); a lane whose
frame is done takes the next one. The wrist moves by left increments of its rotation matrix, fingers by axis-angle.
Derivatives are exact but for one term: where a tip's pose blend shapes answer to other fingers, that offset is held
during a step and renewed after it, so that fingers stay separate. Metres and radians; points in MANO21 order.
"""

import numpy as np
from numba import njit

from ops.hands.arrowhead import LANES, lane_arrays, solve
from ops.hands.mano import add_pose_offset, pose_chain, rodrigues, skin_tips

TIP_OF_FINGER = (17, 18, 20, 19, 16)  # MANO21 index of the tip of index, middle, little, ring, thumb
# MANO21 points in the solver's order: wrist and knuckles, then joints 2, 3 and tip of each finger
POINT_ORDER = (0, 1, 4, 7, 10, 13, 2, 3, 17, 5, 6, 18, 8, 9, 20, 11, 12, 19, 14, 15, 16)
PALM = (0, 1, 4, 7, 10, 13)  # MANO's wrist and first joint of each finger: a rigid body
FINGER_OF_TIP = (4, 0, 1, 3, 2)  # MANO's finger of the tips thumb to little
POSE_COLUMNS = 7  # border columns of a pose step: rotation, position, residual
SHAPE_COLUMNS = 17  # and ten betas before the residual
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-4, 1e-9, 1e6
_FLAGS = {"contract", "nsz", "arcp", "reassoc"}


@njit(cache=True, fastmath=_FLAGS)
def fit_poses(y, weight, rest, pose, skin, prior, theta, wrist, tau, used, tolerance, limit):
    """Refine theta (n, 45), wrist (n, 3, 3), tau (n, 3) in place; returns the number of iterations a frame (n,).

    y, weight: measured points (n, 21, 3), weights (n, 21). rest (21, 3), pose (5, 3, 135), skin (5, 16): keypoint
    model of one shape. prior (15, 3, 3): quadratic cost of theta, m^2 / rad^2. used: frames to fit.
    tolerance: decrease of the cost (m^2) below which a frame is done. limit: most iterations of a frame.
    """
    space, lanes, scratch = _workspace(), lane_arrays(POSE_COLUMNS), np.empty((9, 9, LANES))
    curvature = _block_prior(prior)
    has_pose = np.any(pose != 0.0)
    damping, step, failed = lanes[4], lanes[8], lanes[9]
    iterations = np.zeros(len(y), np.int64)
    frame, cost, others = np.full(LANES, -1), np.zeros(LANES), np.zeros((LANES, 5, 3))
    new_theta, new_wrist, new_tau = np.empty(45), np.empty((3, 3)), np.empty(3)
    queue, waiting = np.flatnonzero(used), 0
    running = 0
    while running > 0 or waiting < len(queue):
        for lane in range(LANES):  # fill idle lanes
            if frame[lane] < 0 and waiting < len(queue):
                n = queue[waiting]
                waiting, running = waiting + 1, running + 1
                frame[lane], damping[lane] = n, FIRST_DAMPING
                _weigh(lane, weight[n], lanes[2])
                cost[lane] = _evaluate(
                    theta[n],
                    wrist[n],
                    tau[n],
                    y[n],
                    weight[n],
                    rest,
                    pose,
                    skin,
                    prior,
                    has_pose,
                    space,
                    others[lane],
                    True,
                )
                _linearise(lane, theta[n], y[n], rest, pose, skin, prior, has_pose, space, lanes)
        solve(lanes, curvature, scratch)
        for lane in range(LANES):
            n = frame[lane]
            if n < 0:
                continue
            iterations[n] += 1
            done = False
            new_cost = np.inf
            if not failed[lane]:
                _advance(theta[n], wrist[n], tau[n], step, lane, new_theta, new_wrist, new_tau)
                new_cost = _evaluate(
                    new_theta,
                    new_wrist,
                    new_tau,
                    y[n],
                    weight[n],
                    rest,
                    pose,
                    skin,
                    prior,
                    has_pose,
                    space,
                    others[lane],
                    False,
                )
                done = _largest(step, lane) < 1e-6
            if new_cost < cost[lane]:
                theta[n] = new_theta
                wrist[n] = new_wrist
                tau[n] = new_tau
                done = done or cost[lane] - new_cost < tolerance
                damping[lane] = max(0.1 * damping[lane], LEAST_DAMPING)
                cost[lane] = new_cost
                if has_pose:
                    cost[lane] = _evaluate(
                        new_theta,
                        new_wrist,
                        new_tau,
                        y[n],
                        weight[n],
                        rest,
                        pose,
                        skin,
                        prior,
                        has_pose,
                        space,
                        others[lane],
                        True,
                    )
                    done = done and abs(cost[lane] - new_cost) < tolerance
                if not done:
                    _linearise(lane, new_theta, y[n], rest, pose, skin, prior, has_pose, space, lanes)
            else:
                damping[lane] *= 10.0
            if done or damping[lane] > MOST_DAMPING or iterations[n] >= limit:
                frame[lane], running = -1, running - 1
    return iterations


@njit(cache=True, fastmath=_FLAGS)
def shape_step(y, weight, rest, pose, skin, shape, prior, theta, wrist, tau):
    """Normal equations (10, 10) and gradient (10,) of the betas shared by all frames, poses eliminated."""
    space, lanes, scratch = _workspace(), lane_arrays(SHAPE_COLUMNS), np.empty((9, 9, LANES))
    curvature = _block_prior(prior)
    has_pose = np.any(pose != 0.0)
    border, failed = lanes[7], lanes[9]
    matrix, gradient, others = np.zeros((10, 10)), np.zeros(10), np.zeros((5, 3))
    for start in range(0, len(y), LANES):
        count = min(LANES, len(y) - start)
        for lane in range(count):
            n = start + lane
            _evaluate(
                theta[n], wrist[n], tau[n], y[n], weight[n], rest, pose, skin, prior, has_pose, space, others, True
            )
            _shape_derivatives(shape, skin, space)
            _weigh(lane, weight[n], lanes[2])
            _linearise(lane, theta[n], y[n], rest, pose, skin, prior, has_pose, space, lanes)
        solve(lanes, curvature, scratch)
        for lane in range(count):
            if not failed[lane]:
                matrix += border[6:16, 6:16, lane]
                gradient += border[6:16, 16, lane]
    return matrix, gradient


@njit(cache=True)
def _workspace():
    """Arrays of one frame: local and world rotations, points, tips before skinning, derivatives of a finger's four
    points, turning axes of its joints, derivatives of the points by beta."""
    return (
        np.empty((16, 3, 3)),
        np.empty((16, 3, 3)),
        np.empty((21, 3)),
        np.empty((5, 3)),
        np.zeros((4, 3, 9)),
        np.empty((3, 3, 3)),
        np.empty((21, 3, 10)),
    )


@njit(cache=True)
def _block_prior(prior):
    blocks = np.zeros((5, 9, 9))
    for k in range(15):
        at = 3 * (k % 3)
        blocks[k // 3, at : at + 3, at : at + 3] = prior[k]
    return blocks


@njit(cache=True, fastmath=_FLAGS)
def _evaluate(theta, wrist, tau, y, weight, rest, pose, skin, prior, has_pose, space, others, renew):
    """Forward pass and cost: weighted squared distances plus the prior, m^2.

    others (5, 3): offset of each tip by the other fingers' poses; written if `renew`, else read.
    """
    local, world, points, posed = space[0], space[1], space[2], space[3]
    world[0] = wrist
    points[0] = tau
    pose_chain(theta, rest, local, world, points)
    posed[:] = rest[16:]
    if has_pose:
        for tip in range(5):
            own = 3 * FINGER_OF_TIP[tip] + 1
            if renew:
                others[tip] = 0.0
                add_pose_offset(local, pose[tip], 1, own, others[tip])
                add_pose_offset(local, pose[tip], own + 3, 16, others[tip])
            for i in range(3):
                posed[tip, i] += others[tip, i]
            add_pose_offset(local, pose[tip], own, own + 3, posed[tip])
    skin_tips(rest, posed, skin, world, points)
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


@njit(cache=True)
def _weigh(lane, weight, weights):
    for place in range(21):
        weights[3 * place : 3 * place + 3, lane] = weight[POINT_ORDER[place]]


@njit(cache=True, fastmath=_FLAGS)
def _linearise(lane, theta, y, rest, pose, skin, prior, has_pose, space, lanes):
    """Write one frame's derivatives, residuals and prior gradient into its lane, after `_evaluate`."""
    points, finger, by_beta = space[2], space[4], space[6]
    derivatives, rows, pull = lanes[0], lanes[1], lanes[3]
    last = rows.shape[1] - 1
    for place in range(21):
        j = POINT_ORDER[place]
        x, yy, z = points[j, 0] - points[0, 0], points[j, 1] - points[0, 1], points[j, 2] - points[0, 2]
        q = 3 * place
        rows[q, 1, lane], rows[q, 2, lane], rows[q + 1, 2, lane] = z, -yy, x
        rows[q + 1, 0, lane], rows[q + 2, 0, lane], rows[q + 2, 1, lane] = -z, yy, -x
        for i in range(3):
            rows[q + i, last, lane] = points[j, i] - y[j, i]
            for b in range(6, last):
                rows[q + i, b, lane] = by_beta[j, i, b - 6]
    for f in range(5):
        _finger_derivatives(f, theta, rest, pose, skin, has_pose, space)
        for p in range(3):
            for i in range(3):
                for a in range(3 * (p + 1)):  # joints further out do not move this point
                    derivatives[f, 3 * p + i, a, lane] = finger[p + 1, i, a]
    for k in range(15):
        for a in range(3):
            value = 0.0
            for b in range(3):
                value += prior[k, a, b] * theta[3 * k + b]
            pull[3 * k + a, lane] = value


@njit(cache=True, fastmath=_FLAGS)
def _finger_derivatives(f, theta, rest, pose, skin, has_pose, space):
    """Derivatives of a finger's joints 2, 3 and tip by its nine angles: turning axis x lever."""
    world, points, posed, derivatives, axes = space[1], space[2], space[3], space[4], space[5]
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
    local, world, derivatives, axes = space[0], space[1], space[4], space[5]
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
    world, by_beta = space[1], space[6]
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
def _advance(theta, wrist, tau, step, lane, new_theta, new_wrist, new_tau):
    """Apply a lane's step: exp(rotation) wrist, and sums."""
    turn = np.empty((3, 3))
    rodrigues(step[0, lane], step[1, lane], step[2, lane], turn)
    for i in range(3):
        new_tau[i] = tau[i] + step[3 + i, lane]
        for j in range(3):
            new_wrist[i, j] = turn[i, 0] * wrist[0, j] + turn[i, 1] * wrist[1, j] + turn[i, 2] * wrist[2, j]
    for k in range(45):
        new_theta[k] = theta[k] + step[6 + k, lane]


@njit(cache=True)
def _largest(step, lane):
    largest = 0.0
    for k in range(51):
        largest = max(largest, abs(step[k, lane]))
    return largest


@njit(cache=True, fastmath=_FLAGS)
def place_palms(y, weight, rest, wrist, tau, used):
    """Fill wrist (n, 3, 3) and tau (n, 3): the best rigid motion of wrist and knuckles (Horn's quaternion).

    A proper rotation by construction: a palm is never mirrored or flipped, though its points lie almost in a plane.
    """
    moment, form = np.empty((3, 3)), np.empty((4, 4))
    for n in range(len(y)):
        if not used[n]:
            continue
        total, source, target = 0.0, np.zeros(3), np.zeros(3)
        for j in PALM:
            total += weight[n, j]
            for i in range(3):
                source[i] += weight[n, j] * rest[j, i]
                target[i] += weight[n, j] * y[n, j, i]
        moment[:] = 0.0
        for j in PALM:
            for a in range(3):
                for b in range(3):
                    part = (rest[j, a] - source[a] / total) * (y[n, j, b] - target[b] / total)
                    moment[a, b] += weight[n, j] * part
        _quaternion_form(moment, form)
        _rotation_of_largest(form, wrist[n])
        for i in range(3):
            tau[n, i] = target[i] / total
            for j in range(3):
                tau[n, i] += wrist[n, i, j] * (rest[0, j] - source[j] / total)


@njit(cache=True, fastmath=_FLAGS)
def _quaternion_form(m, form):
    """Quadratic form (4, 4) that a rotation's quaternion wxyz maximises, for moments m = sum of source target^T."""
    form[0, 0], form[1, 1] = m[0, 0] + m[1, 1] + m[2, 2], m[0, 0] - m[1, 1] - m[2, 2]
    form[2, 2], form[3, 3] = m[1, 1] - m[0, 0] - m[2, 2], m[2, 2] - m[0, 0] - m[1, 1]
    form[0, 1], form[0, 2], form[0, 3] = m[1, 2] - m[2, 1], m[2, 0] - m[0, 2], m[0, 1] - m[1, 0]
    form[1, 2], form[1, 3], form[2, 3] = m[0, 1] + m[1, 0], m[2, 0] + m[0, 2], m[1, 2] + m[2, 1]
    for a in range(4):
        for b in range(a):
            form[a, b] = form[b, a]


@njit(cache=True, fastmath=_FLAGS)
def _rotation_of_largest(form, out):
    """Rotation matrix of the eigenvector with the largest eigenvalue, by repeated squaring of the shifted form."""
    power, square = form.copy(), np.empty((4, 4))
    shift = np.sqrt((form**2).sum())
    for a in range(4):
        power[a, a] += shift
    for _ in range(9):
        trace = power[0, 0] + power[1, 1] + power[2, 2] + power[3, 3]
        for a in range(4):
            for b in range(4):
                value = 0.0
                for k in range(4):
                    value += power[a, k] * power[k, b]
                square[a, b] = value / (trace * trace)
        power, square = square, power
    largest = 0
    for a in range(1, 4):
        if power[a, a] > power[largest, largest]:
            largest = a
    w, x, y, z = power[0, largest], power[1, largest], power[2, largest], power[3, largest]
    scale = 2.0 / (w * w + x * x + y * y + z * z)
    out[0, 0], out[0, 1], out[0, 2] = 1 - scale * (y * y + z * z), scale * (x * y - w * z), scale * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = scale * (x * y + w * z), 1 - scale * (x * x + z * z), scale * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = scale * (x * z - w * y), scale * (y * z + w * x), 1 - scale * (x * x + y * y)


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
