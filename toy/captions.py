"""Captioned stills: single pictures of divers, what is true of them, and how people would say it.

The tiny CLIP of the toy world learns from them what CLIP learnt from the web: which words go with
which picture. A still is a frame of a performance that is in no clip: the benchmark stays unseen.

here           | what it is                                              | tests/test_toy.py
toy_still      | a picture and its attributes, from one integer          | test_what_a_still_shows_*
toy_parts      | where parts of the body are in the picture              | test_parts_*
toy_vector     | the attributes as numbers                               | test_captions_*
toy_captions   | a caption, and which attributes it mentions             | test_captions_*
toy_paraphrase | facts of a label in two wordings, without a picture     | test_paraphrases_*
TOY_PHRASES    | all attributes, their values and the ways to say them   | test_captions_*

An attribute whose value is "" cannot be told from the picture, and no caption mentions it.
"""
import numpy as np

from toy.divers import (
    BROW,
    COLOURS,
    ELBOWS,
    FINGERS,
    HEIGHT,
    HIPS,
    SHOULDERS,
    SKULL,
    STILL,
    STILLS,
    WIDTH,
    WRISTS,
    Dive,
    generator,
)
from toy.picture import SS, H, W, Picture, toy_frame

# Seeds of stills from here on are for evaluation alone; `toy_still` treats them like the others.
TOY_HELD_OUT_STILLS = 1 << 30


def same_for_all(words, *patterns):
    """Each word -> its phrases: the patterns with the word at {}.

    >>> same_for_all(("red",), "{} suit", "dressed in {}")
    {'red': ('red suit', 'dressed in red')}
    """
    phrases = {}
    for word in words:
        phrases[word] = tuple(pattern.format(word) for pattern in patterns)
    return phrases


# Attribute -> value -> ways to say it. The first way is a label's own. The first five attributes
# are those that a label is made of, in its order.
TOY_PHRASES = {
    "takeoff": same_for_all(
        ("forward", "back", "reverse", "inward"), "{}", "{} take-off", "{} start"),
    "somersaults": {
        "0.5": ("dive", "half a somersault"),
        "1.5": ("1.5 somersaults",),
    },
    "twists": {
        "0": ("no twist", "without twist"),
        "1": ("1 twist", "one twist"),
        "1.5": ("1.5 twists",),
    },
    "position": {
        "tuck": ("tuck position", "tuck", "a tucked diver", "knees held to the chest"),
        "pike": ("pike position", "pike", "a piked diver", "bent hips and straight legs"),
        "free": ("free position", "free", "a straight diver", "a long body"),
    },
    "thing": same_for_all(
        ("balls", "hoops", "ribbons", "clubs"), "{}", "holding {}", "{} in the hands"),
    "facing": {
        "water": ("facing the water", "looking at the water"),
        "board": ("facing the board", "back to the water"),
    },
    "apparatus": {
        "springboard": ("a springboard", "a thin springboard", "springboard in sight"),
        "platform": ("a platform", "a thick platform", "platform in sight"),
        "none": ("nothing to jump from", "no board in sight"),
    },
    "stage": {
        "board": ("before the jump", "waiting to jump"),
        "leaving": ("taking off", "leaving the board"),
        "flight": ("in flight", "high in the air"),
        "entry": ("entering the water", "the entry"),
    },
    "head": {
        "up": ("head up", "upright"),
        "down": ("head down", "upside down"),
        "level": ("level", "lying flat"),
    },
    "arms": {
        "up": ("arms up", "arms over the head"),
        "down": ("arms down", "arms at the sides"),
    },
    "gaze": {
        "up": ("looking up", "face up"),
        "down": ("looking down", "face down"),
    },
    "scene": same_for_all(COLOURS, "{} background", "{} behind the diver", "a {} hall"),
    "water": {
        "water": ("water in sight", "the water"),
        "dry": ("no water in sight", "no water"),
    },
}
LABEL = tuple(TOY_PHRASES)[:5]

# Attribute -> its values as `toy_vector` numbers them; 0 is "", what cannot be told.
TOY_ATTRIBUTES = {name: ("", *values) for name, values in TOY_PHRASES.items()}

