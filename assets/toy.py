# ------------------------------------------------------------------------------------------- the toy benchmark
# Procedural dives as a Diving48 tree. World axes: x from the board's tip over the water, y up from the board, z towards
# the viewer; units: body heights, seconds. The motion is drawn without a look at the apparatus: the two classes of a pair
# have the same poses, so a model of poses alone reaches 50 %. Frames without order show apparatus and position: 38 %.
import colorsys
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw

TOY_MOTIONS = (("Forward", "25som", "NoTwis", "PIKE"), ("Forward", "15som", "1Twis", "FREE"),
               ("Back", "25som", "NoTwis", "TUCK"), ("Back", "15som", "15Twis", "FREE"),
               ("Reverse", "15som", "NoTwis", "TUCK"), ("Reverse", "25som", "NoTwis", "PIKE"),
               ("Inward", "15som", "NoTwis", "PIKE"), ("Inward", "25som", "NoTwis", "TUCK"))
TOY_CLASSES = tuple((*motion, apparatus) for motion in TOY_MOTIONS for apparatus in ("Springboard", "Platform"))
TOY_SETTINGS = {"version": 1, "seed": 0, "train": 1760, "val": 240, "test": 320,        # version: raise when pictures change
                "width": 128, "height": 96, "frames": 32, "fps": 16, "crf": 20,
                "joint_noise": 0.012, "joint_drop": 0.04, "joint_jump": 0.02,           # body heights; shares of joints
                "side_swap": 0.04, "frame_drop": 0.01}                                  # shares of frames
TOY_PEOPLE = {"train": (0, 600), "val": (600, 700), "test": (700, 860)}                 # identities of each split
TOY_STILLS, TOY_HELD_OUT_STILLS = 1000, 1 << 30   # identities of stills start here; seeds of evaluation stills start there
TOY_JOINTS = ("nose", *(side + part for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
                        for side in ("left_", "right_")))
TOY_W, TOY_H, TOY_SS, TOY_GRAVITY = 128, 96, 2, 5.8     # pixels; supersampling; 9.8 m/s^2 for a body of 1.7 m
# Points of a body: 17 COCO joints, toes (17, 18), fingertips (19, 20), head centre (21), brow (22); their share of the mass
TOY_MASS = np.array([0, 0, 0, 1, 1, 5, 5, 1, 1, 1, 1, 6, 6, 4, 4, 2, 2, 0, 0, 0, 0, 2, 0]) / 41.0
# Seconds before take-off, then degrees (0: upright, arms down): left and right hip, knee, shoulder and elbow flexion, arms
# spread, spine, lean (the way faced), ankle, neck. Forward and reverse run with a hurdle step, back and inward press.
TOY_STARTS = {1: [(-.70, 28, -18, 8, 30, -25, 30, 15, 15, 6, 3, 6, 85, 0), (-.48, -15, 38, 15, 40, 15, -45, 10, 10, 8, 3, 8, 80, 0),
                  (-.28, 0, 95, 0, 100, 150, 150, 15, 15, 15, 0, 2, 30, 0),
                  (-.11, 62, 62, 80, 80, -30, -30, 10, 10, 10, 8, 28, 100, -10), (0, 2, 2, 2, 2, 165, 165, 8, 8, 6, 0, 4, 30, 0)],
              -1: [(-.70, 2, 2, 2, 2, 90, 90, 0, 0, 4, 0, 0, 85, 0), (-.48, 0, 0, 0, 0, 20, 20, 0, 0, 75, 0, 2, 70, 0),
                   (-.26, 12, 12, 15, 15, 5, 5, 0, 0, 40, 2, 5, 85, 0),
                   (-.11, 70, 70, 85, 85, -25, -25, 5, 5, 12, 8, 30, 100, -8), (0, 2, 2, 2, 2, 165, 165, 8, 8, 6, 0, -4, 30, 0)]}
TOY_HOLDS = {"TUCK": (132, 132, 138, 138, 22, 22, 82, 82, 10, 38, 0, 15, 30), "FREE": (4, 4, 2, 2, 75, 150, 105, 100, 8, -3, 0, 5, 0),
             "PIKE": (128, 128, 2, 2, 108, 108, 5, 5, 5, 28, 0, 5, 15), "entry": (0, 0, 0, 0, 176, 176, 0, 0, 2, 0, 0, 3, 0)}
TOY_COLOURS = {"red": (.0, .85, .8), "orange": (.075, .95, .95), "yellow": (.15, .85, .95), "green": (.36, .8, .62),
               "blue": (.62, .8, .75), "purple": (.77, .65, .6), "pink": (.91, .5, .97), "black": (.6, .2, .14),
               "white": (.1, .04, .96)}                                                 # hue, saturation, value
TOY_SKINS = ((236, 188, 160), (224, 172, 138), (198, 140, 104), (162, 106, 76), (118, 76, 56), (84, 54, 42))


