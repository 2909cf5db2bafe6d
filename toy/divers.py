"""The toy benchmark: procedural divers, drawn, filmed and written to disk as a Diving48 tree.

Eight dives, each from a springboard and a platform: sixteen classes, made and learnt in minutes.
data.py is the only caller; names with `toy` are for it and the tests, the others for this file.

    part                                          here                       tests/test_toy.py
    a performance: motion, body, course, camera   Dive                       test_limbs_*
    its picture at an instant                     Picture, toy_frame         test_joints_lie_*
    captioned stills, for the tiny CLIP           toy_still, toy_captions    test_captions_*
    what a pose detector would say of a clip      toy_poses                  test_noise_*
    the tree on disk, made by several processes   make_toy, write_clip       test_layout_*

The motion is drawn without a look at the apparatus: the two classes of a pair have the very same
joints and differ in the pictures alone, so a model of poses stops at 50 %. A frame shows apparatus
and position (PIKE, TUCK, FREE), not the direction or number of turns: video without order, read for
these two, tells six groups of classes apart and stops at 6 / 16 = 37.5 %. (It also shows which way
the diver faces before the take-off; a model that reads this from single frames can reach 12 / 16.)

World axes: x from the board's tip over the water, y up from the board, z towards the viewer. Units:
body heights, seconds, radians (in tables degrees); on the screen pixels, x to the right, y down.
"""
import colorsys
import functools
import hashlib
import io
import itertools
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

# ------------------------------------------------------------------------------- settings, tables
MOTIONS = ("Forward 25som NoTwis PIKE", "Forward 15som 1Twis FREE", "Back 25som NoTwis TUCK",
           "Back 15som 15Twis FREE", "Reverse 15som NoTwis TUCK", "Reverse 25som NoTwis PIKE",
           "Inward 15som NoTwis PIKE", "Inward 25som NoTwis TUCK")
TURNS = {"NoTwis": 0.0, "1Twis": 1.0, "15Twis": 1.5, "15som": 1.5, "25som": 2.5}
TOY_CLASSES = tuple((*m.split(), on) for m in MOTIONS for on in ("Springboard", "Platform"))
TOY_SETTINGS = {
    "version": 2, "seed": 0, "train": 1760, "val": 240, "test": 320,  # version: of the pictures
    "width": 128, "height": 96, "frames": 32, "fps": 16, "crf": 20,   # below: body heights, shares
    "joint_noise": .012, "joint_drop": .04, "joint_jump": .02, "side_swap": .04, "frame_drop": .01}
PEOPLE = {"train": (0, 600), "val": (600, 700), "test": (700, 860)}   # identities of each split
STILLS, TOY_HELD_OUT_STILLS = 1000, 1 << 30       # first identity of stills; first held-out seed
WIDTH, HEIGHT, SS = TOY_SETTINGS["width"], TOY_SETTINGS["height"], 2  # pixels; supersampling
W, H = SS * WIDTH, SS * HEIGHT                    # of the drawing, which is then reduced
GRAVITY, DISTANCE = 5.8, 9                        # 9.8 m/s^2 for a body of 1.7 m; to the camera
MOTION, DIVER, SCENE, CAMERA, DROPS, CAST, DETECTOR, STILL = 1, 2, 3, 4, 5, 6, 7, 9  # streams
TOY_JOINTS = ("nose", *(side + part for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip",
                                                 "knee", "ankle") for side in ("left_", "right_")))
# The 23 points of a body: the 17 of COCO, left before right, then toes, fingertips, skull and brow
EYES, EARS, SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES, TOES, FINGERS = (
    slice(i, i + 2) for i in range(1, 21, 2))
NOSE, SKULL, BROW, FEET = 0, 21, 22, slice(15, 19)
# Weights in the centre of mass; that they sum to 42 / 41 shifts a flight by less than a pixel
MASS = np.array([0, 0, 0, 1, 1, 5, 5, 1, 1, 1, 1, 6, 6, 4, 4, 2, 2, 0, 0, 0, 0, 2, 0]) / 41.0
LIMBS = ((SHOULDERS, ELBOWS, .036, .028), (ELBOWS, WRISTS, .028, .021),     # radius at either end
         (WRISTS, FINGERS, .022, .012), (HIPS, KNEES, .058, .042),
         (KNEES, ANKLES, .042, .026), (ANKLES, TOES, .026, .014))
# Key postures, 0: upright, arms down. A time before take-off in STARTS; flexion of hips, knees,
# shoulders and elbows (left, right); spread of the arms, spine, lean (the way faced), ankles, neck.
# Who faces the water (1) runs up with a hurdle step, who faces the board (-1) only presses.
STARTS = {1: ((-.70, 28, -18, 8, 30, -25, 30, 15, 15, 6, 3, 6, 85, 0),
              (-.48, -15, 38, 15, 40, 15, -45, 10, 10, 8, 3, 8, 80, 0),
              (-.28, 0, 95, 0, 100, 150, 150, 15, 15, 15, 0, 2, 30, 0),
              (-.11, 62, 62, 80, 80, -30, -30, 10, 10, 10, 8, 28, 100, -10),
              (0, 2, 2, 2, 2, 165, 165, 8, 8, 6, 0, 4, 30, 0)),
          -1: ((-.70, 2, 2, 2, 2, 90, 90, 0, 0, 4, 0, 0, 85, 0),
               (-.48, 0, 0, 0, 0, 20, 20, 0, 0, 75, 0, 2, 70, 0),
               (-.26, 12, 12, 15, 15, 5, 5, 0, 0, 40, 2, 5, 85, 0),
               (-.11, 70, 70, 85, 85, -25, -25, 5, 5, 12, 8, 30, 100, -8),
               (0, 2, 2, 2, 2, 165, 165, 8, 8, 6, 0, -4, 30, 0))}
