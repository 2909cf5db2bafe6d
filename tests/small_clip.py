"""A CLIP of small sizes, its weights and their published namings, for the tests that load files."""
import functools

import torch

from clip_model import CLIP, CLIPConfig

SMALL = CLIPConfig(embed_dim=24, image_size=12, patch_size=4, vision_width=64, vision_layers=2,
                   vision_heads=1, context_length=10, vocab_size=521, text_width=128, text_heads=2,
                   text_layers=3)


@functools.cache
def small_clip(dtype=torch.float64):
    """A CLIP of random parameters, biases and norms included, so that no term can hide.

    Built once; no test changes it.
    """
    with torch.random.fork_rng():
        torch.manual_seed(3)
        clip = CLIP(SMALL).to(dtype).eval()
        for parameter in clip.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return clip


def small_weights():
    """Its state dict, float32; all values fit in 16 bits, so that half precision loses nothing."""
    state = small_clip(torch.float16).state_dict()
    return {name: x.float() for name, x in state.items()}


def holds_weights(clip, state):
    """Whether a loaded CLIP has these keys and values.

    Fails where it is not what every loaded CLIP has to be: float32, trainable, in evaluation mode.
    """
    assert not clip.training
    for name, p in clip.named_parameters():
        assert p.requires_grad, name
        assert p.dtype == torch.float32, name
        assert p.is_contiguous(), name
    own = clip.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def hugging_face(state):
    """OpenAI's naming -> Hugging Face's CLIPModel, written here apart from the loader's table."""
    out = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(10)[None],
        "vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    norms = {"vision_model.pre_layrnorm": "visual.ln_pre",               # their spelling
             "vision_model.post_layernorm": "visual.ln_post",
             "text_model.final_layer_norm": "ln_final"}
    for kind in ("weight", "bias"):
        for theirs, ours in norms.items():
            out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        for i in range(SMALL.vision_layers):
            out |= hugging_face_block(state, f"vision_model.encoder.layers.{i}",
                                      f"visual.transformer.resblocks.{i}", kind)
        for i in range(SMALL.text_layers):
            out |= hugging_face_block(state, f"text_model.encoder.layers.{i}",
                                      f"transformer.resblocks.{i}", kind)
    return {key: value.contiguous() for key, value in out.items()}


def hugging_face_block(state, there, here, kind):
    """The weights, or the biases, of one block. there, here: how their and our names begin."""
    layers = {"self_attn.out_proj": "attn.out_proj",
              "layer_norm1": "ln_1",
              "layer_norm2": "ln_2",
              "mlp.fc1": "mlp.c_fc",
              "mlp.fc2": "mlp.c_proj"}
    out = {}
    q, k, v = state[f"{here}.attn.in_proj_{kind}"].chunk(3)
    out[f"{there}.self_attn.q_proj.{kind}"] = q
    out[f"{there}.self_attn.k_proj.{kind}"] = k
    out[f"{there}.self_attn.v_proj.{kind}"] = v
    for theirs, ours in layers.items():
        out[f"{there}.{theirs}.{kind}"] = state[f"{here}.{ours}.{kind}"]
    return out