def toy_rng(*numbers):
    """A generator that depends on these integers alone, in any process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def toy_colour(name, draws, gain, fade=1.0):
    """An RGB triple (0..255) that people would call `name`; draws: 3 numbers in [0, 1) that vary it."""
    (h, s, v), (a, b, c) = TOY_COLOURS[name], draws
    h, s, v = (h + .03 * (a - .5)) % 1, s * fade * (.9 + .15 * b), v * (.9 + .15 * c)
    return tuple(255 * gain * x for x in colorsys.hsv_to_rgb(h, min(s, 1), min(v, 1)))


def toy_ease(x):
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def toy_spin(x, ramp=0.2):
    """0 to 1, at constant speed but for a ramp at both ends: how the angle of a somersault grows."""
    low, mid, high = np.clip(x, 0, ramp), np.clip(x, ramp, 1 - ramp) - ramp, np.clip(x, 1 - ramp, 1) - (1 - ramp)
    return (low * low / (2 * ramp) + mid + high - high * high / (2 * ramp)) / (1 - ramp)


class ToyDive:
    """One performance of class `label`; diver, scene and camera are integers that stand for identities."""

    def __init__(self, label, seed, diver, scene, camera):
        self.takeoff, som, twist, self.position, self.apparatus = TOY_CLASSES[label]
        self.seed, rng = seed, toy_rng(1, *seed)
        self.faces = 1 if self.takeoff in ("Forward", "Reverse") else -1              # the water or the board
        self.turn = -1 if self.takeoff in ("Forward", "Back") else 1                  # about z, + anticlockwise
        count = lambda token: 0.0 if token[0] == "N" else int(token[:2]) / 10 if token[1].isdigit() else float(token[0])
        self.somersaults, self.twists = count(som), count(twist) * rng.choice((-1, 1))
        self.t_off, self.speed, self.t_air = rng.uniform((.5, .9, .92), (.66, 1.15, 1.12))   # take-off and flight, s
        self.height, self.vx = rng.uniform((1.7, .65), (2.5, .95))
        into, out = rng.uniform((.16, .70), (.22, .76))                               # the position is held, share of flight
        self.hold = self.t_off + into * self.t_air, self.t_off + out * self.t_air
        keys = [(t / self.speed, *angles) for t, *angles in TOY_STARTS[self.faces]]
        keys += [(u * self.t_air, *TOY_HOLDS[hold]) for u, hold in (
            (into, self.position), (out, self.position), (out + .17, "entry"), (1.6, "entry"))]
        self.keys = np.array(keys)                                                    # (k, 14): time, radians
        self.keys[:, 1:9] += rng.normal(0, 3.5, (1, 8)) * (np.abs(self.keys[:, 1:9]) > 8)
        self.keys[:, 0], self.keys[:, 1:] = self.keys[:, 0] + self.t_off, np.radians(self.keys[:, 1:])
        self._identities(toy_rng(2, diver), toy_rng(3, scene), toy_rng(4, camera), rng)
        self.com0 = TOY_MASS @ self._pose(np.array([self.t_off]))[0]                  # centre of mass at take-off
        self.vy = (0.70 - self.height - self.com0[1] + TOY_GRAVITY * self.t_air ** 2 / 2) / self.t_air

    def _identities(self, diver, scene, camera, rng):
        """Proportions and colours of the diver, geometry and colours of the scene, the camera's ways."""
        names, n, many = list(TOY_COLOURS), len(TOY_COLOURS), scene.integers(14, 24)
        self.size, hue, tint = diver.uniform(.92, 1.08, 6), scene.random((4, 3)), diver.random((2, 3))
        suit, cap, sky, board, post = *diver.integers(n, size=2), *scene.integers(n, size=3)
        sky = sky if sky != suit else (sky + 1) % n
        board, post = (c if c != sky else (c + 1) % n for c in (board, post))
        self.light, gain = (camera.choice((-1, 1)) * camera.uniform(.3, .8), -.6), camera.uniform(.85, 1.12)
        self.suit, self.sky, self.board, self.trunks = names[suit], names[sky], scene.random(6).tolist(), diver.random() < .4
        self.suit_rgb, self.cap_rgb = toy_colour(self.suit, tint[0], gain), toy_colour(names[cap], tint[1], gain)
        self.sky_rgb, self.board_rgb = toy_colour(self.sky, hue[0], gain, .75), toy_colour(names[board], hue[1], gain, .8)
        water = colorsys.hsv_to_rgb(*(hue[3] * (.12, .35, .35) + (.5, .45, .5)))
        self.post_rgb, self.water_rgb = toy_colour(names[post], hue[2], gain, .6), tuple(255 * gain * x for x in water)
        tone, skin = gain * diver.uniform(.9, 1.08), TOY_SKINS[diver.integers(len(TOY_SKINS))]
        self.skin = tuple(tone * x for x in skin)
        span = (-2.6, -3.6, .08, .08, .55, 0, 0, 0), (3.2, 1.6, .42, .42, .95, 1, 1, 1)   # x, y, w, h, nearness, tint
        self.clutter = [(int(scene.integers(6)), *row[:5], toy_colour(names[c], row[5:], gain, .85)) for c, row in zip(
            scene.integers(n, size=many), scene.uniform(*span, (many, 8)).tolist())]
        yaw, pitch = np.radians(camera.uniform((-24, -2), (24, 12))) + (np.pi * rng.integers(2), 0)   # from either side
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        self.view = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        self.zoom, self.lag, self.sway = camera.uniform((47, .04, .01), (56, .12, .035)).tolist()   # pixels, s, body heights
        self.shake, self.lead = camera.uniform(((5,), (0,)), ((16,), (6.3,)), (2, 4)), camera.uniform((-.25, -.08, 0), (.05, .04, 0))
        self.drops = toy_rng(5, *self.seed).random((34, 4)).tolist()

    def _pose(self, t):
        """Times (n,) -> body points (n, 23, 3) as on the board: the lowest foot at y = 0 but for the hurdle's hop."""
        i = np.clip(np.searchsorted(self.keys[:, 0], t, side="right") - 1, 0, len(self.keys) - 2)
        a, b = self.keys[i].T, self.keys[i + 1].T                                     # (14, n)
        a = (a + (b - a) * toy_ease((t - a[0]) / (b[0] - a[0])))[1:]                  # (13, n) angles
        u, before, run = (t - self.t_off) / self.t_air, self.t_off - t, self.faces > 0
        air = toy_spin(u)
        roll = -self.faces * a[10] * (1 - air) + self.turn * 2 * np.pi * self.somersaults * air
        twist = 2 * np.pi * self.twists * toy_ease((u - .2) / .56) + np.pi * (not run)
        xy, z = self._limbs(a)
        x, z = xy.real * np.cos(twist) + z * np.sin(twist), z * np.cos(twist) - xy.real * np.sin(twist)
        xy = (x + 1j * xy.imag) * np.exp(1j * roll)
        feet = xy[15:17].real.mean(0) + (.68 * toy_ease((before - .13) / .5) + .1 if run else .03)
        hop = run * .16 * np.clip(1 - ((before - .27) * self.speed / .15) ** 2, 0, 1)
        lowest = np.minimum(xy[15:19].imag.min(0), xy[15:17].imag.min(0) - .03)
        return np.stack([(xy - feet).real, xy.imag + hop - lowest, z], -1).transpose(1, 0, 2)

    def _limbs(self, a):
        """Forward kinematics: angles (13, n) -> x + iy (23, n), z (23, n); pelvis at 0, facing +x, right side at +z."""
        arm, leg, trunk, wide, _, head = self.size
        xy, z = np.zeros((23, a.shape[1]), complex), np.zeros((23, a.shape[1]))
        ray = lambda angle, length: -1j * length * np.exp(1j * angle)                 # 0 points down, pi / 2 forward
        side, chest, tilt = np.array([[-1.0], [1.0]]), np.pi - a[9], np.pi - a[9] - a[12]
        neck = ray(np.pi, .14 * trunk) + ray(chest, .15 * trunk)
        skull, ahead = neck + ray(tilt, .115 * head), ray(tilt - np.pi / 2, 1)
        xy[0], xy[1:3], xy[3:5] = skull + .068 * ahead, skull + .06 * ahead + ray(tilt, .018), skull
        z[1:3], z[3:5], z[5:7], z[11:13] = .026 * side, .06 * side, .105 * wide * side, .062 * side
        xy[5:7], xy[21], xy[22] = neck, skull, skull + ahead
        upper, fore, shin, spread = a[4:6] - a[9], a[4:6] - a[9] + a[6:8], a[0:2] - a[2:4], side * a[8]
        xy[7:9], z[7:9] = xy[5:7] + ray(upper, .17 * arm * np.cos(spread)), z[5:7] + .17 * arm * np.sin(spread)
        xy[9:11] = xy[7:9] + ray(fore, .15 * arm * np.cos(spread))
        z[9:11] = z[19:21] = z[7:9] + .15 * arm * np.sin(spread) * np.cos(a[6:8])
        xy[13:15], z[13:15] = ray(a[0:2], .245 * leg), z[11:13] + .01 * side
        xy[15:17], z[15:17] = xy[13:15] + ray(shin, .24 * leg), z[13:15] - .02 * side
        xy[17:19], z[17:19], xy[19:21] = xy[15:17] + ray(shin + a[11], .085), z[15:17], xy[9:11] + ray(fore, .075 * arm)
        return xy, z

    def path(self, t):
        """Course of the centre of mass, (n,) -> (n, 3): along the board, a parabola, braked by the water."""
        air, wet = np.clip(t - self.t_off, 0, self.t_air), np.maximum(t - self.t_off - self.t_air, 0)
        board, sink = 1.36 * np.clip(t - self.t_off, -.588, 0) * (self.faces > 0), 1 - np.exp(-wet / .3)
        y = self.com0[1] + self.vy * air - TOY_GRAVITY * air ** 2 / 2 + .285 * (self.vy - TOY_GRAVITY * self.t_air) * sink
        return np.stack([self.com0[0] + self.vx * air + board + .06 * sink, y, 0 * t], -1)

    def joints(self, t):
        """Times (n,) -> body points (n, 23, 3) in the world."""
        world = self._pose(t)
        fly = self.path(t) - TOY_MASS @ world
        return world + np.where(t > self.t_off, fly.T, 0).T[:, None]

    def seen(self, t):
        """Times (n,) -> camera centres (n, 3), following the path with lag and jitter, and joints(t) as projected there."""
        speed, phase = self.shake
        wave, centre = np.sin(t[:, None] * speed + phase), self.path(t - self.lag) + self.lead
        centre[:, 1] = np.maximum(centre[:, 1], self.lead[1] - self.height - .28) - .12 * (t < self.t_off + .1)
        centre[:, :2] += self.sway * (wave[:, :2] + wave[:, 2:])
        return centre, self.project(self.joints(t), centre[:, None])

    def project(self, points, centre):
        """World points (..., 3) -> (..., 3): x and y in pixels from the picture's corner, z towards the viewer."""
        p = (points - centre) @ self.view.T
        return np.concatenate([p[..., :2] * (1, -1) * self.zoom / (1 - p[..., 2:] / 9) + (TOY_W / 2, TOY_H / 2), p[..., 2:]], -1)


