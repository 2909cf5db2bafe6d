# ----------------------------------------------------------------------------------- the toy benchmark
# Procedural dives, written to disk as a Diving48 tree. World axes: x away from the board over the
# water, y up, z towards the viewer; the board's surface is y = 0 and its tip x = 0. Units: body
# heights and seconds. The motion is drawn before the apparatus and never sees it, so that poses
# cannot tell the two classes of a pair apart (a pose-only model reaches 50 % at most).

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

import pose

TOY_VERSION = 1                        # raised when the pictures or poses change: old clips are re-made
TOY_MOTIONS = (("Forward", "25som", "NoTwis", "PIKE"), ("Forward", "15som", "1Twis", "FREE"),
               ("Back", "25som", "NoTwis", "TUCK"), ("Back", "15som", "15Twis", "FREE"),
               ("Reverse", "15som", "NoTwis", "TUCK"), ("Reverse", "25som", "NoTwis", "PIKE"),
               ("Inward", "15som", "NoTwis", "PIKE"), ("Inward", "25som", "NoTwis", "TUCK"))
TOY_CLASSES = tuple(m + (a,) for m in TOY_MOTIONS for a in ("Springboard", "Platform"))
TOY_SETTINGS = {"version": TOY_VERSION, "seed": 0, "train": 1760, "val": 240, "test": 320, "width": 128,
                "height": 96, "frames": 32, "fps": 16, "crf": 20, "joint_noise": 0.012,
                "joint_drop": 0.04, "joint_jump": 0.02, "side_swap": 0.04, "frame_drop": 0.01}
TOY_PEOPLE = {"train": (0, 600), "val": (600, 700), "test": (700, 860)}   # disjoint identities, below
TOY_STILLS = 1000                      # the stills' identities start here: none is ever in a clip
TOY_HELD_OUT_STILLS = 1 << 30          # stills with seeds from here on are for evaluation
TOY_W, TOY_H, TOY_SS = 128, 96, 2      # picture size in pixels, supersampling
TOY_GRAVITY = 5.8                      # 9.8 m/s^2 for a body of 1.7 m
TOY_COCO = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
            "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
            "left_knee", "right_knee", "left_ankle", "right_ankle")
# After the 17 joints: toes (17, 18), fingertips (19, 20), head centre (21), brow (22), for drawing only.
TOY_MASS = np.array([0, 0, 0, 1, 1, 5, 5, 1, 1, 1, 1, 6, 6, 4, 4, 2, 2, 0, 0, 0, 0, 2, 0]) / 41.0

# ---- body: angles in degrees; 0 is standing straight with the arms down. Columns: left and right hip,
# knee, shoulder and elbow flexion, arms spread, spine, lean (towards the way faced), ankle, neck.
_RUN = [(-.70, (28, -18, 8, 30, -25, 30, 15, 15, 6, 3, 6, 85, 0)),
        (-.48, (-15, 38, 15, 40, 15, -45, 10, 10, 8, 3, 8, 80, 0)),
        (-.28, (0, 95, 0, 100, 150, 150, 15, 15, 15, 0, 2, 30, 0)),
        (-.11, (62, 62, 80, 80, -30, -30, 10, 10, 10, 8, 28, 100, -10)),
        (0.0, (2, 2, 2, 2, 165, 165, 8, 8, 6, 0, 4, 30, 0))]
_PRESS = [(-.70, (2, 2, 2, 2, 90, 90, 0, 0, 4, 0, 0, 85, 0)),
          (-.48, (0, 0, 0, 0, 20, 20, 0, 0, 75, 0, 2, 70, 0)),
          (-.26, (12, 12, 15, 15, 5, 5, 0, 0, 40, 2, 5, 85, 0)),
          (-.11, (70, 70, 85, 85, -25, -25, 5, 5, 12, 8, 30, 100, -8)),
          (0.0, (2, 2, 2, 2, 165, 165, 8, 8, 6, 0, -4, 30, 0))]
_HOLD = {"TUCK": (132, 132, 138, 138, 22, 22, 82, 82, 10, 38, 0, 15, 30),
         "PIKE": (128, 128, 2, 2, 108, 108, 5, 5, 5, 28, 0, 5, 15),
         "FREE": (4, 4, 2, 2, 75, 150, 105, 100, 8, -3, 0, 5, 0)}
_ENTRY = (0, 0, 0, 0, 176, 176, 0, 0, 2, 0, 0, 3, 0)


def toy_rng(*numbers):
    """A generator that depends on these integers alone, in any process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


def _ease(x):
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _spin(x):
    """0 to 1 with a ramp at both ends and constant speed between: how a somersault's angle grows."""
    x, ramp = np.clip(x, 0, 1), 0.2
    low, high = np.minimum(x, ramp), np.maximum(x - (1 - ramp), 0)
    return (low * low / (2 * ramp) + (np.clip(x, ramp, 1 - ramp) - ramp) + high - high * high / (2 * ramp)) / (1 - ramp)


