"""What every file needs and no paper mentions: it stands on nothing of ours.

checks.py       shapes and names, with errors that say what to do
settings.py     dataclasses as a command line
files.py        files written whole or not at all, locks, bombs
arrays.py       .npz files of other people, within limits
shapes.py       values of foreign files against the shape that is expected
checkpoints.py  what a run saves
commands.py     how a command ends; interrupt.py, while it starts; stopped.py, what Ctrl-C says
signals.py      signals that wait until a step is done
progress.py     how far a long job is
batches.py      which clips make a batch, for any number of processes
processes.py    devices, and many processes that act as one
video.py        decoding only the frames that are needed
sampling.py     which moments of a clip are looked at
tracks.py       who of several people the clip is about
person.py       how much of that person a pose clip holds
packages.py     packages that are no requirement
quiet.py        what packages write to the screen by themselves
"""
