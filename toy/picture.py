"""What a camera sees of a dive: one frame, drawn from far to near.

A frame is drawn twice as large and then reduced, which smooths the edges. But for the sky and the
veil of the water everything is a polygon, an ellipse or a line of one colour; a body looks round
because each of its parts is drawn dark first, and then lighter and smaller on the side of the
light.

here      | what it is                            | tests/test_toy.py
Picture   | the drawing of a dive at one instant  | test_joints_lie_*, test_the_apparatus_*
toy_frame | the frame as an array                 | test_the_apparatus_*

The order from far to near: sky, clutter, apparatus, water, body, and what is before the body: the
water above it and the splash.

Coordinates: `place` takes the world of toy/divers.py (body heights, y up) to pixels of the enlarged
picture (y down). `box` and `bar` take points of the world, all other shapes such pixels; `unit` is
how many of them make a body height.
"""
import functools
import math
from typing import Any, Callable, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from toy.divers import (
    ANKLES,
    BROW,
    DISTANCE,
    ELBOWS,
    FINGERS,
    GRAVITY,
    HEIGHT,
    HIPS,
    KNEES,
    NOSE,
    SHOULDERS,
    SKINS,
    SKULL,
    TOES,
    WIDTH,
    WRISTS,
)

SS = 2             # supersampling: how much larger a picture is drawn
W = SS * WIDTH     # pixels of the drawing
H = SS * HEIGHT


class Limb(NamedTuple):
    """A bone with flesh: points at either end, left and right, and radii there in body heights."""
    start: slice
    end: slice
    start_radius: float
    end_radius: float


LIMBS = (
    Limb(SHOULDERS, ELBOWS, start_radius=.042, end_radius=.034),
    Limb(ELBOWS, WRISTS, start_radius=.034, end_radius=.027),
    Limb(WRISTS, FINGERS, start_radius=.028, end_radius=.016),
    Limb(HIPS, KNEES, start_radius=.066, end_radius=.050),
    Limb(KNEES, ANKLES, start_radius=.050, end_radius=.033),
    Limb(ANKLES, TOES, start_radius=.033, end_radius=.018),
)

# Corners of a box are numbered 0 to 7 as x, y, z count in binary, 0 low and 1 high: 0 is (low, low,
# low), 1 is (low, low, high). For each axis the corners of the face at its low and at its high end.
FACES = (
    ((0, 1, 3, 2), (4, 5, 7, 6)),
    ((0, 1, 5, 4), (2, 3, 7, 6)),
    ((0, 2, 6, 4), (1, 3, 7, 5)),
)


class Part(NamedTuple):
    """A part of the body that waits to be drawn: the method that does it, and what it takes."""
    depth: float       # twice the mean z of its points, which grows towards the viewer
    draw: Callable
    arguments: Any     # a tuple


@functools.lru_cache(1024)    # a clip has some 60 shades, and each frame asks for them again
def shade(rgb, gain=1.0):
    """A colour, made lighter or darker, as Pillow takes it: a tuple of integers up to 255.

    rgb: a tuple of numbers, 0 to 255 or, in bright light, a little more.
    """
    return tuple(min(int(channel * gain), 255) for channel in rgb)