HOLDS = {"TUCK": (132, 132, 138, 138, 22, 22, 82, 82, 10, 38, 0, 15, 30),
         "PIKE": (128, 128, 2, 2, 108, 108, 5, 5, 5, 28, 0, 5, 15),
         "FREE": (4, 4, 2, 2, 75, 150, 105, 100, 8, -3, 0, 5, 0),
         "entry": (0, 0, 0, 0, 176, 176, 0, 0, 2, 0, 0, 3, 0)}
# Faces of a box at the low and high end of x, y and z; its corners are 0 (---), 1 (--+), ..., 7
FACES = (((0, 1, 3, 2), (4, 5, 7, 6)), ((0, 1, 5, 4), (2, 3, 7, 6)), ((0, 2, 6, 4), (1, 3, 7, 5)))
COLOURS = {                                       # hue, saturation, value
    "red": (.0, .85, .8), "orange": (.075, .95, .95), "yellow": (.15, .85, .95),
    "green": (.36, .8, .62), "blue": (.62, .8, .75), "purple": (.77, .65, .6),
    "pink": (.91, .5, .97), "black": (.6, .2, .14), "white": (.1, .04, .96)}
SKINS = ((236, 188, 160), (224, 172, 138), (198, 140, 104), (162, 106, 76), (118, 76, 56),
         (84, 54, 42))


