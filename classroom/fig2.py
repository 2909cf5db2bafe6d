"""The paper's Fig. 2, drawn from functions: each box leads to the one that does it.

here  | what it gives                              | tests/test_annotated.py
BOXES | where the boxes stand                      | test_boxes_of_fig_2_lead_to_functions
PATHS | what flows from one to another             | test_boxes_of_fig_2_lead_to_functions
fig_2 | the figure as SVG, with the clip's shapes  | test_boxes_of_fig_2_lead_to_functions

Places are units of the figure, x to the right and y downwards; the page scales them.
"""
from dataclasses import dataclass

from classroom.annotate import anchor
from report.markup import tag

WIDTH, HEIGHT = 1070, 720
TALL = 52                                         # of a box

# Left edges and widths of the four columns: video, between, pose, text.
VIDEO = (20, 250)
BETWEEN = (310, 190)
POSE = (540, 250)
TEXT = (830, 220)

# Upper edges of the rows.
INPUT, TOWER, REFINE, READ, COMPARE, MEAN, LOSS, TOTAL = (10, 92, 186, 290, 398, 484, 566, 648)


@dataclass
class Box:
    """A function of the figure, or an input."""
    name: str                                     # what is written; a function's name links to it
    what: str                                     # the line below: a symbol, an equation
    column: tuple
    top: int
    function: str = ""                            # where the link leads; "": `name`
    shown: str = "returns"                        # which of its tensors the shape is of

    @property
    def target(self):
        """The function that is linked."""
        return self.function or self.name


BOXES = [
    Box("frames", "a video's pictures", VIDEO, INPUT, "normalise", "frames"),
    Box("keypoints", "a body's joints", POSE, INPUT, "PoseTower.forward", "keypoints"),
    Box("tokens", "texts of labels", TEXT, INPUT, "TextTower.forward", "tokens"),
    Box("VideoTower", "z_v", VIDEO, TOWER, "VideoTower.forward", "returns, 1."),
    Box("PoseTower", "z_p", POSE, TOWER, "PoseTower.forward", "returns, 1."),
    Box("TextTower", "sentences", TEXT, TOWER, "TextTower.forward", "returns, 1."),
    Box("P2V", "Eq. (1)", VIDEO, REFINE, "P2V.forward"),
    Box("patch_weight", "M", BETWEEN, REFINE),
    Box("V2P", "Eq. (2)", POSE, REFINE, "V2P.forward"),
    Box("read_video", "V", VIDEO, READ, "PeVL.read_video"),
    Box("nt_xent", "L_R, Eq. (3)", BETWEEN, READ),
    Box("read_pose", "F; its mean is P", POSE, READ, "PeVL.read_pose"),
    Box("cosine", "S_VS", VIDEO, COMPARE),
    Box("cosine", "S_PS", BETWEEN, COMPARE),
    Box("frame_word_similarity", "S_FW", POSE, COMPARE),
    Box("mean_similarity", "S, Eq. (4)", BETWEEN, MEAN),
    Box("predict", "Eq. (7), all labels", VIDEO, LOSS),
    Box("semantic_guided_loss", "L_t, Eq. (6)", BETWEEN, LOSS),
    Box("semantic_weights", "w, Eq. (5)", POSE, LOSS),
    Box("text_discrepancy", "1 - cos", TEXT, LOSS),
    Box("PeVL.losses", "L_t + lambda_R L_R", (280, 250), TOTAL, shown="returns: total"),
]

# Corners of the arrows. Texts are dashed: they depend on no clip.
PATHS = [
    ((145, 62), (145, 92)),                                         # frames
    ((665, 62), (665, 92)),                                         # joints
    ((145, 144), (145, 186)),                                       # z_v to P2V
    ((665, 144), (665, 186)),                                       # z_p to V2P
    ((540, 118), (405, 118), (405, 186)),                           # the pose's attention to M
    ((310, 212), (270, 212)),                                       # M to P2V
    ((270, 118), (290, 118), (290, 256), (520, 256), (520, 212), (540, 212)),   # z_v to V2P
    ((145, 238), (145, 290)),                                       # z_v^R
    ((665, 238), (665, 290)),                                       # z_p^R
    ((270, 316), (310, 316)),                                       # V, before and after
    ((540, 316), (500, 316)),                                       # P, before and after
    ((145, 342), (145, 398)),                                       # V to S_VS
    ((600, 342), (600, 360), (440, 360), (440, 398)),               # P to S_PS
    ((665, 342), (665, 398)),                                       # F to S_FW
    ((145, 450), (145, 510), (310, 510)),                           # S_VS
    ((405, 450), (405, 484)),                                       # S_PS
    ((665, 450), (665, 510), (500, 510)),                           # S_FW
    ((350, 536), (350, 552), (145, 552), (145, 566)),               # S to prediction
    ((405, 536), (405, 566)),                                       # S to the loss
    ((540, 592), (500, 592)),                                       # w to the loss
    ((830, 592), (790, 592)),                                       # discrepancies to w
    ((405, 618), (405, 648)),                                       # L_t
]
TEXT_PATHS = [
    ((940, 62), (940, 92)),
    ((940, 144), (940, 380), (200, 380), (200, 398)),
    ((370, 380), (370, 398)),
    ((730, 380), (730, 398)),
    ((940, 380), (940, 566)),
]


def shape_said(shape):
    """A shape as text; a number alone has no axes."""
    if not shape:
        return "a number"
    return str(tuple(shape))


def box(one, shapes):
    """A box with its name, its symbol and the shape that was measured."""
    left, width = one.column
    found = {}
    for name in ("pevl.py", "clip_model.py"):
        for (_, tensor), shape in shapes.get((name, one.target), {}).items():
            found.setdefault(tensor, shape)
    said = one.what
    if one.shown in found:
        said = f"{one.what}: {shape_said(found[one.shown])}"
    middle = left + width // 2
    inside = [tag("rect", x=left, y=one.top, width=width, height=TALL, rx=7),
              tag("text", one.name, x=middle, y=one.top + 22, text_anchor="middle", class_="name"),
              tag("text", said, x=middle, y=one.top + 41, text_anchor="middle")]
    return tag("a", inside, href=f"#{anchor(one.target)}")


def arrow(corners, class_):
    """A line with a head at its last corner."""
    points = " ".join(f"{x},{y}" for x, y in corners)
    return tag("polyline", points=points, class_=class_, marker_end="url(#head)")


def fig_2(shapes):
    """The figure as SVG. shapes: of measure.Watch."""
    # A marker takes no colour from its line in all browsers; both have the same one.
    head = tag("marker", tag("path", d="M0,0 L8,4 L0,8 z"), id="head", markerWidth=8,
               markerHeight=8, refX=7, refY=4, orient="auto")
    parts = [tag("defs", head)]
    for corners in PATHS:
        parts.append(arrow(corners, "flow"))
    for corners in TEXT_PATHS:
        parts.append(arrow(corners, "flow dashed"))
    for one in BOXES:
        parts.append(box(one, shapes))
    said = "Fig. 2: frames, joints and texts through three towers, P2V and V2P, the similarities " \
           "of Eq. (4) and the losses; each box leads to its function"
    return tag("svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="group", aria_label=said,
               class_="fig2")
