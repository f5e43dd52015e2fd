"""llama.cpp as a partner of benchmarks: its formats of a LLaDA, and their forward.

Its bindings and the writer of its files lie in a folder of their own (see
`benchmarks.llama_cpp`); neither is needed by anything else.
"""

import ctypes
import sys
from importlib import import_module

import numpy as np

FORMATS = {"F32": 0, "BF16": 32, "Q8_0": 7, "Q4_K_M": 15}  # llama.cpp's numbers of them
OUTER = {"wte": "token_embd", "ln_f": "output_norm", "ff_out": "output"}
INNER = {
    "attn_norm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ff_norm": "ffn_norm",
    "ff_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "ff_out": "ffn_down",
}


def bindings(folder):
    """The modules `llama_cpp` and `gguf` of a folder."""
    missing = [n for n in ("llama_cpp", "gguf") if not (folder / n / "__init__.py").is_file()]
    if missing:
        raise FileNotFoundError(
            f"--peer {folder}: no {' and no '.join(missing)} in it; "
            "see python -m benchmarks.llama_cpp --help"
        )
    sys.path.append(str(folder))  # behind everything: the folder has a NumPy too
    api, gguf = import_module("llama_cpp"), import_module("gguf")
    api.shown = api.llama_log_callback(_show)  # kept as long as it may be called
    api.llama_log_set(api.shown, None)
    return api, gguf


def _show(level, text, _):
    """Prints what llama.cpp says of errors (its level 4), nothing else."""
    if level == 4:
        sys.stderr.write(text.decode(errors="replace"))


def tensors(model):
    """GGUF name -> float32 array of a LLaDA's parameters.

    The two rows of q and k that RoPE turns together are half a head apart in LLaDA and neighbours
    in GGUF.
    """
    found, heads = {}, model.config.n_heads
    for name, weight in model.model.transformer.named_parameters():
        *block, module, _ = name.split(".")
        values = weight.detach().numpy()
        if module in ("q_proj", "k_proj"):
            halves = values.reshape(heads, 2, -1, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        place = f"blk.{block[1]}.{INNER[module]}" if block else OUTER[module]
        found[f"{place}.weight"] = values
    return found


def write(model, path, gguf):
    """Writes a LLaDA as a GGUF of float32, without a tokenizer."""
    config, writer = model.config, gguf.GGUFWriter(path, "llada")
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_sequence_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.mlp_hidden_size)
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, values in tensors(model).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(api, source, target, number):
    """Writes a GGUF of float32 in another of llama.cpp's formats."""
    options = api.llama_model_quantize_default_params()
    options.ftype = number
    paths = str(source).encode(), str(target).encode()
    if api.llama_model_quantize(*paths, ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp could not write {target}")


class LlamaCpp:
    """A GGUF in llama.cpp, which computes whole canvases.

    Args:
        api: the module `llama_cpp`.
        path: the file.
        rows: of the longest canvas.
        threads: of every forward.
    """

    def __init__(self, api, path, rows, threads):
        self.api = api
        model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        options = api.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = rows
        options.n_threads = options.n_threads_batch = threads
        self.context = model and api.llama_init_from_model(model, options)
        if not self.context:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self.wanted = (ctypes.c_int8 * rows)(*[1] * rows)  # logits of every row
        api.llama_set_causal_attn(self.context, False)
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def __call__(self, ids):
        """Logits float32 ``[rows, vocabulary]`` of int64 ids ``[rows]``, until the next call."""
        tokens = np.ascontiguousarray(ids, dtype=np.int32)
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch = self.api.llama_batch_get_one(pointer, len(tokens))
        batch.logits = self.wanted
        failed = self.api.llama_decode(self.context, batch)
        if failed:
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens gave {failed}")
        logits = self.api.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (len(tokens), self.vocabulary))