def generator(stream, *numbers):
    """Random numbers that depend on the purpose and these integers alone, in any process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((stream, *numbers))))


def colour(name, draws, gain, fade=1.0):
    """An RGB triple (0..255) that people would call `name`; 3 draws from [0, 1) vary it."""
    (h, s, v), (a, b, c) = COLOURS[name], draws
    h, s, v = (h + .03 * (a - .5)) % 1, s * fade * (.9 + .15 * b), v * (.9 + .15 * c)
    return tuple(255 * gain * x for x in colorsys.hsv_to_rgb(h, min(s, 1), min(v, 1)))


def ease(x):
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def spin(x, ramp=0.2):
    """0 to 1 at constant speed but for a ramp at both ends: how the angle of a somersault grows."""
    low, mid = np.clip(x, 0, ramp), np.clip(x, ramp, 1 - ramp) - ramp
    high = np.clip(x, 1 - ramp, 1) - (1 - ramp)
    return (low * low / (2 * ramp) + mid + high - high * high / (2 * ramp)) / (1 - ramp)


# ------------------------------------------------------------------------------- a performance
class Dive:
    """One performance of class `label`; diver, scene and camera are the numbers of identities.
    Cameras stand on one side of the pool, as in a broadcast, or (still pictures) on either."""

    def __init__(self, label, seed, diver, scene, camera, either_side=False):
        self.takeoff, somersaults, twists, self.position, self.apparatus = TOY_CLASSES[label]
        self.seed, rng = seed, generator(MOTION, *seed)
        self.faces = 1 if self.takeoff in ("Forward", "Reverse") else -1    # the water or the board
        self.turn = -1 if self.takeoff in ("Forward", "Back") else 1        # + is anticlockwise
        self.somersaults, self.twists = TURNS[somersaults], TURNS[twists] * rng.choice((-1, 1))
        self.t_off, self.speed, self.t_air = rng.uniform((.5, .9, .92), (.66, 1.15, 1.12))
        self.height, self.vx = rng.uniform((1.7, .65), (2.5, .95))          # board; flight
        self.choreograph(rng)
        self.film(generator(CAMERA, camera), side=rng.integers(2) if either_side else 0)
        self.dress(generator(DIVER, diver))
        self.build(generator(SCENE, scene))
        self.drops = generator(DROPS, *seed).random((34, 4)).tolist()
        self.com0 = MASS @ self.pose(np.array([self.t_off]))[0]            # flies to .70 over water
        self.vy = (0.70 - self.height - self.com0[1] + GRAVITY * self.t_air ** 2 / 2) / self.t_air

    def choreograph(self, rng):
        """Key postures: times (k,) and angles (k, 13), in a style of this performance."""
        into, out = rng.uniform((.16, .70), (.22, .76))     # the position is held; shares of t_air
        self.hold = self.t_off + into * self.t_air, self.t_off + out * self.t_air
        keys = np.array([(t / self.speed, *angles) for t, *angles in STARTS[self.faces]] + [
            (share * self.t_air, *HOLDS[hold]) for share, hold in (
                (into, self.position), (out, self.position), (out + .17, "entry"), (1.6, "entry"))])
        flexion = keys[:, 1:9]                              # a view; what is straight stays so
        flexion += rng.normal(0, 3.5, (1, 8)) * (np.abs(flexion) > 8)
        self.key_times, self.key_angles = keys[:, 0] + self.t_off, np.radians(keys[:, 1:])

    def film(self, rng, side):
        """The light, and the camera's ways, from one side or the other."""
        self.light = rng.choice((-1, 1)) * rng.uniform(.3, .8), -.6         # on the screen
        self.gain = rng.uniform(.85, 1.12)
        yaw, pitch = np.radians(rng.uniform((-24, -2), (24, 12))) + (np.pi * side, 0)
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        self.view = np.array([[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]])
        self.zoom, self.lag, self.sway = rng.uniform((47, .04, .01), (56, .12, .035)).tolist()
        self.shake = rng.uniform(((5,), (0,)), ((16,), (6.3,)), (2, 4))     # waves: speeds, phases
        self.lead = rng.uniform((-.25, -.08, 0), (.05, .04, 0))

    def dress(self, rng):
        """Proportions (arm, leg, trunk, width, girth, head) and colours of the diver."""
        self.size, tint, names = rng.uniform(.92, 1.08, 6), rng.random((2, 3)), list(COLOURS)
        self.suit, cap = (names[i] for i in rng.integers(len(names), size=2))
        self.suit_rgb = colour(self.suit, tint[0], self.gain)
        self.cap_rgb = colour(cap, tint[1], self.gain)
        self.trunks, tone = rng.random() < .4, self.gain * rng.uniform(.9, 1.08)
        self.skin = tuple(tone * x for x in SKINS[rng.integers(len(SKINS))])

    def build(self, rng):
        """Geometry and colours of the scene; sky and suit differ, and so do board and sky."""
        names, many, gain = list(COLOURS), rng.integers(14, 24), self.gain
        tint, (sky, board, post) = rng.random((4, 3)), rng.integers(len(names), size=3)
        other = lambda i, than: names[(i + (names[i] == than)) % len(names)]
        self.sky = other(sky, self.suit)
        self.sky_rgb = colour(self.sky, tint[0], gain, .75)
        self.board_rgb = colour(other(board, self.sky), tint[1], gain, .8)
        self.post_rgb = colour(other(post, self.sky), tint[2], gain, .6)
        water = colorsys.hsv_to_rgb(*(tint[3] * (.12, .35, .35) + (.5, .45, .5)))
        self.water_rgb, self.board = tuple(255 * gain * x for x in water), rng.random(6).tolist()
        low, high = (-2.6, -3.6, .08, .08, .55, 0, 0, 0), (3.2, 1.6, .42, .42, .95, 1, 1, 1)
        inks, rows = rng.integers(len(names), size=many), rng.uniform(low, high, (many, 8)).tolist()
        self.clutter = [(int(rng.integers(6)), *row[:5], colour(names[i], row[5:], gain, .85))
                        for i, row in zip(inks, rows)]      # kind, x, y, w, h, nearness, RGB

    def pose(self, t):
        """Times (n,) -> points (n, 23, 3) as on the board: lowest foot at y = 0, but for a hop."""
        i = np.clip(np.searchsorted(self.key_times, t, "right") - 1, 0, len(self.key_times) - 2)
        begin, end, a, b = *self.key_times[[i, i + 1]], *self.key_angles[[i, i + 1]]
        angles = (a + (b - a) * ease((t - begin) / (end - begin))[:, None]).T           # (13, n)
        u, before, runs = (t - self.t_off) / self.t_air, self.t_off - t, self.faces > 0
        spun, lean = spin(u), -self.faces * angles[10]
        roll = lean * (1 - spun) + self.turn * 2 * np.pi * self.somersaults * spun
        twist = 2 * np.pi * self.twists * ease((u - .2) / .56) + np.pi * (not runs)
        cos, sin, (xy, z) = np.cos(twist), np.sin(twist), self.limbs(angles)           # (23, n)
        xy, z = xy.real * cos + z * sin + 1j * xy.imag, z * cos - xy.real * sin
        xy *= np.exp(1j * roll)
        behind = .68 * ease((before - .13) / .5) + .1 if runs else .03      # ankles before the tip
        hop = runs * .16 * np.clip(1 - ((before - .27) * self.speed / .15) ** 2, 0, 1)
        low = np.minimum(xy[FEET].imag.min(0), xy[ANKLES].imag.min(0) - .03)            # toe, heel
        x, y = (xy - (xy[ANKLES].real.mean(0) + behind)).real, xy.imag + hop - low
        return np.stack([x, y, z], -1).transpose(1, 0, 2)

    def limbs(self, angles):
        """Forward kinematics: angles (13, n) -> x + iy (23, n), z (23, n). The pelvis is at 0, the
        diver faces +x; a ray is a bone, at angle 0 pointing down, at pi / 2 ahead."""
        arm, leg, trunk, wide, _, head = self.size
        hip, knee, shoulder, elbow = angles[:8].reshape(4, 2, -1)           # left, right
        spread, spine, _, ankle, nod = angles[8:]
        xy, z = np.zeros((23, angles.shape[1]), complex), np.zeros((23, angles.shape[1]))
        ray = lambda angle, length: -1j * length * np.exp(1j * angle)
        side, chest, tilt = np.array([[-1.0], [1.0]]), np.pi - spine, np.pi - spine - nod
        neck = ray(np.pi, .14 * trunk) + ray(chest, .15 * trunk)
        skull, ahead = neck + ray(tilt, .115 * head), ray(tilt - np.pi / 2, 1)
        xy[SKULL], xy[BROW], xy[NOSE] = skull, skull + ahead, skull + .068 * ahead
        xy[EYES], xy[EARS], xy[SHOULDERS] = skull + .06 * ahead + ray(tilt, .018), skull, neck
        z[EYES], z[EARS], z[HIPS], z[SHOULDERS] = (x * side for x in (.026, .06, .062, .105 * wide))
        upper, fore, shin = shoulder - spine, shoulder - spine + elbow, hip - knee
        across, out = np.cos(side * spread), np.sin(side * spread)
        xy[ELBOWS] = xy[SHOULDERS] + ray(upper, .17 * arm * across)
        z[ELBOWS] = z[SHOULDERS] + .17 * arm * out
        xy[WRISTS] = xy[ELBOWS] + ray(fore, .15 * arm * across)
        z[WRISTS] = z[FINGERS] = z[ELBOWS] + .15 * arm * out * np.cos(elbow)
        xy[FINGERS] = xy[WRISTS] + ray(fore, .075 * arm)
        xy[KNEES], z[KNEES] = ray(hip, .245 * leg), z[HIPS] + .01 * side
        xy[ANKLES], z[ANKLES] = xy[KNEES] + ray(shin, .24 * leg), z[KNEES] - .02 * side
        xy[TOES], z[TOES] = xy[ANKLES] + ray(shin + ankle, .085), z[ANKLES]
        return xy, z

    def path(self, t):
        """Course of the centre of mass, (n,) -> (n, 3): run-up, parabola, braked by the water."""
        since, entry = t - self.t_off, self.vy - GRAVITY * self.t_air       # s; speed at the water
        air, wet = np.clip(since, 0, self.t_air), np.maximum(since - self.t_air, 0)
        board, sink = 1.36 * np.clip(since, -.588, 0) * (self.faces > 0), 1 - np.exp(-wet / .3)
        y = self.com0[1] + self.vy * air - GRAVITY * air ** 2 / 2 + .285 * entry * sink
        return np.stack([self.com0[0] + self.vx * air + board + .06 * sink, y, 0 * t], -1)

    def joints(self, t):
        """Times (n,) -> body points (n, 23, 3) in the world; a flight follows the path."""
        world = self.pose(t)
        return world + np.where(t > self.t_off, (self.path(t) - MASS @ world).T, 0).T[:, None]

    def seen(self, t):
        """Times (n,) -> camera centres (n, 3), late and shaky on the path; joints(t), projected."""
        speed, phase = self.shake
        wave, centre = np.sin(t[:, None] * speed + phase), self.path(t - self.lag) + self.lead
        low = self.lead[1] - self.height - .28
        centre[:, 1] = np.maximum(centre[:, 1], low) - .12 * (t < self.t_off + .1)
        centre[:, :2] += self.sway * (wave[:, :2] + wave[:, 2:])
        return centre, self.project(self.joints(t), centre[:, None])

    def project(self, points, centre):
        """World points (..., 3) -> (..., 3): x and y in pixels, z towards the viewer."""
        p = (points - centre) @ self.view.T
        xy = p[..., :2] * (1, -1) * self.zoom / (1 - p[..., 2:] / DISTANCE)
        return np.concatenate([xy + (WIDTH / 2, HEIGHT / 2), p[..., 2:]], -1)