@functools.lru_cache(8192)
def toy_ink(rgb, gain=1.0):
    return tuple(min(int(x * gain), 255) for x in rgb)


class ToyPicture:
    """The picture of a dive at time t from a camera centre (3,), points (23, 3) from ToyDive.seen, drawn enlarged."""

    def __init__(self, dive, t, centre, points=None, bare=False):
        self.dive, self.t, self.centre, self.s = dive, t, centre.tolist(), TOY_SS
        self.view, self.unit = dive.view.tolist(), dive.zoom * TOY_SS
        if points is None:
            return                                                                    # only to place() things
        size = TOY_W * TOY_SS, TOY_H * TOY_SS
        sky = np.minimum((np.linspace(1.12, .72, 64)[:, None] - .06 * centre[1]) * dive.sky_rgb, 255)
        self.image = Image.fromarray(sky.astype(np.uint8)[:, None]).resize(size, Image.NEAREST)
        self.draw = ImageDraw.Draw(self.image)
        if bare:
            self.draw.rectangle((0, 0, *size), "white")
            return self._body(points)
        surface = self.place(self.centre[0], -dive.height, 0)[1]
        self._clutter()
        self._apparatus()
        for k in range(8 if surface < size[1] else 0):                                # the water, darker with depth
            self.draw.rectangle((0, max(surface, 0) * (8 - k) / 8 + size[1] * k / 8, *size), toy_ink(dive.water_rgb, 1.05 - .05 * k))
        self._body(points)
        if surface < size[1]:
            self.draw.line((0, surface, size[0], surface), toy_ink(dive.water_rgb, 1.4), self.s)
            under = self.image.crop((0, max(int(surface) + 1, 0), *size))
            self.image.paste(Image.blend(under, Image.new("RGB", under.size, toy_ink(dive.water_rgb)), .38), (0, size[1] - under.height))
            self._splash(t - dive.t_off - dive.t_air - .05)

    def place(self, x, y, z):
        """ToyDive.project for one point, without arrays, in pixels of the enlarged picture."""
        (a, b, c), (d, e, f), (g, h, i) = self.view
        x, y, z = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        scale = self.unit / (1 - (g * x + h * y + i * z) / 9)
        return TOY_SS * TOY_W / 2 + scale * (a * x + b * y + c * z), TOY_SS * TOY_H / 2 - scale * (d * x + e * y + f * z)

    def disc(self, x, y, rx, ry, ink):
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), ink)

    def capsule(self, a, b, ra, rb, ink):
        """A limb from a to b (x, y) with round ends of radius ra and rb, in pixels: one polygon."""
        (ax, ay), (bx, by) = a, b
        n = math.hypot(bx - ax, by - ay) + 1e-6
        dx, dy = (bx - ax) / n, (by - ay) / n
        ux, uy = .71 * (dx - dy), .71 * (dx + dy)
        self.draw.polygon((ax - dy * ra, ay + dx * ra, bx - dy * rb, by + dx * rb, bx + ux * rb, by + uy * rb, bx + dx * rb, by + dy * rb,
                           bx + uy * rb, by - ux * rb, bx + dy * rb, by - dx * rb, ax + dy * ra, ay - dx * ra,
                           ax - ux * ra, ay - uy * ra, ax - dx * ra, ay - dy * ra, ax - uy * ra, ay + ux * ra), ink)

    def box(self, lo, hi, rgb):
        """A solid with corners lo and hi (x, y, z): its visible faces, shaded by their direction."""
        c = [self.place(x, y, z) for x in (lo[0], hi[0]) for y in (lo[1], hi[1]) for z in (lo[2], hi[2])]
        for toward, faces, gain in zip(self.view[2], (((0, 1, 3, 2), (4, 5, 7, 6)), ((0, 1, 5, 4), (2, 3, 7, 6)), ((0, 2, 6, 4), (1, 3, 7, 5))),
                                       (.72, 1.22 if self.view[2][1] > 0 else .6, 1.0)):
            self.draw.polygon([c[i] for i in faces[toward > 0]], toy_ink(rgb, gain))

    def bar(self, a, b, width, rgb):
        self.draw.line(self.place(*a) + self.place(*b), toy_ink(rgb), width)

    def _clutter(self):
        """Shapes, stripes and spectators behind the diver, each at its own distance (parallax)."""
        s, draw = self.s, self.draw
        for kind, x, y, w, h, near, rgb in self.dive.clutter:
            px = s * TOY_W / 2 + self.unit * near * (x - self.centre[0]) * self.view[0][0]
            py = s * TOY_H / 2 - self.unit * near * (y - self.centre[1])
            w, h, ink, r = self.unit * w, self.unit * h, toy_ink(rgb), s * 2.2
            if not (-w < px < s * TOY_W + w and -h - 16 < py < s * TOY_H + h + 16):
                continue
            if kind < 2:
                (draw.rectangle, draw.ellipse)[kind]((px - w, py - h, px + w, py + h), ink)
            elif kind == 2:
                for k in range(-6, 6, 3):
                    draw.line((px - w, py + k * s, px + w, py + k * s), ink, s)
            elif kind < 5:
                draw.polygon((px - w * 1.5, py - h * 2, px - w * 1.5 + 4, py - h * 2, px + w * 1.5, py + h * 2, px + w * 1.5 - 4, py + h * 2)
                             if kind == 3 else (px, py - h, px + w, py + h, px - w, py + h), ink)
            else:                                                                     # a spectator, a third of the diver's size
                skin, arm = toy_ink(TOY_SKINS[int(w) % 6], .9), r * (-1.6 if h > w else 1.6)
                for line in ((px - r, py + 3 * r, px - 1.2 * r, py + 6.4 * r), (px + .6 * r, py + 3 * r, px + .9 * r, py + 6.4 * r),
                             (px, py, px + r * 2.4, py + arm)):
                    draw.line(line, skin, 4)
                self.capsule((px, py), (px, py + 2.8 * r), r * 1.1, r, ink)
                self.disc(px, py - 2 * r, r * .9, r * .9, skin)

    def _apparatus(self):
        """A thick slab with railings on a tower, or a thin plank that bends and rests on a fulcrum."""
        b, rgb, post, since = self.dive.board, self.dive.board_rgb, self.dive.post_rgb, self.t - self.dive.t_off
        if self.dive.apparatus == "Platform":
            thick, wide, long, edge, high = .20 + .12 * b[0], .30 + .15 * b[1], 1.7 + .8 * b[2], -.42 - .3 * b[4], .42 + .12 * b[5]
            self.box((-long - .3, -5, -wide * .6), (-.75 - .4 * b[3], -thick, wide * .6), post)
            self.box((-long, -thick, -wide), (.05, 0, wide), rgb)
            for z in (-wide, wide):
                for x in (edge, (2 * edge - long) / 3, (edge - 2 * long) / 3, -long):
                    self.bar((x, 0, z), (x, high, z), 3, post)
                for y in (high, high * .55):
                    self.bar((edge, y, z), (-long, y, z), 3, post)
            return
        thick, wide, long, pin = .035 + .02 * b[0], .15 + .05 * b[1], 1.8 + .6 * b[2], -.62 - .3 * b[3]
        swing = .10 * math.exp(-since / .3) * math.cos(25 * since) if since > 0 else -.04 * max(1 - abs(since + .1) / .15, 0)
        for z in (-wide, wide):
            for top, foot in ((pin, pin - .2), (pin, pin + .14), (-long, -long)):
                self.bar((top, -thick - .03, z), (foot, -.62, z), 4, post)
        self.box((-long - .1, -.70, -wide * 1.1), (pin + .25, -.60, wide * 1.1), post)
        self.box((pin - .07, -.12 - thick, -wide), (pin + .07, -thick, wide), post)
        self.box((-long, -thick, -wide), (pin, 0, wide), rgb)
        x, y = [pin + (.06 - pin) * k / 5 for k in range(6)], [swing * (k / 5) ** 2 for k in range(6)]
        for k in range(5):
            self.box((x[k], y[k] - thick, -wide), (x[k + 1], y[k + 1], wide), rgb)

    def _body(self, points):
        """Limbs, trunk and head, far to near; each dark, then lit from one side."""
        dive, unit, girth, (lx, ly) = self.dive, self.unit, self.dive.size[4], self.dive.light
        q, depth = (points[:, :2] * self.s).tolist(), points[:, 2].tolist()
        parts = [(depth[a + k] + depth[b + k], a + k, b + k, ra * girth * unit, rb * girth * unit) for k in (0, 1) for a, b, ra, rb in (
            (5, 7, .036, .028), (7, 9, .028, .021), (9, 19, .022, .012), (11, 13, .058, .042), (13, 15, .042, .026), (15, 17, .026, .014))]
        parts += [((depth[5] + depth[6] + depth[11] + depth[12]) / 2, -1), (2 * depth[21], -2)]
        for _, a, *limb in sorted(parts):
            if a == -1:
                self._trunk(q, unit * girth, lx, ly)
            elif a >= 0:
                b, ra, rb = limb
                (ax, ay), (bx, by), dx, dy = q[a], q[b], lx * .22 * ra, ly * .22 * ra
                self.capsule(q[a], q[b], ra, rb, toy_ink(dive.skin, .62))
                self.capsule((ax + dx, ay + dy), (bx + dx, by + dy), ra * .78, rb * .78, toy_ink(dive.skin, .92))
                if ra > 2.5:
                    self.draw.line((ax + 2 * dx, ay + 2 * dy, bx + 2 * dx, by + 2 * dy), toy_ink(dive.skin, 1.12), int(ra * .6))
            else:
                (hx, hy), r, (fx, fy, fz) = q[21], .074 * unit * dive.size[5], (points[22] - points[21]).tolist()
                self.disc(hx, hy, r, r, toy_ink(dive.cap_rgb, .7))
                self.disc(hx + lx * r * .2, hy - r * .15, r * .8, r * .75, toy_ink(dive.cap_rgb))
                if fz > -.5:                                                          # the face, unless it looks away
                    self.disc(hx + fx / dive.zoom * r * .42, hy + fy / dive.zoom * r * .42, r * .66, r * .66, toy_ink(dive.skin, .95))

    def _trunk(self, q, unit, lx, ly):
        """Neck, and shoulders to hips in the suit's colour or, with trunks, the lower half of it."""
        dive, mix = self.dive, lambda a, b, w: (a[0] + (b[0] - a[0]) * w, a[1] + (b[1] - a[1]) * w)
        neck = mix(q[5], q[6], .5)
        self.capsule(neck, q[21], .035 * unit, .03 * unit, toy_ink(dive.skin, .75))
        for colour, top in ((dive.skin, 0), (dive.suit_rgb, .45))[not dive.trunks:]:
            top = top if dive.trunks else 0
            for size, gain, shift in ((1.0, .62, 0), (.76, .95, .012), (.32, 1.14, .024)):
                ink, r = toy_ink(colour, gain), .059 * unit * size
                corners = (mix(mix(neck, q[5], .75), q[11], top), mix(mix(neck, q[6], .75), q[12], top), q[12], q[11])
                a, b, c, d = [(x + lx * shift * unit, y + ly * shift * unit) for x, y in corners]
                if size > .5:
                    self.draw.polygon((a, b, c, d), ink)
                for p, r_end in (((a, d), (b, c)) if size > .5 else ((mix(a, b, .5), mix(d, c, .5)),)):
                    self.capsule(p, r_end, r, r, ink)
        for k in (11, 12) if dive.trunks else ():
            self.capsule(q[k], mix(q[k], q[k + 2], .22), .062 * unit, .055 * unit, toy_ink(dive.suit_rgb, .85))

    def _splash(self, since):
        """Foam and drops, thrown up where and when (since, s) the hands went in."""
        if not 0 < since < .75:
            return
        x0, grow = self.dive.com0[0] + self.dive.vx * self.dive.t_air + .04, min(since / .12, 1) * (1 - since / .8)
        for a, b, c, d in self.dive.drops:
            x, y = x0 + (a - .5) * (.5 + 1.5 * since), (.4 + 1.9 * b) * since - TOY_GRAVITY * since ** 2 / 2
            if y > -.06:
                r = self.s * (.7 + 2.2 * d) * (.35 + .65 * grow)
                self.disc(*self.place(x, y - self.dive.height, (c - .5) * .3), r, r, (int(225 + 30 * c),) * 2 + (255,))
        self.disc(*self.place(x0, -self.dive.height, 0), self.unit * (.12 + .4 * since), self.s * 1.6, (238, 246, 255))


