"""Settings of the toy benchmark, each with its reason; chosen on its validation split.

They are data alone. `tables/rows.py` lists them among the presets, so that `python train.py` needs
no flag; the rest of the program does not know that this benchmark is a toy.
"""

# The tiny CLIP, 0.7 M parameters, reads pictures of 80 px. With tau = 0.01 inside the frame-word
# similarity it learns nothing: its words and frames are never that certain (D10).
TINY = {"backbone": "tiny", "image_size": 80, "tau_fw": 0.1}

# What all systems share here.
TOY = {
    **TINY,
    "adapter_ratio": 1.0,                         # 96 / 4 is too narrow for a bottleneck
    "drop_path": 0.0,                             # nothing overfits in a few epochs
    "batch": 16, "warmup": 0.5, "lr": 1e-3,       # many short steps: minutes on two cores
    "crop_area": 0.8,                             # the hands must stay in the picture
    "flip": False,                                # its cameras stand on one side of the pool
}

# How long the lab trains every row of a table (toy/lab.py). Without texts a pose needs longer: in
# 4 epochs its loss does not level off, and Tables 7 and 9 are about such rows.
LAB_EPOCHS = {"default": 4, "table7": 8, "table9": 8}

# The tables are about the paper's loss, so that the lab leaves out L_own, which is ours (D15). It
# teaches each similarity by itself; then each part of a table can do the others' work.
LAB_OWN_LOSS = 0.0

# By --data/--model, or by --data for PeVL and for what has no preset of its own.
TOY_PRESETS = {
    "toy": {
        **TOY,
        "pose_frames": 16,                        # a somersault is five of them
        "video_frames": 4,                        # one of them shows the position
        "epochs": 4, "lr": 2e-3,                  # one rate for adapters and new modules
        "own_loss": 0.5,                          # else sim_vs and sim_fw idle (D15)
    },
    "toy/vilp": {
        **TOY,
        "pose_frames": 16, "video_frames": 16,    # a somersault is five of them
        "epochs": 4,
        "trunk_lr": 1.0,                          # no CLIP has seen a heatmap before
        "tau_fw": 1.0,                            # at 0.1 few frames have a say
        "gate_raw": True,                         # else a pose is a factor of a half (D25)
    },
    "toy/aim": {
        **TOY,
        "pose_frames": 8, "video_frames": 8,      # of two seconds; 16 take twice as long
        "epochs": 4, "lr": 2e-3,
    },
}