# ------------------------------------------------------------------------------- its picture
@functools.lru_cache(1024)                        # a clip has some 200 shades, a frame each of them
def shade(rgb, gain=1.0):
    """A colour, made lighter or darker, as Pillow takes it."""
    return tuple(min(int(x * gain), 255) for x in rgb)


class Picture:
    """What a camera at `centre` (3,) sees of a dive at time t, drawn SS times as large."""

    def __init__(self, dive, t, centre):
        self.dive, self.t, self.centre = dive, t, centre.tolist()
        self.view, self.unit = dive.view.tolist(), dive.zoom * SS           # pixels per body height

    def paint(self, points):
        """The picture, far to near, of the body at points (23, 3) of Dive.seen."""
        dive, surface = self.dive, self.place(self.centre[0], -self.dive.height, 0)[1]
        glow = np.linspace(1.12, .72, 64)[:, None] - .06 * self.centre[1]
        sky = np.minimum(glow * dive.sky_rgb, 255).astype(np.uint8)[:, None]
        self.image = Image.fromarray(sky).resize((W, H), Image.NEAREST)
        self.draw = ImageDraw.Draw(self.image)
        self.clutter()
        self.platform() if dive.apparatus == "Platform" else self.springboard()
        for k in range(8 if surface < H else 0):                            # darker with depth
            top = max(surface, 0) * (8 - k) / 8 + H * k / 8
            self.draw.rectangle((0, top, W, H), shade(dive.water_rgb, 1.05 - .05 * k))
        self.body(points)
        if surface < H:                                                     # water before the diver
            self.draw.line((0, surface, W, surface), shade(dive.water_rgb, 1.4), SS)
            under = self.image.crop((0, max(int(surface) + 1, 0), W, H))
            veil = Image.new("RGB", under.size, shade(dive.water_rgb))
            self.image.paste(Image.blend(under, veil, .38), (0, H - under.height))
            self.splash(self.t - dive.t_off - dive.t_air - .05)
        return self.image

    def place(self, x, y, z):
        """Dive.project for one point, without arrays, in pixels of the enlarged picture."""
        (a, b, c), (d, e, f), (g, h, i) = self.view
        x, y, z = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        scale = self.unit / (1 - (g * x + h * y + i * z) / DISTANCE)
        return W / 2 + scale * (a * x + b * y + c * z), H / 2 - scale * (d * x + e * y + f * z)

    def disc(self, x, y, rx, ry, ink):
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), ink)

    def bar(self, a, b, width, rgb):
        self.draw.line(self.place(*a) + self.place(*b), shade(rgb), width)

    def capsule(self, a, b, ra, rb, ink):
        """A limb from a to b (x, y) with round ends of radius ra and rb, in pixels: one polygon."""
        (ax, ay), (bx, by), length = a, b, math.hypot(b[0] - a[0], b[1] - a[1]) + 1e-6
        dx, dy = (bx - ax) / length, (by - ay) / length
        ux, uy = .71 * (dx - dy), .71 * (dx + dy)
        arc = (-dy, dx), (ux, uy), (dx, dy), (uy, -ux), (dy, -dx)           # half a circle, about b
        self.draw.polygon([(bx + x * rb, by + y * rb) for x, y in arc]
                          + [(ax - x * ra, ay - y * ra) for x, y in arc], ink)

    def box(self, lo, hi, rgb):
        """A solid with corners lo and hi (x, y, z): its visible faces, shaded by direction."""
        c = [self.place(x, y, z) for x, y, z in itertools.product(*zip(lo, hi))]
        top = 1.22 if self.view[2][1] > 0 else .6           # seen from above or from below
        for towards, faces, gain in zip(self.view[2], FACES, (.72, top, 1.0)):
            self.draw.polygon([c[i] for i in faces[towards > 0]], shade(rgb, gain))

    def clutter(self):
        """Shapes, stripes and spectators behind the diver, each at its own distance (parallax)."""
        for kind, x, y, w, h, near, rgb in self.dive.clutter:
            x = W / 2 + self.unit * near * (x - self.centre[0]) * self.view[0][0]
            y = H / 2 - self.unit * near * (y - self.centre[1])
            w, h, ink = self.unit * w, self.unit * h, shade(rgb)
            if not (-w < x < W + w and -h - 16 < y < H + h + 16):
                continue
            if kind < 2:
                (self.draw.rectangle, self.draw.ellipse)[kind]((x - w, y - h, x + w, y + h), ink)
            elif kind == 2:                                                 # stripes
                for k in range(-6, 6, 3):
                    self.draw.line((x - w, y + k * SS, x + w, y + k * SS), ink, SS)
            elif kind == 3:                                                 # a slanted band
                left, right, top, foot = x - w * 1.5, x + w * 1.5, y - h * 2, y + h * 2
                self.draw.polygon((left, top, left + 4, top, right, foot, right - 4, foot), ink)
            elif kind == 4:
                self.draw.polygon((x, y - h, x + w, y + h, x - w, y + h), ink)
            else:                                                           # legs, an arm, a body
                r, skin = SS * 2.2, shade(SKINS[int(w) % 6], .9)
                self.draw.line((x - r, y + 3 * r, x - 1.2 * r, y + 6.4 * r), skin, 4)
                self.draw.line((x + .6 * r, y + 3 * r, x + .9 * r, y + 6.4 * r), skin, 4)
                self.draw.line((x, y, x + r * 2.4, y + r * (-1.6 if h > w else 1.6)), skin, 4)
                self.capsule((x, y), (x, y + 2.8 * r), r * 1.1, r, ink)
                self.disc(x, y - 2 * r, r * .9, r * .9, skin)

    def platform(self):
        """A thick slab with railings on a tower."""
        b, post = self.dive.board, self.dive.post_rgb
        thick, wide, long = .20 + .12 * b[0], .30 + .15 * b[1], 1.7 + .8 * b[2]
        edge, high = -.42 - .3 * b[4], .42 + .12 * b[5]                     # of the railings
        self.box((-long - .3, -5, -wide * .6), (-.75 - .4 * b[3], -thick, wide * .6), post)
        self.box((-long, -thick, -wide), (.05, 0, wide), self.dive.board_rgb)
        for z in (-wide, wide):
            for x in (edge, (2 * edge - long) / 3, (edge - 2 * long) / 3, -long):
                self.bar((x, 0, z), (x, high, z), 3, post)
            for y in (high, high * .55):
                self.bar((edge, y, z), (-long, y, z), 3, post)

    def springboard(self):
        """A thin plank on a fulcrum at x = pin; beyond it, it bends."""
        b, post, since = self.dive.board, self.dive.post_rgb, self.t - self.dive.t_off
        thick, wide, long = .035 + .02 * b[0], .15 + .05 * b[1], 1.8 + .6 * b[2]
        pin, press = -.62 - .3 * b[3], -.04 * max(1 - abs(since + .1) / .15, 0)
        swing = .10 * math.exp(-since / .3) * math.cos(25 * since) if since > 0 else press
        for z in (-wide, wide):
            for top, foot in ((pin, pin - .2), (pin, pin + .14), (-long, -long)):
                self.bar((top, -thick - .03, z), (foot, -.62, z), 4, post)
        self.box((-long - .1, -.70, -wide * 1.1), (pin + .25, -.60, wide * 1.1), post)
        self.box((pin - .07, -.12 - thick, -wide), (pin + .07, -thick, wide), post)
        bent = [(pin + (.06 - pin) * k / 5, swing * (k / 5) ** 2) for k in range(6)]    # x, y
        for (x0, y0), (x1, y1) in zip([(-long, 0), *bent], bent):
            self.box((x0, y0 - thick, -wide), (x1, y1, wide), self.dive.board_rgb)

    def body(self, points):
        """Limbs, trunk and head, far to near; each dark, then lit from one side."""
        q, depth, girth = (points[:, :2] * SS).tolist(), points[:, 2].tolist(), self.dive.size[4]
        parts = [(depth[start][k] + depth[end][k], self.limb, q[start][k], q[end][k],
                  ra * girth * self.unit, rb * girth * self.unit)
                 for k in (0, 1) for start, end, ra, rb in LIMBS]
        parts += [(sum(depth[SHOULDERS] + depth[HIPS]) / 2, self.trunk, q, self.unit * girth),
                  (2 * depth[SKULL], self.head, q[SKULL], (points[BROW] - points[SKULL]).tolist())]
        for _, paint, *args in sorted(parts, key=lambda part: part[0]):
            paint(*args)

    def limb(self, a, b, ra, rb):
        dx, dy = (light * .22 * ra for light in self.dive.light)
        lit, skin = lambda point, k: (point[0] + k * dx, point[1] + k * dy), self.dive.skin
        self.capsule(a, b, ra, rb, shade(skin, .62))
        self.capsule(lit(a, 1), lit(b, 1), ra * .78, rb * .78, shade(skin, .92))
        if ra > 2.5:
            self.draw.line(lit(a, 2) + lit(b, 2), shade(skin, 1.12), int(ra * .6))

    def head(self, skull, brow):
        """The cap, and the face unless it looks away; brow (3,) from the skull."""
        (x, y), (fx, fy, fz), r = skull, brow, .074 * self.unit * self.dive.size[5]
        dive, (lx, _) = self.dive, self.dive.light
        self.disc(x, y, r, r, shade(dive.cap_rgb, .7))
        self.disc(x + lx * r * .2, y - r * .15, r * .8, r * .75, shade(dive.cap_rgb))
        if fz > -.5:
            x, y = x + fx / dive.zoom * r * .42, y + fy / dive.zoom * r * .42
            self.disc(x, y, r * .66, r * .66, shade(dive.skin, .95))

    def trunk(self, q, unit):
        """Neck, and shoulders to hips in the suit's colour or, with trunks, its lower half."""
        mix = lambda a, b, share: (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)
        dive, (lx, ly), neck = self.dive, self.dive.light, mix(*q[SHOULDERS], .5)
        self.capsule(neck, q[SKULL], .035 * unit, .03 * unit, shade(dive.skin, .75))
        for rgb, top in ((dive.skin, 0), (dive.suit_rgb, .45 * dive.trunks))[not dive.trunks:]:
            left, right = (mix(mix(neck, shoulder, .75), hip, top)
                           for shoulder, hip in zip(q[SHOULDERS], q[HIPS]))
            for size, gain, shift in ((1.0, .62, 0), (.76, .95, .012), (.32, 1.14, .024)):
                ink, r = shade(rgb, gain), .059 * unit * size
                a, b, c, d = ((x + lx * shift * unit, y + ly * shift * unit)
                              for x, y in (left, right, *q[HIPS][::-1]))
                if size > .5:                                               # else a streak of light
                    self.draw.polygon((a, b, c, d), ink)
                edges = ((a, d), (b, c)) if size > .5 else ((mix(a, b, .5), mix(d, c, .5)),)
                for start, end in edges:
                    self.capsule(start, end, r, r, ink)
        for hip, knee in zip(q[HIPS], q[KNEES]) if dive.trunks else ():
            thigh = mix(hip, knee, .22)
            self.capsule(hip, thigh, .062 * unit, .055 * unit, shade(dive.suit_rgb, .85))

    def splash(self, since):
        """Foam and drops, thrown up where and when (since, s) the hands went in."""
        if not 0 < since < .75:
            return
        dive, grow = self.dive, min(since / .12, 1) * (1 - since / .8)
        x0, fall = dive.com0[0] + dive.vx * dive.t_air + .04, GRAVITY * since ** 2 / 2
        for a, b, c, d in dive.drops:
            x, y = x0 + (a - .5) * (.5 + 1.5 * since), (.4 + 1.9 * b) * since - fall
            r, grey = SS * (.7 + 2.2 * d) * (.35 + .65 * grow), int(225 + 30 * c)
            if y > -.06:
                self.disc(*self.place(x, y - dive.height, (c - .5) * .3), r, r, (grey, grey, 255))
        (x, y), r = self.place(x0, -dive.height, 0), self.unit * (.12 + .4 * since)
        self.disc(x, y, r, SS * 1.6, (238, 246, 255))                       # foam


