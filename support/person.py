"""How much of a person a pose clip holds: the figures that are told before anything is believed.

A pose file is made of every video, of one without anybody too: an extractor then gives empty
frames, or joints where nobody is. A model answers for such a clip as for any other. So wherever
poses are made or read, these figures are shown, and a clip with too few frames of a person is
named (pose.py extract, data.py check, eval.py --video).

here         | what it says                                 | tests/test_person.py
person_facts | joints of a clip -> PersonFacts              | test_facts_match_a_slow_count
PersonFacts  | share of frames, changes, score, lost joints | test_facts_of_nobody
ENOUGH       | from which share on a clip is believed       | test_half_of_the_frames_is_enough
summarise    | many clips in two lines                      | test_summary_names_faint_clips

Letters: T frames, J joints.
"""
from dataclasses import dataclass

import numpy as np

from support.tracks import joint_boxes

# A joint is seen from this score on, as in the drawn skeletons; a frame has a person if a quarter
# of the joints is seen (HRNet's tracker gives a person up below 4 of 17). Both are ours.
SEEN = 0.3
JOINTS_OF_A_PERSON = 0.25

# Below this share of frames with a person the clip is said to have none. Ours.
ENOUGH = 0.5


@dataclass(frozen=True)
class PersonFacts:
    """What a pose clip says of its person; shares are of 1."""
    frames: int               # T
    present: float            # share of the frames with a person, 0 .. 1
    changes: int              # how often the person is suddenly elsewhere: see person_facts
    score: float              # mean score of the joints in frames with a person, 0 without any
    lost: float               # share of the joints in those frames that are not seen

    @property
    def is_enough(self):
        """Whether the clip shows a person for long enough to be believed."""
        return self.present >= ENOUGH

    def __str__(self):
        if self.frames == 0 or self.present == 0:
            return f"no person found in any of {self.frames} frames"
        said = (f"person in {100 * self.present:.0f} % of {self.frames} frames, mean score "
                f"{self.score:.2f}, {100 * self.lost:.0f} % of the joints lost")
        if self.changes:
            said += f", {self.changes} sudden changes of place or person"
        return said

    @property
    def warning(self):
        """One sentence where the clip is not to be believed, else ""."""
        if self.is_enough:
            return ""
        return (f"no person found in {100 * (1 - self.present):.0f} % of the frames: the answer "
                "says little")


def person_facts(keypoints, scores):
    """keypoints (T, J, 2), scores (T, J) of one pose clip -> PersonFacts.

    A change: two frames with a person, one the next of the other among such frames, whose boxes
    do not touch. That is another person, or a cut; who moves does not leave the own box in a frame.

    >>> person_facts(np.zeros((2, 4, 2)), np.zeros((2, 4))).present
    0.0
    """
    keypoints = np.asarray(keypoints, np.float64)
    scores = np.asarray(scores, np.float64)
    T, J = scores.shape
    seen = scores > SEEN                                                   # (T, J)
    there = seen.sum(1) >= max(JOINTS_OF_A_PERSON * J, 1)                  # (T,)
    if not there.any():
        return PersonFacts(frames=T, present=0.0, changes=0, score=0.0, lost=1.0)

    boxes = joint_boxes(keypoints[there], scores[there], threshold=SEEN)[:, :4]
    before = boxes[:-1]
    after = boxes[1:]
    gap_x = np.maximum(before[:, 0] - after[:, 2], after[:, 0] - before[:, 2])
    gap_y = np.maximum(before[:, 1] - after[:, 3], after[:, 1] - before[:, 3])
    apart = np.maximum(gap_x, gap_y) > 0          # a gap on either axis: the boxes do not touch

    return PersonFacts(
        frames=T,
        present=float(there.mean()),
        changes=int(apart.sum()),
        score=float(scores[there].mean()),
        lost=float(1 - seen[there].mean()),
    )


def summarise(facts):
    """Lines that tell what many pose clips hold: clip's name -> PersonFacts, none for no clips."""
    if not facts:
        return []
    frames = sum(one.frames for one in facts.values())
    with_person = sum(one.present * one.frames for one in facts.values())
    changes = sum(one.changes for one in facts.values())

    lines = [f"a person in {100 * with_person / max(frames, 1):.0f} % of {frames} frames"]
    if with_person:
        score = sum(one.score * one.present * one.frames for one in facts.values()) / with_person
        lost = sum(one.lost * one.present * one.frames for one in facts.values()) / with_person
        lines[0] += (f", there a mean score of {score:.2f} and {100 * lost:.0f} % of the joints "
                     f"lost; {changes} sudden changes of place or person")

    faint = [name for name, one in facts.items() if not one.is_enough]
    if faint:
        more = ", ..." if len(faint) > 5 else ""
        lines.append(f"{len(faint)} of {len(facts)} clips show no person in more than "
                     f"{100 * (1 - ENOUGH):.0f} % of their frames: {', '.join(faint[:5])}{more}")
    return lines
