"""Shapes of every operator's results, for torch.compile and torch.export."""

import torch


def _check_length(name, length):
    text = "expected a count >= 0"
    torch._check(length >= 0, lambda: f"dpad::{name}: argument 'length' = {length}: {text}")


def _check_shape(name, argument, tensor, condition, text):
    what = f"dpad::{name}: argument '{argument}'"
    torch._check(condition, lambda: f"{what} has shape {list(tensor.shape)}: {text}")


def _suffix_table(kind, grid, window, decay, scale, count, near, length):
    _check_length("suffix_table", length)
    return torch.empty(length, dtype=torch.int64)


def _transfer_schedule(masks, steps):
    return torch.empty(steps, dtype=torch.int64)


def _suffix_sample(seed, *rest):
    length, batch = rest[-1], seed.shape[0]
    _check_length("suffix_sample", length)
    return seed.new_empty(batch, length), seed.new_empty(batch)


def _plan_pass(start, end, kept, kept_count, scope, first, first_target, shift, block_length):
    context = torch.library.get_ctx()
    batch = start.shape[0]
    rows, logit_rows = context.new_dynamic_size(), context.new_dynamic_size()
    limits = rows if block_length > 0 else 0
    sizes = (rows, rows, batch + 1, batch, logit_rows, logit_rows, batch + 1, limits)
    return tuple(start.new_empty(size) for size in sizes)


def _suffix_gather(canvas, canvas_row, q_offsets, position, hidden_until, mask_id):
    return canvas.new_empty(position.shape[0])


def _rope_kv_write_(q, k, v, *rest):
    return q.new_empty(q.shape)


def _block_attention(q, k_cache, v_cache, *rest):
    return q.new_empty(q.shape)


def _add_rms_norm_(residual, delta, weight, eps):
    return residual.new_empty(residual.shape)


def _swiglu(gate, up):
    _check_shape("swiglu", "gate", gate, gate.dim() == 2, "expected 2 dimensions")
    _check_shape("swiglu", "up", up, gate.shape == up.shape, "gate and up differ in shape")
    return gate.new_empty(gate.shape)


def _linear(x, weight, bias):
    _check_shape("linear", "x", x, x.dim() == 2, "expected 2 dimensions")
    fits = weight.dim() == 2 and weight.shape[1] == x.shape[1]
    _check_shape("linear", "weight", weight, fits, "expected [out_features, in_features of x]")
    fits = bias is None or bias.shape == weight.shape[:1]
    _check_shape("linear", "bias", bias, fits, "expected [out_features]")
    return x.new_empty(x.shape[0], weight.shape[0])


def _route(logits, bias, top_k, score, normalise, groups, top_groups, scaling):
    _check_shape("route", "logits", logits, logits.dim() == 2, "expected 2 dimensions")
    rows, experts = logits.shape
    return (
        logits.new_empty(rows, top_k, dtype=torch.int64),
        logits.new_empty(rows, top_k, dtype=torch.float32),
        logits.new_empty(rows * top_k, dtype=torch.int64),
        logits.new_empty(experts, dtype=torch.int32),
    )


def _grouped_linear(x, weight, offsets):
    _check_shape("grouped_linear", "x", x, x.dim() == 2, "expected 2 dimensions")
    fits = weight.dim() == 3 and weight.shape[2] == x.shape[1]
    text = "expected [experts, out_features, in_features of x]"
    _check_shape("grouped_linear", "weight", weight, fits, text)
    return x.new_empty(x.shape[0], weight.shape[1])


def _combine(y, order, weight, full_precision):
    _check_shape("combine", "y", y, y.dim() == 2, "expected 2 dimensions")
    _check_shape("combine", "weight", weight, weight.dim() == 2, "expected 2 dimensions")
    return y.new_empty(weight.shape[0], y.shape[1])


def _confidence(logits, *rest):
    rows = logits.shape[0]
    token = logits.new_empty(rows, dtype=torch.int64)
    scores = tuple(logits.new_empty(rows, dtype=torch.float64) for _ in range(3))
    return (token, *scores)


def _uniform(rng, l_offsets, position):
    return rng.new_empty(position.shape[0], dtype=torch.float64)


def _unmask_(*args):
    return None


_FAKES = {
    "suffix_table": _suffix_table,
    "transfer_schedule": _transfer_schedule,
    "suffix_sample": _suffix_sample,
    "plan_pass": _plan_pass,
    "suffix_gather": _suffix_gather,
    "rope_kv_write_": _rope_kv_write_,
    "block_attention": _block_attention,
    "add_rms_norm_": _add_rms_norm_,
    "swiglu": _swiglu,
    "linear": _linear,
    "route": _route,
    "grouped_linear": _grouped_linear,
    "combine": _combine,
    "confidence": _confidence,
    "uniform": _uniform,
    "unmask_": _unmask_,
}


def register():
    """Registers all fakes; called once, right after the module is loaded."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"dpad::{name}", fake)