def toy_frame(dive, t, centre, points):
    """The picture (96, 128, 3) uint8 at time t, centre and points the row of Dive.seen(t)."""
    return np.asarray(Picture(dive, t, centre).paint(points).reduce(SS))


# ------------------------------------------------------------------------------- captioned stills
# Attribute -> value -> ways to say it, a label's own first; a value "" cannot be told and is unsaid
TOY_PHRASES = {
    "takeoff": {v: (v, v + " take-off", v + " dive") for v in (c[0].lower() for c in TOY_CLASSES)},
    "somersaults": {"1.5": ("1.5 somersaults",), "2.5": ("2.5 somersaults",)},
    "twists": {"0": ("no twist", "without twist"), "1": ("1 twist", "one twist"),
               "1.5": ("1.5 twists",)},
    "position": {"tuck": ("tuck position", "tuck", "a tucked diver", "knees held to the chest"),
                 "pike": ("pike position", "pike", "a piked diver", "bent hips and straight legs"),
                 "free": ("free position", "free", "a straight diver", "a long body")},
    "apparatus": {**{v: (v, "a " + v, f"a {how} {v}", v + " in sight")
                     for v, how in (("springboard", "thin"), ("platform", "thick"))},
                  "none": ("nothing to jump from", "no board in sight")},
    "stage": {"board": ("before the jump", "waiting to jump"),
              "leaving": ("taking off", "leaving the board"),
              "flight": ("in flight", "high in the air"),
              "entry": ("entering the water", "the entry")},
    "head": {"up": ("head up", "upright"), "down": ("head down", "upside down"),
             "level": ("level", "lying flat")},
    "arms": {"up": ("arms up", "arms over the head"), "down": ("arms down", "arms at the sides")},
    "suit": {c: (c + " suit", "a diver in " + c, "dressed in " + c) for c in COLOURS},
    "scene": {c: (c + " background", c + " behind the diver", "a " + c + " hall") for c in COLOURS},
    "water": {"water": ("water in sight", "the water"), "dry": ("no water in sight", "no water")}}
