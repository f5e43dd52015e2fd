"""A data set through Ray Data: prompts with keys in, answers with the same keys out.

    python -m examples.ray.batch problems.jsonl answers/ --model demo --actors 2

The input is JSON lines of "key" (a whole number) and "prompt". The key is the row key of its
answer: the same answer comes out whatever actor takes it, and in whatever company.
"""

import argparse

import ray

import dpad
from dpad import loading, threads
from dpad.prompting import encode_text


class Answers:
    """An engine in an actor: takes batches of {"key", "prompt"}.

    Args:
        model: a repository, a folder that every node can read, or "demo".
        options: of `dpad.generate`; the seed is 0 where it is not given.
        cpu_threads: of this actor.
        max_sequences, max_tokens: of its engine.
    """

    def __init__(self, model, options=None, cpu_threads=1, max_sequences=16, max_tokens=8192):
        threads.use(cpu_threads)
        loaded, self._tokenizer = loading.load(model)
        self._handle = dpad.patch(loaded)
        self._engine = dpad.Engine(loaded, max_sequences=max_sequences, max_tokens=max_tokens)
        self._options = {"seed": 0, **(options or {})}

    def __call__(self, batch):
        """The batch with columns "answer", "tokens" and "forwards" in place of "prompt"."""
        keys = [int(key) for key in batch["key"]]
        prompts = [encode_text(self._tokenizer, str(text)) for text in batch["prompt"]]
        requests = [{"ids": ids, "row_key": key} for ids, key in zip(prompts, keys, strict=True)]
        found = {"key": keys, "answer": [], "tokens": [], "forwards": []}
        for ids, out in zip(prompts, self._engine.map(requests, **self._options), strict=True):
            answer = self._until_end(out.sequences[0, len(ids) :].tolist())
            found["answer"].append(self._tokenizer.decode(answer, skip_special_tokens=True))
            found["tokens"].append(len(answer))
            found["forwards"].append(int(out.forwards[0]))
        return found

    def _until_end(self, tokens):
        ends = self._engine.adapter.end_ids
        return tokens[: next((i for i, t in enumerate(tokens) if t in ends), None)]


def answer(rows, model, options=None, actors=2, num_gpus=0.0, batch_size=64, **engine):
    """A data set of answers.

    Args:
        rows: a `ray.data.Dataset` with "key" and "prompt".
        model, options, engine: as of `Answers`.
        actors: how many, each with an engine of its own.
        num_gpus: of each.
        batch_size: prompts that an actor is given at a time.
    """
    # Ray's own tasks (reading, writing) take a CPU each: where the actors had them all, the job
    # would wait for ever without a word.
    cpus = ray.cluster_resources().get("CPU", 1.0)
    each = max(0.1, min(1.0, (cpus - 1) / actors))
    return rows.map_batches(
        Answers,
        fn_constructor_args=(model, options),
        fn_constructor_kwargs=engine,
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=each,
        num_gpus=num_gpus or None,
    )


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", help="JSON lines with key and prompt")
    parser.add_argument("output", help="folder for JSON lines with key and answer")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--num-gpus", type=float, default=0.0, help="of each actor")
    parser.add_argument("--max-new-tokens", type=int)
    options = parser.parse_args(arguments)
    chosen = {"max_new_tokens": options.max_new_tokens} if options.max_new_tokens else {}
    rows = ray.data.read_json(options.input, lines=True)
    found = answer(rows, options.model, chosen, options.actors, options.num_gpus)
    found.write_json(options.output)


if __name__ == "__main__":
    main()
