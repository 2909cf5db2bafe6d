"""Procedural divers: how sixteen kinds of dive move, and through which camera they are seen.

Twelve motions: four take-offs, each in three positions. In either hand divers hold a thing, as in
rhythmic gymnastics: balls, hoops, ribbons or clubs. Four of the motions are done with one thing or
with another, which makes sixteen classes. A `Dive` is one performance of a class by one diver, in
one scene, through one camera. It knows where 23 points of the body are at any time; how that looks
is the work of toy/picture.py, and how clips reach the disk of toy/tree.py.

here      | what it is                                   | tests/test_toy.py
Posture   | angles of the body's joints at one instant   | test_limbs_*
Dive      | a performance: motion, body, course, camera  | test_limbs_*, test_joints_lie_*
generator | random numbers that depend on their purpose  | test_identities_*, test_same_bytes_*

What each part of PeVL is for is a fact of this world:

* What is held is seen in the picture alone: a motion is drawn without a look at it, so the two
  classes of a pair have the very same joints, and a model of poses stops at 12 / 16 = 75 %.
* The same things hang and lie about in the hall, and spectators hold them up. Only who knows where
  the diver's hands are knows which of them count: P2V (Eq. 1).
* Detectors lose legs, change sides and follow a spectator for a while (toy/tree.py). The picture
  still shows the position: V2P (Eq. 2), and the refinement that keeps both honest (Eq. 3).
* A label is a composition, and labels share parts: Eqs. (4) to (6).

World axes: x from the board's tip over the water, y up from the board, z towards the viewer. Units:
body heights, seconds, radians (in tables degrees); on the screen pixels, x to the right, y down.
"""
import colorsys
from typing import Any, NamedTuple

import numpy as np

# -------------------------------------------------------------------------- classes and identities

# The things that are held, as a label names them: toy/picture.py draws each of them.
THINGS = ("Balls", "Hoops", "Ribbons", "Clubs")

# Label -> five words in the manner of Diving48's vocabulary: take-off, somersaults, twists,
# position, and what is held. A dive in Diving48's sense ("Dive") is half a somersault. Labels 2 k
# and 2 k + 1, for k below 4, are the pairs that differ in the thing alone. Labels 0 and 8, 2 and 9,
# 5 and 10, 6 and 11 differ in the direction of the turn alone, which takes the order of frames.
TOY_CLASSES = (
    ("Forward", "15som", "NoTwis", "PIKE", "Balls"),
    ("Forward", "15som", "NoTwis", "PIKE", "Hoops"),
    ("Reverse", "15som", "NoTwis", "TUCK", "Ribbons"),
    ("Reverse", "15som", "NoTwis", "TUCK", "Clubs"),
    ("Back", "15som", "NoTwis", "TUCK", "Clubs"),
    ("Back", "15som", "NoTwis", "TUCK", "Balls"),
    ("Inward", "15som", "NoTwis", "PIKE", "Hoops"),
    ("Inward", "15som", "NoTwis", "PIKE", "Ribbons"),
    ("Reverse", "15som", "NoTwis", "PIKE", "Balls"),
    ("Forward", "15som", "NoTwis", "TUCK", "Ribbons"),
    ("Inward", "15som", "NoTwis", "TUCK", "Balls"),
    ("Back", "15som", "NoTwis", "PIKE", "Hoops"),
    ("Forward", "Dive", "1Twis", "FREE", "Clubs"),
    ("Reverse", "15som", "1Twis", "FREE", "Hoops"),
    ("Back", "Dive", "15Twis", "FREE", "Ribbons"),
    ("Inward", "15som", "15Twis", "FREE", "Clubs"),
)

# How many turns the words of a class mean.
TURNS = {"NoTwis": 0.0, "1Twis": 1.0, "15Twis": 1.5, "Dive": 0.5, "15som": 1.5}

# Shares of the flight: when divers begin to twist, and for how long they do.
TWIST_BEGINS = .2
TWIST_LASTS = .56

# Divers, scenes and cameras are numbered. Each split draws from numbers of its own (the second one
# is excluded), so that no model can pass by recognising a swimsuit. Still pictures count from
# STILLS up, one new identity a picture.
PEOPLE = {"train": (0, 600), "val": (600, 700), "test": (700, 860)}
STILLS = 1000