TOY_ATTRIBUTES = {name: ("", *values) for name, values in TOY_PHRASES.items()}
LABEL = tuple(TOY_PHRASES)[:5]                              # the attributes that a label is made of
HEADS = "", "", "a diver, ", "a photo of a diver, ", "a video of a diver, ", "a picture of diving, "
TAILS = "", ", a video of action", ", a video of diving action", ", diving"
WAYS = [way for values in TOY_PHRASES.values() for ways in values.values() for way in ways]
TOY_WORDS = tuple(sorted(set(" ".join((*HEADS, *TAILS, *WAYS)).replace(",", " ").split())))
# How often captions speak of an attribute. PeVL relies on position and apparatus, and evenly spread
# captions leave the apparatus at chance after 60,000 stills (emphasised: 87 % after 38,000).
EMPHASIS = {"takeoff": .3, "somersaults": .2, "twists": .2, "position": 8, "apparatus": 8,
            "stage": 4, "head": 1, "arms": 1, "suit": .5, "scene": .5, "water": 1}


def apparatus_seen(dive, t, centre):
    """The apparatus where its end is well inside the picture, "none" where no part is, "" between.
    The margins, 24 pixels at the sides, 8 above, 12 below, leave room for the trainer's crop."""
    place = Picture(dive, t, centre).place
    end = [place(x, -.02, 0) for x in (-.9, -.7, -.5, -.3, -.1)]
    if sum(24 * SS < x < W - 24 * SS and 8 * SS < y < H - 12 * SS for x, y in end) >= 3:
        return dive.apparatus.lower()
    parts = [place(x / 4, y, 0) for x in range(-11, 2) for y in (.5, 0, -.35, -.75)]
    if dive.apparatus == "Platform":                                        # has a tower
        parts += [place(x, -k / 2, 0) for x in (-.5, -1.2, -2, -2.8) for k in range(2, 9)]
    return "" if any(-12 < x < W + 12 and -12 < y < H + 12 for x, y in parts) else "none"


