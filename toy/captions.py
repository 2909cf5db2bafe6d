"""Captioned stills: single pictures of divers, what is true of them, and how people would say it.

The tiny CLIP of the toy world learns from them what CLIP learnt from the web: which words go with
which picture. A still is a frame of a performance that is in no clip: the benchmark stays unseen.

here           | what it is                                              | tests/test_toy.py
toy_still      | a picture and its attributes, from one integer          | test_what_a_still_shows_*
toy_vector     | the attributes as numbers                               | test_captions_*
toy_captions   | a caption, and which attributes it mentions             | test_captions_*
toy_paraphrase | facts of a label in two wordings, without a picture     | test_paraphrases_*
TOY_PHRASES    | all attributes, their values and the ways to say them   | test_captions_*

An attribute whose value is "" cannot be told from the picture, and no caption mentions it.
"""
import numpy as np

from toy.divers import (
    COLOURS,
    ELBOWS,
    HEIGHT,
    HIPS,
    SHOULDERS,
    STILL,
    STILLS,
    TOY_CLASSES,
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
        ("forward", "back", "reverse", "inward"), "{}", "{} take-off", "{} dive"),
    "somersaults": {
        "1.5": ("1.5 somersaults",),
        "2.5": ("2.5 somersaults",),
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
    "apparatus": {
        "springboard": (
            "springboard", "a springboard", "a thin springboard", "springboard in sight"),
        "platform": ("platform", "a platform", "a thick platform", "platform in sight"),
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
    "suit": same_for_all(COLOURS, "{} suit", "a diver in {}", "dressed in {}"),
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

# Every phrase, and every word that a caption may hold: the vocabulary of the tiny CLIP.
WAYS = [
    way
    for values in TOY_PHRASES.values()
    for ways in values.values()
    for way in ways
]
TOY_WORDS = tuple(sorted(set(" ".join((*HEADS, *TAILS, *WAYS)).replace(",", " ").split())))

# How often captions speak of an attribute. PeVL relies on position and apparatus, and evenly spread
# captions leave the apparatus at chance after 60,000 stills (emphasised: 87 % after 38,000).
EMPHASIS = {
    "takeoff": .3,
    "somersaults": .2,
    "twists": .2,
    "position": 8,
    "apparatus": 8,
    "stage": 4,
    "head": 1,
    "arms": 1,
    "suit": .5,
    "scene": .5,
    "water": 1,
}

# ---------------------------------------------------------------------------- what a picture shows


def toy_still(seed):
    """A frame of a performance that is in no clip.

    seed: an integer; from TOY_HELD_OUT_STILLS on they are for evaluation. Two in five stills show
    the start, two in five the held position, one any time from the take-off on.

    Returns the picture (96, 128, 3) uint8, and its attributes: name -> value of TOY_ATTRIBUTES.
    """
    rng = generator(STILL, seed)
    person = STILLS + seed            # a new diver, scene and camera for each still
    dive = Dive(
        label=int(rng.integers(len(TOY_CLASSES))),
        seed=(STILL, seed),
        diver=person,
        scene=person,
        camera=person,
        either_side=True,
    )

    start = (0, dive.t_off + .22)
    fall = (dive.t_off, 1.95)
    span = (start, start, dive.hold, dive.hold, fall)[rng.integers(5)]
    t = rng.uniform(span[0], span[1])

    centres, points = dive.seen(np.array([t]))         # (1, 3), (1, 23, 3)
    picture = toy_frame(dive, t, centres[0], points[0])
    return picture, read_attributes(dive, t, centres[0])


def read_attributes(dive, t, centre):
    """What is true of the frame at time t and visible in it: name -> value of TOY_ATTRIBUTES.

    Take-off, somersaults and twists are the label's: a still only hints at them.
    """
    joints = dive.joints(np.array([t]))[0]             # (23, 3)
    stage = read_stage(dive, t, joints)
    return {
        "takeoff": dive.takeoff.lower(),
        "somersaults": f"{dive.somersaults:g}",
        "twists": f"{abs(dive.twists):g}",
        "position": dive.position.lower() if stage == "flight" else "",
        "apparatus": read_apparatus(dive, t, centre),
        "stage": stage,
        **read_body(joints),
        "suit": dive.suit,
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
    """Where the head points and where the arms are, "" for what lies between, from joints (23, 3).

    Angles are compared through their cosines: .85 is 32 degrees from the axis.
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
    return {"head": head, "arms": arms}


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

    # Railings, the board and what carries it, from the far end to just before the tip.
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
            # No label says "none"; what is not known takes no draw.
            known = attributes[name] not in ("", "none")
            if known and rng.random() < .75:
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
        values = len(TOY_ATTRIBUTES[name])
        if name == "apparatus":
            values -= 1                                # its last one is "none", which is no label's
        fact = 0
        if rng.random() < .8:
            fact = rng.integers(1, values)
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