def toy_frame(dive, t, centre, points, bare=False):
    """The picture (96, 128, 3) uint8 at time t (s) for a row of ToyDive.seen; bare: the diver alone on white."""
    return np.asarray(ToyPicture(dive, t, centre, points, bare).image.reduce(TOY_SS))


# ------------------------------------------------------------------------------------------- captioned stills of the toy world
# Attribute -> value -> ways to say it, the labels' own wording first. The value "" (cannot be told) is never mentioned.
TOY_PHRASES = {
    "takeoff": {v: (v, v + " take-off", v + " dive") for v in ("forward", "back", "reverse", "inward")},
    "somersaults": {"1.5": ("1.5 somersaults",), "2.5": ("2.5 somersaults",)},
    "twists": {"0": ("no twist", "without twist"), "1": ("1 twist", "one twist"), "1.5": ("1.5 twists",)},
    "position": {"tuck": ("tuck position", "tuck", "a tucked diver", "knees held to the chest"),
                 "pike": ("pike position", "pike", "a piked diver", "bent hips and straight legs"),
                 "free": ("free position", "free", "a straight diver", "a long body")},
    "apparatus": {"springboard": ("springboard", "a springboard", "a thin springboard", "springboard in sight"),
                  "platform": ("platform", "a platform", "a thick platform", "platform in sight"),
                  "none": ("nothing to jump from", "no board in sight")},
    "stage": {"board": ("before the jump", "waiting to jump"), "leaving": ("taking off", "leaving the board"),
              "flight": ("in flight", "high in the air"), "entry": ("entering the water", "the entry")},
    "head": {"up": ("head up", "upright"), "down": ("head down", "upside down"), "level": ("level", "lying flat")},
    "arms": {"up": ("arms up", "arms over the head"), "down": ("arms down", "arms at the sides")},
    "suit": {c: (c + " suit", "a diver in " + c, "dressed in " + c) for c in TOY_COLOURS},
    "scene": {c: (c + " background", c + " behind the diver", "a " + c + " hall") for c in TOY_COLOURS},
    "water": {"water": ("water in sight", "the water"), "dry": ("no water in sight", "no water")}}