class ToyDive:
    """One performance of `label` by a diver in a scene before a camera (integers: identities)."""

    def __init__(self, label, seed, diver, scene, camera):
        self.takeoff, som, twist, self.position, self.apparatus = TOY_CLASSES[label]
        self.label, self.seed, rng = label, seed, toy_rng(1, *seed)
        self.faces = 1 if self.takeoff in ("Forward", "Reverse") else -1
        self.turn = -1 if self.takeoff in ("Forward", "Back") else 1          # world angle, + anticlockwise
        digits = lambda token: 0.0 if token[0] == "N" else int(token[:2]) / 10 if token[1].isdigit() else int(token[0])
        self.somersaults, self.twists = digits(som), digits(twist) * rng.choice((-1, 1))
        self.t_off = rng.uniform(0.50, 0.66)                                   # start offset
        self.speed, self.t_air = rng.uniform(0.9, 1.15), rng.uniform(0.92, 1.12)
        self.height, self.vx = rng.uniform(1.7, 2.5), rng.uniform(0.65, 0.95)
        self._keyframes(rng)
        self._identities(toy_rng(2, diver), toy_rng(3, scene), toy_rng(4, camera), rng)
        start = self._pose(np.array([self.t_off]))[0]
        self.com0 = TOY_MASS @ start                                           # centre of mass at take-off
        self.vy = (0.70 - self.height - self.com0[1] + TOY_GRAVITY * self.t_air ** 2 / 2) / self.t_air

    def _keyframes(self, rng):
        """Times (k,) in seconds and joint angles (k, 13) in radians, each performance slightly its own."""
        keys = _RUN if self.faces > 0 else _PRESS
        keys = [(self.t_off + t / self.speed, a) for t, a in keys]
        into, out = rng.uniform(.16, .22), rng.uniform(.70, .76)
        for u, angles in ((into, _HOLD[self.position]), (out, _HOLD[self.position]), (out + .17, _ENTRY), (1.6, _ENTRY)):
            keys.append((self.t_off + u * self.t_air, angles))
        self.hold = (self.t_off + into * self.t_air, self.t_off + out * self.t_air)
        self.key_times = np.array([t for t, _ in keys])
        angles = np.array([a for _, a in keys], float)
        angles[:, :8] += rng.normal(0, 3.5, (1, 8)) * (np.abs(angles[:, :8]) > 8)
        self.key_angles = np.radians(angles)

    def _identities(self, diver, scene, camera, rng):
        """Proportions and colours of the diver, geometry and colours of the scene, the camera's way."""
        self.size = diver.uniform(.92, 1.08, 6)           # arms, legs, trunk, shoulders, girth, head
        names, n, many = list(TOY_COLOURS), len(TOY_COLOURS), scene.integers(14, 24)
        suit, cap, sky, board, post = *diver.integers(n, size=2), *scene.integers((n, n, n))
        sky = sky if sky != suit else (sky + 1) % n
        board, post = (c if c != sky else (c + 1) % n for c in (board, post))
        self.suit, self.sky, tint, hue = names[suit], names[sky], diver.random((2, 3)), scene.random((4, 3))
        self.light, gain = (camera.choice((-1, 1)) * camera.uniform(.3, .8), -.6), camera.uniform(.85, 1.12)
        self.suit_rgb, self.cap_rgb = toy_colour(self.suit, tint[0], gain), toy_colour(names[cap], tint[1], gain)
        self.sky_rgb, self.board_rgb = toy_colour(self.sky, hue[0], gain, .75), toy_colour(names[board], hue[1], gain, .8)
        self.post_rgb, self.board = toy_colour(names[post], hue[2], gain, .6), scene.random(8).tolist()
        water = colorsys.hsv_to_rgb(.5 + .12 * hue[3, 0], .45 + .35 * hue[3, 1], .5 + .35 * hue[3, 2])
        self.water_rgb, tone = tuple(255 * gain * x for x in water), gain * diver.uniform(.9, 1.08)
        self.skin = tuple(tone * x for x in _SKINS[diver.integers(len(_SKINS))])
        self.trunks = bool(diver.random() < .4)
        low, high = (-2.6, -3.6, .08, .08, .55, 0, 0, 0), (3.2, 1.6, .42, .42, .95, 1, 1, 1)
        self.clutter = [(kind, *row[:5], toy_colour(names[c], row[5:], gain, .85)) for kind, c, row in zip(
            scene.integers(6, size=many).tolist(), scene.integers(n, size=many), scene.uniform(low, high, (many, 8)).tolist())]
        yaw, pitch = np.radians(camera.uniform(-24, 24)), np.radians(camera.uniform(-2, 12))
        yaw += np.pi * rng.integers(2)                    # seen from the other side: travels to the left
        cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        self.view = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        self.zoom, self.lag = camera.uniform(47, 56), camera.uniform(.04, .12)
        self.shake = camera.uniform(.01, .035), camera.uniform(5, 16, 4), camera.uniform(0, 6.3, 4)
        self.lead = np.array([camera.uniform(-.25, .05), camera.uniform(-.08, .04), 0])
        self.drops = toy_rng(5, *self.seed).uniform(0, 1, (34, 4))

    # ---- the body
    def _pose(self, t):
        """Times (n,) -> joints (n, 23, 3) before the jump's path is added; on the board: in place."""
        i = np.clip(np.searchsorted(self.key_times, t, side="right") - 1, 0, len(self.key_times) - 2)
        w = _ease((t - self.key_times[i]) / (self.key_times[i + 1] - self.key_times[i]))[:, None]
        a = (self.key_angles[i] * (1 - w) + self.key_angles[i + 1] * w).T              # (13, n)
        u = (t - self.t_off) / self.t_air
        air = _spin(u)
        roll = -self.faces * a[10] * (1 - air) + self.turn * 2 * np.pi * self.somersaults * air
        twist = 2 * np.pi * self.twists * _ease((u - .2) / .56) + (0 if self.faces > 0 else np.pi)
        xy, z = self._forward(a)
        x, z = xy.real * np.cos(twist) + z * np.sin(twist), z * np.cos(twist) - xy.real * np.sin(twist)
        xy = (x + 1j * xy.imag) * np.exp(1j * roll)
        world = np.stack([xy.real, xy.imag, z], -1).transpose(1, 0, 2)                # (n, 23, 3)
        before = self.t_off - t
        run = self.faces > 0
        feet = world[:, (15, 16), 0].mean(1) + (.68 * _ease((before - .13) / .5) + .1 if run else .03)
        hop = .16 * np.clip(1 - ((before - .27) * self.speed / .15) ** 2, 0, 1) if run else 0 * before
        world[..., 0] -= feet[:, None]
        world[..., 1] += (hop - np.minimum(world[:, 15:19, 1].min(1), world[:, 15:17, 1].min(1) - .03))[:, None]
        return world

    def _forward(self, a):
        """Angles (13, n) -> x + iy (23, n) and z (23, n), pelvis at 0, facing +x, right side +z."""
        arm, leg, trunk, wide, _, head = self.size
        xy, z = np.zeros((23, a.shape[1]), complex), np.zeros((23, a.shape[1]))
        ray = lambda angle, length: -1j * length * np.exp(1j * angle)     # 0 points down, pi / 2 forward
        side = np.array([[-1.0], [1.0]])                                  # left, right
        neck = ray(np.pi, .14 * trunk) + ray(np.pi - a[9], .15 * trunk)
        tilt = np.pi - a[9] - a[12]
        skull, ahead = neck + ray(tilt, .115 * head), ray(tilt - np.pi / 2, 1)
        xy[0], xy[1:3], xy[3:5] = skull + .068 * ahead, skull + .06 * ahead + ray(tilt, .018), skull
        z[1:3], z[3:5], z[5:7], z[11:13] = .026 * side, .06 * side, .105 * wide * side, .062 * side
        xy[21], xy[22], xy[5:7] = skull, skull + ahead, neck
        upper, fore, spread = a[4:6] - a[9], a[4:6] - a[9] + a[6:8], side * a[8]
        xy[7:9], z[7:9] = xy[5:7] + ray(upper, .17 * arm * np.cos(spread)), z[5:7] + .17 * arm * np.sin(spread)
        xy[9:11] = xy[7:9] + ray(fore, .15 * arm * np.cos(spread))
        z[9:11] = z[7:9] + .15 * arm * np.sin(spread) * np.cos(a[6:8])
        xy[19:21], z[19:21] = xy[9:11] + ray(fore, .075 * arm), z[9:11]
        xy[13:15], z[13:15] = ray(a[0:2], .245 * leg), z[11:13] + .01 * side
        xy[15:17], z[15:17] = xy[13:15] + ray(a[0:2] - a[2:4], .24 * leg), z[13:15] - .02 * side
        xy[17:19], z[17:19] = xy[15:17] + ray(a[0:2] - a[2:4] + a[11], .085), z[15:17]
        return xy, z

    def path(self, t):
        """Smooth course of the centre of mass: (n,) -> (n, 3); the camera follows it with a lag."""
        tau = np.maximum(t - self.t_off, 0)
        air, wet = np.minimum(tau, self.t_air), np.maximum(tau - self.t_air, 0)
        board = np.minimum(t - self.t_off, 0)
        x = self.com0[0] + self.vx * air + (.68 * board / .5 * (self.faces > 0)).clip(-.8, 0)
        y = self.com0[1] + self.vy * air - TOY_GRAVITY * air ** 2 / 2
        sink = 1 - np.exp(-wet / .3)
        return np.stack([x + .06 * sink, y + .3 * (self.vy - TOY_GRAVITY * self.t_air) * sink * .95, 0 * x], -1)

    def joints(self, t):
        """Times (n,) -> joints (n, 23, 3) in the world."""
        world = self._pose(t)
        flying = (t > self.t_off)[:, None, None]
        return np.where(flying, world - (world * TOY_MASS[:, None]).sum(1, keepdims=True) + self.path(t)[:, None], world)

    def centre(self, t):
        """What the camera looks at: the delayed course, never far below the water, with jitter."""
        size, speed, phase = self.shake
        target = self.path(t - self.lag)
        target[:, 1] = np.maximum(target[:, 1], -self.height - .28) - .12 * (t < self.t_off + .1)
        wave = np.sin(t[:, None] * speed + phase)
        return target + self.lead + size * np.stack([wave[:, 0] + wave[:, 1], wave[:, 2] + wave[:, 3], 0 * t], -1)

    def seen(self, t):
        """Times (n,) -> camera centres (n, 3) and the body's points (n, 23, 3) as `project` gives them."""
        centre = self.centre(t)
        return centre, self.project(self.joints(t), centre[:, None])

    def project(self, points, centre):
        """World points (..., 3) -> (..., 3): x, y in pixels of the picture, z towards the viewer."""
        p = (points - centre) @ self.view.T
        scale = self.zoom / (1 - p[..., 2:] / 9)
        return np.concatenate([TOY_W / 2 + scale * p[..., :1], TOY_H / 2 - scale * p[..., 1:2], p[..., 2:]], -1)