def read_attributes(dive, t, centre):
    """What is true of the frame at time t and visible in it: name -> value of TOY_ATTRIBUTES.
    Take-off, somersaults and twists are the label's, a still only hints at them."""
    joints, = dive.joints(np.array([t]))
    spine = joints[SHOULDERS].mean(0) - joints[HIPS].mean(0)
    arms, length = joints[ELBOWS] - joints[SHOULDERS], np.linalg.norm(spine)
    cos, reach = spine[1] / length, arms @ spine / np.linalg.norm(arms, axis=1) / length
    stage = ("entry" if (joints[:17, 1] < -dive.height).any() else
             "board" if t < dive.t_off - .06 else "leaving" if .03 < t - dive.t_off < .12 else
             "flight" if dive.hold[0] < t < dive.hold[1] else "")
    surface = dive.project(np.array([0, -dive.height, 0]), centre)[1]
    return {
        "takeoff": dive.takeoff.lower(), "somersaults": f"{dive.somersaults:g}",
        "twists": f"{abs(dive.twists):g}",
        "position": dive.position.lower() if stage == "flight" else "",
        "apparatus": apparatus_seen(dive, t, centre), "stage": stage,
        "head": "up" if cos > .85 else "down" if cos < -.85 else "level" if abs(cos) < .4 else "",
        "arms": "up" if min(reach) > .85 else "down" if max(reach) < -.85 else "",
        "suit": dive.suit, "scene": dive.sky if stage != "entry" else "",
        "water": "water" if surface < HEIGHT - 12 else "dry" if surface > HEIGHT + 2 else ""}


def toy_still(seed):
    """A frame of a performance that is in no clip: (96, 128, 3) uint8, attributes (name -> value).
    Two in five show the start, two in five the position. Evaluation: TOY_HELD_OUT_STILLS and on."""
    rng = generator(STILL, seed)
    dive = Dive(int(rng.integers(len(TOY_CLASSES))), (STILL, seed), *[STILLS + seed] * 3, True)
    start, fall = (0, dive.t_off + .22), (dive.t_off, 1.95)
    t = rng.uniform(*(start, start, dive.hold, dive.hold, fall)[rng.integers(5)])
    (centre,), (points,) = dive.seen(np.array([t]))
    return toy_frame(dive, t, centre, points), read_attributes(dive, t, centre)


def toy_vector(attributes):
    """Attributes -> (A,) int64, positions in TOY_ATTRIBUTES; 0 = cannot be told."""
    return np.array([values.index(attributes[name]) for name, values in TOY_ATTRIBUTES.items()])


def toy_captions(attributes, rng):
    """A caption of a random part of what is known, and which attributes it mentions, (A,) bool.
    It is true of every picture whose toy_vector agrees there. 3 in 20 are worded as labels."""
    ways = {name: TOY_PHRASES[name][value] for name, value in attributes.items() if value}
    if rng.random() < .15:
        said = [name for name in LABEL if attributes[name] not in ("", "none")
                and rng.random() < .75] or ["takeoff"]
        text = ", ".join(ways[name][0] for name in said).capitalize() + rng.choice(TAILS)
    else:
        odds = np.array([EMPHASIS[name] for name in ways])
        said = rng.choice(list(ways), rng.integers(1, 3), replace=False, p=odds / odds.sum())
        text = rng.choice(HEADS) + ", ".join(rng.choice(ways[name]) for name in said)
    return str(text), np.array([name in said for name in TOY_ATTRIBUTES])


def toy_paraphrase(rng):
    """Random facts of a label in two wordings, the label's own first; the facts (5,), 0 = not said.
    No picture belongs to them: a still cannot tell a take-off, but the text tower has to."""
    facts = np.array([rng.integers(1, len(TOY_ATTRIBUTES[name]) - (name == "apparatus"))
                      if rng.random() < .8 else 0 for name in LABEL])       # "none" is no label's
    facts[0] += not facts.any()
    ways = [list(TOY_PHRASES[name].values())[fact - 1] for name, fact in zip(LABEL, facts) if fact]
    text = ", ".join(way[0] for way in ways).capitalize() + rng.choice(TAILS)
    return str(text), ", ".join(str(rng.choice(way)) for way in ways), facts


# ------------------------------------------------------------------------------- the tree on disk
def toy_plan(settings):
    """Every clip: (split, vid_name, label, number); labels in turn, so that splits are balanced."""
    return [(split, f"toy_{split}_{i:05d}", i % len(TOY_CLASSES), i)
            for split in PEOPLE for i in range(settings[split])]


def toy_dive(settings, split, label, number):
    """The performance of one clip; diver, scene and camera are identities of this split alone."""
    seed = settings["seed"], list(PEOPLE).index(split), number
    return Dive(label, seed, *generator(CAST, *seed).integers(*PEOPLE[split], 3).tolist())


