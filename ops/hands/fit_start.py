"""Numba kernels of ops.hands.fit: wrist and fingers in closed form, from which the solver starts.

The palm is laid on the measured one by the best rigid motion, then each bone is turned the shortest way. Metres;
points in MANO21 order.
"""

import numpy as np
from numba import njit

from ops.hands.mano import rodrigues

TIP_OF_FINGER = (17, 18, 20, 19, 16)  # MANO21 index of the tip of index, middle, little, ring, thumb
PALM = (0, 1, 4, 7, 10, 13)  # MANO's wrist and first joint of each finger: a rigid body
_FLAGS = {"contract", "nsz", "arcp", "reassoc"}


@njit(cache=True, fastmath=_FLAGS)
def place_palms(y, weight, which, rests, wrist, tau, used):
    """Fill wrist (n, 3, 3) and tau (n, 3): the best rigid motion of wrist and knuckles (Horn's quaternion).

    A proper rotation by construction: a palm is never mirrored or flipped, though its points lie almost in a plane.
    """
    moment, form = np.empty((3, 3)), np.empty((4, 4))
    for n in range(len(y)):
        if not used[n]:
            continue
        rest = rests[which[n]]
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
        quaternion_form(moment, form)
        _rotation_of_largest(form, wrist[n])
        for i in range(3):
            tau[n, i] = target[i] / total
            for j in range(3):
                tau[n, i] += wrist[n, i, j] * (rest[0, j] - source[j] / total)


@njit(cache=True, fastmath=_FLAGS)
def quaternion_form(m, form):
    """Quadratic form (4, 4) that a rotation's quaternion wxyz maximises, for moments m = sum of source target^T."""
    form[0, 0], form[1, 1] = m[0, 0] + m[1, 1] + m[2, 2], m[0, 0] - m[1, 1] - m[2, 2]
    form[2, 2], form[3, 3] = m[1, 1] - m[0, 0] - m[2, 2], m[2, 2] - m[0, 0] - m[1, 1]
    form[0, 1], form[0, 2], form[0, 3] = (m[1, 2] - m[2, 1], m[2, 0] - m[0, 2], m[0, 1] - m[1, 0])
    form[1, 2], form[1, 3], form[2, 3] = (m[0, 1] + m[1, 0], m[2, 0] + m[0, 2], m[1, 2] + m[2, 1])
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
    w, x, y, z = (power[0, largest], power[1, largest], power[2, largest], power[3, largest])
    scale = 2.0 / (w * w + x * x + y * y + z * z)
    out[0, 0], out[0, 1], out[0, 2] = (1 - scale * (y * y + z * z), scale * (x * y - w * z), scale * (x * z + w * y))
    out[1, 0], out[1, 1], out[1, 2] = (scale * (x * y + w * z), 1 - scale * (x * x + z * z), scale * (y * z - w * x))
    out[2, 0], out[2, 1], out[2, 2] = (scale * (x * z - w * y), scale * (y * z + w * x), 1 - scale * (x * x + y * y))


@njit(cache=True, fastmath=_FLAGS)
def place_fingers(y, weight, which, rests, theta, wrist, tau, used):
    """Fill theta by turning each bone the shortest way onto the measured one, from the knuckle outwards."""
    local, world, points = np.empty((16, 3, 3)), np.empty((16, 3, 3)), np.empty((16, 3))
    bone, wanted = np.empty(3), np.empty(3)
    for n in range(len(y)):
        if not used[n]:
            continue
        rest = rests[which[n]]
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