# What may stand before and after the phrases of a caption. The empty one twice is twice as likely.
HEADS = (
    "",
    "",
    "a diver, ",
    "a photo of a diver, ",
    "a video of a diver, ",
    "a picture of diving, ",
)
TAILS = ("", ", a video of action", ", a video of diving action", ", diving")

# Every phrase, and every word that a caption may hold, which the tiny CLIP's folded vocabulary must
# keep apart (clip_model.py).
WAYS = [
    way
    for values in TOY_PHRASES.values()
    for ways in values.values()
    for way in ways
]
TOY_WORDS = tuple(sorted(set(" ".join((*HEADS, *TAILS, *WAYS)).replace(",", " ").split())))

# How often captions speak of an attribute: most of what a label names and a still can show.
EMPHASIS = {
    "takeoff": .3,
    "somersaults": .2,
    "twists": .2,
    "position": 8,
    "thing": 8,
    "facing": 4,
    "apparatus": 2,
    "stage": 3,
    "head": 3,
    "arms": 1,
    "gaze": 2,
    "scene": .5,
    "water": 1,
}

# The dives that stills are taken of: compositions in the manner of TOY_CLASSES, five of which
# the benchmark has as well. CLIP is to learn the words and what they look like, not the classes.
STILL_DIVES = (
    ("Forward", "15som", "NoTwis", "PIKE", "Balls"),
    ("Forward", "15som", "NoTwis", "PIKE", "Hoops"),
    ("Back", "15som", "NoTwis", "TUCK", "Ribbons"),
    ("Back", "15som", "NoTwis", "TUCK", "Clubs"),
    ("Reverse", "15som", "NoTwis", "TUCK", "Hoops"),
    ("Reverse", "15som", "NoTwis", "TUCK", "Clubs"),
    ("Inward", "15som", "NoTwis", "PIKE", "Ribbons"),
    ("Inward", "15som", "NoTwis", "PIKE", "Balls"),
    ("Forward", "Dive", "NoTwis", "TUCK", "Ribbons"),
    ("Forward", "15som", "1Twis", "FREE", "Clubs"),
    ("Back", "Dive", "NoTwis", "PIKE", "Hoops"),
    ("Back", "15som", "15Twis", "FREE", "Balls"),
    ("Reverse", "Dive", "NoTwis", "PIKE", "Clubs"),
    ("Reverse", "15som", "1Twis", "FREE", "Balls"),
    ("Inward", "Dive", "NoTwis", "TUCK", "Hoops"),
    ("Inward", "15som", "15Twis", "FREE", "Ribbons"),
)

# What a part of a picture may show: parts of the body by the points at both ends of their bones,
# and what is in the hands.
BONES = {
    "head": ((0, 21),),
    "trunk": ((5, 11), (6, 12), (5, 12)),
    "arm": ((5, 7), (6, 8)),
    "forearm": ((7, 9), (8, 10)),
    "thigh": ((11, 13), (12, 14)),
    "shin": ((13, 15), (14, 16)),
    "foot": ((15, 17), (16, 18)),
}
PARTS = (*BONES, *TOY_PHRASES["thing"])

# ---------------------------------------------------------------------------- what a picture shows


def toy_still(seed):
    """A frame of a performance that is in no clip.

    seed: an integer; from TOY_HELD_OUT_STILLS on they are for evaluation. Two in five stills show
    the start, two in five the held position, one any time from the take-off on. The halls are
    empty: what there is of balls, hoops, ribbons and clubs is in the diver's hands.

    Returns the picture (96, 128, 3) uint8; its attributes, name -> value of TOY_ATTRIBUTES; the
    diver's points (23, 2) in pixels; and what is held, whether or not it is in sight.
    """
    rng = generator(STILL, seed)
    person = STILLS + seed            # a new diver, scene and camera for each still
    dive = Dive(
        words=STILL_DIVES[rng.integers(len(STILL_DIVES))],
        seed=(STILL, seed),
        diver=person,
        scene=person,
        camera=person,
        crowded=False,
    )

    start = (0, dive.t_off + .22)
    fall = (dive.t_off, 1.95)
    span = (start, start, dive.hold, dive.hold, fall)[rng.integers(5)]
    t = rng.uniform(span[0], span[1])

    centres, points = dive.seen(np.array([t]))         # (1, 3), (1, 23, 3)
    picture = toy_frame(dive, t, centres[0], points[0])
    attributes = read_attributes(dive, t, centres[0], points[0])
    return picture, attributes, points[0, :, :2], dive.thing.lower()


