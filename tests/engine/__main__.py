"""The engine's exactness at full size: `python -m tests.engine [--count 1000] [--longest 1024]`.

Random requests of both families on 1, 4 and 16 rows, then with freed memory poisoned, then with one
in ten cancelled at a random step. Every answer is compared with `generate` alone.
"""

import argparse
from unittest import mock

import torch

import dpad
from dpad.decode.decoder import Decoder
from tests.decode.common import tiny
from tests.engine import traffic
from tests.generation import random_calls


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    length = 2 * chosen.longest + 64  # the text around gaps, and gaps that may grow
    models = {
        "llada": tiny(max_sequence_length=length),
        "dream": random_calls.dream(max_position_embeddings=length),
    }
    for name, model in models.items():
        calls = traffic.calls(model, chosen.count // 2, chosen.seed, chosen.longest)
        for label, rows, poison, cancel in (
            ("1 row", 1, False, 0.0),
            ("4 rows", 4, False, 0.0),
            ("16 rows", 16, False, 0.0),
            ("16 rows, freed memory poisoned", 16, True, 0.0),
            ("16 rows, one in ten cancelled", 16, True, 0.1),
        ):
            retire = traffic.poisoning(Decoder.retire) if poison else Decoder.retire
            with (
                mock.patch.object(Decoder, "retire", retire),
                dpad.Engine(model, max_sequences=rows, max_tokens=4 * length) as engine,
            ):
                engine._scheduler.waiting.size = chosen.count
                requests = traffic.run(engine, calls, chosen.seed, cancel)
                traffic.assert_as_alone(requests, calls)
                ended = sum(r.status == "finished" for r in requests)
                print(
                    f"{name}, {label}: {ended} of {len(calls)} finished, all as alone", flush=True
                )


if __name__ == "__main__":
    main()
