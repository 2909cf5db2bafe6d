"""The folders of the data sets as their authors publish them, for people to compare with.

`python data.py layout NAME` prints one: the files to fetch and where they go; on the right, where
they come from and what else is read.
"""
POSES = "poses/<clip id>.npz           python pose.py extract, or import: see docs/poses.md"

DIVING = """\
Diving48_vocab.json
Diving48_V2_train.json  Diving48_V2_test.json    (V1: Diving48_train.json, Diving48_test.json)
rgb/-mmq0PT-u8k_00155.mp4     Diving48_rgb.tar.gz; videos/ is read too
""" + POSES

TOY = """\
Diving48_vocab.json           nothing to fetch: all is made when `python train.py` first reads it
Diving48_V2_train.json  Diving48_V2_val.json  Diving48_V2_test.json
rgb/toy_train_00000.mp4
poses/toy_train_00000.npz"""

GYM = """\
{0}_categories.txt
{0}_train_element_v1.0.txt (or v1.1)  {0}_val_element.txt (for evaluation)
finegym_annotation_info_v1.0.json   only to cut events or whole videos
subactions/0LtLS9wROrk_E_002407_002435_A_0003_0005.mp4    or
events/0LtLS9wROrk_E_002407_002435.mp4                    or
videos/0LtLS9wROrk.mp4           from YouTube
""" + POSES

HAA500 = """\
video/abseiling/abseiling_000.mp4     haa500_v1_1.zip
annotations/abseiling.txt             optional: the 500 lists of its repository
""" + POSES

SMARTHOME = """\
mp4/Cook.Cleandishes_p02_r00_v02_c03.mp4      class, subject, repeat, view, camera
poses/Cook.Cleandishes_p02_r00_v02_c03.npz    python pose.py import smarthome"""

K400 = """\
train.csv  val.csv (or validate.csv)      here or in annotations/
train/<class>/<id>_000059_000069.mp4      and val/, with or without class folders, or
raw/<id>.mp4                              whole videos, cut while decoding
""" + POSES

UCF101 = """\
ucfTrainTestlist/classInd.txt             UCF101TrainTestSplits-RecognitionTask.zip
ucfTrainTestlist/trainlist01.txt  testlist01.txt  ... 03.txt
UCF-101/<Class>/v_<Class>_g01_c01.avi     UCF101.rar
""" + POSES

HMDB51 = """\
testTrainMulti_7030_splits/<class>_test_split1.txt ... 3.txt      test_train_splits.rar
hmdb51_org/<class>/*.avi                                          hmdb51_org.rar, unpacked
""" + POSES

CUSTOM = """\
clips.csv                     path,label,split[,start,end]   (or --root FILE.csv)
<path>                        as written in the csv, from its folder
poses/<video's name>.npz      python pose.py extract"""