TOY_ATTRIBUTES = {name: ("", *values) for name, values in TOY_PHRASES.items()}
TOY_OPENINGS = ("", "", "a diver, ", "a photo of a diver, ", "a video of a diver, ", "a picture of diving, ")
TOY_ENDINGS = ("", ", a video of action", ", a video of diving action", ", diving")
TOY_WORDS = tuple(sorted({word for text in (*TOY_OPENINGS, *TOY_ENDINGS, *(way for values in TOY_PHRASES.values() for ways in
                  values.values() for way in ways)) for word in text.replace(",", " ").split()}))
# How often captions speak of an attribute: PeVL relies on position and apparatus, and evenly
# spread captions leave the apparatus at chance after 60,000 stills (emphasised: 87 % after 38,000).
TOY_EMPHASIS = np.array([.3, .2, .2, 8, 8, 4, 1, 1, .5, .5, 1])


def toy_apparatus_seen(dive, t, centre):
    """The apparatus where its end lies well inside the picture, "none" where no part is in it, "" between.

    The margins (24 and 8 px) leave room for the trainer's crop.
    """
    place = ToyPicture(dive, t, centre).place
    near = [place(x, -.02, 0) for x in (-.9, -.7, -.5, -.3, -.1)]
    if sum(48 < x < 2 * TOY_W - 48 and 16 < y < 2 * TOY_H - 24 for x, y in near) >= 3:
        return dive.apparatus.lower()
    parts = [(x / 4, y, 0) for x in range(-11, 2) for y in (.5, 0, -.35, -.75)]
    parts += [(x, -k / 2, 0) for x in (-.5, -1.2, -2, -2.8) for k in range(2, 9)] * (dive.apparatus == "Platform")
    return "" if any(-12 < x < 2 * TOY_W + 12 and -12 < y < 2 * TOY_H + 12 for x, y in (place(*p) for p in parts)) else "none"