def dot(u, v):
    """Scalar product of two triples."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def between(a, b, share):
    """The point (x, y) on the way from a to b: a at share 0, b at share 1."""
    x = a[0] + (b[0] - a[0]) * share
    y = a[1] + (b[1] - a[1]) * share
    return (x, y)


def direction(a, b):
    """The unit vector (x, y) from a to b."""
    dx = b[0] - a[0]
    dy = b[1] - a[1]
    length = math.hypot(dx, dy) + 1e-6                 # a and b may be the same
    return (dx / length, dy / length)


def spectator_points(clutter):
    """The 17 joints of a spectator who looks at us, (17, 2) in body heights of the diver, y down.

    (0, 0) is between the shoulders. One arm hangs; the other is up or stretched to the side.
    """
    points = np.array([
        (0, -.10),
        (.015, -.115), (-.015, -.115),
        (.03, -.11), (-.03, -.11),
        (.05, 0), (-.05, 0),                           # shoulders: left is to our right
        (.07, .08), (-.11, .01),
        (.07, .16), (-.19, .02),
        (.03, .15), (-.03, .15),
        (.045, .25), (-.05, .25),
        (.05, .34), (-.06, .34),
    ])
    if clutter.height > .2:
        points[ELBOWS.start + 1] = (-.09, -.08)
        points[WRISTS.start + 1] = (-.12, -.17)
    return points


class Picture:
    """What a camera sees of a dive at one instant, drawn SS times as large.

    dive: a Dive. t: seconds of its clock. centre: what the camera aims at, a row (3,) of what
    Dive.seen gives. `paint` draws all of it; `place` is of use without a drawing as well, to ask
    what is inside the picture (toy/captions.py).
    """

    def __init__(self, dive, t, centre):
        self.dive = dive
        self.t = t
        self.centre = centre.tolist()
        self.view = dive.view.tolist()
        self.unit = dive.zoom * SS                     # pixels of the drawing per body height

    def paint(self, points):
        """The picture, an Image of W x H, of the body at points (23, 3) of Dive.seen."""
        dive = self.dive
        surface = self.place(self.centre[0], -dive.height, 0)[1]

        # A sky that is lighter above, in 64 bands; it darkens as the camera rises.
        glow = np.linspace(1.12, .72, 64)[:, None] - .06 * self.centre[1]
        sky = np.minimum(glow * dive.sky_rgb, 255).astype(np.uint8)[:, None]       # (64, 1, 3)
        self.image = Image.fromarray(sky).resize((W, H), Image.NEAREST)
        self.draw = ImageDraw.Draw(self.image)

        self.clutter()
        if dive.apparatus == "Platform":
            self.platform()
        else:
            self.springboard()

        if surface < H:
            self.water(surface)
        self.body(points)
        if surface < H:
            self.veil(surface)
            self.splash(self.t - dive.t_off - dive.t_air - .05)
        return self.image

    # --------------------------------------------------------------------------- basic shapes

    def place(self, x, y, z):
        """Dive.project for one point of the world, without arrays: x and y in enlarged pixels."""
        right, up, nearer = self.view
        offset = (
            x - self.centre[0],
            y - self.centre[1],
            z - self.centre[2],
        )
        depth = dot(nearer, offset)
        scale = self.unit / (1 - depth / DISTANCE)     # what is nearer is larger
        across = W / 2 + scale * dot(right, offset)
        down = H / 2 - scale * dot(up, offset)
        return across, down

    def disc(self, x, y, rx, ry, ink):
        """An ellipse about (x, y) with the radii rx and ry."""
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), ink)

    def bar(self, a, b, width, rgb):
        """A line between two points (x, y, z) of the world, `width` pixels wide at any distance."""
        self.draw.line(self.place(*a) + self.place(*b), shade(rgb), width)

    def capsule(self, a, b, ra, rb, ink):
        """A limb from a to b (x, y) with round ends of radius ra and rb, in pixels: one polygon.

        One polygon tapers, which a wide line with two circles cannot.
        """
        ax, ay = a
        bx, by = b
        length = math.hypot(bx - ax, by - ay) + 1e-6   # a and b may be the same
        dx = (bx - ax) / length
        dy = (by - ay) / length

        # Five directions make half a circle about b, from one side through ahead to the other: two
        # of them slanted, .71 = sqrt(1 / 2). The other way they make half a circle about a.
        ux = .71 * (dx - dy)
        uy = .71 * (dx + dy)
        arc = ((-dy, dx), (ux, uy), (dx, dy), (uy, -ux), (dy, -dx))
        outline = [(bx + x * rb, by + y * rb) for x, y in arc]
        outline += [(ax - x * ra, ay - y * ra) for x, y in arc]
        self.draw.polygon(outline, ink)

    def box(self, low, high, rgb):
        """A solid with the corners low and high (x, y, z): its visible faces, each in its shade.

        A box is convex, so that its visible faces never hide each other, and their order is free.
        """
        corners = []
        for x in (low[0], high[0]):
            for y in (low[1], high[1]):
                for z in (low[2], high[2]):
                    corners.append(self.place(x, y, z))

        # Of each pair of faces the one that looks towards the viewer is drawn. Tops are in the
        # light, undersides in the dark.
        towards = self.view[2]
        top = 1.22 if towards[1] > 0 else .6
        gains = (.72, top, 1.0)
        for axis, (low_face, high_face) in enumerate(FACES):
            face = high_face if towards[axis] > 0 else low_face
            self.draw.polygon([corners[i] for i in face], shade(rgb, gains[axis]))

    # ------------------------------------------------------------------------ what stands behind

    def clutter(self):
        """Shapes, things and spectators behind the diver, each at its own distance (parallax)."""
        centre = np.array(self.centre)
        for clutter in self.dive.clutter:
            x, y = (SS * self.dive.behind(clutter, centre)).tolist()
            w = self.unit * clutter.width
            h = self.unit * clutter.height

            margin = self.unit / 2                     # a spectator's legs are longer than h
            inside = -w - margin < x < W + w + margin and -h - margin < y < H + h + margin
            if not inside:
                continue
            if clutter.shape == "spectator":
                self.spectator(clutter, x, y)
            elif clutter.thing:
                self.thing(clutter.thing, (x, y), (0, -1))
            else:
                self.shape(clutter, x, y, w, h)

    def shape(self, clutter, x, y, w, h):
        """A plain shape about (x, y), w wide and h high in pixels to either side."""
        ink = shade(clutter.rgb)
        frame = (x - w, y - h, x + w, y + h)
        if clutter.shape == "rectangle":
            self.draw.rectangle(frame, ink)
        elif clutter.shape == "ellipse":
            self.draw.ellipse(frame, ink)
        elif clutter.shape == "stripes":
            for k in range(-6, 6, 3):
                level = y + k * SS
                self.draw.line((x - w, level, x + w, level), ink, SS)
        elif clutter.shape == "band":                  # a slanted one
            left = x - w * 1.5
            right = x + w * 1.5
            top = y - h * 2
            foot = y + h * 2
            corners = (left, top, left + 4, top, right, foot, right - 4, foot)
            self.draw.polygon(corners, ink)
        else:                                          # a triangle
            self.draw.polygon((x, y - h, x + w, y + h, x - w, y + h), ink)

    def spectator(self, clutter, x, y):
        """A person whose shoulders are at (x, y), with something in the hand.

        They make sure that not everything with arms and a head is the diver.
        """
        ink = shade(clutter.rgb)
        skin = shade(SKINS[int(100 * clutter.width) % 6], .9)      # the width is as good as a draw
        points = np.array([x, y]) + self.unit * spectator_points(clutter)  # (17, 2)
        q = [tuple(point) for point in points.tolist()]
        r = .05 * self.unit

        # Legs, arms, trunk, and a head without a face.
        for limb in (HIPS, KNEES, SHOULDERS, ELBOWS):
            for start in range(limb.start, limb.stop):
                self.draw.line(q[start] + q[start + 2], skin, 4)
        self.capsule((x, y), between(*q[HIPS], .5), ra=r * 1.1, rb=r, ink=ink)
        self.disc(*q[NOSE], rx=r * .9, ry=r * .9, ink=skin)
        self.thing(clutter.thing, q[WRISTS][1], (0, -1))

    def thing(self, name, place, along):
        """One of THINGS about `place` (x, y). along: unit vector (x, y), where it points to.

        Each has an outline, or it would be lost before a hall of its colour.
        """
        x, y = place
        dx, dy = along
        u = self.unit
        rgb = self.dive.inks[name]
        ink = shade(rgb)
        dark = shade(rgb, .35)

        if name == "Balls":
            self.disc(x, y, rx=.1 * u, ry=.1 * u, ink=dark)
            self.disc(x, y, rx=.085 * u, ry=.085 * u, ink=ink)
            self.disc(x, y - .03 * u, rx=.035 * u, ry=.025 * u, ink=shade(rgb, 1.3))
        elif name == "Hoops":
            for radius, width, colour in ((.13, .055, dark), (.12, .035, ink)):
                frame = (x - radius * u, y - radius * u, x + radius * u, y + radius * u)
                self.draw.ellipse(frame, outline=colour, width=round(width * u))
        elif name == "Ribbons":
            # A zigzag that swings further out the farther it is from the hand.
            knots = []
            for k in range(6):
                out = (.07 * k - .08) * u
                side = (-1) ** k * (.04 + .012 * k) * u
                knots.append((x + dx * out - dy * side, y + dy * out + dx * side))
            self.draw.line(knots, dark, round(.06 * u))
            self.draw.line(knots, ink, round(.035 * u))
        else:                                          # a club: a stick that ends in a bulb
            ends = ((x - .05 * dx * u, y - .05 * dy * u), (x + .13 * dx * u, y + .13 * dy * u))
            self.capsule(*ends, ra=.03 * u, rb=.075 * u, ink=dark)
            self.capsule(*ends, ra=.018 * u, rb=.06 * u, ink=ink)

    def platform(self):
        """A thick slab with railings, on a tower that goes down into the water.

        Thickness, railings and tower tell it from a springboard in a single frame.
        """
        shape = self.dive.board
        post = self.dive.post_rgb
        thick = .20 + .12 * shape.thickness
        wide = .30 + .15 * shape.width                 # half of it
        long = 1.7 + .8 * shape.length
        tower_end = -.75 - .4 * shape.support

        self.box(
            low=(-long - .3, -5, -wide * .6),
            high=(tower_end, -thick, wide * .6),
            rgb=post,
        )
        self.box(
            low=(-long, -thick, -wide),
            high=(.05, 0, wide),
            rgb=self.dive.board_rgb,
        )

        # A railing on either side: four posts at equal distances, and two bars.
        edge = -.42 - .3 * shape.rail_end
        high = .42 + .12 * shape.rail_height
        for z in (-wide, wide):
            for x in (edge, (2 * edge - long) / 3, (edge - 2 * long) / 3, -long):
                self.bar((x, 0, z), (x, high, z), width=3, rgb=post)
            for y in (high, high * .55):
                self.bar((edge, y, z), (-long, y, z), width=3, rgb=post)

    def springboard(self):
        """A thin plank on a fulcrum; beyond it, it bends before the take-off and swings after.

        The feet do not follow it: a body moves alike on both apparatuses.
        """
        shape = self.dive.board
        post = self.dive.post_rgb
        since = self.t - self.dive.t_off
        thick = .035 + .02 * shape.thickness
        wide = .15 + .05 * shape.width                 # half of it
        long = 1.8 + .6 * shape.length
        pin = -.62 - .3 * shape.support                # x of the fulcrum

        # How far the tip is above its place of rest. It is pressed down about .1 s before the
        # take-off and then oscillates, less and less.
        if since > 0:
            swing = .10 * math.exp(-since / .3) * math.cos(25 * since)
        else:
            swing = -.04 * max(1 - abs(since + .1) / .15, 0)

        # Two legs from the fulcrum, spread like an A, and one from the far end, on either side.
        legs = (
            (pin, pin - .2),                           # x at the top and at the foot
            (pin, pin + .14),
            (-long, -long),
        )
        for z in (-wide, wide):
            for top, foot in legs:
                self.bar((top, -thick - .03, z), (foot, -.62, z), width=4, rgb=post)

        self.box(
            low=(-long - .1, -.70, -wide * 1.1),
            high=(pin + .25, -.60, wide * 1.1),
            rgb=post,
        )
        self.box(
            low=(pin - .07, -.12 - thick, -wide),
            high=(pin + .07, -thick, wide),
            rgb=post,
        )

        # The plank: one straight box up to the fulcrum, then five steps of a parabola.
        curve = [(-long, 0)]
        for k in range(6):
            x = pin + (.06 - pin) * k / 5              # from the fulcrum to the tip, at .06
            y = swing * (k / 5) ** 2
            curve.append((x, y))
        for (x0, y0), (x1, y1) in zip(curve, curve[1:]):
            self.box(
                low=(x0, y0 - thick, -wide),
                high=(x1, y1, wide),
                rgb=self.dive.board_rgb,
            )

    # ---------------------------------------------------------------------------------- the body

    def body(self, points):
        """Limbs, trunk and head at the points (23, 3), far to near; each dark, then lit.

        Whole parts are sorted by their middles: of two that cross each other, one covers the other.
        """
        q = (points[:, :2] * SS).tolist()              # 23 points (x, y) in enlarged pixels
        depth = points[:, 2].tolist()
        girth = self.dive.size.girth

        parts = []
        for k in (0, 1):                               # left, right
            for limb in LIMBS:
                parts.append(Part(
                    depth=depth[limb.start][k] + depth[limb.end][k],
                    draw=self.limb,
                    arguments=(
                        q[limb.start][k],
                        q[limb.end][k],
                        limb.start_radius * girth * self.unit,
                        limb.end_radius * girth * self.unit,
                    ),
                ))
        for k in (0, 1):
            hand = between(q[WRISTS][k], q[FINGERS][k], .5)
            parts.append(Part(
                depth=2 * depth[WRISTS][k] + .1,       # before the hand that holds it
                draw=self.thing,
                arguments=(self.dive.thing, hand, direction(q[WRISTS][k], q[FINGERS][k])),
            ))
        parts.append(Part(
            depth=sum(depth[SHOULDERS] + depth[HIPS]) / 2,
            draw=self.trunk,
            arguments=(q, self.unit * girth),
        ))
        parts.append(Part(
            depth=2 * depth[SKULL],
            draw=self.head,
            arguments=(q[SKULL], (points[BROW] - points[SKULL]).tolist()),
        ))

        for part in sorted(parts, key=depth_of):
            part.draw(*part.arguments)

    def limb(self, a, b, ra, rb):
        """A bone of an arm or a leg from a to b (x, y), with radii ra and rb in pixels.

        Arms and legs are bare in any suit; their ends lie on the points that a pose clip records.
        """
        skin = self.dive.skin
        self.capsule(a, b, ra=ra, rb=rb, ink=shade(skin, .62))

        # The lit side is the limb again, thinner and shifted towards the light.
        light_x, light_y = self.dive.light
        dx = light_x * .22 * ra
        dy = light_y * .22 * ra
        self.capsule(
            (a[0] + dx, a[1] + dy),
            (b[0] + dx, b[1] + dy),
            ra=ra * .78,
            rb=rb * .78,
            ink=shade(skin, .92),
        )

        # A streak of light twice as far out, where there is room for it.
        if ra > 2.5:
            start = (a[0] + 2 * dx, a[1] + 2 * dy)
            end = (b[0] + 2 * dx, b[1] + 2 * dy)
            self.draw.line(start + end, shade(skin, 1.12), int(ra * .6))

    def head(self, skull, gaze):
        """The cap, and the face unless it looks away.

        skull: (x, y) in enlarged pixels. gaze: from the skull to the brow, which is one body height
        long: x and y in pixels of the frame, z towards the viewer in body heights.
        """
        dive = self.dive
        x, y = skull
        r = .074 * self.unit * dive.size.head
        self.disc(x, y, rx=r, ry=r, ink=shade(dive.cap_rgb, .7))
        self.disc(
            x + dive.light[0] * r * .2,
            y - r * .15,
            rx=r * .8,
            ry=r * .75,
            ink=shade(dive.cap_rgb),
        )

        # The face is a disc on the side of the gaze, at the middle of a head that looks at us. It
        # is out of sight where the head looks away by more than 30 degrees.
        if gaze[2] > -.5:
            x = x + gaze[0] / dive.zoom * r * .42
            y = y + gaze[1] / dive.zoom * r * .42
            self.disc(x, y, rx=r * .66, ry=r * .66, ink=shade(dive.skin, .95))

    def trunk(self, q, unit):
        """Neck and trunk: in a suit, or bare with trunks.

        q: the points of the body. unit: pixels of a body height, times the diver's girth.
        """
        dive = self.dive
        neck = between(*q[SHOULDERS], .5)
        self.capsule(
            neck,
            q[SKULL],
            ra=.035 * unit,
            rb=.03 * unit,
            ink=shade(dive.skin, .75),
        )

        if not dive.trunks:
            self.torso(q, neck, unit, rgb=dive.suit_rgb, top=0)
            return

        # Trunks begin .45 of the way from the shoulders to the hips and cover a bit of the thighs.
        self.torso(q, neck, unit, rgb=dive.skin, top=0)
        self.torso(q, neck, unit, rgb=dive.suit_rgb, top=.45)
        for hip, knee in zip(q[HIPS], q[KNEES]):
            thigh = between(hip, knee, .22)
            self.capsule(
                hip,
                thigh,
                ra=.062 * unit,
                rb=.055 * unit,
                ink=shade(dive.suit_rgb, .85),
            )

    def torso(self, q, neck, unit, rgb, top):
        """The trunk in one colour, from `top` (0 the shoulders, 1 the hips) down to the hips."""
        light_x, light_y = self.dive.light
        upper = []
        for shoulder, hip in zip(q[SHOULDERS], q[HIPS]):
            inside = between(neck, shoulder, .75)      # of the shoulder's joint
            upper.append(between(inside, hip, top))
        left_hip, right_hip = q[HIPS]
        corners = (*upper, right_hip, left_hip)

        # Size, brightness, and shift towards the light: the dark whole, the lit side, a streak.
        for size, gain, shift in ((1.0, .62, 0), (.76, .95, .012), (.32, 1.14, .024)):
            ink = shade(rgb, gain)
            r = .059 * unit * size
            left, right, right_end, left_end = (
                (x + light_x * shift * unit, y + light_y * shift * unit) for x, y in corners)

            if size < .5:                              # the streak runs down the middle
                start = between(left, right, .5)
                end = between(left_end, right_end, .5)
                self.capsule(start, end, ra=r, rb=r, ink=ink)
            else:
                self.draw.polygon((left, right, right_end, left_end), ink)
                self.capsule(left, left_end, ra=r, rb=r, ink=ink)
                self.capsule(right, right_end, ra=r, rb=r, ink=ink)

    # --------------------------------------------------------------------------------- the water

    def water(self, surface):
        """Water from the height `surface` (pixels) down, in eight bands, darker with depth."""
        for k in range(8):
            top = max(surface, 0) * (8 - k) / 8 + H * k / 8
            self.draw.rectangle((0, top, W, H), shade(self.dive.water_rgb, 1.05 - .05 * k))

    def veil(self, surface):
        """Water before the diver: its edge, and 38 % of its colour on all that is below."""
        rgb = self.dive.water_rgb
        self.draw.line((0, surface, W, surface), shade(rgb, 1.4), SS)

        top = max(int(surface) + 1, 0)
        under = self.image.crop((0, top, W, H))
        colour = Image.new("RGB", under.size, shade(rgb))
        veiled = Image.blend(under, colour, .38)
        self.image.paste(veiled, (0, H - under.height))

    def splash(self, since):
        """Foam and drops, thrown up where the hands went in, `since` seconds ago.

        Below 0 they have not, and after three quarters of a second the water is calm again.
        """
        if not 0 < since < .75:
            return

        dive = self.dive
        grow = min(since / .12, 1) * (1 - since / .8)  # the drops' size: up fast, then down
        fall = GRAVITY * since ** 2 / 2
        middle = dive.com0[0] + dive.vx * dive.t_air + .04

        # Of the four numbers of a drop: to the side, upward speed, depth and brightness, size.
        for a, b, c, d in dive.drops:
            x = middle + (a - .5) * (.5 + 1.5 * since)
            y = (.4 + 1.9 * b) * since - fall
            if y > -.06:                               # else it is back in the water
                r = SS * (.7 + 2.2 * d) * (.35 + .65 * grow)
                grey = int(225 + 30 * c)
                x, y = self.place(x, y - dive.height, (c - .5) * .3)
                self.disc(x, y, rx=r, ry=r, ink=(grey, grey, 255))

        # Foam: a flat ellipse on the water that grows to the sides.
        x, y = self.place(middle, -dive.height, 0)
        self.disc(
            x,
            y,
            rx=self.unit * (.12 + .4 * since),
            ry=SS * 1.6,
            ink=(238, 246, 255),
        )


def depth_of(part):
    """The key by which parts of a body are sorted."""
    return part.depth


def toy_frame(dive, t, centre, points):
    """The picture at time t as an array, (96, 128, 3) uint8 RGB.

    centre (3,) and points (23, 3) are the row of Dive.seen for this time.
    """
    large = Picture(dive, t, centre).paint(points)
    return np.asarray(large.reduce(SS))            # means of SS x SS pixels
