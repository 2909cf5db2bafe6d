"""A look at the toy world: clips as rows of frames, with the joints that a detector would find.

    python -m toy.show --out out/toy-world.png                eight clips of the training split
    python -m toy.show --out out/toy-world.png --clips 4 --first 300

here  | what it is                                        | tests/test_toy.py
sheet | the picture: a row is a clip, its label above it  | test_the_sheet_shows_*
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from support.commands import run_command
from support.files import atomic
from support.settings import Parser
from toy.divers import HEIGHT, TOY_CLASSES, WIDTH
from toy.picture import toy_frame
from toy.tree import TOY_SETTINGS, toy_footage

FRAMES = 8      # of a clip, at equal distances
LINE = 14       # pixels of a row's title
MOST = 500      # clips of one picture


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
        clip = toy_footage(settings, split, label, number)

        top = row * (HEIGHT + LINE)
        draw.text((2, top + 1), " ".join(TOY_CLASSES[label]), "black")
        shown = np.linspace(2, len(clip.times) - 3, FRAMES).round().astype(int)
        for column, i in enumerate(shown):
            frame = toy_frame(clip.dive, clip.times[i], clip.centres[i], clip.points[i])
            corner = (column * WIDTH, top + LINE)
            image.paste(Image.fromarray(frame), corner)
            for (x, y), score in zip(clip.keypoints[i], clip.scores[i]):
                inside = 1 < x < WIDTH - 2 and 1 < y < HEIGHT - 2
                if score and inside:
                    ink = "white" if score > .5 else "grey"
                    x = corner[0] + x
                    y = corner[1] + y
                    draw.ellipse((x - 1, y - 1, x + 1, y + 1), ink)
    return image


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="out/toy-world.png", help="the picture (%(default)s)")
    parser.add_argument("--clips", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (%(default)s)")
    args = parser.parse_args(argv)

    def job():
        last = args.first + args.clips
        if not (1 <= args.clips <= MOST and 0 <= args.first and last <= TOY_SETTINGS["train"]):
            raise ValueError(f"--clips {args.clips} --first {args.first}. Expected 1 to {MOST} "
                             f"clips of the {TOY_SETTINGS['train']} of the training split, which "
                             "count from 0. Give such numbers.")
        out = Path(args.out)
        with atomic(out) as part:
            sheet(args.clips, args.first).save(part, "PNG")
        print(f"wrote {out}")

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