# ---- the picture
_RAMP = np.linspace(1.12, .72, 64)[:, None]                               # the background, top to bottom
TOY_COLOURS = {"red": (.0, .85, .8), "orange": (.075, .95, .95), "yellow": (.15, .85, .95), "green": (.36, .8, .62),
               "blue": (.62, .8, .75), "purple": (.77, .65, .6), "pink": (.91, .5, .97), "black": (.6, .2, .14),
               "white": (.1, .04, .96)}
_SKINS = ((236, 188, 160), (224, 172, 138), (198, 140, 104), (162, 106, 76), (118, 76, 56), (84, 54, 42))


def toy_colour(name, draws, gain, fade=1.0):
    """An RGB triple (0..255) that people would call `name`; draws: 3 numbers in [0, 1) that vary it."""
    (h, s, v), (a, b, c) = TOY_COLOURS[name], draws
    h, s, v = (h + .03 * (a - .5)) % 1, s * fade * (.9 + .15 * b), v * (.9 + .15 * c)
    return tuple(255 * gain * x for x in colorsys.hsv_to_rgb(h, min(s, 1), min(v, 1)))


@functools.lru_cache(8192)
def _ink(rgb, gain=1.0):
    r, g, b = rgb
    return (min(int(r * gain), 255), min(int(g * gain), 255), min(int(b * gain), 255))