def read_attributes(dive, t, centre, points):
    """What is true of the frame at time t and visible in it: name -> value of TOY_ATTRIBUTES.

    centre (3,) and points (23, 3) are the row of Dive.seen for this time. Take-off, somersaults and
    twists are the label's: a still only hints at them.
    """
    joints = dive.joints(np.array([t]))[0]             # (23, 3)
    stage = read_stage(dive, t, joints)
    facing = "water" if dive.faces == 1 else "board"
    return {
        "takeoff": dive.takeoff.lower(),
        "somersaults": f"{dive.somersaults:g}",
        "twists": f"{abs(dive.twists):g}",
        "position": dive.position.lower() if stage == "flight" else "",
        "thing": read_thing(dive, stage, points),
        "facing": facing if stage == "board" else "",
        "apparatus": read_apparatus(dive, t, centre),
        "stage": stage,
        **read_body(joints),
        "scene": dive.sky if stage != "entry" else "",         # water may cover it
        "water": read_water(dive, centre),
    }


def read_stage(dive, t, joints):
    """The stage of the dive; "" between two of them, where people would disagree."""
    since = t - dive.t_off
    if (joints[:17, 1] < -dive.height).any():          # a joint of the pose clip is under water
        return "entry"
    if t < dive.t_off - .06:
        return "board"
    if .03 < since < .12:
        return "leaving"
    if dive.hold[0] < t < dive.hold[1]:
        return "flight"
    return ""


def read_body(joints):
    """Where the head points, where the arms are and where the face looks, from joints (23, 3).

    "" for what lies between. Angles are compared through their cosines: .85 is 32 degrees from the
    axis.
    """
    spine = joints[SHOULDERS].mean(0) - joints[HIPS].mean(0)
    length = np.linalg.norm(spine)
    cos = spine[1] / length                            # with the vertical
    head = ""
    if cos > .85:
        head = "up"
    elif cos < -.85:
        head = "down"
    elif abs(cos) < .4:
        head = "level"

    upper_arms = joints[ELBOWS] - joints[SHOULDERS]                        # (2, 3)
    reach = upper_arms @ spine / np.linalg.norm(upper_arms, axis=1) / length
    arms = ""
    if min(reach) > .85:
        arms = "up"
    elif max(reach) < -.85:
        arms = "down"

    ahead = (joints[BROW] - joints[SKULL])[1]          # of one body height
    gaze = ""
    if ahead > .7:
        gaze = "up"
    elif ahead < -.7:
        gaze = "down"
    return {"head": head, "arms": arms, "gaze": gaze}


def read_thing(dive, stage, points):
    """What is held, where both hands are above the water and well inside the picture, else "".

    The margins, 24 pixels at the sides and 8 above and below, leave room for the trainer's crop.
    """
    if stage == "entry":
        return ""
    for x, y in (points[WRISTS, :2] + points[FINGERS, :2]) / 2:
        if not (24 < x < WIDTH - 24 and 8 < y < HEIGHT - 8):
            return ""
    return dive.thing.lower()


def read_water(dive, centre):
    """Whether the water's surface is clearly inside the picture or clearly below it, else ""."""
    surface = dive.project(np.array([0, -dive.height, 0]), centre)[1]
    if surface < HEIGHT - 12:
        return "water"
    if surface > HEIGHT + 2:
        return "dry"
    return ""


