"""Numba kernels of ops.hands.fit: Levenberg-Marquardt on 21 points, and the shape step shared by a clip's frames.

Geometry is computed frame by frame, the linear algebra for LANES frames at once (ops.hands.arrowhead); a lane whose
frame is done takes the next one. The wrist moves by left increments of its rotation matrix, fingers by axis-angle.
Derivatives are exact but for one term: where a tip's pose blend shapes answer to other fingers, that offset is held
during a step and renewed after it, so that fingers stay separate. Metres and radians; points in MANO21 order.
"""

import numpy as np
from numba import njit

from ops.hands.arrowhead import LANES, lane_arrays, solve
from ops.hands.fit_start import TIP_OF_FINGER, quaternion_form
from ops.hands.mano import add_pose_offset, pose_chain, rodrigues, skin_tips

# MANO21 points in the solver's order: wrist and knuckles, then joints 2, 3 and tip of each finger
POINT_ORDER = (0, 1, 4, 7, 10, 13, 2, 3, 17, 5, 6, 18, 8, 9, 20, 11, 12, 19, 14, 15, 16)
FINGER_OF_TIP = (4, 0, 1, 3, 2)  # MANO's finger of the tips thumb to little
POSE_COLUMNS = 7  # border columns of a pose step: rotation, position, residual
SHAPE_COLUMNS = 17  # and ten betas before the residual
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-4, 1e-9, 1e6
DONE_STEP, RENEW_STEP = 1e-6, 0.03  # radians: a frame is done; what other fingers do to a tip is computed again
_FLAGS = {"contract", "nsz", "arcp", "reassoc"}


@njit(cache=True, fastmath=_FLAGS)
def fit_poses(y, weight, which, rest, pose, skin, prior, theta, wrist, tau, used, tolerance, enough, limit):
    """Refine theta (n, 45), wrist (n, 3, 3), tau (n, 3) in place; returns the number of iterations a frame (n,).

    y, weight: measured points (n, 21, 3), weights (n, 21). which (n,): a frame's hand, index of the next four.
    rest (m, 21, 3), pose (m, 5, 3, 135), skin (m, 5, 16): keypoint model of one shape of each of m hands.
    prior (m, 15, 3, 3): quadratic cost of theta, m^2 / rad^2. used: frames to fit.
    tolerance (m,): decrease of the cost (m^2) below which a frame is done. enough (m,): squared distances to the
    points (m^2) below which it is. limit: most iterations of a frame.
    """
    space, lanes, scratch = (_workspace(), lane_arrays(POSE_COLUMNS), np.empty((9, 9, LANES), np.float32))
    has_pose = np.any(pose != 0.0)
    damping, step, failed, curvature = lanes[4], lanes[8], lanes[9], lanes[10]
    iterations = np.zeros(len(y), np.int64)
    frame, cost, others = np.full(LANES, -1), np.zeros(LANES), np.zeros((LANES, 5, 3))
    hand = (np.empty(45), np.empty((3, 3)), np.empty(3))
    queue, waiting, running = np.flatnonzero(used), 0, 0
    while running > 0 or waiting < len(queue):
        for lane in range(LANES):  # fill idle lanes
            if frame[lane] < 0 and waiting < len(queue):
                n = queue[waiting]
                m = which[n]
                waiting, running = waiting + 1, running + 1
                frame[lane], damping[lane] = n, FIRST_DAMPING
                _weigh(lane, weight[n], lanes[2])
                _curve(lane, prior[m], curvature)
                model = (rest[m], pose[m], skin[m], prior[m])
                start = (theta[n], wrist[n], tau[n])
                cost[lane], misfit = _evaluate(start, y[n], weight[n], model, has_pose, space, others[lane], True)
                _linearise(lane, theta[n], y[n], model, has_pose, space, lanes)
        solve(lanes, scratch)
        for lane in range(LANES):
            n = frame[lane]
            if n < 0:
                continue
            m = which[n]
            model = (rest[m], pose[m], skin[m], prior[m])
            iterations[n] += 1
            done, new_cost, misfit, turned = False, np.inf, np.inf, 0.0
            if not failed[lane]:
                _advance(theta[n], wrist[n], tau[n], step, lane, hand)
                new_cost, misfit = _evaluate(hand, y[n], weight[n], model, has_pose, space, others[lane], False)
                turned = _largest(step, lane)
                done = turned < DONE_STEP
            if new_cost < cost[lane]:
                theta[n] = hand[0]
                wrist[n] = hand[1]
                tau[n] = hand[2]
                done = done or cost[lane] - new_cost < tolerance[m]
                damping[lane] = max(0.1 * damping[lane], LEAST_DAMPING)
                cost[lane] = new_cost
                if iterations[n] < limit and has_pose and turned > RENEW_STEP:
                    cost[lane], misfit = _evaluate(hand, y[n], weight[n], model, has_pose, space, others[lane], True)
                    done = done and abs(cost[lane] - new_cost) < tolerance[m]
                done = done or misfit < enough[m]
                if not done and iterations[n] < limit:
                    _linearise(lane, hand[0], y[n], model, has_pose, space, lanes)
            else:
                damping[lane] *= 10.0
            if done or damping[lane] > MOST_DAMPING or iterations[n] >= limit:
                frame[lane], running = -1, running - 1
    return iterations


