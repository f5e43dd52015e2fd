"""The tiny architectures: LLaDA's, Dream's with the logit shift, and SDAR's with its blocks."""

import math
from dataclasses import dataclass

import torch

from dpad.demo import task
from dpad.models.hf.dream import DreamConfig, DreamModel
from dpad.models.hf.llada import LLaDAConfig, LLaDAModelLM
from dpad.models.hf.sdar import SDARConfig, SDARForCausalLM

SPECIAL_IDS = {
    "mask_token_id": task.MASK_ID,
    "bos_token_id": task.START_ID,
    "eos_token_id": task.END_ID,
    "pad_token_id": task.END_ID,
}


def llada():
    """A tiny LLaDA with the layers of the shipped one; its weights are whatever the class draws."""
    return LLaDAModelLM(
        LLaDAConfig(
            d_model=128, n_heads=4, n_kv_heads=4, n_layers=4, mlp_hidden_size=384,
            vocab_size=len(task.VOCABULARY), embedding_size=len(task.VOCABULARY),
            max_sequence_length=1024, rope_theta=10000.0, **SPECIAL_IDS,
        )
    )  # fmt: skip


def dream():
    """The same sizes as a Dream: two query heads share a key head, q, k and v have biases."""
    return DreamModel(
        DreamConfig(
            vocab_size=len(task.VOCABULARY), hidden_size=128, intermediate_size=384,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, **SPECIAL_IDS,
        )
    )  # fmt: skip


def sdar():
    """The same sizes as an SDAR with blocks of 16: grouped keys, q and k normed, no biases."""
    return SDARForCausalLM(
        SDARConfig(
            vocab_size=len(task.VOCABULARY), hidden_size=128, intermediate_size=384,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, block_size=16,
            **SPECIAL_IDS,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """How one family is built and read."""

    title: str
    start: str  # where the training starts, for the model card
    build: object  # () -> model
    layers: str  # part of the names of all weights inside layers
    writers: tuple  # ends of the names of the matrices that write to the residual stream
    embedding: str
    head: str
    longest: int = 512  # canvas that it is trained on
    blocks: str = ""  # what the card says of the loss and of the scores
    decoding: str = (
        'block 32, threshold 0.9, early stop, everything recomputed, float32. "No suffix" hides\n'
        "every position behind the current block; nothing in the training prepares the model for "
        "that."
    )


ARCHITECTURES = {
    "llada": Architecture(
        title="LLaDA",
        start="trained from scratch",
        build=llada,
        layers=".blocks.",
        writers=("attn_out.weight", "ff_out.weight"),
        embedding="wte.weight",
        head="transformer.ff_out.weight",
    ),
    "dream": Architecture(
        title="Dream",
        start="trained from the tiny LLaDA's weights (pairs of key heads averaged, biases zero)",
        build=dream,
        layers=".layers.",
        writers=("o_proj.weight", "down_proj.weight"),
        embedding="embed_tokens.weight",
        head="lm_head.weight",
    ),
    "sdar": Architecture(
        title="SDAR",
        start="trained from the tiny LLaDA's weights (pairs of key heads averaged)",
        build=sdar,
        layers=".layers.",
        writers=("o_proj.weight", "down_proj.weight"),
        embedding="embed_tokens.weight",
        head="lm_head.weight",
        longest=96,  # no block knows how many come behind it
        blocks=", each block at its own rate\nbehind clean ones (arXiv 2503.09573, section 3.2)",
        decoding="its blocks of 16, threshold 0.9, early stop, everything recomputed, float32. A\n"
        "block sees nothing of what comes behind it, so the canvas changes only where the last one "
        "ends.",
    ),
}
SHIFT = {"llada": 0, "Dream": 1, "sdar": 0}  # by model_type: row i - shift predicts position i


def build(name):
    """The model with its initial weights: fan-in scaled, residual writers smaller with depth."""
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    for key, weight in model.named_parameters():
        if weight.dim() == 2:
            std = 1 / math.sqrt(weight.shape[1])
            if architecture.layers in key and key.endswith(architecture.writers):
                std /= math.sqrt(2 * 4)
            elif key.endswith(architecture.embedding):
                std = 0.5
            elif key.endswith(architecture.head):
                std *= 0.5
            torch.nn.init.normal_(weight, std=std)
    return model


# Names of the parts of a layer, LLaDA's and the others'.
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm", "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}  # fmt: skip
OUTER_NAMES = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


@torch.no_grad()
def start_from_llada(model, llada):
    """Copy a LLaDA's weights into a Dream or an SDAR of the same sizes; biases become zero.

    Each pair of key heads is averaged into one (arXiv 2305.13245, section 2.1). Dream and SDAR
    themselves were initialised from trained models that did not have their attention.
    """
    state = llada.state_dict()
    found = {}
    for key, weight in state.items():
        parts = key.split(".")
        if "blocks" in parts:
            index = parts[parts.index("blocks") + 1]
            name = f"model.layers.{index}.{LAYER_NAMES[parts[-2]]}.weight"
            if parts[-2] in ("k_proj", "v_proj"):
                weight = weight.reshape(-1, 2, 32, weight.shape[1]).mean(1).flatten(0, 1)
        else:
            name = f"{OUTER_NAMES[parts[-2]]}.weight"
        found[name] = weight.float()
    missing, unknown = model.load_state_dict(found, strict=False)
    added = ("bias", "q_norm.weight", "k_norm.weight")
    assert not unknown and all(name.endswith(added) for name in missing), (missing, unknown)
    for name in missing:
        if name.endswith("bias"):
            model.get_parameter(name).zero_()


@torch.no_grad()
def norms_as_found(model, rows):
    """Give the norms of q and k, if any, the size that q and k have for int64 `rows` [B, T].

    So attention of weights that were trained without these norms starts nearly as it was.
    """

    def measure(norm, inputs):
        norm.weight.fill_(inputs[0].detach().pow(2).mean(-1).sqrt().mean().item())

    names = ("q_norm", "k_norm")
    norms = [module for name, module in model.named_modules() if name.endswith(names)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    if norms:
        model(rows)
    for hook in hooks:
        hook.remove()
