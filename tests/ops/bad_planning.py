"""Bad arguments of the operators of `dpad.ops.planning`."""

import math

from bad_values import LARGEST, NAN, with_value, wrong_dtype, wrong_size
from op_samples import ints

TABLE = [
    ({"kind": "cauchy"}, "kind", "cauchy"),
    ({"grid": "other"}, "grid", "other"),
    ({"near": -1}, "near", "-1"),
    ({"window": 0}, "window", "0"),
    ({"decay": 0.0}, "decay", "0"),
    ({"decay": math.inf}, "decay", "inf"),
    ({"scale": NAN}, "scale", "nan"),
    ({"scale": -1.0, "count": 17.0}, "count", "17"),
    ({"scale": -1.0, "count": -2.0}, "count", "-2"),
    ({"kind": "uniform", "count": 1.5}, "count", r"1\.5"),
    ({"kind": "uniform", "count": -1.0}, "count", "-1"),
    ({"kind": "uniform", "count": NAN}, "count", "nan"),
    ({"kind": "window", "window": -3}, "window", "-3"),
    ({"length": -4}, "length", "-4"),
    # Refused at once, where hours of work or all memory would be asked for.
    ({"length": 2**24 + 1}, "length", "16777217"),
    ({"length": 2**62}, "length", "4611686018427387904"),
    ({"window": 2**24 + 1}, "window", "16777217"),
    ({"window": 2**40, "scale": -1.0, "count": 10.0}, "window", "1099511627776"),
]
BAD = {
    "suffix_table": TABLE,
    "transfer_schedule": [
        ({"masks": -1}, "masks", "-1"),
        ({"steps": 0}, "steps", "0"),
        ({"steps": 2**33}, "steps", "8589934592"),
    ],
    "suffix_sample": [
        *TABLE,
        *wrong_dtype("seed", "row_key", "block", "redraw", "end", "total"),
        *wrong_size("row_key", "block", "redraw", "end", "total"),
        ({"seed": ints(0, 7)[None]}, "seed", r"\[1, 2\]"),
        ({"end": ints(-5, 40), "total": ints(-2, 44)}, "end", "-5"),
        ({"end": ints(24, LARGEST), "total": ints(64, -(2**63))}, "total", r"-9223372"),
        ({"total": ints(64, 39)}, "total", "39"),
        ({"total": ints(65, 44)}, "total", "65"),
    ],
    "plan_pass": [
        *wrong_dtype("start", "end", "kept", "kept_count", "scope", "first", "first_target"),
        *wrong_dtype("unseen", "predecessor"),
        *wrong_size("end", "kept_count", "scope", "first", "first_target"),
        *wrong_size("unseen", "predecessor"),
        ({"kept": ints(7, 9, 3)[None]}, "kept", r"\[1, 3\]"),
        ({"kept": ints(7, 9)}, "kept_count", "1"),  # fewer than are counted
        ({"kept_count": ints(1, 1)}, "kept", "3"),  # more
        ({"unseen": ints(3, 0)}, "unseen", "3"),
        ({"unseen": ints(0, -1)}, "unseen", "-1"),
        ({"predecessor": ints(1, 2)}, "predecessor", "2"),
        ({"predecessor": ints(-1, 0)}, "predecessor", "-1"),
        ({"first": ints(4, 0)}, "first", "4"),
        ({"first": ints(3, -1)}, "first", "-1"),
        ({"first_target": ints(7, 0)}, "first_target", "7"),
        ({"first_target": ints(2, 0)}, "first_target", "2"),
        ({"block_length": -1}, "block_length", "-1"),
        ({"block_length": 2**41}, "block_length", "2199023255552"),
        ({"start": ints(3, 2**40)}, "start", "1099511627776"),
        ({"end": ints(6, LARGEST)}, "end", r"9223372"),
        (
            {"end": ints(6, 2**40), "kept": ints(7, 9, 11), "kept_count": ints(3, 0)},
            "end",
            "1099511627776: expected a pass",
        ),
        ({"kept": with_value("kept", 1, LARGEST)}, "kept", r"9223372"),
        ({"start": ints(-2, 0)}, "start", "-2"),
        ({"end": ints(6, 0)}, "end", "0"),
        ({"scope": ints(1, 3)}, "scope", "3"),
        ({"scope": ints(-1, 0)}, "scope", "-1"),
        ({"kept_count": ints(4, 1)}, "kept_count", "4"),
        ({"kept_count": ints(2, -1)}, "kept_count", "-1"),
        ({"kept": with_value("kept", 0, 5)}, "kept", "5"),
        ({"kept": with_value("kept", 1, 7)}, "kept", "7"),
        ({"shift": 2}, "shift", "2"),
        ({"shift": -1}, "shift", "-1"),
    ],
}