def _placer(dive, centre, s):
    """place(x, y, z) -> (x, y) in pixels of the enlarged picture; ToyDive.project without arrays."""
    (a, b, c), (d, e, f), (g, h, i) = dive.view.tolist()
    u, v, w = centre.tolist()

    def place(x, y, z):
        x, y, z = x - u, y - v, z - w
        scale = s * dive.zoom / (1 - (g * x + h * y + i * z) / 9)
        return s * TOY_W / 2 + scale * (a * x + b * y + c * z), s * TOY_H / 2 - scale * (d * x + e * y + f * z)
    return place


def _capsule(draw, a, b, ra, rb, fill):
    """A limb from a to b (x, y) with round ends of radius ra and rb, in pixels: one polygon."""
    (ax, ay), (bx, by) = a, b
    dx, dy = bx - ax, by - ay
    n = (dx * dx + dy * dy) ** .5 + 1e-6
    dx, dy = dx / n, dy / n
    ux, uy, vx, vy = .71 * (dx - dy), .71 * (dy + dx), .71 * (dx + dy), .71 * (dy - dx)
    draw.polygon((ax - dy * ra, ay + dx * ra, bx - dy * rb, by + dx * rb, bx + ux * rb, by + uy * rb,
                  bx + dx * rb, by + dy * rb, bx + vx * rb, by + vy * rb, bx + dy * rb, by - dx * rb,
                  ax + dy * ra, ay - dx * ra, ax - ux * ra, ay - uy * ra, ax - dx * ra, ay - dy * ra,
                  ax - vx * ra, ay - vy * ra), fill)


def _box(draw, place, view, lo, hi, rgb):
    """A solid with corners lo and hi (x, y, z): its visible faces, shaded by their direction."""
    c = [place(x, y, z) for x in (lo[0], hi[0]) for y in (lo[1], hi[1]) for z in (lo[2], hi[2])]
    for axis, faces, gain in ((0, ((0, 1, 3, 2), (4, 5, 7, 6)), .72), (1, ((0, 1, 5, 4), (2, 3, 7, 6)), 1.22), (2, ((0, 2, 6, 4), (1, 3, 7, 5)), 1.0)):
        toward = view[2][axis]
        draw.polygon([c[i] for i in faces[int(toward > 0)]], _ink(rgb, gain if axis != 1 or toward > 0 else .6))


def _bar(draw, place, a, b, width, rgb):
    draw.line(place(*a) + place(*b), _ink(rgb), max(int(round(width * TOY_SS)), 1))


def _draw_clutter(dive, draw, centre, s):
    """Shapes, stripes, windows and spectators behind the diver, each at its own distance (parallax)."""
    right = float(dive.view[0, 0])
    for kind, x, y, w, h, near, rgb in dive.clutter:
        px = s * (TOY_W / 2 + dive.zoom * near * (x - centre[0]) * right)
        py = s * (TOY_H / 2 - dive.zoom * near * (y - centre[1]))
        w, h, c = s * dive.zoom * w, s * dive.zoom * h, _ink(rgb)
        if not (-w < px < s * TOY_W + w and -h - s * 8 < py < s * TOY_H + h + s * 8):
            continue
        if kind == 0:
            draw.rectangle((px - w, py - h, px + w, py + h), c)
        elif kind == 1:
            draw.ellipse((px - w, py - h, px + w, py + h), c)
        elif kind == 2:
            for k in range(4):
                draw.line((px - w, py + (k - 2) * 3 * s, px + w, py + (k - 2) * 3 * s), c, s)
        elif kind == 3:
            draw.line((px - w * 1.5, py - h * 2, px + w * 1.5, py + h * 2), c, 2 * s)
        elif kind == 4:
            draw.polygon((px, py - h, px + w, py + h, px - w, py + h), c)
        else:                                                       # a spectator, a third of the diver's size
            r = s * 2.2
            skin, arm = _ink(_SKINS[int(w) % 6], .9), -1 if h > w else 1
            draw.line((px - r, py + 3 * r, px - r * 1.2, py + 6.4 * r), skin, int(r))
            draw.line((px + r * .6, py + 3 * r, px + r * .9, py + 6.4 * r), skin, int(r))
            draw.line((px, py, px + r * 2.4, py + arm * r * 1.6), skin, int(r * .8))
            _capsule(draw, (px, py), (px, py + 2.8 * r), r * 1.1, r, c)
            draw.ellipse((px - r * .9, py - 3 * r, px + r * .9, py - 1.1 * r), skin)


