"""`dpad serve` and dlmserve 0.1.1 on the same model, prompts and steps, in turns.

    python -m benchmarks.serve_dlmserve --peer FOLDER [FOLDER ...] [--requests 32] [--rounds 3]

The folders hold dlmserve and what it needs (pip install --target; Transformers 4.57, accelerate).
It computes the whole canvas in every step. dpad does so in one arm, the same algorithm, and keeps a
cache and a window of the suffix in another. The model is random, with the released vocabulary,
which dlmserve asks for, and in float32, so that equal answers show that the work is the same.
"""

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import load, machine, served, stats
from benchmarks.store import write_json

SIZES = {"d_model": 256, "n_heads": 8, "n_kv_heads": 8, "n_layers": 6, "mlp_hidden_size": 768}
RELEASED = {"size": 126464, "mask_id": 126336, "end_id": 126081}
CANVAS, BLOCK, STEPS = 64, 16, 16
CLIENTS = (1, 16)
SHOWN = 4  # answers that are compared
SAME = {"block_length": BLOCK, "steps": STEPS, "early_stop": False}
ARMS = {
    "dlmserve": {"target_length": CANVAS, "block_length": BLOCK, "num_denoising_steps": STEPS},
    "dpad, whole canvas": {**SAME, "suffix": {"kind": "all"}, "cache": "none"},
    "dpad, window and dual cache": {
        **SAME, "suffix": {"kind": "window", "window": BLOCK}, "cache": "dual",
    },
}  # fmt: skip
# Runs dlmserve's own application. Its loader asks for the stock class by remote code, which a
# folder of random weights has not: dpad's class of the same architecture takes its place, in the
# checkpoint's dtype instead of bfloat16.
PROGRAM = """
import sys, torch, transformers, uvicorn
from dpad.models.hf import LLaDAModelLM
def plain(name, **_):
    return LLaDAModelLM.from_pretrained(name, dtype=torch.float32)
transformers.AutoModel.from_pretrained = plain
torch.set_num_threads(int(sys.argv[2]))
from dlmserve.api.server import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


class Chat:
    """Asks for whole chat answers: what both servers have.

    Args:
        url: of the server.
        model: its name there.
        options: further fields of every body.
    """

    def __init__(self, url, model, options):
        self._place = urlsplit(url)
        self._fields = {"model": model, **options}

    def ask(self, prompt):
        """The `load.Seen` of a prompt."""
        begun = time.perf_counter()
        connection = http.client.HTTPConnection(self._place.hostname, self._place.port, timeout=600)
        body = {**self._fields, "messages": [{"role": "user", "content": prompt}]}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        found = json.loads(response.read())
        connection.close()
        if response.status != 200:
            return load.Seen(response.status, 0.0, 0.0, 0, 0, "")
        seconds, usage = time.perf_counter() - begun, found["usage"]
        text = found["choices"][0]["message"]["content"]
        return load.Seen(200, seconds, seconds, usage["prompt_tokens"], CANVAS, text)


@contextmanager
def peer(folder, paths, threads):
    """dlmserve on a folder: its url."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = {"DLMSERVE_MODEL": str(folder), "DLMSERVE_DTYPE": "bf16", "DLMSERVE_DEVICE": "cpu"}
    own = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([*map(str, paths), str(Path.cwd()), own])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), str(threads)],
        env={**os.environ, **chosen, "PYTHONPATH": path},
    )
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError("dlmserve has ended; what it said stands above")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # it does not end by itself while connections are open
        process.wait()


def measure(options, folder):
    """(arm, clients) -> figures, and ratios of dpad's arms to dlmserve."""
    served.build(folder, SIZES, **RELEASED)
    # dlmserve reads the class of a tokenizer by the name that Transformers 4 has for it.
    config = Path(folder) / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    prompts, found, ratios = served.prompts(options.requests, seed=1), {}, {}
    with ExitStack() as stack:
        ours = stack.enter_context(served.server(folder, 16, 64, options.threads))[1]
        theirs = stack.enter_context(peer(folder, options.peer, options.threads))
        clients = {"dlmserve": Chat(theirs, str(folder), ARMS["dlmserve"])}
        for name in list(ARMS)[1:]:
            clients[name] = Chat(ours, served.NAME, {"max_tokens": CANVAS, **ARMS[name]})
        texts = {
            name: [client.ask(p).text for p in prompts[:SHOWN]] for name, client in clients.items()
        }
        pairs = zip(texts["dlmserve"], texts["dpad, whole canvas"], strict=True)
        found["equal answers"] = sum(a.split() == b.split() for a, b in pairs)
        for count in CLIENTS:
            spent, seen = {name: [] for name in clients}, {name: [] for name in clients}
            for number in range(options.rounds):
                for name in sorted(clients, reverse=bool(number % 2)):
                    more, seconds = load.closed(clients[name], prompts, count)
                    seen[name] += more
                    spent[name].append(seconds)
            for name in clients:
                found[f"{name}, {count} clients"] = load.summary(seen[name], sum(spent[name]))
                ratios[f"{name}, {count} clients"] = stats.ratio(spent["dlmserve"], spent[name])
    return found, ratios


def main(arguments=None):
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, nargs="+", required=True)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="file for all figures, as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found, ratios = measure(options, folder)
    print(f"equal answers: {found['equal answers']}")
    for name, (ratio, low, high) in ratios.items():
        rate, failed = found[name]["output_throughput"], found[name]["failed"]
        print(f"{name}: {rate:.1f} tokens/s, {ratio:.2f}x [{low:.2f}, {high:.2f}] of dlmserve, "
              f"{failed} failed")  # fmt: skip
    if options.output is not None:
        whole = {"machine": machine.describe(), "found": found, "ratios": ratios}
        write_json(options.output, whole)


if __name__ == "__main__":
    main()