def read_apparatus(dive, t, centre):
    """The apparatus where its end is well inside the picture, "none" where no part is, "" between.

    The margins, 24 pixels at the sides, 8 above, 12 below, leave room for the trainer's crop.
    """
    place = Picture(dive, t, centre).place

    # Three of five points along the end of the board are enough to recognise it.
    inside = 0
    for board_x in (-.9, -.7, -.5, -.3, -.1):
        x, y = place(board_x, -.02, 0)
        if 24 * SS < x < W - 24 * SS and 8 * SS < y < H - 12 * SS:
            inside += 1
    if inside >= 3:
        return dive.apparatus.lower()

    # Railings, the board and what carries it, from the far end to a quarter of a body past the tip.
    parts = []
    for quarter in range(-11, 2):
        for y in (.5, 0, -.35, -.75):
            parts.append(place(quarter / 4, y, 0))
    if dive.apparatus == "Platform":
        for x in (-.5, -1.2, -2, -2.8):                # its tower
            for half in range(2, 9):
                parts.append(place(x, -half / 2, 0))

    for x, y in parts:
        if -12 < x < W + 12 and -12 < y < H + 12:
            return ""
    return "none"


def toy_parts(points, thing):
    """Where the parts of a body are: points along its bones.

    points: (23, 2). thing: what is held, a value of TOY_PHRASES["thing"].

    Returns places (n, 2), in the units of `points`, and n numbers of PARTS.
    """
    places = []
    numbers = []
    for number, bones in enumerate(BONES.values()):
        for start, end in bones:
            for share in (0, .33, .67, 1):
                places.append(points[start] + (points[end] - points[start]) * share)
                numbers.append(number)

    held = PARTS.index(thing)
    for wrist, finger in zip(points[WRISTS], points[FINGERS]):
        places.append((wrist + finger) / 2)
        numbers.append(held)
    return np.array(places), np.array(numbers)


def toy_vector(attributes):
    """Attributes -> (A,) int64, positions in TOY_ATTRIBUTES; 0 = cannot be told."""
    numbers = []
    for name, values in TOY_ATTRIBUTES.items():
        numbers.append(values.index(attributes[name]))
    return np.array(numbers)


# ------------------------------------------------------------------------------- what is said of it


def toy_captions(attributes, rng):
    """A caption of a random part of what is known of a picture.

    attributes: from `toy_still`. rng: a numpy Generator, which moves on. 3 in 20 captions are
    worded as labels are, because prompts will be; the others mention one or two attributes.

    Returns the caption, and (A,) bool: which attributes it mentions. The caption is true of every
    picture whose toy_vector agrees there.
    """
    ways = {}
    for name, value in attributes.items():
        if value:
            ways[name] = TOY_PHRASES[name][value]

    if rng.random() < .15:
        said = []
        for name in LABEL:
            if attributes[name] and rng.random() < .75:            # what is not known takes no draw
                said.append(name)
        if not said:
            said = ["takeoff"]
        text = label_text(ways[name] for name in said) + rng.choice(TAILS)
    else:
        odds = np.array([EMPHASIS[name] for name in ways])
        many = rng.integers(1, 3)
        said = rng.choice(list(ways), many, replace=False, p=odds / odds.sum())
        head = rng.choice(HEADS)
        text = head + ", ".join(rng.choice(ways[name]) for name in said)

    mask = np.array([name in said for name in TOY_ATTRIBUTES])
    return str(text), mask


def toy_paraphrase(rng):
    """Random facts of a label in two wordings, the label's own first.

    No picture belongs to them: a still cannot tell a take-off, but the text tower has to.

    Returns both texts, and the facts: (5,) int64, the values' positions in TOY_ATTRIBUTES for the
    five attributes of a label, 0 = not said. At least one is said.
    """
    facts = []
    for name in LABEL:
        fact = 0
        if rng.random() < .8:
            fact = rng.integers(1, len(TOY_ATTRIBUTES[name]))
        facts.append(fact)
    facts = np.array(facts)
    if not facts.any():
        facts[0] = 1

    ways = []
    for name, fact in zip(LABEL, facts):
        if fact:
            value = TOY_ATTRIBUTES[name][fact]
            ways.append(TOY_PHRASES[name][value])

    text = label_text(ways) + rng.choice(TAILS)
    other = ", ".join(str(rng.choice(way)) for way in ways)
    return str(text), other, facts


def label_text(ways):
    """The first way of each, written as the labels of the benchmark are: "Forward, 1 twist"."""
    return ", ".join(way[0] for way in ways).capitalize()