def toy_poses(dive, points, settings):
    """Projected joints (n, 17, 3) -> a detector's keypoints (n, 17, 2), pixels, and scores (n, 17).
    Noise is larger behind the body; some joints are missing (score 0) or elsewhere (a low score);
    at times arms or legs change sides or a frame is missing. Rounded, as machines differ."""
    rng, size = generator(DETECTOR, *dive.seed), points.shape[:2]
    hidden = points[..., 2] < points[..., 2].mean(1, keepdims=True) - .06
    noise = settings["joint_noise"] * dive.zoom * np.where(hidden, 1.8, 1.0)
    keypoints = points[..., :2] - .5 + noise[..., None] * rng.standard_t(4, (*size, 2))
    jump, scores = rng.random(size) < settings["joint_jump"], rng.beta(14, 2.5, size) - .2 * hidden
    keypoints += jump[..., None] * rng.normal(0, .4 * dive.zoom, (*size, 2))
    scores = np.where(jump, rng.uniform(.1, .5, size), scores).clip(.05, 1).round(3)
    for first in (SHOULDERS.start, HIPS.start):                             # arms, then legs
        swap = rng.random(size[0]) < settings["side_swap"]
        keypoints[swap, first:first + 6] = keypoints[swap][:, first + np.array([1, 0, 3, 2, 5, 4])]
    drop = rng.random(size) < settings["joint_drop"] * np.where(hidden, 2, 1)
    drop |= rng.random((size[0], 1)) < settings["frame_drop"]
    return np.where(drop[..., None], 0, keypoints.round(2)), np.where(drop, 0, scores)


def write(path, data):
    """Write bytes, or a value as JSON; they get the name `path` when they are whole and on disk."""
    data = data if isinstance(data, bytes) else json.dumps(data, indent=1).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_clip(root, settings, split, name, label, number):
    """Write `rgb/<name>.mp4`, then `poses/<name>.npz`, like pose.write_pose without its torch."""
    dive, video, pose = toy_dive(settings, split, label, number), io.BytesIO(), io.BytesIO()
    times = np.arange(settings["frames"]) / settings["fps"]
    centres, points = dive.seen(times)
    with av.open(video, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=settings["fps"], options={
            "crf": str(settings["crf"]), "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for row in zip(times.tolist(), centres, points):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(toy_frame(dive, *row))))
        out.mux(stream.encode())
    write(root / "rgb" / f"{name}.mp4", video.getvalue())
    keypoints, scores = (x.astype(np.float32) for x in toy_poses(dive, points[:, :17], settings))
    np.savez_compressed(pose, keypoints=keypoints, scores=scores, size=np.array([HEIGHT, WIDTH]),
                        times=times, joints=np.array(TOY_JOINTS), extractor=np.array("toy"))
    write(root / "poses" / f"{name}.npz", pose.getvalue())


def read_note(root):
    """What toy.json says of the clips in `root`: hash, complete, settings; {} without any file."""
    try:
        note = json.loads((root / "toy.json").read_text())
        return {key: note[key] for key in ("hash", "complete", "settings")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        if not any(path.is_file() and path.suffix != ".part" for path in root.rglob("*")):
            return {}
    raise ValueError(f"{root} holds files but no valid toy.json. Expected an empty folder or a toy "
                     "benchmark: other data is not touched. Give another --root or empty this one.")


def make_toy(root, settings=None, workers=None, progress=print):
    """Write the toy benchmark to `root` unless it is there with these settings; gives the seconds.
    Clips of other settings are replaced, a cut run is taken up; by default one worker a core."""
    root, settings, begun = Path(root), {**TOY_SETTINGS, **(settings or {})}, time.time()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    old, plan, stale = read_note(root), toy_plan(settings), [".*.part", "*/.toy_*.part"]
    note = {"hash": digest, "complete": False, "settings": settings}
    if old == {**note, "complete": True}:
        return 0.0
    if old and old["hash"] != digest:
        progress(f"toy benchmark: its settings changed, the clips of {root} are made again")
        write(root / "toy.json", {**old, "complete": False})    # a kill now leaves no mixture
        stale += ["poses/toy_*.npz", "rgb/toy_*.mp4"]
    for path in [path for pattern in stale for path in root.glob(pattern)]:
        path.unlink(missing_ok=True)
    write(root / "toy.json", note)
    write(root / "Diving48_vocab.json", TOY_CLASSES)
    for split in PEOPLE:
        write(root / f"Diving48_V2_{split}.json", [
            {"vid_name": name, "label": label, "start_frame": 0, "end_frame": settings["frames"]}
            for part, name, label, _ in plan if part == split])
    run_workers(root, min(workers or os.cpu_count() or 1, len(plan)), len(plan), progress)
    write(root / "toy.json", {**note, "complete": True})
    return time.time() - begun


def run_worker(root, share):
    """Make the clips of a share ("1/4": 1, 5, 9, ...) that are not there, print a dot for each."""
    settings, (first, step) = read_note(Path(root))["settings"], map(int, share.split("/"))
    for clip in toy_plan(settings)[first::step]:
        if not Path(root, "poses", f"{clip[1]}.npz").exists():  # the last file of a clip
            write_clip(Path(root), settings, *clip)
        os.write(1, b".")


def run_workers(root, shares, total, progress):
    """Run the worker processes and report clips and time left.
    They are started afresh: nothing of torch is forked, the caller needs no `if __name__`."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import toy; toy.run_worker(*sys.argv[2:])"
    argv = [sys.executable, "-c", code, str(Path(__file__).resolve().parent), str(root)]
    env, (source, sink) = {**os.environ, "OMP_NUM_THREADS": "1"}, os.pipe()
    jobs = [subprocess.Popen([*argv, f"{k}/{shares}"], stdout=sink, env=env) for k in range(shares)]
    os.close(sink)
    done, begun, told = 0, time.time(), time.time()
    try:
        while dots := os.read(source, 4096):                # ends when the last worker has ended
            done += len(dots)
            if time.time() - told > 5 or done == total:
                told, left = time.time(), (time.time() - begun) / done * (total - done)
                progress(f"toy benchmark: {done}/{total} clips, {left:.0f} s left")
    finally:
        os.close(source)
        for job in jobs:
            job.terminate()                                 # has ended, but for an interrupt here
            job.wait()
    if done < total:
        raise ChildProcessError(f"making toy clips stopped at clip {done} of {total}. Expected all "
                                "workers to end well, their messages are above. Run the command "
                                "again: finished clips are kept.")
