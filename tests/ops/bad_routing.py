"""Bad arguments of the operators of `dpad.ops.routing`."""

import math

import torch
from bad_values import HALVES, NAN, part, with_value, wrong_dtype, wrong_size

BAD = {
    "route": [
        *[({"logits": lambda a, d=d: a["logits"].to(d)}, "logits", "has dtype") for d in HALVES],
        *wrong_dtype("bias", value=torch.bfloat16),
        *wrong_size("bias"),
        ({"logits": part("logits", 0)}, "logits", r"\[12\]"),
        ({"score": "sparsemax"}, "score", "sparsemax"),
        ({"top_k": 0}, "top_k", "0"),
        ({"top_k": 7}, "top_k", "7"),  # of the 6 experts of two groups
        ({"groups": 0}, "groups", "0"),
        ({"groups": 5}, "groups", "5"),
        ({"groups": 12, "top_groups": 9}, "groups", "12"),
        ({"groups": 13}, "groups", "13"),
        ({"top_groups": 0}, "top_groups", "0"),
        ({"top_groups": 5}, "top_groups", "5"),
        ({"scaling": NAN}, "scaling", "nan"),
        ({"scaling": math.inf}, "scaling", "inf"),
        ({"logits": part("logits", ..., slice(0))}, "groups", "4"),
    ],
    "grouped_linear": [
        *[({"x": lambda a, d=d: a["x"].to(d)}, "x", "has dtype") for d in HALVES],
        *wrong_dtype("weight", value=torch.float16),
        *wrong_dtype("offsets", value=torch.int64),
        *wrong_size("offsets"),
        ({"x": part("x", 0)}, "x", r"\[16\]"),
        ({"weight": part("weight", 0)}, "weight", r"\[7, 16\]"),
        ({"weight": part("weight", ..., slice(15))}, "weight", r"\[3, 7, 15\]"),
        ({"offsets": with_value("offsets", 0, 3)}, "offsets", "2"),
        ({"offsets": with_value("offsets", 0, -1)}, "offsets", "-1"),
        ({"offsets": with_value("offsets", 2, 6)}, "offsets", "6"),
        ({"offsets": with_value("offsets", 2, 4)}, "offsets", "4"),
    ],
    "grouped_swiglu": [
        *[({"x": lambda a, d=d: a["x"].to(d)}, "x", "has dtype") for d in HALVES],
        *wrong_dtype("gate", "up", value=torch.float16),
        *wrong_dtype("row"),
        *wrong_dtype("offsets", value=torch.int64),
        *wrong_size("offsets"),
        ({"x": part("x", 0)}, "x", r"\[16\]"),
        ({"gate": part("gate", 0)}, "gate", r"\[7, 16\]"),
        ({"gate": part("gate", ..., slice(15))}, "gate", r"\[3, 7, 15\]"),
        ({"up": part("up", slice(2))}, "up", r"\[2, 7, 16\]"),
        ({"up": part("up", slice(None), slice(6))}, "up", r"\[3, 6, 16\]"),
        ({"row": with_value("row", 1, 4)}, "row", "4"),
        ({"row": with_value("row", 4, -1)}, "row", "-1"),
        ({"row": part("row", slice(4))}, "offsets", "5"),
        ({"offsets": with_value("offsets", 0, 3)}, "offsets", "2"),
        ({"offsets": with_value("offsets", 2, 6)}, "offsets", "6"),
        ({"offsets": with_value("offsets", 2, 4)}, "offsets", "4"),
    ],
    "combine": [
        *[({"y": lambda a, d=d: a["y"].to(d)}, "y", "has dtype") for d in HALVES],
        *wrong_dtype("order"),
        *wrong_dtype("weight", value=torch.float64),
        *wrong_size("order"),
        ({"y": part("y", 0)}, "y", r"\[33\]"),
        ({"y": part("y", slice(5))}, "y", r"\[5, 33\]"),
        ({"weight": part("weight", 0)}, "weight", r"\[2\]"),
        ({"weight": part("weight", slice(2))}, "order", r"\[6\]"),
        ({"order": with_value("order", 1, 6)}, "order", "6"),
        ({"order": with_value("order", 1, -1)}, "order", "-1"),
        ({"order": with_value("order", 1, 3)}, "order", "3: expected every pair once"),
    ],
}
