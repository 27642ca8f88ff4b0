"""Drawing one made-up person: what gender and age make them look like, and seven photos of them.

A person is drawn once; the photos differ in mask, pose, light and background. The canvas is 384 x 512, RGBA
with colours premultiplied, in face coordinates; a colour is RGB.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Canvas = NDArray[np.uint8]
Points = NDArray[np.float64]  # and colours
Size = tuple[int, int]

WIDTH_PX, HEIGHT_PX = 384, 512
CENTRE = np.array([192.0, 238.0])  # of the face
MIRRORS = ((-1, 1), (1, 1))
SHOTS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")

_AGES = [(18, 29), (30, 59), (60, 60)]
_SKINS = np.array([[244, 212, 186], [236, 196, 164], [222, 178, 142], [190, 140, 104], [142, 98, 70]], float)
_HAIRS = np.array([[30, 26, 26], [58, 40, 30], [96, 64, 40], [140, 96, 56], [190, 150, 90]], float)
_EYES = np.array([[62, 42, 30], [92, 66, 40], [84, 104, 74], [92, 122, 150]], float)
_MASKS = np.array([[150, 196, 222], [240, 242, 244], [44, 46, 52], [230, 228, 216], [206, 150, 160], [110, 136, 112]])


@dataclass(frozen=True)
class Person:
    """One person: labels, and the looks that follow from them. Strengths are 0..1."""

    name: str
    gender: str
    age: int
    radius: Points  # half width and half height of the face, in pixels
    jaw: float
    brow: float
    lips: float
    beard: float
    wrinkles: float
    hair_length: float
    hairline: float
    part: float
    is_curly: bool
    has_glasses: bool
    skin: Points
    hair: Points
    eye: Points
    shirt: Points
    wall: Points


def make_person(name: str, gender: str, band: int, *, rng: Generator) -> Person:
    """Someone of a gender and age band (0: under 30, 1: 30-59, 2: 60), looks drawn at random around that."""
    low, high = _AGES[band]
    age = int(rng.integers(low, high + 1))
    # Ages stop at 60 in the labels, not in the faces.
    looks = age + rng.normal(0, 3) + (rng.uniform(0, 16) if age == 60 else 0)
    years = float(np.clip((looks - 22) / 46, 0, 1))
    man = (1.0 if gender == "male" else -1.0) + rng.normal(0, 0.45)

    def around(middle: float, spread: float) -> float:
        return float(np.clip(rng.normal(middle, spread), 0, 1))

    is_long = rng.random() < (0.10 if gender == "male" else 0.80)
    is_bearded = gender == "male" and rng.random() < 0.45
    grey = float(np.clip((looks - 38 + rng.normal(0, 5)) / 26, 0, 1))
    hair = _HAIRS[min(int(rng.exponential(1.2)), 4)] * rng.uniform(0.9, 1.1)
    return Person(
        name=name,
        gender=gender,
        age=age,
        radius=np.array([87 + 3 * man + rng.normal(0, 3), 112 + rng.normal(0, 4)]),
        jaw=around(0.5 + 0.28 * man, 0.12),
        brow=around(0.5 + 0.28 * man, 0.12),
        lips=around(0.45 - 0.3 * man, 0.15),
        beard=around(0.65, 0.2) if is_bearded else 0.0,
        wrinkles=around(years, 0.06),
        hair_length=around(0.7, 0.2) if is_long else 0.0,
        hairline=around(0.25 + 0.12 * man + (0.4 * years if gender == "male" else 0), 0.12),
        part=float(rng.uniform(-0.6, 0.6)),
        is_curly=bool(rng.random() < 0.25),
        has_glasses=bool(rng.random() < 0.12 + 0.3 * years),
        skin=_SKINS[rng.choice(5, p=[0.25, 0.3, 0.2, 0.15, 0.1])] * rng.uniform(0.95, 1.04),
        hair=hair * (1 - grey) + np.array([204, 204, 206]) * grey,
        eye=_EYES[rng.integers(4)],
        shirt=rng.uniform(40, 190) + rng.uniform(-35, 35, 3),
        wall=rng.uniform(110, 225) + rng.uniform(-14, 14, 3),
    )


def _fill(canvas: Canvas, points: Points, colour: Points) -> None:
    """A smooth-edged polygon; `points` are in pixels."""
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32)], _paint(colour), cv2.LINE_AA, 4)


def _stroke(canvas: Canvas, points: Points, colour: Points, width_px: float) -> None:
    """A smooth-edged open curve; `points` are in pixels."""
    curve = [np.rint(points * 16).astype(np.int32)]
    cv2.polylines(canvas, curve, False, _paint(colour), max(round(width_px), 1), cv2.LINE_AA, 4)


def _paint(colour: Points) -> list[float]:
    return [*np.clip(colour, 0, 255).tolist(), 255]


def _arc(centre: Any, radius: Any, start: float, stop: float, *, power: float = 2.0) -> Points:
    """Part of a superellipse; angles in degrees, clockwise from the right, since y points down."""
    angle = np.deg2rad(np.linspace(start, stop, 48))
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(centre + radius * np.sign(unit) * np.abs(unit) ** (2 / power))


def _place(person: Person, points: Any) -> Points:
    """From face coordinates (the face's edges are at -1 and 1) to pixels."""
    return CENTRE + np.asarray(points, float) * person.radius


def _draw_person(person: Person, *, rng: Generator) -> Canvas:
    """The person without a mask."""
    canvas = np.zeros((HEIGHT_PX, WIDTH_PX, 4), np.uint8)
    if person.hair_length:
        _draw_back_hair(canvas, person)
    _draw_body(canvas, person)
    for ear in np.multiply([1.0, 0.02], MIRRORS):
        _fill(canvas, _arc(_place(person, ear), (13, 25), 0, 360), person.skin * 0.86)
    _draw_face(canvas, person)
    _draw_wrinkles(canvas, person, rng=rng)
    _draw_eyes(canvas, person)
    _draw_nose_and_mouth(canvas, person)
    _draw_front_hair(canvas, person, rng=rng)
    if person.has_glasses:
        _draw_glasses(canvas, person)
    return canvas


def _draw_back_hair(canvas: Canvas, person: Person) -> None:
    bottom = 0.75 + 0.9 * person.hair_length
    top = _arc(0, (1.22, 1.2), 180, 360, power=2.2)
    side = np.array([[1.30, 0.4], [1.26, bottom], [0.9, bottom + 0.1]])
    _fill(canvas, _place(person, np.concatenate([top, side, side[::-1] * (-1, 1)])), person.hair * 0.72)


def _draw_body(canvas: Canvas, person: Person) -> None:
    _fill(canvas, _arc((192, 512), (152 + 30 * person.jaw, 112), 180, 360, power=2.6), person.shirt)
    neck = _place(person, [[-0.52, 0.6], [0.52, 0.6], [0.56, 1.55], [0, 1.85], [-0.56, 1.55]])
    _fill(canvas, neck, person.skin * 0.80)
    for mirror in MIRRORS:
        collar = np.multiply([[0.56, 1.40], [0.30, 1.95], [0.62, 1.75]], mirror)
        _fill(canvas, _place(person, collar), person.shirt * 0.8 + 30)


def _draw_face(canvas: Canvas, person: Person) -> None:
    """The skin; rounded, cheeks reddened, beard darkened by one soft map that is multiplied in."""
    lower = _arc(0, 1, 0, 180, power=2.0 + 0.7 * person.jaw)
    lower[:, 0] *= 1 - (0.30 - 0.20 * person.jaw) * lower[:, 1] ** 2
    face = _place(person, np.concatenate([_arc(0, 1, 180, 360), lower]))
    _fill(canvas, face, person.skin)
    quarter = np.ones((HEIGHT_PX // 4, WIDTH_PX // 4, 3), np.float32)

    def tint(points: Any, factor: Any) -> None:
        cv2.fillPoly(quarter, [np.rint(_place(person, points) / 4).astype(np.int32)], np.asarray(factor).tolist())

    tint(_arc(0, 1.3, 0, 360), [0.80] * 3)
    tint(_arc((-0.05, -0.08), (0.80, 0.86), 0, 360), [1.04] * 3)
    for cheek in np.multiply([0.52, 0.28], MIRRORS):
        tint(_arc(cheek, (0.24, 0.17), 0, 360), [1.06, 0.94, 0.92])
        tint(_arc(cheek * (0.8, -0.5), (0.24, 0.12), 0, 360), [0.90, 0.86, 0.86])
    if person.beard:
        strength = person.beard * np.array([0.62, 0.62, 0.60])
        cheeks = [[-0.8, 0.3], [-0.35, 0.42], [0.35, 0.42]]
        tint(np.concatenate([_arc((0, 0.30), (1.1, 0.85), 0, 180), cheeks]), 1 - strength)
    soft = cv2.resize(cv2.GaussianBlur(quarter, (0, 0), 3.2), (WIDTH_PX, HEIGHT_PX))
    inside = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    cv2.fillPoly(inside, [np.rint(face).astype(np.int32)], 255)
    shaded = np.clip(canvas[:, :, :3] * soft, 0, 255).astype(np.uint8)
    np.copyto(canvas[:, :, :3], shaded, where=inside[:, :, None] > 0)


def _draw_wrinkles(canvas: Canvas, person: Person, *, rng: Generator) -> None:
    line, width_px = person.skin * (0.96 - 0.26 * person.wrinkles), 1 + 1.6 * person.wrinkles
    for row in range(round(4 * person.wrinkles)):
        across = np.linspace(-0.42, 0.42, 16)
        wave = -0.52 - 0.1 * row + 0.05 * across**2 + rng.normal(0, 0.006, 16).cumsum() * 0.5
        _stroke(canvas, _place(person, np.stack([across, wave], axis=1)), line, width_px)
    folds: list[Any] = [_arc((0.37, -0.02), (0.20, 0.13), 20, 160), [[0.24, 0.30], [0.36, 0.44], [0.42, 0.62]]]
    folds += [[[0.66, -0.08 + 0.05 * foot], [0.82, -0.16 + 0.11 * foot]] for foot in range(round(3 * person.wrinkles))]
    for fold in folds:
        for mirror in MIRRORS:
            _stroke(canvas, _place(person, np.multiply(fold, mirror)), line, width_px)
    for _ in range(int(9 * max(person.wrinkles - 0.5, 0) * 2)):
        x, y = _place(person, [rng.uniform(-0.75, 0.75), rng.uniform(-0.65, 0.1)])
        cv2.circle(canvas, (int(x), int(y)), int(rng.integers(1, 4)), _paint(person.skin * 0.76), -1, cv2.LINE_AA)


def _draw_eyes(canvas: Canvas, person: Person) -> None:
    openness = 0.085 + 0.02 * (1 - person.wrinkles) + 0.012 * person.lips
    for side in (-1, 1):
        eye = np.array([0.40 * side, -0.08])
        white = np.concatenate([_arc(eye, (0.19, openness), 180, 360), _arc(eye, (0.19, openness * 0.7), 0, 180)])
        _fill(canvas, _place(person, white), np.array([240.0, 238, 234]))
        x, y = _place(person, eye)
        for colour, radius in ((person.eye, 8), (person.eye * 0.2, 4)):
            cv2.circle(canvas, (int(x), int(y - 1)), radius, _paint(colour), -1, cv2.LINE_AA)
        cv2.circle(canvas, (int(x + 2), int(y - 4)), 2, (255, 255, 255, 255), -1, cv2.LINE_AA)
        _stroke(
            canvas, _place(person, _arc(eye, (0.20, openness), 180, 360)), person.skin * 0.45, 2 + 2.5 * person.lips
        )
        _stroke(canvas, _place(person, _arc(eye, (0.19, openness * 0.7), 10, 170)), person.skin * 0.72, 1)
        arch = _arc(eye - (0, 0.10), (0.27, 0.13 - 0.05 * person.brow), 200, 340)
        _stroke(canvas, _place(person, arch), person.hair * 0.62, 3 + 6 * person.brow)


def _draw_nose_and_mouth(canvas: Canvas, person: Person) -> None:
    side = [[-0.06, -0.05], [-0.09, 0.15], [-0.17, 0.30], [-0.13, 0.36]]
    _stroke(canvas, _place(person, side), person.skin * 0.84, 2)
    _stroke(canvas, _place(person, _arc((0, 0.33), (0.16, 0.06), 10, 170)), person.skin * 0.74, 2.5)
    for nostril in np.multiply([0.075, 0.345], MIRRORS):
        _fill(canvas, _arc(_place(person, nostril), (5, 3), 0, 360), person.skin * 0.5)
    rosy = np.array([196, 74, 84]) * (0.6 + 0.4 * person.skin[0] / 255)
    lips = person.skin * 0.82 * (1 - person.lips) + rosy * person.lips
    half, full = 0.32 - 0.02 * person.lips, 0.045 + 0.05 * person.lips
    _fill(canvas, _place(person, _arc((0, 0.60), (half * 0.9, full * 1.3), 0, 180)), lips)
    bow = [[-half, 0.60], [-0.09, 0.60 - full], [0, 0.60 - full * 0.6], [0.09, 0.60 - full], [half, 0.60]]
    _fill(canvas, _place(person, bow), lips * 0.9)
    _stroke(canvas, _place(person, _arc((0, 0.60), (half, 0.02), 0, 180)), lips * 0.55, 2)
    if person.beard > 0.55:
        moustache = [[-0.34, 0.55], [-0.1, 0.43], [0.1, 0.43], [0.34, 0.55], [0, 0.51]]
        _fill(canvas, _place(person, moustache), person.hair * 0.8 + 16)


def _draw_front_hair(canvas: Canvas, person: Person, *, rng: Generator) -> None:
    thick = 0.16 * (1 - 0.5 * person.hairline)
    outer = _arc((0, -0.05), (1.04 + thick * 0.6, 1.02 + thick), 172, 368)
    inner = _arc((0, 0.02), (0.93, 1.0), 360, 180)
    height = 0.52 + 0.46 * person.hairline
    inner[:, 1] = np.maximum(inner[:, 1], -height - 0.14 * np.cos((inner[:, 0] - person.part) * 1.3) ** 2)
    cap = _place(person, np.concatenate([outer, inner]))
    _fill(canvas, cap, person.hair)
    if person.is_curly:
        for x, y in cap[: len(outer)][2:-2]:
            cv2.circle(canvas, (int(x), int(y)), 11, _paint(person.hair), -1, cv2.LINE_AA)
    end = 0.5 + 0.9 * person.hair_length
    for mirror in MIRRORS if person.hair_length else ():
        lock = [[0.92, -0.42], [1.14, -0.3], [1.24, 0.4], [1.14, end], [0.98, end - 0.1], [1.02, 0.2]]
        _fill(canvas, _place(person, np.multiply(lock, mirror)), person.hair * 0.92)
    for strand in rng.uniform(0.86, 1.16, 22):
        shape = _arc((0, -0.05), (1.0 * strand**0.3, 1.0 + thick * rng.uniform(0.1, 0.9)), 190, 350)
        start = int(rng.integers(0, 26))
        _stroke(canvas, _place(person, shape[start : start + 12]), person.hair * strand + 6 * strand, 1)


def _draw_glasses(canvas: Canvas, person: Person) -> None:
    frame = np.array([40.0, 36, 40])
    for side in (-1, 1):
        rim = _arc((0.41 * side, -0.06), (0.29, 0.17), 0, 360, power=3)
        _stroke(canvas, _place(person, rim), frame, 3)
        _stroke(canvas, _place(person, [[0.70 * side, -0.08], [1.0 * side, -0.05]]), frame, 3)
    _stroke(canvas, _place(person, _arc((0, -0.06), (0.12, 0.06), 180, 360)), frame, 3)


def draw_shots(person: Person, *, rng: Generator, size_px: Size) -> list[Canvas]:
    """The person's images in the order of `SHOTS`."""
    bare = _draw_person(person, rng=rng)
    images = []
    for shot, style in zip(SHOTS, [*rng.permutation(len(_MASKS)).tolist(), None], strict=True):
        canvas = bare.copy()
        slip = 0.0
        if shot == "incorrect_mask":  # under the nose, or on the chin
            slip = rng.uniform(0.30, 0.36) if rng.random() < 0.6 else rng.uniform(0.58, 0.70)
        if style is not None:
            _draw_mask(canvas, person, style=style, slip=slip, rng=rng)
        images.append(_take_photo(canvas, person, rng=rng, size_px=size_px))
    return images


def _draw_mask(canvas: Canvas, person: Person, *, style: int, slip: float, rng: Generator) -> None:
    """A mask whose upper edge lies `slip` face heights under the bridge of the nose."""
    cloth = _MASKS[style] * rng.uniform(0.92, 1.05)
    top = 0.06 + slip + rng.uniform(-0.03, 0.03)
    bottom = 1.04 + 0.35 * slip + rng.uniform(-0.02, 0.03)
    middle = (top + bottom) / 2
    for side in (-1, 1):
        for height in (top + 0.10, middle + 0.12):
            _stroke(canvas, _place(person, [[0.8 * side, height], [1.02 * side, -0.02]]), cloth * 0.86, 2.5)
    narrow = 0.90 - 0.22 * slip
    edge = [[-narrow, top + 0.07], [-0.3, top + 0.03], [0, top - 0.03], [0.3, top + 0.03], [narrow, top + 0.07]]
    low = _arc((0, middle), (narrow * 0.97, bottom - middle), 0, 180, power=2.3)
    outline = _place(person, np.concatenate([edge, low]))
    _fill(canvas, outline, cloth * 0.86)
    _fill(canvas, (outline - outline.mean(axis=0)) * (0.84, 0.94) + outline.mean(axis=0), cloth)
    if style in (0, 1):  # pleats
        for part in (0.32, 0.52, 0.72):
            level = top + (bottom - top) * part
            _stroke(canvas, _place(person, _arc((0, level), (0.78 * narrow, 0.05), 15, 165)), cloth * 0.88, 2)
    _stroke(canvas, _place(person, edge), cloth * 0.78, 2)


def _take_photo(canvas: Canvas, person: Person, *, rng: Generator, size_px: Size) -> Canvas:
    """Pose, background, light and noise."""
    turn = cv2.getRotationMatrix2D((192.0, 290.0), rng.normal(0, 4), rng.uniform(1.04, 1.2))
    turn[:, 2] += rng.normal(0, 8, 2)
    turn[0, 1] += rng.normal(0, 0.02)
    posed = cv2.warpAffine(canvas, turn, (WIDTH_PX, HEIGHT_PX), borderMode=cv2.BORDER_REPLICATE)
    posed = cv2.resize(posed, size_px, interpolation=cv2.INTER_AREA).astype(np.float32)
    wall = person.wall if rng.random() < 0.7 else rng.uniform(90, 230) + rng.uniform(-14, 14, 3)
    picture = cv2.resize(np.float32(wall + rng.normal(0, 9, (6, 4, 1))), size_px, interpolation=cv2.INTER_CUBIC)
    picture *= 1 - posed[:, :, 3:] / 255
    picture += posed[:, :, :3]
    light = np.float32(rng.uniform(0.75, 1.02) + rng.normal(0, 0.07, (2, 2, 1)) + rng.normal(0, 0.015, 3))
    picture *= cv2.resize(light, size_px)
    picture += rng.integers(-4, 5, (*picture.shape[:2], 1), dtype=np.int8)
    return np.asarray(np.clip(picture, 0, 255).astype(np.uint8))
