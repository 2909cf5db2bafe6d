"""The names of --model and the classes that they build.

here        | what it is                              | tests/test_systems.py
SYSTEMS     | name of --model -> class                | test_alone_as_in_a_batch_and_...
build_model | the system that a config names, on CLIP | test_alone_as_in_a_batch_and_...
"""
from pevl import PeVL
from systems.aim import AIM
from systems.vilp import ViLP
from systems.zero_shot import ZeroShotCLIP

SYSTEMS = {
    "pevl": PeVL,
    "vilp": ViLP,
    "aim": AIM,
    "clip": ZeroShotCLIP,
}


def build_model(config, clip, texts, joints=17):
    """The ActionModel that `config` names.

    config: PeVLConfig. clip: a CLIP; it becomes a part of the model. texts: the K prompts, in the
    order of the labels. joints: J. What is new is made on the device of `clip`, "meta" included,
    where it has shapes and no values (tables/costs.py).
    """
    system = SYSTEMS[config.model]
    with clip.logit_scale.device:
        return system(config, clip, texts, joints)
