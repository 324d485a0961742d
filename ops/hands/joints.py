"""Orders of hand joints and how to get from one to another. CONVENTIONS.md states which is used where.

MANO16: wrist; index, middle, little, ring, thumb, three each. MANO21: MANO16, then the tips thumb to little.
OPENPOSE21 (ours): wrist; thumb, index, middle, ring, little, four each from the palm outwards (4 = tip).
"""

WRIST = 0
FINGERS = ("thumb", "index", "middle", "ring", "little")
MANO_FINGERS = ("index", "middle", "little", "ring", "thumb")
NAMES = ("wrist", *(f"{finger}_{k}" for finger in FINGERS for k in (1, 2, 3, 4)))
MANO_NAMES = ("wrist", *(f"{finger}_{k}" for finger in MANO_FINGERS for k in (1, 2, 3)))
MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

# smplx's and VITRA's choice; manotorch and manopth take (745, 317, 444, 556, 673), some millimetres away
TIP_VERTICES = (744, 320, 443, 554, 671)

# openpose[k] = mano21[MANO21_OF_OPENPOSE[k]], and back
MANO21_OF_OPENPOSE = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
OPENPOSE_OF_MANO21 = (0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20)

TIPS = (4, 8, 12, 16, 20)
KNUCKLES = (1, 5, 9, 13, 17)  # first joint of each finger
PARENTS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
BONES = tuple((parent, joint) for joint, parent in enumerate(PARENTS) if parent >= 0)  # for drawing
BONE_RGB = tuple(
    colour
    for colour in ((230, 60, 60), (240, 150, 40), (70, 180, 70), (60, 120, 230), (160, 80, 200))
    for _ in range(4)
)