def _draw_apparatus(dive, draw, place, t):
    """A thin plank that bends and rests on a fulcrum, or a thick slab with railings on a tower."""
    b, view, rgb, post = dive.board, dive.view.tolist(), dive.board_rgb, dive.post_rgb
    far = -1 if view[2][2] > 0 else 1
    if dive.apparatus == "Platform":
        thick, wide, long = .20 + .12 * b[0], .30 + .15 * b[1], 1.7 + .8 * b[2]
        _box(draw, place, view, (-long - .3, -5, -wide * .6), (-.75 - .4 * b[3], -thick, wide * .6), post)
        _box(draw, place, view, (-long, -thick, -wide), (.05, 0, wide), rgb)
        for z in (far * wide, -far * wide):
            edge, high = -.42 - .3 * b[4], .42 + .12 * b[5]
            for x in (edge, (2 * edge - long) / 3, (edge - 2 * long) / 3, -long):
                _bar(draw, place, (x, 0, z), (x, high, z), 1.6, post)
            for y in (high, high * .55):
                _bar(draw, place, (edge, y, z), (-long, y, z), 1.4, post)
        return
    thick, wide, long, pin = .035 + .02 * b[0], .15 + .05 * b[1], 1.8 + .6 * b[2], -.62 - .3 * b[3]
    since = t - dive.t_off
    swing = .10 * math.exp(-since / .3) * math.cos(25 * since) if since > 0 else -.04 * max(1 - abs(since + .1) / .15, 0)
    foot = pin - .02
    for z in (far * wide, -far * wide):
        _bar(draw, place, (foot, -thick - .05, z), (foot - .18, -.62, z), 2.2, post)
        _bar(draw, place, (foot, -thick - .05, z), (foot + .16, -.62, z), 2.2, post)
        _bar(draw, place, (-long, -thick, z), (-long, -.62, z), 2.0, post)
    _box(draw, place, view, (-long - .1, -.70, -wide * 1.1), (foot + .25, -.60, wide * 1.1), post)
    _box(draw, place, view, (pin - .07, -.12 - thick, -wide), (pin + .07, -thick, wide), post)
    x, y = [pin + (.06 - pin) * k / 5 for k in range(6)], [swing * (k / 5) ** 2 for k in range(6)]
    _box(draw, place, view, (-long, -thick, -wide), (pin, 0, wide), rgb)
    for k in range(5):
        _box(draw, place, view, (x[k], y[k] - thick, -wide), (x[k + 1], y[k + 1], wide), rgb)


def _draw_body(dive, draw, j, s):
    """j: (23, 3) joints in pixels and depth. Limbs far to near; each dark, then lit from one side."""
    q, depth = (j[:, :2] * s).tolist(), j[:, 2]
    unit, girth, skin, suit = dive.zoom * s, dive.size[4], dive.skin, dive.suit_rgb
    lx, ly = dive.light
    parts = []
    for k in (0, 1):
        for a, b, ra, rb in ((5, 7, .036, .028), (7, 9, .028, .021), (9, 19, .022, .012), (11, 13, .058, .042), (13, 15, .042, .026), (15, 17, .026, .014)):
            parts.append((depth[a + k] + depth[b + k], a + k, b + k, ra * girth, rb * girth))
    trunk = depth[[5, 6, 11, 12]].sum() / 2
    parts += [(trunk, -1, 0, 0, 0), (2 * depth[21], -2, 0, 0, 0)]
    for _, a, b, ra, rb in sorted(parts):
        if a >= 0:
            (ax, ay), (bx, by), ra, rb = q[a], q[b], ra * unit, rb * unit
            _capsule(draw, q[a], q[b], ra, rb, _ink(skin, .62))
            dx, dy = lx * .22 * ra, ly * .22 * ra
            _capsule(draw, (ax + dx, ay + dy), (bx + dx, by + dy), ra * .78, rb * .78, _ink(skin, .92))
            if ra > 2.5:
                draw.line((ax + 2 * dx, ay + 2 * dy, bx + 2 * dx, by + 2 * dy), _ink(skin, 1.12), int(ra * .6))
        elif a == -1:
            _draw_trunk(dive, draw, q, unit, girth, skin, suit)
        else:
            (hx, hy), r = q[21], .074 * unit * dive.size[5]
            fx, fy, fz = (j[22] - j[21]) / dive.zoom * (1, 1, dive.zoom)
            draw.ellipse((hx - r, hy - r, hx + r, hy + r), _ink(dive.cap_rgb, .7))
            draw.ellipse((hx - r * .8 + lx * r * .2, hy - r + r * .1, hx + r * .8 + lx * r * .2, hy + r * .6), _ink(dive.cap_rgb))
            if fz > -.5:
                cx, cy, f = hx + fx * r * .42, hy + fy * r * .42, r * .66
                draw.ellipse((cx - f, cy - f, cx + f, cy + f), _ink(skin, .95))


def _draw_trunk(dive, draw, q, unit, girth, skin, suit):
    """Shoulders to hips, in the suit's colour or, with trunks, its lower half."""
    lx, ly = dive.light
    mix = lambda a, b, w: (a[0] + (b[0] - a[0]) * w, a[1] + (b[1] - a[1]) * w)
    neck, seat = mix(q[5], q[6], .5), mix(q[11], q[12], .5)
    _capsule(draw, neck, q[21], .035 * unit, .03 * unit, _ink(skin, .75))
    for colour, top in ((skin, 0), (suit, .45)) if dive.trunks else ((suit, 0),):
        for size, gain, shift in ((1.0, .62, 0), (.76, .95, .2), (.32, 1.14, .4)):
            dx, dy = lx * shift * .06 * unit, ly * shift * .06 * unit
            ends = [(x + dx, y + dy) for x, y in (mix(mix(neck, q[5], .75), q[11], top), mix(mix(neck, q[6], .75), q[12], top), q[12], q[11])]
            ra, rb = .058 * unit * girth * size, .06 * unit * girth * size
            if size == 1 or shift < .3:
                draw.polygon(ends, _ink(colour, gain))
                _capsule(draw, ends[0], ends[3], ra, rb, _ink(colour, gain))
                _capsule(draw, ends[1], ends[2], ra, rb, _ink(colour, gain))
            else:
                _capsule(draw, mix(ends[0], ends[1], .5), mix(ends[3], ends[2], .5), ra, rb, _ink(colour, gain))
    if dive.trunks:
        for k in (0, 1):
            _capsule(draw, q[11 + k], mix(q[11 + k], q[13 + k], .22), .062 * unit * girth, .055 * unit * girth, _ink(suit, .85))