@njit(cache=True)
def place_points(which, rest, pose, skin, theta, wrist, tau, used):
    """Fitted points (n, 21, 3) and wrist axis-angles (n, 3) of poses; NaN where not used. Arguments: `fit_poses`."""
    space, others = _workspace(), np.empty((5, 3))
    has_pose = np.any(pose != 0.0)
    points, turns = np.full((len(theta), 21, 3), np.nan), np.full((len(theta), 3), np.nan)
    nothing, zero, no_prior = np.zeros((21, 3)), np.zeros(21), np.zeros((15, 3, 3))
    for n in np.flatnonzero(used):
        m = which[n]
        model = (rest[m], pose[m], skin[m], no_prior)
        _evaluate((theta[n], wrist[n], tau[n]), nothing, zero, model, has_pose, space, others, True)
        points[n] = space[2]
        _rotation_vector(wrist[n], turns[n])
    return points, turns


@njit(cache=True)
def _rotation_vector(R, out):
    """Shortest axis-angle of a rotation matrix, by the quaternion w x y z's largest element."""
    q = np.empty((4, 4))
    quaternion_form(R.T, q)  # 4 q q^T - I, as of moments of one rotation
    largest = 0
    for a in range(4):
        q[a, a] += 1.0
        if q[a, a] > q[largest, largest]:
            largest = a
    sign = 1.0 if q[0, largest] >= 0.0 else -1.0
    sine = np.sqrt(q[1, largest] ** 2 + q[2, largest] ** 2 + q[3, largest] ** 2)
    if sine < 1e-300:
        out[:] = 0.0
        return
    scale = sign * 2.0 * np.arctan2(sine, abs(q[0, largest])) / sine
    for i in range(3):
        out[i] = scale * q[i + 1, largest]


@njit(cache=True, fastmath=_FLAGS)
def shape_step(y, weight, rest, pose, skin, shape, prior, theta, wrist, tau):
    """Normal equations (10, 10) and gradient (10,) of the betas shared by all frames of one hand, poses eliminated."""
    space, lanes, scratch = (_workspace(), lane_arrays(SHAPE_COLUMNS), np.empty((9, 9, LANES), np.float32))
    has_pose = np.any(pose != 0.0)
    border, failed, curvature = lanes[7], lanes[9], lanes[10]
    matrix, gradient, others = np.zeros((10, 10)), np.zeros(10), np.zeros((5, 3))
    model = (rest, pose, skin, prior)
    for start in range(0, len(y), LANES):
        count = min(LANES, len(y) - start)
        for lane in range(count):
            n = start + lane
            hand = (theta[n], wrist[n], tau[n])
            _evaluate(hand, y[n], weight[n], model, has_pose, space, others, True)
            _shape_derivatives(shape, skin, space)
            _weigh(lane, weight[n], lanes[2])
            _curve(lane, prior, curvature)
            _linearise(lane, theta[n], y[n], model, has_pose, space, lanes)
        solve(lanes, scratch)
        for lane in range(count):
            if not failed[lane]:
                for a in range(10):
                    gradient[a] += border[6 + a, 16, lane]
                    for b in range(10):
                        matrix[a, b] += border[6 + a, 6 + b, lane]
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
def _curve(lane, prior, curvature):
    for k in range(15):
        f, at = k // 3, 3 * (k % 3)
        for a in range(3):
            for b in range(3):
                curvature[f, at + a, at + b, lane] = prior[k, a, b]


@njit(cache=True, fastmath=_FLAGS)
def _evaluate(hand, y, weight, model, has_pose, space, others, renew):
    """Forward pass; weighted squared distances plus the prior, and without, m^2. hand: theta, wrist, tau.

    others (5, 3): offset of each tip by the other fingers' poses; written if `renew`, else read.
    """
    theta, wrist, tau = hand
    rest, pose, skin, prior = model
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
    misfit = 0.0
    for j in range(21):
        if weight[j] > 0.0:
            for i in range(3):
                misfit += weight[j] * (points[j, i] - y[j, i]) ** 2
    cost = misfit
    for k in range(15):
        for a in range(3):
            for b in range(3):
                cost += prior[k, a, b] * theta[3 * k + a] * theta[3 * k + b]
    return cost, misfit


@njit(cache=True)
def _weigh(lane, weight, weights):
    for place in range(21):
        weights[3 * place : 3 * place + 3, lane] = weight[POINT_ORDER[place]]


@njit(cache=True, fastmath=_FLAGS)
def _linearise(lane, theta, y, model, has_pose, space, lanes):
    """Write one frame's derivatives, residuals and prior gradient into its lane, after `_evaluate`."""
    rest, pose, skin, prior = model
    points, finger, by_beta = space[2], space[4], space[6]
    derivatives, rows, pull = lanes[0], lanes[1], lanes[3]
    last = rows.shape[1] - 1
    for place in range(21):
        j = POINT_ORDER[place]
        x, yy, z = (points[j, 0] - points[0, 0], points[j, 1] - points[0, 1], points[j, 2] - points[0, 2])
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
    world, points, posed, derivatives, axes = (space[1], space[2], space[3], space[4], space[5])
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
        b, c = ((1.0 - np.cos(angle)) / square, (angle - np.sin(angle)) / (square * angle))
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
def _advance(theta, wrist, tau, step, lane, hand):
    """Apply a lane's step, into `hand`: exp(rotation) wrist, and sums."""
    new_theta, new_wrist, new_tau = hand
    turn = np.empty((3, 3))
    rodrigues(np.float64(step[0, lane]), np.float64(step[1, lane]), np.float64(step[2, lane]), turn)
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
