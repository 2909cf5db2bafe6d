"""A video in, an answer out: what `eval.py --video` and `eval.load` do.

clips.py     a video file, whole or in windows, as the data set of one clip or several
poses.py     the joints of a video: found beside it, or extracted
labeller.py  a trained model that can be called
export.py    its towers as ONNX files
command.py   many videos: what is printed, and the files that are left
"""