def _draw_splash(dive, draw, place, t, s):
    since = t - dive.t_off - dive.t_air - .05
    if not 0 < since < .75:
        return
    x0 = float(dive.com0[0]) + dive.vx * dive.t_air + .04
    grow = min(since / .12, 1) * (1 - since / .8)
    for a, b, c, d in dive.drops.tolist():
        x, y = x0 + (a - .5) * (.5 + 1.5 * since), (.4 + 1.9 * b) * since - TOY_GRAVITY * since ** 2 / 2
        if y > -.06:
            (px, py), r = place(x, y - dive.height, (c - .5) * .3), s * (.7 + 2.2 * d) * (.35 + .65 * grow)
            draw.ellipse((px - r, py - r, px + r, py + r), (int(225 + 30 * c),) * 2 + (255,))
    (px, py), w = place(x0, -dive.height, 0), s * dive.zoom * (.12 + .4 * since)
    draw.ellipse((px - w, py - s * 1.6, px + w, py + s * 1.6), (238, 246, 255))


def toy_frame(dive, t, centre, points, clutter=True):
    """The picture at time t (seconds), camera centre (3,), body points (23, 3): (96, 128, 3) uint8, see ToyDive.seen."""
    s = TOY_SS
    place = _placer(dive, centre, s)
    sky = (_RAMP - .06 * float(centre[1])) * dive.sky_rgb if clutter else np.full((64, 3), 255.0)
    sky = np.minimum(sky, 255).astype(np.uint8)[:, None]
    image = Image.fromarray(sky).resize((TOY_W * s, TOY_H * s), Image.NEAREST)
    draw = ImageDraw.Draw(image)
    if clutter:
        _draw_clutter(dive, draw, centre.tolist(), s)
    surface = place(float(centre[0]), -dive.height, 0)[1]
    wet = clutter and surface < TOY_H * s
    if clutter:
        _draw_apparatus(dive, draw, place, t)
    if wet:
        for k in range(8):                                          # darker with depth
            draw.rectangle((0, max(surface, 0) * (8 - k) / 8 + TOY_H * s * k / 8, TOY_W * s, TOY_H * s), _ink(dive.water_rgb, 1.05 - .05 * k))
        draw.line((0, surface, TOY_W * s, surface), _ink(dive.water_rgb, 1.4), s)
    _draw_body(dive, draw, points, s)
    if wet:
        top = max(int(surface) + 1, 0)
        under = image.crop((0, top, TOY_W * s, TOY_H * s))
        if under.height:
            image.paste(Image.blend(under, Image.new("RGB", under.size, _ink(dive.water_rgb)), .38), (0, top))
        _draw_splash(dive, draw, place, t, s)
    return np.asarray(image.reduce(s))