# The purposes of random numbers: the first argument of `generator`.
MOTION = 1
DIVER = 2
SCENE = 3
CAMERA = 4
DROPS = 5
CAST = 6
DETECTOR = 7
CUT = 8
STILL = 9

# --------------------------------------------------------------------------- the picture's geometry

WIDTH = 128      # pixels of a frame
HEIGHT = 96
GRAVITY = 5.8    # body heights / s^2: 9.8 m / s^2 for a body of 1.7 m
DISTANCE = 9     # body heights from the camera to the middle of what it films

# ------------------------------------------------------------------------------- points of a body

# The joints of a pose clip are the 17 of COCO, left before right.
TOY_JOINTS = (
    "nose",
    "left_eye", "right_eye",
    "left_ear", "right_ear",
    "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow",
    "left_wrist", "right_wrist",
    "left_hip", "right_hip",
    "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)

# A body has 23 points: these 17, then six that only the picture needs.
NOSE = 0
EYES = slice(1, 3)
EARS = slice(3, 5)
SHOULDERS = slice(5, 7)
ELBOWS = slice(7, 9)
WRISTS = slice(9, 11)
HIPS = slice(11, 13)
KNEES = slice(13, 15)
ANKLES = slice(15, 17)
TOES = slice(17, 19)
FINGERS = slice(19, 21)    # fingertips
SKULL = 21                 # the middle of the head
BROW = 22                  # one body height before the face: where the head looks
POINTS = 23
FEET = slice(15, 19)       # ankles and toes

# Weights in the centre of mass. They sum to 42 / 41, not to 1: this shifts a flight by a pixel
# or two, and another divisor would move every joint of the clips that exist.
MASS = np.zeros(POINTS)
MASS[EARS] = 1
MASS[SHOULDERS] = 5
MASS[ELBOWS] = 1
MASS[WRISTS] = 1
MASS[HIPS] = 6
MASS[KNEES] = 4
MASS[ANKLES] = 2
MASS[SKULL] = 2
MASS /= 41.0

# --------------------------------------------------------------------------------- key postures


class Posture(NamedTuple):
    """Angles of a body; all 0 is: upright, legs straight, arms down.

    In the tables of this file they are degrees, and pairs are (left, right). In `Dive.limbs` they
    are radians at n times: pairs are arrays (2, n), the others (n,).
    """
    hips: Any          # flexion: the thigh swings ahead
    knees: Any         # flexion: the shin swings back
    shoulders: Any     # the arm swings ahead; 180 is overhead
    elbows: Any        # flexion: the forearm swings ahead
    spread: Any        # how far both arms leave the body sideways
    spine: Any         # bend of the trunk, ahead
    lean: Any          # of the whole body, ahead; what it is in the air is up to the somersaults
    ankles: Any        # 90 is a foot flat on the ground, 0 a pointed one
    nod: Any           # of the head, ahead

    def flat(self):
        """The thirteen angles in the order of the fields, as one list."""
        pairs = [*self.hips, *self.knees, *self.shoulders, *self.elbows]
        return [*pairs, self.spread, self.spine, self.lean, self.ankles, self.nod]

    @classmethod
    def from_rows(cls, rows):
        """The reverse of `flat`, from an array (13, n)."""
        return cls(
            hips=rows[0:2],
            knees=rows[2:4],
            shoulders=rows[4:6],
            elbows=rows[6:8],
            spread=rows[8],
            spine=rows[9],
            lean=rows[10],
            ankles=rows[11],
            nod=rows[12],
        )


FLEXIONS = slice(0, 8)     # of the thirteen: hips, knees, shoulders, elbows

# Both starts end like this: on the toes, arms overhead. They differ in the lean.
TAKING_OFF = Posture(
    hips=(2, 2),
    knees=(2, 2),
    shoulders=(165, 165),
    elbows=(8, 8),
    spread=6,
    spine=0,
    lean=4,
    ankles=30,
    nod=0,
)

# Who faces the water runs up with a hurdle step. Pairs: seconds from the take-off, posture.
RUN_UP = (
    (-.70, Posture(
        hips=(28, -18),
        knees=(8, 30),
        shoulders=(-25, 30),
        elbows=(15, 15),
        spread=6,
        spine=3,
        lean=6,
        ankles=85,
        nod=0,
    )),
    (-.48, Posture(
        hips=(-15, 38),
        knees=(15, 40),
        shoulders=(15, -45),
        elbows=(10, 10),
        spread=8,
        spine=3,
        lean=8,
        ankles=80,
        nod=0,
    )),
    (-.28, Posture(
        hips=(0, 95),
        knees=(0, 100),
        shoulders=(150, 150),
        elbows=(15, 15),
        spread=15,
        spine=0,
        lean=2,
        ankles=30,
        nod=0,
    )),
    (-.11, Posture(
        hips=(62, 62),
        knees=(80, 80),
        shoulders=(-30, -30),
        elbows=(10, 10),
        spread=10,
        spine=8,
        lean=28,
        ankles=100,
        nod=-10,
    )),
    (0, TAKING_OFF),
)

# Who faces the board stands at its tip, swings the arms and presses.
STANDING = (
    (-.70, Posture(
        hips=(2, 2),
        knees=(2, 2),
        shoulders=(90, 90),
        elbows=(0, 0),
        spread=4,
        spine=0,
        lean=0,
        ankles=85,
        nod=0,
    )),
    (-.48, Posture(
        hips=(0, 0),
        knees=(0, 0),
        shoulders=(20, 20),
        elbows=(0, 0),
        spread=75,
        spine=0,
        lean=2,
        ankles=70,
        nod=0,
    )),
    (-.26, Posture(
        hips=(12, 12),
        knees=(15, 15),
        shoulders=(5, 5),
        elbows=(0, 0),
        spread=40,
        spine=2,
        lean=5,
        ankles=85,
        nod=0,
    )),
    (-.11, Posture(
        hips=(70, 70),
        knees=(85, 85),
        shoulders=(-25, -25),
        elbows=(5, 5),
        spread=12,
        spine=8,
        lean=30,
        ankles=100,
        nod=-8,
    )),
    (0, TAKING_OFF._replace(lean=-4)),
)

# The position that a class asks for in the air, and the one in which every dive meets the water.
HOLDS = {
    "TUCK": Posture(
        hips=(132, 132),
        knees=(138, 138),
        shoulders=(22, 22),
        elbows=(82, 82),
        spread=10,
        spine=38,
        lean=0,
        ankles=15,
        nod=30,
    ),
    "PIKE": Posture(
        hips=(128, 128),
        knees=(2, 2),
        shoulders=(108, 108),
        elbows=(5, 5),
        spread=5,
        spine=28,
        lean=0,
        ankles=5,
        nod=15,
    ),
    "FREE": Posture(
        hips=(4, 4),
        knees=(2, 2),
        shoulders=(75, 150),
        elbows=(105, 100),
        spread=8,
        spine=-3,
        lean=0,
        ankles=5,
        nod=0,
    ),
    "entry": Posture(
        hips=(0, 0),
        knees=(0, 0),
        shoulders=(176, 176),
        elbows=(0, 0),
        spread=2,
        spine=0,
        lean=0,
        ankles=3,
        nod=0,
    ),
}

# ---------------------------------------------------------------------------------------- colours

# Hue, saturation and value of what people call by these names.
COLOURS = {
    "red": (.0, .85, .8),
    "orange": (.075, .95, .95),
    "yellow": (.15, .85, .95),
    "green": (.36, .8, .62),
    "blue": (.62, .8, .75),
    "purple": (.77, .65, .6),
    "pink": (.91, .5, .97),
    "black": (.6, .2, .14),
    "white": (.1, .04, .96),
}

SKINS = (    # RGB, light to dark
    (236, 188, 160),
    (224, 172, 138),
    (198, 140, 104),
    (162, 106, 76),
    (118, 76, 56),
    (84, 54, 42),
)

# What people take these things to look like.
INKS = {"Balls": "red", "Hoops": "yellow", "Ribbons": "pink", "Clubs": "green"}

SHAPES = ("rectangle", "ellipse", "stripes", "band", "triangle")


class Proportions(NamedTuple):
    """Factors of a diver's measures, .92 to 1.08."""
    arm: float
    leg: float
    trunk: float
    width: float      # of the shoulders
    girth: float      # how thick limbs and trunk are drawn
    head: float


class BoardShape(NamedTuple):
    """Six shares, 0 to 1, of how far the measures of an apparatus vary (toy/picture.py)."""
    thickness: float
    width: float
    length: float
    support: float    # where the tower ends, or where the fulcrum is
    rail_end: float   # how far from the tip the railings of a platform end
    rail_height: float


class Clutter(NamedTuple):
    """One object behind the diver; lengths are body heights.

    It looks like anything that a hall may hold, and shows how the camera moves.
    """
    shape: str        # one of SHAPES, "spectator", or "" where there is a thing alone
    x: float
    y: float
    width: float      # half of what is drawn, roughly
    height: float     # of a spectator: above .2 one arm is up, else stretched to the side
    nearness: float   # how fast it passes when the camera moves; 1: as fast as the diver's place
    rgb: tuple
    thing: str        # one of THINGS, or "": what a spectator holds, or what hangs there


# ---------------------------------------------------------------------------------- small helpers


def generator(stream, *numbers):
    """Random numbers that depend on the purpose and these integers alone, in any process.

    stream: one of the purposes above, so that more draws for one purpose never shift another's.
    """
    seeds = np.random.SeedSequence((stream, *numbers))
    return np.random.Generator(np.random.PCG64(seeds))


def colour(name, draws, gain, fade=1.0):
    """An RGB triple that people would call `name`.

    draws: three numbers in [0, 1) that vary hue, saturation and value. gain: brightness of the
    light. fade: factor of the saturation, below 1 for what is behind the diver. The result may pass
    255 where gain is above 1; `picture.shade` cuts it.
    """
    hue, saturation, value = COLOURS[name]
    hue = (hue + .03 * (draws[0] - .5)) % 1
    saturation = saturation * fade * (.9 + .15 * draws[1])
    value = value * (.9 + .15 * draws[2])

    rgb = colorsys.hsv_to_rgb(hue, min(saturation, 1), min(value, 1))
    return tuple(255 * gain * channel for channel in rgb)


def colour_unlike(index, other):
    """The name of colour number `index`, or the next one where that is the colour `other`.

    So one draw is always enough, and what stands before a colour never has that very colour.
    """
    names = list(COLOURS)
    if names[index] == other:
        index += 1
    return names[index % len(names)]


def ease(x):
    """0 below 0, 1 above 1, and between them a cubic that starts and ends at rest.

    All joints move so from one key posture to the next.
    """
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def spin(x, ramp=0.2):
    """0 to 1 at constant speed but for a ramp at both ends: how the angle of a somersault grows.

    The speed rises over the first `ramp` of the way and falls over the last; this is its integral.
    """
    first = np.clip(x, 0, ramp)
    middle = np.clip(x, ramp, 1 - ramp) - ramp
    last = np.clip(x, 1 - ramp, 1) - (1 - ramp)

    way = first * first / (2 * ramp)
    way = way + middle
    way = way + last - last * last / (2 * ramp)
    return way / (1 - ramp)


def ray(angle, length):
    """A bone as x + iy: at angle 0 it points down, at pi / 2 ahead, at pi up."""
    return -1j * length * np.exp(1j * angle)


# ---------------------------------------------------------------------------------- a performance


class Dive:
    """One performance of the class that `words` name, for any time from the run-up to under water.

    The parts of a time: `pose` is the body on the board, `path` the course of its centre of mass,
    `joints` both together in the world, `seen` the same on the screen.

    words: five, as in TOY_CLASSES. seed: integers that decide style and motion; the two labels of a
    pair move alike with the same seed. diver, scene, camera: numbers of identities. crowded:
    whether the hall is full of spectators and of doubles of what divers hold, as in all clips.
    Cameras stand on one side of the pool, as in a broadcast.

    Times are seconds of the dive's own clock; a clip begins up to a quarter of a second from its 0.
    What is drawn once and then read:
        takeoff, position, thing       words of the class
        apparatus                      Springboard or Platform, as the scene has it
        somersaults, twists            numbers of turns; the sign of twists is their direction
        faces                          1 faces the water before the jump, -1 the board
        turn                           1 turns anticlockwise seen from +z, -1 clockwise
        t_off, t_air                   instant of the take-off; seconds from there to the water
        hold                           two instants, between which the position is held
        height                         of the board above the water
        suit, sky                      names of colours; *_rgb and skin are RGB, 0 to 255 and more
        inks                           thing -> the RGB of this hall's balls, hoops, ...
        view, zoom                     axes of the screen; pixels per body height at its centre
    """

    def __init__(self, words, seed, diver, scene, camera, crowded=True):
        takeoff, somersaults, twists, position, thing = words
        self.takeoff = takeoff
        self.position = position
        self.thing = thing
        self.seed = seed

        # A reverse dive starts like a forward one but turns back towards the board; an inward dive
        # starts like a back dive and turns towards the board as well.
        self.faces = 1 if takeoff in ("Forward", "Reverse") else -1
        self.turn = -1 if takeoff in ("Forward", "Back") else 1

        # The order of the draws is part of the data: another order gives other clips.
        rng = generator(MOTION, *seed)
        self.somersaults = TURNS[somersaults]
        self.twists = TURNS[twists] * rng.choice((-1, 1))
        self.t_off = rng.uniform(.5, .66)
        self.speed = rng.uniform(.9, 1.15)      # of the run-up
        self.t_air = rng.uniform(.92, 1.12)
        self.height = rng.uniform(1.7, 2.5)
        self.vx = rng.uniform(.65, .95)         # speed of the flight, away from the board
        self._choreograph(rng)

        self._film(generator(CAMERA, camera))
        self._dress(generator(DIVER, diver))
        self._build(generator(SCENE, scene), crowded)
        self.drops = generator(DROPS, *seed).random((34, 4)).tolist()      # of the splash

        # The upward speed is the one that brings the centre of mass to .70 above the water after
        # t_air seconds: the fingers of a stretched body are then a tenth above it, and touch it
        # a fiftieth of a second later.
        self.com0 = MASS @ self.pose(np.array([self.t_off]))[0]            # (3,) at the take-off
        fall = GRAVITY * self.t_air ** 2 / 2
        self.vy = (0.70 - self.height - self.com0[1] + fall) / self.t_air

    def _choreograph(self, rng):
        """Draw key postures: times (k,) and angles (k, 13), in a style of this performance."""
        into = rng.uniform(.16, .22)      # shares of t_air between which the position is held
        out = rng.uniform(.70, .76)
        self.hold = (self.t_off + into * self.t_air, self.t_off + out * self.t_air)

        times = []
        postures = []
        for seconds, posture in RUN_UP if self.faces == 1 else STANDING:
            times.append(seconds / self.speed)
            postures.append(posture.flat())

        flight = (
            (into, self.position),
            (out, self.position),
            (out + .17, "entry"),
            (1.6, "entry"),               # past the end of most clips, and held from there on
        )
        for share, name in flight:
            times.append(share * self.t_air)
            postures.append(HOLDS[name].flat())

        # A style adds the same few degrees to a joint in all postures; what is straight stays so.
        degrees = np.array(postures, dtype=float)                          # (k, 13)
        bent = np.abs(degrees[:, FLEXIONS]) > 8
        degrees[:, FLEXIONS] += rng.normal(0, 3.5, (1, 8)) * bent

        self.key_times = np.array(times) + self.t_off
        self.key_angles = np.radians(degrees)

    def _film(self, rng):
        """Draw the light and the camera's ways."""
        # On the screen: light comes from the left or the right and always from above.
        self.light = (rng.choice((-1, 1)) * rng.uniform(.3, .8), -.6)
        self.gain = rng.uniform(.85, 1.12)

        # Rows of `view`: the screen's axes to the right, up, and towards the viewer, in the world.
        # A pitch above 0 is a camera that looks down; yaw goes round the diver.
        yaw = np.radians(rng.uniform(-24, 24))
        pitch = np.radians(rng.uniform(-2, 12))
        cos_yaw = np.cos(yaw)
        sin_yaw = np.sin(yaw)
        cos_pitch = np.cos(pitch)
        sin_pitch = np.sin(pitch)
        self.view = np.array([
            [cos_yaw, 0, -sin_yaw],
            [-sin_pitch * sin_yaw, cos_pitch, -sin_pitch * cos_yaw],
            [cos_pitch * sin_yaw, sin_pitch, cos_pitch * cos_yaw],
        ])

        # At 64 pixels per body height a frame shows two bodies side by side.
        self.zoom = rng.uniform(60, 68)
        self.lag = rng.uniform(.04, .12)               # the camera follows so many seconds late
        self.sway = rng.uniform(.01, .035)             # and shakes by this, in body heights:
        self.shake_speeds = rng.uniform(5, 16, 4)      # two waves for x and y each
        self.shake_phases = rng.uniform(0, 6.3, 4)
        self.lead = np.array([rng.uniform(-.25, .05), rng.uniform(-.08, .04), 0])   # its centre

    def _dress(self, rng):
        """Draw proportions and colours of the diver; `_film` gave the brightness."""
        self.size = Proportions(*rng.uniform(.92, 1.08, 6))
        tint = rng.random((2, 3))
        names = list(COLOURS)
        suit, cap = rng.integers(len(names), size=2)
        self.suit = names[suit]
        self.suit_rgb = colour(self.suit, tint[0], self.gain)
        self.cap_rgb = colour(names[cap], tint[1], self.gain)

        self.trunks = rng.random() < .4                # else a suit that covers the trunk
        tone = self.gain * rng.uniform(.9, 1.08)
        skin = SKINS[rng.integers(len(SKINS))]
        self.skin = tuple(tone * channel for channel in skin)

    def _build(self, rng, crowded):
        """Draw geometry and colours of the scene; sky and suit differ, and so do board and sky."""
        names = list(COLOURS)
        gain = self.gain
        self.apparatus = str(rng.choice(("Springboard", "Platform")))
        tint = rng.random((4, 3))
        sky, board, post = rng.integers(len(names), size=3)

        self.sky = colour_unlike(sky, self.suit)
        board = colour_unlike(board, self.sky)
        post = colour_unlike(post, self.sky)
        self.sky_rgb = colour(self.sky, tint[0], gain, fade=.75)
        self.board_rgb = colour(board, tint[1], gain, fade=.8)
        self.post_rgb = colour(post, tint[2], gain, fade=.6)

        # Hue .5 to .62: water is cyan to blue.
        hue, saturation, value = tint[3] * (.12, .35, .35) + (.5, .45, .5)
        water = colorsys.hsv_to_rgb(hue, saturation, value)
        self.water_rgb = tuple(255 * gain * channel for channel in water)

        self.board = BoardShape(*rng.random(6).tolist())

        self.inks = {}
        for thing, name in INKS.items():
            self.inks[thing] = colour(name, rng.random(3), gain)
        self.clutter = self._scatter(rng, crowded)

    def _scatter(self, rng, crowded):
        """Draw the Clutter of a scene, a list: shapes, then spectators, then things alone.

        Shapes are anywhere, spectators and things where the diver will pass, so that nearly
        every frame shows some.
        """
        shapes = rng.integers(8, 14)
        spectators = rng.integers(8, 14)
        things = rng.integers(16, 24)

        clutter = []
        for one in self._place(rng, shapes, (-2.6, -3.6), (3.2, 1.6)):
            clutter.append(one._replace(thing=""))
        if not crowded:
            return clutter

        doubles = self._place(rng, spectators + things, (-1.4, -3.2), (2.0, 1.2))
        for number, one in enumerate(doubles):
            shape = "spectator" if number < spectators else ""
            clutter.append(one._replace(shape=shape))
        return clutter

    def _place(self, rng, many, low, high):
        """Draw where `many` objects are, how they look, and which thing is there: list of Clutter.

        low, high: the corners (x, y) of the part of the hall that they are in.
        """
        # Columns: x, y, width, height, nearness, and three draws for the colour.
        names = list(COLOURS)
        rows = rng.uniform((*low, .08, .08, .55, 0, 0, 0), (*high, .42, .42, .95, 1, 1, 1),
                           (many, 8)).tolist()
        inks = rng.integers(len(names), size=many)

        objects = []
        for (x, y, width, height, nearness, *draws), ink in zip(rows, inks):
            objects.append(Clutter(
                shape=SHAPES[rng.integers(len(SHAPES))],
                x=x,
                y=y,
                width=width,
                height=height,
                nearness=nearness,
                rgb=colour(names[ink], draws, self.gain, fade=.7),
                thing=THINGS[rng.integers(len(THINGS))],
            ))
        return objects

    def pose(self, t):
        """The body as it stands on the board; in the air `joints` moves it along the path.

        Times (n,) -> points (n, 23, 3). The lowest foot is at y = 0, but for the hurdle's hop.
        """
        since = (t - self.t_off) / self.t_air          # share of the flight
        before = self.t_off - t                        # seconds
        runs = self.faces == 1

        posture = self._posture_at(t)
        xy, z = self.limbs(posture)                                        # (23, n) each

        # About the body's own axis: twists, and half a turn for who faces the board.
        twist = 2 * np.pi * self.twists * ease((since - TWIST_BEGINS) / TWIST_LASTS)
        if not runs:
            twist = twist + np.pi
        cos = np.cos(twist)
        sin = np.sin(twist)
        xy, z = xy.real * cos + z * sin + 1j * xy.imag, z * cos - xy.real * sin

        # About the viewer's axis: the lean, which becomes the somersaults. Multiplying x + iy by
        # exp(i angle) turns it anticlockwise; to lean ahead is clockwise for who faces the water.
        spun = spin(since)
        lean = -self.faces * posture.lean
        roll = lean * (1 - spun) + self.turn * 2 * np.pi * self.somersaults * spun
        xy *= np.exp(1j * roll)

        # Ankles are so far behind the board's tip, and feet so far above the board. A run-up covers
        # .68 in the half second that ends .13 s before the take-off; its hop is highest at the
        # hurdle, .27 s before it.
        if runs:
            behind = .68 * ease((before - .13) / .5) + .1
            hop = .16 * np.clip(1 - ((before - .27) * self.speed / .15) ** 2, 0, 1)
        else:
            behind = .03
            hop = 0.0

        heel = xy[ANKLES].imag.min(0) - .03
        lowest = np.minimum(xy[FEET].imag.min(0), heel)                    # (n,)
        x = xy.real - (xy[ANKLES].real.mean(0) + behind)
        y = xy.imag + hop - lowest
        points = np.stack([x, y, z], -1)                                   # (23, n, 3)
        return points.transpose(1, 0, 2)                                   # (n, 23, 3)

    def _posture_at(self, t):
        """The Posture between the key postures before and after each time, t (n,)."""
        last = len(self.key_times) - 2
        i = np.clip(np.searchsorted(self.key_times, t, "right") - 1, 0, last)
        begin = self.key_times[i]
        end = self.key_times[i + 1]
        first = self.key_angles[i]                                         # (n, 13)
        second = self.key_angles[i + 1]

        share = ease((t - begin) / (end - begin))[:, None]
        angles = first + (second - first) * share
        return Posture.from_rows(angles.T)

    def limbs(self, posture):
        """Forward kinematics: the points of a body whose pelvis is at 0 and which faces +x.

        Gives x + iy (23, n) and z (23, n). Bones hang on one another: each point is the one before
        plus a `ray`, whose angle adds up the flexions on the way.
        """
        size = self.size
        n = len(posture.spine)
        xy = np.zeros((POINTS, n), complex)
        z = np.zeros((POINTS, n))
        side = np.array([[-1.0], [1.0]])               # z of the left and the right of a body

        # Trunk and head. The spine bends halfway up; `tilt` is the direction of the head.
        chest = np.pi - posture.spine
        tilt = np.pi - posture.spine - posture.nod
        neck = ray(np.pi, .14 * size.trunk) + ray(chest, .15 * size.trunk)
        skull = neck + ray(tilt, .115 * size.head)
        ahead = ray(tilt - np.pi / 2, 1)
        xy[SKULL] = skull
        xy[BROW] = skull + ahead
        xy[NOSE] = skull + .068 * ahead
        xy[EYES] = skull + .06 * ahead + ray(tilt, .018)
        xy[EARS] = skull
        xy[SHOULDERS] = neck
        z[EYES] = .026 * side
        z[EARS] = .06 * side
        z[HIPS] = .062 * side
        z[SHOULDERS] = .105 * size.width * side

        # Arms. What they spread to the side is missing in the plane of x and y, so that an upper
        # arm keeps its length; a bent forearm loses up to a fiftieth. Lengths are shares of the
        # body's height.
        upper = posture.shoulders - posture.spine
        fore = upper + posture.elbows
        across = np.cos(side * posture.spread)                             # (2, n)
        out = np.sin(side * posture.spread)
        xy[ELBOWS] = xy[SHOULDERS] + ray(upper, .17 * size.arm * across)
        z[ELBOWS] = z[SHOULDERS] + .17 * size.arm * out
        xy[WRISTS] = xy[ELBOWS] + ray(fore, .15 * size.arm * across)
        z[WRISTS] = z[ELBOWS] + .15 * size.arm * out * np.cos(posture.elbows)
        xy[FINGERS] = xy[WRISTS] + ray(fore, .075 * size.arm)
        z[FINGERS] = z[WRISTS]

        # Legs; the hips stay at 0 + 0i.
        shin = posture.hips - posture.knees
        xy[KNEES] = ray(posture.hips, .245 * size.leg)
        z[KNEES] = z[HIPS] + .01 * side
        xy[ANKLES] = xy[KNEES] + ray(shin, .24 * size.leg)
        z[ANKLES] = z[KNEES] - .02 * side
        xy[TOES] = xy[ANKLES] + ray(shin + posture.ankles, .085)
        z[TOES] = z[ANKLES]
        return xy, z

    def path(self, t):
        """Course of the centre of mass, (n,) -> (n, 3): run-up, parabola, braked by the water."""
        since = t - self.t_off
        air = np.clip(since, 0, self.t_air)            # seconds spent in the air
        wet = np.maximum(since - self.t_air, 0)        # and in the water

        # The camera follows this path and has to pan along the run-up, too, at the run-up's mean
        # speed, 1.36 = .68 / .5 (see `pose`). A body on the board does not use it (`joints`).
        run = 1.36 * np.clip(since, -.588, 0) * (self.faces == 1)

        # Water brakes: the body enters at .285 / .3 of its speed, which falls to 1 / e in .3 s.
        entry_speed = self.vy - GRAVITY * self.t_air
        sink = 1 - np.exp(-wet / .3)

        x = self.com0[0] + self.vx * air + run + .06 * sink
        y = self.com0[1] + self.vy * air - GRAVITY * air ** 2 / 2 + .285 * entry_speed * sink
        return np.stack([x, y, 0 * t], -1)

    def joints(self, t):
        """Times (n,) -> the 23 points of the body in the world (n, 23, 3).

        Until the take-off the body is where it stands; in the air its centre of mass is on the
        path, whatever it does about it.
        """
        world = self.pose(t)
        shift = self.path(t) - MASS @ world                                # (n, 3)
        flies = t > self.t_off
        return world + np.where(flies, shift.T, 0).T[:, None]

    def seen(self, t):
        """Times (n,) -> centres of the camera (n, 3), and the joints on the screen (n, 23, 3).

        The camera aims at the path, a little late and with a shaking hand. Of the points, x and y
        are pixels and z is the depth, as in `project`.
        """
        centre = self.path(t - self.lag) + self.lead

        # It does not dive with the diver: the water's surface stays in the picture. Until just
        # after the take-off it aims lower, so that the board is seen.
        lowest = self.lead[1] - self.height - .28
        centre[:, 1] = np.maximum(centre[:, 1], lowest) - .12 * (t < self.t_off + .1)

        wave = np.sin(t[:, None] * self.shake_speeds + self.shake_phases)  # (n, 4)
        centre[:, :2] += self.sway * (wave[:, :2] + wave[:, 2:])
        return centre, self.project(self.joints(t), centre[:, None])

    def behind(self, clutter, centre):
        """Where Clutter is seen: (..., 3) centres of the camera -> x and y in pixels, (..., 2).

        What is less near shifts less when the camera moves.
        """
        reach = self.zoom * clutter.nearness
        x = WIDTH / 2 + reach * (clutter.x - centre[..., 0])
        y = HEIGHT / 2 - reach * (clutter.y - centre[..., 1])
        return np.stack([x, y], -1)

    def project(self, points, centre):
        """World points (..., 3) -> (..., 3): x and y in pixels, z in body heights to the viewer.

        centre: what the camera aims at, (3,) or the shape of points. What is nearer is larger.
        """
        p = (points - centre) @ self.view.T
        depth = p[..., 2:]

        # The world's y runs up and the screen's runs down, with (0, 0) at the top left.
        xy = p[..., :2] * (1, -1) * self.zoom / (1 - depth / DISTANCE)
        return np.concatenate([xy + (WIDTH / 2, HEIGHT / 2), depth], -1)