def toy_attributes(dive, t, centre, joints):
    """What is true of the frame at time t and visible in it: name -> value of TOY_ATTRIBUTES.

    Take-off, somersaults and twists are the label's; a still only hints at them. joints: (23, 3), the world.
    """
    spine, arms = joints[5:7].mean(0) - joints[11:13].mean(0), joints[7:9] - joints[5:7]
    rise = spine[1] / np.linalg.norm(spine)
    reach = arms @ spine / np.linalg.norm(arms, axis=1) / np.linalg.norm(spine)
    stage = ("entry" if (joints[:17, 1] < -dive.height).any() else "board" if t < dive.t_off - .06 else
             "leaving" if .03 < t - dive.t_off < .12 else "flight" if dive.hold[0] < t < dive.hold[1] else "")
    surface = dive.project(np.array([0, -dive.height, 0]), centre)[1]
    return {"takeoff": dive.takeoff.lower(), "somersaults": f"{dive.somersaults:g}", "twists": f"{abs(dive.twists):g}",
            "position": dive.position.lower() if stage == "flight" else "",
            "apparatus": toy_apparatus_seen(dive, t, centre), "stage": stage,
            "head": "up" if rise > .85 else "down" if rise < -.85 else "level" if abs(rise) < .4 else "",
            "arms": "up" if min(reach) > .85 else "down" if max(reach) < -.85 else "",
            "suit": dive.suit, "scene": dive.sky if stage != "entry" else "",
            "water": "water" if surface < TOY_H - 12 else "dry" if surface > TOY_H + 2 else ""}


