"""Defaults of the toy benchmark, each with its reason."""

TINY = dict(backbone="tiny", image_size=80, tau_fw=0.1)      # at 0.01 a tiny model learns nothing
TOY = TINY | dict(adapter_ratio=1.0, drop_path=0.0,         # 96 / 4 is too narrow; nothing overfits
                  batch=16, warmup=0.5, lr=1e-3,            # many short steps: minutes on two cores
                  crop_area=0.8, flip=False)                # its cameras stand on one side
TOY_PRESETS = {
    "toy": TOY | dict(pose_frames=32, video_frames=4,       # all frames; the apparatus stands still
                      epochs=2, new_lr=4.0,                 # the pose tower has the most to learn
                      own_loss=0.5),                        # else sim_vs and sim_fw idle (D15)
    "toy/vilp": TOY | dict(pose_frames=32, video_frames=32,  # at 16 a somersault is three frames
                           image_size=40, epochs=7,          # 17 tokens, not 65: more epochs
                           trunk_lr=1.0,                     # no CLIP has seen a heatmap
                           tau_fw=1.0,                       # at 0.1 few frames have a say
                           gate_raw=True),                   # else a pose is a factor of a half
    "toy/aim": TOY | dict(pose_frames=8, video_frames=8, epochs=4, lr=2e-3),   # 16: no better
}