# ---- captioned stills, for the tiny CLIP: what is true of a picture and can be seen in it
# attribute -> value -> ways to say it, the label's own wording first; "" (not in the table): cannot be told
TOY_PHRASES = {
    "takeoff": {v: (v, v + " take-off", v + " dive") for v in ("forward", "back", "reverse", "inward")},
    "somersaults": {"1.5": ("1.5 somersaults",), "2.5": ("2.5 somersaults",)},
    "twists": {"0.0": ("no twist", "without twist"), "1.0": ("1 twist", "one twist"), "1.5": ("1.5 twists",)},
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
TOY_ATTRIBUTES = {name: ("",) + tuple(values) for name, values in TOY_PHRASES.items()}
TOY_OPENINGS = ("", "", "a diver, ", "a photo of a diver, ", "a video of a diver, ", "a picture of diving, ")
TOY_ENDINGS = ("", ", a video of action", ", a video of diving action", ", diving")
_WEIGHTS = {"apparatus": 4, "position": 4, "stage": 2, "takeoff": 1, "somersaults": .5, "twists": .5}
TOY_WORDS = tuple(sorted({w for text in (*TOY_OPENINGS, *TOY_ENDINGS, *(p for v in TOY_PHRASES.values() for ways in v.values() for p in ways))
                          for w in text.replace(",", " ").split()}))


def toy_apparatus_seen(dive, centre):
    """'springboard' or 'platform' where its end lies well inside the picture, 'none' where no part
    is in it, '' between: the margins (24 and 8 px) leave room for the trainer's crop."""
    place = _placer(dive, centre, 1)
    near = [place(x, -.02, 0) for x in (-.9, -.7, -.5, -.3, -.1)]
    inside = sum(24 < x < TOY_W - 24 and 8 < y < TOY_H - 12 for x, y in near)
    parts = [(x / 4, y, 0) for x in range(-11, 2) for y in (.5, 0, -.35, -.75)]
    if dive.apparatus == "Platform":
        parts += [(x, -k / 2, 0) for x in (-.5, -1.2, -2, -2.8) for k in range(2, 9)]
    if inside >= 3:
        return dive.apparatus.lower()
    return "" if any(-6 < x < TOY_W + 6 and -6 < y < TOY_H + 6 for x, y in (place(*p) for p in parts)) else "none"


def toy_attributes(dive, t, centre, joints):
    """What is true of the frame at time t and visible in it: name -> value of TOY_ATTRIBUTES, '' = cannot
    be told. Take-off, somersaults and twists are the label's; a still only hints at them."""
    off, entry = dive.t_off, dive.t_off + dive.t_air
    spine = joints[5:7].mean(0) - joints[11:13].mean(0)
    rise = spine[1] / np.linalg.norm(spine)
    reach = [float((joints[7 + k] - joints[5 + k]) @ spine / np.linalg.norm(joints[7 + k] - joints[5 + k]) / np.linalg.norm(spine)) for k in (0, 1)]
    stage = ("entry" if (joints[:17, 1] < -dive.height).any() else "board" if t < off - .06 else
             "leaving" if off + .03 < t < off + .12 else "flight" if dive.hold[0] < t < dive.hold[1] else "")
    surface = dive.project(np.array([0, -dive.height, 0.]), centre)[1]
    return {"takeoff": dive.takeoff.lower(), "somersaults": str(dive.somersaults), "twists": str(abs(float(dive.twists))),
            "position": dive.position.lower() if stage == "flight" else "",
            "apparatus": toy_apparatus_seen(dive, centre), "stage": stage,
            "head": "up" if rise > .85 else "down" if rise < -.85 else "level" if abs(rise) < .4 else "",
            "arms": "up" if min(reach) > .85 else "down" if max(reach) < -.85 else "",
            "suit": dive.suit, "scene": dive.sky if stage != "entry" else "",
            "water": "water" if surface < TOY_H - 12 else "dry" if surface > TOY_H + 2 else ""}


def toy_still(seed):
    """One frame of a performance that is in no clip -> picture (96, 128, 3) uint8, attributes (name -> value).
    Two in five show the apparatus, two in five the position. Seeds from TOY_HELD_OUT_STILLS on: for evaluation."""
    rng = toy_rng(9, seed)
    who = TOY_STILLS + seed
    dive = ToyDive(int(rng.integers(len(TOY_CLASSES))), (9, seed), who, who, who)
    parts = ((0, dive.t_off + .22), (0, dive.t_off + .22), dive.hold, dive.hold, (dive.t_off, 1.95))
    t = rng.uniform(*parts[rng.integers(5)])
    joints, centre = dive.joints(np.array([t]))[0], dive.centre(np.array([t]))[0]
    return toy_frame(dive, t, centre, dive.project(joints, centre)), toy_attributes(dive, t, centre, joints)


def toy_vector(attributes):
    """Attributes -> (A,) int64, positions in TOY_ATTRIBUTES; 0 = cannot be told, never mentioned."""
    return np.array([values.index(attributes[name]) for name, values in TOY_ATTRIBUTES.items()])


def toy_captions(attributes, rng):
    """One caption of a random part of what is known, and which attributes (A,) bool it mentions: it is true
    of every picture whose toy_vector agrees there. Three in ten are in the very wording of the labels."""
    names = [n for n in TOY_ATTRIBUTES if attributes[n]]
    if rng.random() < .3:
        said = [n for n in list(TOY_ATTRIBUTES)[:5] if attributes[n] and rng.random() < .75 and attributes[n] != "none"] or ["takeoff"]
        text = ", ".join(TOY_PHRASES[n][attributes[n]][0] for n in said)
        text = text[0].upper() + text[1:] + TOY_ENDINGS[rng.integers(len(TOY_ENDINGS))]
    else:
        weight = np.array([_WEIGHTS.get(n, 1.0) for n in names])
        said = rng.choice(names, min(len(names), int(rng.integers(1, 5))), replace=False, p=weight / weight.sum()).tolist()
        ways = [TOY_PHRASES[n][attributes[n]] for n in said]
        text = TOY_OPENINGS[rng.integers(len(TOY_OPENINGS))] + ", ".join(w[rng.integers(len(w))] for w in ways)
    return text, np.array([n in said for n in TOY_ATTRIBUTES])


# ---- the files
def toy_plan(settings):
    """Every clip of every split: list of (split, vid_name, label, number); labels in turn, so balanced."""
    return [(split, f"toy_{split}_{i:05d}", i % len(TOY_CLASSES), i) for split in TOY_PEOPLE for i in range(settings[split])]


def toy_dive(settings, split, label, number):
    """The performance of one clip; diver, scene and camera are drawn from identities of this split alone."""
    low, high = TOY_PEOPLE[split]
    seed = (settings["seed"], list(TOY_PEOPLE).index(split), number)
    return ToyDive(label, seed, *toy_rng(6, *seed).integers(low, high, 3).tolist())


def toy_poses(dive, points, settings):
    """Projected joints (n, 17, 3) -> what a detector would report: keypoints (n, 17, 2) pixels, scores (n, 17).
    Noise grows for joints behind the body; some joints are missing (score 0), some lie elsewhere with a low
    score; now and then left and right are swapped, or the whole frame is missing."""
    rng, n = toy_rng(7, *dive.seed), len(points)
    hidden = points[..., 2] < points[..., 2].mean(1, keepdims=True) - .06
    spread = settings["joint_noise"] * dive.zoom * np.where(hidden, 1.8, 1.0)
    keypoints = points[..., :2] - .5 + spread[..., None] * rng.standard_t(4, (n, 17, 2))
    scores = rng.beta(14, 2.5, (n, 17)) - .2 * hidden
    jump = rng.random((n, 17)) < settings["joint_jump"]
    keypoints += np.where(jump[..., None], rng.normal(0, .4 * dive.zoom, (n, 17, 2)), 0)
    scores = np.where(jump, rng.uniform(.1, .5, (n, 17)), scores)
    for first in (5, 11):                                              # arms and legs are confused apart
        swap = rng.random(n) < settings["side_swap"]
        left, right = [first + k for k in (0, 2, 4)], [first + k for k in (1, 3, 5)]
        keypoints[np.ix_(swap, left + right)] = keypoints[np.ix_(swap, right + left)]
    drop = rng.random((n, 17)) < settings["joint_drop"] * np.where(hidden, 2, 1)
    drop |= rng.random((n, 1)) < settings["frame_drop"]
    scores = np.where(drop, 0, scores.clip(.05, 1).round(3))
    return np.where(drop[..., None], 0, keypoints.round(2)).astype(np.float32), scores.astype(np.float32)


def toy_clip(root, settings, split, name, label, number):
    """Write one clip, `rgb/<name>.mp4` and then `poses/<name>.npz`, each under its name only when whole."""
    video, poses = Path(root, "rgb", name + ".mp4"), Path(root, "poses", name + ".npz")
    dive = toy_dive(settings, split, label, number)
    times = np.arange(settings["frames"]) / settings["fps"]
    centres, points = dive.seen(times)
    part = video.with_name(f".{name}.{os.getpid()}.part")
    with av.open(str(part), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=settings["fps"], options={"crf": str(settings["crf"]), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.thread_count = TOY_W, TOY_H, "yuv420p", 1
        yuv = VideoReformatter()                                      # one for all frames; its threads only wait
        for frame in map(toy_frame, [dive] * len(times), times.tolist(), centres, points):
            out.mux(stream.encode(yuv.reformat(av.VideoFrame.from_ndarray(frame, format="rgb24"), format="yuv420p", threads=1)))
        out.mux(stream.encode())
    os.replace(part, video)
    pose.write_pose(poses, *toy_poses(dive, points[:, :17], settings), (TOY_H, TOY_W), times, TOY_COCO, "toy")


def _write_json(path, value):
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def toy_worker(root, share, shares):
    """Make the clips share, share + shares, ... that are not there yet; one dot to stdout for each."""
    settings = json.loads(Path(root, "toy.json").read_text())["settings"]
    for clip in toy_plan(settings)[share::shares]:
        if not Path(root, "poses", clip[1] + ".npz").exists():        # the pose is written last
            toy_clip(root, settings, *clip)
        os.write(1, b".")


def make_toy(root, settings=None, workers=None, progress=print):
    """Write the toy benchmark to `root` as a Diving48 tree, unless it is there with these very settings.
    Clips of other settings are replaced, those of an interrupted run are kept; returns seconds spent. The work is
    done by `workers` processes (default: one a core), started afresh: no torch is forked, no __main__ imported again."""
    root, settings, begun = Path(root), {**TOY_SETTINGS, **(settings or {})}, time.time()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    note, plan = root / "toy.json", toy_plan(settings)
    old = json.loads(note.read_text()) if note.exists() else None
    if old is None and root.exists() and any(root.iterdir()):
        raise ValueError(f"{root} holds files but no toy.json. Expected an empty folder or an earlier toy benchmark, since "
                         "the toy benchmark never overwrites other data. Give another --root, or empty this folder.")
    if old and old["hash"] == digest and old["complete"]:
        return 0.0
    for folder in ("rgb", "poses"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if old and old["hash"] != digest:
        progress(f"toy benchmark: the settings changed, the clips of {root} are made again")
        _write_json(note, {**old, "complete": False})                  # a kill from here on leaves no mixture
        for _, name, *_ in toy_plan(old["settings"]):
            for path in (root / "poses" / (name + ".npz"), root / "rgb" / (name + ".mp4")):
                path.unlink(missing_ok=True)
    _write_json(note, {"hash": digest, "complete": False, "settings": settings})
    _write_json(root / "Diving48_vocab.json", [list(tokens) for tokens in TOY_CLASSES])
    for split in TOY_PEOPLE:
        _write_json(root / f"Diving48_V2_{split}.json", [
            {"vid_name": name, "label": label, "start_frame": 0, "end_frame": settings["frames"]}
            for part, name, label, _ in plan if part == split])
    _run_workers(root, min(workers or os.cpu_count() or 1, len(plan)), len(plan), progress)
    _write_json(note, {"hash": digest, "complete": True, "settings": settings})
    return time.time() - begun


def _run_workers(root, shares, total, progress):
    """Start the worker processes and report clips, rate and time left until all have ended."""
    here = Path(__file__).resolve()
    code = (f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem} as toy; "
            f"toy.toy_worker({str(root)!r}, int(sys.argv[1]), {shares})")
    begun, done, told = time.time(), 0, time.time()
    source, sink = os.pipe()
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(k)], stdout=sink, env={**os.environ, "OMP_NUM_THREADS": "1"})
            for k in range(shares)]
    os.close(sink)
    try:
        while dots := os.read(source, 4096):
            done += len(dots)
            if time.time() - told > 5 or done == total:
                told, rate = time.time(), done / (time.time() - begun)
                progress(f"toy benchmark: {done}/{total} clips, {rate:.0f}/s, {(total - done) / rate:.0f} s left")
    finally:
        os.close(source)
        for job in jobs:
            job.terminate() if done < total else job.wait()
    if done < total:
        raise RuntimeError(f"making the toy benchmark stopped at clip {done} of {total}. Expected every worker to end well; "
                           "its message is above. Run the command again: finished clips are kept.")