def toy_still(seed):
    """One frame of a performance that is in no clip: picture (96, 128, 3) uint8, attributes (name -> value).

    Two in five show the apparatus, two in five the position. Seeds from TOY_HELD_OUT_STILLS on are for evaluation.
    """
    rng = toy_rng(9, seed)
    dive = ToyDive(int(rng.integers(len(TOY_CLASSES))), (9, seed), *[TOY_STILLS + seed] * 3)
    parts = ((0, dive.t_off + .22), (0, dive.t_off + .22), dive.hold, dive.hold, (dive.t_off, 1.95))
    t = rng.uniform(*parts[rng.integers(5)])
    centre, points = dive.seen(np.array([t]))
    return toy_frame(dive, t, centre[0], points[0]), toy_attributes(dive, t, centre[0], dive.joints(np.array([t]))[0])


def toy_vector(attributes):
    """Attributes -> (A,) int64, positions in TOY_ATTRIBUTES; 0 = cannot be told."""
    return np.array([values.index(attributes[name]) for name, values in TOY_ATTRIBUTES.items()])


def toy_captions(attributes, rng):
    """A caption of a random part of what is known, and which attributes it mentions, (A,) bool.

    It is true of every picture whose toy_vector agrees there. Three in twenty are in the labels' very wording.
    """
    names = [name for name in TOY_ATTRIBUTES if attributes[name]]
    if rng.random() < .15:
        said = [n for n in names if n in list(TOY_ATTRIBUTES)[:5] and attributes[n] != "none" and rng.random() < .75] or ["takeoff"]
        text = ", ".join(TOY_PHRASES[n][attributes[n]][0] for n in said).capitalize() + rng.choice(TOY_ENDINGS)
    else:
        weight = TOY_EMPHASIS[[attributes[name] != "" for name in TOY_ATTRIBUTES]]
        said = rng.choice(names, rng.integers(1, 3), replace=False, p=weight / weight.sum()).tolist()
        text = rng.choice(TOY_OPENINGS) + ", ".join(rng.choice(TOY_PHRASES[n][attributes[n]]) for n in said)
    return str(text), np.array([name in said for name in TOY_ATTRIBUTES])


def toy_paraphrase(rng):
    """Random facts of a label in two wordings, the label's own first, and the facts (5,), 0 = not said.

    No picture belongs to them: a still cannot tell a take-off, yet the text tower has to tell the words.
    """
    names = list(TOY_ATTRIBUTES)[:5]
    facts = np.array([rng.integers(1, len(TOY_ATTRIBUTES[name]) - (name == "apparatus"))
                      if rng.random() < .8 else 0 for name in names])
    facts[0] += not facts.any()
    ways = [TOY_PHRASES[name][TOY_ATTRIBUTES[name][value]] for name, value in zip(names, facts) if value]
    first = ", ".join(way[0] for way in ways).capitalize() + rng.choice(TOY_ENDINGS)
    return str(first), ", ".join(str(rng.choice(way)) for way in ways), facts


# ------------------------------------------------------------------------------------------- the toy benchmark's files


def toy_plan(settings):
    """Every clip: (split, vid_name, label, number) with the labels in turn, so that splits are balanced."""
    return [(split, f"toy_{split}_{i:05d}", i % len(TOY_CLASSES), i) for split in TOY_PEOPLE for i in range(settings[split])]


def toy_dive(settings, split, label, number):
    """The performance of one clip; diver, scene and camera are identities of this split alone."""
    seed = settings["seed"], list(TOY_PEOPLE).index(split), number
    return ToyDive(label, seed, *toy_rng(6, *seed).integers(*TOY_PEOPLE[split], 3).tolist())


def toy_poses(dive, points, settings):
    """Projected joints (n, 17, 3) -> what a detector would say: keypoints (n, 17, 2) pixels, scores (n, 17).

    Noise is larger behind the body; some joints are missing (score 0) or elsewhere (a low score); now and then the left
    and right of arms or legs are swapped, or a whole frame is missing. Rounded, so that no machine differs.
    """
    rng, n = toy_rng(7, *dive.seed), len(points)
    hidden = points[..., 2] < points[..., 2].mean(1, keepdims=True) - .06
    noise = settings["joint_noise"] * dive.zoom * np.where(hidden, 1.8, 1.0)
    keypoints = points[..., :2] - .5 + noise[..., None] * rng.standard_t(4, (n, 17, 2))
    jump, scores = rng.random((n, 17)) < settings["joint_jump"], rng.beta(14, 2.5, (n, 17)) - .2 * hidden
    keypoints += jump[..., None] * rng.normal(0, .4 * dive.zoom, (n, 17, 2))
    scores = np.where(jump, rng.uniform(.1, .5, (n, 17)), scores).clip(.05, 1).round(3)
    for first in (5, 11):
        swap, sides = rng.random(n) < settings["side_swap"], first + np.array([1, 0, 3, 2, 5, 4])
        keypoints[swap, first:first + 6] = keypoints[swap][:, sides]
    drop = rng.random((n, 17)) < settings["joint_drop"] * np.where(hidden, 2, 1)
    drop |= rng.random((n, 1)) < settings["frame_drop"]
    return np.where(drop[..., None], 0, keypoints.round(2)), np.where(drop, 0, scores)


