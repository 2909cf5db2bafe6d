"""A look at the toy world: clips as rows of frames, with the joints that a detector would find.

    python -m toy.show --out out/toy-world.png                eight clips of the training split
    python -m toy.show --out out/toy-world.png --clips 4 --first 300

here  | what it is                                        | tests/test_toy.py
sheet | the picture: a row is a clip, its label above it  | test_the_sheet_shows_*
"""
import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from support.files import atomic
from toy.divers import HEIGHT, TOY_CLASSES, WIDTH
from toy.picture import toy_frame
from toy.tree import TOY_SETTINGS, toy_dive, toy_poses, toy_times

FRAMES = 8      # of a clip, at equal distances
LINE = 14       # pixels of a row's title


def sheet(clips, first=0, split="train", settings=None):
    """The picture of `clips` clips from number `first` on, an Image.

    A clip's number decides on its label, so that sixteen in a row show all classes. White dots are
    what the detector is sure of, grey ones what it doubts; missing joints have none.
    """
    settings = settings or TOY_SETTINGS
    image = Image.new("RGB", (FRAMES * WIDTH, clips * (HEIGHT + LINE)), "white")
    draw = ImageDraw.Draw(image)
    for row in range(clips):
        number = first + row
        label = number % len(TOY_CLASSES)
        dive = toy_dive(settings, split, label, number)
        times = toy_times(dive, settings)
        centres, points = dive.seen(times)
        keypoints, scores = toy_poses(dive, centres, points[:, :17], settings)

        top = row * (HEIGHT + LINE)
        draw.text((2, top + 1), " ".join(TOY_CLASSES[label]), "black")
        shown = np.linspace(2, len(times) - 3, FRAMES).round().astype(int)
        for column, i in enumerate(shown):
            frame = toy_frame(dive, times[i], centres[i], points[i])
            corner = (column * WIDTH, top + LINE)
            image.paste(Image.fromarray(frame), corner)
            for (x, y), score in zip(keypoints[i], scores[i]):
                inside = 1 < x < WIDTH - 2 and 1 < y < HEIGHT - 2
                if score and inside:
                    ink = "white" if score > .5 else "grey"
                    x = corner[0] + x
                    y = corner[1] + y
                    draw.ellipse((x - 1, y - 1, x + 1, y + 1), ink)
    return image


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/toy-world.png", help="the picture (%(default)s)")
    parser.add_argument("--clips", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (%(default)s)")
    args = parser.parse_args(argv)

    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as part:
        sheet(args.clips, args.first).save(part, "PNG")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
