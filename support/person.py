"""How much of a person a pose clip holds: the figures that are told before anything is believed.

A pose file is made of every video, of one without anybody too: an extractor then gives empty
frames, or joints where nobody is. A model answers for such a clip as for any other. So wherever
poses are made or read, these figures are shown, and a clip with too few frames of a person is
named (pose.py extract, data.py check, eval.py --video, the page of an evaluation).

here         | what it says                                 | tests/test_person.py
person_facts | joints of a clip -> PersonFacts              | test_facts_match_a_slow_count
PersonFacts  | share of frames, changes, score, lost joints | test_facts_of_nobody
ENOUGH       | from which share on a clip is believed       | test_half_of_the_frames_is_enough
together     | many clips as one -> PersonFacts             | test_clips_together_*
faint        | names of clips that are not to be believed   | test_summary_names_faint_clips
summarise    | many clips in two lines                      | test_summary_names_faint_clips

Letters: T frames, J joints.
"""
from dataclasses import dataclass

import numpy as np

from support.tracks import joint_boxes

# A joint is seen above this score, as in the drawn skeletons; a frame has a person if a quarter
# of the joints is seen (HRNet's tracker gives a person up below 4 of 17). Both are ours.
SEEN = 0.3
JOINTS_OF_A_PERSON = 0.25

# Below this share of frames with a person a clip is named as one not to be believed. Ours.
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


def together(facts):
    """Many clips as if they were one -> PersonFacts. facts: clip's name -> PersonFacts.

    Every frame counts once, so that a long clip weighs more than a short one; the score and the
    lost joints are means over the frames with a person, as they are within a clip.
    """
    frames = 0
    with_person = 0.0                             # frames that show one
    changes = 0
    score = 0.0                                   # sums over those frames
    lost = 0.0
    for one in facts.values():
        there = one.present * one.frames
        frames += one.frames
        with_person += there
        changes += one.changes
        score += one.score * there
        lost += one.lost * there

    if with_person == 0:
        return PersonFacts(frames=frames, present=0.0, changes=0, score=0.0, lost=1.0)
    return PersonFacts(frames=frames, present=with_person / frames, changes=changes,
                       score=score / with_person, lost=lost / with_person)


def faint(facts):
    """Names of the clips that show a person for too few frames to be believed, in their order."""
    return [name for name, one in facts.items() if not one.is_enough]


def summarise(facts):
    """Lines that tell what many pose clips hold: clip's name -> PersonFacts, none for no clips."""
    if not facts:
        return []
    every = together(facts)
    line = f"a person in {100 * every.present:.0f} % of {every.frames} frames"
    if every.present:
        line += (f", there a mean score of {every.score:.2f} and {100 * every.lost:.0f} % of the "
                 f"joints lost; {every.changes} sudden changes of place or person")
    lines = [line]

    doubtful = faint(facts)
    if doubtful:
        more = ", ..." if len(doubtful) > 5 else ""
        lines.append(f"{len(doubtful)} of {len(facts)} clips show no person in more than "
                     f"{100 * (1 - ENOUGH):.0f} % of their frames: {', '.join(doubtful[:5])}{more}")
    return lines