def toy_clip(root, settings, split, name, label, number):
    """Write `rgb/<name>.mp4`, then `poses/<name>.npz`, each under its name only when whole."""
    dive, times = toy_dive(settings, split, label, number), np.arange(settings["frames"]) / settings["fps"]
    centres, points = dive.seen(times)
    part, yuv = root / "rgb" / f".{name}.{os.getpid()}.part", VideoReformatter()      # one: each new one costs a millisecond
    with av.open(str(part), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=settings["fps"], options={"crf": str(settings["crf"]), "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = TOY_W, TOY_H, "yuv420p", 1
        for t, centre, body in zip(times.tolist(), centres, points):
            frame = av.VideoFrame.from_ndarray(toy_frame(dive, t, centre, body), format="rgb24")
            out.mux(stream.encode(yuv.reformat(frame, format="yuv420p", threads=1)))
        out.mux(stream.encode())
    os.replace(part, root / "rgb" / (name + ".mp4"))
    keypoints, scores = toy_poses(dive, points[:, :17], settings)
    part = root / "poses" / f".{name}.{os.getpid()}.part"
    with open(part, "wb") as file:               # as pose.write_pose does, but the workers need not import torch
        np.savez_compressed(file, keypoints=keypoints.astype(np.float32), scores=scores.astype(np.float32),
                            size=np.array([TOY_H, TOY_W]), times=times, joints=np.array(TOY_JOINTS), extractor=np.array("toy"))
    os.replace(part, root / "poses" / (name + ".npz"))


def toy_json(path, value):
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def toy_worker(root, share, shares):
    """Make the clips share, share + shares, ... that are not there yet; a dot to stdout for each."""
    root = Path(root)
    settings = json.loads((root / "toy.json").read_text())["settings"]
    for clip in toy_plan(settings)[share::shares]:
        if not (root / "poses" / (clip[1] + ".npz")).exists():                        # the pose is written last
            toy_clip(root, settings, *clip)
        os.write(1, b".")


def make_toy(root, settings=None, workers=None, progress=print):
    """Write the toy benchmark to `root` unless it is there with these very settings; returns the seconds spent.

    Clips of other settings are replaced, those of an interrupted run are kept. `workers`: processes, default one a core.
    """
    root, settings, begun = Path(root), {**TOY_SETTINGS, **(settings or {})}, time.time()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    note, plan = root / "toy.json", toy_plan(settings)
    old = json.loads(note.read_text()) if note.exists() else None
    if old is None and root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} holds files but no toy.json. Expected an empty folder or an earlier toy benchmark, since "
                         "other data is never overwritten. Give another --root, or empty this folder.")
    if old and old["hash"] == digest and old["complete"]:
        return 0.0
    for folder in ("rgb", "poses"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if old and old["hash"] != digest:
        progress(f"toy benchmark: its settings changed, the clips of {root} are made again")
        toy_json(note, {**old, "complete": False})                                    # a kill from here on leaves no mixture
        for _, name, *_ in toy_plan(old["settings"]):
            for path in (root / "poses" / (name + ".npz"), root / "rgb" / (name + ".mp4")):
                path.unlink(missing_ok=True)
    for path in root.glob("*/.toy_*.part"):                                           # what a killed worker left
        path.unlink()
    state = {"hash": digest, "complete": False, "settings": settings}
    toy_json(note, state)
    toy_json(root / "Diving48_vocab.json", TOY_CLASSES)
    for split in TOY_PEOPLE:
        toy_json(root / f"Diving48_V2_{split}.json", [
            {"vid_name": name, "label": label, "start_frame": 0, "end_frame": settings["frames"]}
            for part, name, label, _ in plan if part == split])
    toy_workers(root, min(workers or os.cpu_count() or 1, len(plan)), len(plan), progress)
    toy_json(note, {**state, "complete": True})
    return time.time() - begun


def toy_workers(root, shares, total, progress):
    """Run the worker processes and report clips, rate and time left. They are started afresh: nothing of torch is forked,
    and the caller's script is not imported again (no `if __name__` needed), on any system."""
    here, begun, done, told = Path(__file__).resolve(), time.time(), 0, time.time()
    code = (f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as toy; "
            f"toy.toy_worker({str(root)!r}, int(sys.argv[1]), {shares})")
    source, sink = os.pipe()
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(k)], stdout=sink, env={**os.environ, "OMP_NUM_THREADS": "1"})
            for k in range(shares)]
    os.close(sink)
    try:
        while dots := os.read(source, 4096):                                          # ends when the last worker has ended
            done += len(dots)
            if time.time() - told > 5 or done == total:
                told, rate = time.time(), done / (time.time() - begun)
                progress(f"toy benchmark: {done}/{total} clips, {rate:.0f}/s, {(total - done) / rate:.0f} s left")
    finally:
        os.close(source)
        for job in jobs:
            job.wait() if done == total else job.terminate()
    if done < total:
        raise RuntimeError(f"making the toy benchmark stopped at clip {done} of {total}. Expected every worker to end well; its "
                           "message is above. Run the command again: finished clips are kept.")
