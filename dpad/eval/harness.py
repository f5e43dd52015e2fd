"""`DPadLM`: a LLaDA or Dream as lm-evaluation-harness asks for it."""

import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

import dpad
from dpad.eval.batches import Row, StopStrings, batches, configuration, padded, read_settings
from dpad.eval.record import Record
from dpad.eval.scoring import bounds, fills
from dpad.generation.api import merge
from dpad.generation.config import DPadGenerationConfig
from dpad.generation.conventions import Conventions
from dpad.generation.job import Job
from dpad.generation.likelihood import check_samples
from dpad.generation.output import DPadOutput
from dpad.generation.recipe import Recipe
from dpad.generation.row_key import key_of
from dpad.loading import load
from dpad.models.adapter import find_adapter
from dpad.values import flag, int64, whole

# A logger of the harness: its command line says what is shown.
log = logging.getLogger("lm_eval.models.dpad")
NOTHING = {"kept_suffix": None, "noise": None, "confidences": None}


class DPadLM(TemplateLM):
    """A model of lm-evaluation-harness, decoded and scored by dpad.

    A request is decoded on a canvas as long as its ``max_gen_toks``, or as `max_new_tokens` of the
    options, or the model's default; a prompt that does not fit before it is refused, never cut.
    The random draws of a request follow from the seed and its own tokens, those of the n-th equal
    request that samples from n too: not from its place, its batch or the batch size.

    Args:
        pretrained: a model that `dpad.generate` takes, patched or not; or the name of a repository
            or folder, or "demo" (`dpad.loading.load`), which is loaded by dpad's own class and
            patched.
        tokenizer: its tokenizer; with a name it may be left out, or be another name.
        batch_size: rows of a batch; masked canvases computed together in a likelihood.
        max_batch_size: refused; the harness passes it for models that try batch sizes.
        dtype, device: of a model that is loaded, by name.
        max_length: positions that a likelihood may use, the model's by default.
        preset: name of published settings (`dpad.presets`).
        mc_samples: masks drawn per answer of a likelihood, see `dpad.loglikelihood`.
        greedy_fill: compute ``is_greedy``: whether the answer is what the model fills in, greedily
            and one token at a time, the surest first, on a canvas of the answer's length (LLaDA,
            arXiv 2502.09992). Off, it is False, and metrics built on it mean nothing.
        record: file that the `Record` is written to, as JSON, after each kind of request.
        seed: of all random draws.
        options: of `dpad.DPadGenerationConfig`; a request's own come first.

    Attributes:
        settings: the configuration in force where a request says nothing.
        record: `Record`; its summary is also in the harness's results, below "config".

    Raises:
        TypeError, ValueError, KeyError: a bad argument, by name and value; a bad request, by its
            place, task and document, before any is run.
    """

    def __init__(
        self,
        pretrained: nn.Module | str,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        *,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        max_length: int | str | None = None,
        preset: str | None = None,
        mc_samples: int = 128,
        greedy_fill: bool = False,
        record: str | os.PathLike[str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.batch_size = _whole("batch_size", batch_size)
        if max_batch_size is not None:
            raise ValueError(f"max_batch_size = {max_batch_size!r}: batch sizes are not tried")
        seed = int64("seed", seed)
        mc_samples = check_samples("mc_samples", mc_samples)
        greedy_fill = flag("greedy_fill", greedy_fill)
        self.config = configuration({"seed": seed, **options}, preset)
        self.seed, self.mc_samples, self.greedy_fill = seed, mc_samples, greedy_fill
        if isinstance(pretrained, nn.Module):
            if tokenizer is None or isinstance(tokenizer, str):
                raise ValueError(f"tokenizer = {tokenizer!r}: pass the model's tokenizer")
            if dtype != "auto" or device is not None:
                raise ValueError(f"dtype = {dtype!r}, device = {device!r}: the model has its own")
            self.model, self.tokenizer = pretrained, tokenizer
        else:
            if str(device).startswith("cuda") and not torch.cuda.is_available():
                log.warning("device = %r: there is no GPU, the model is on the CPU", device)
                device = "cpu"  # the harness's own default asks for a GPU
            self.model, self.tokenizer = load(pretrained, dtype, device or "auto", tokenizer)
            dpad.patch(self.model)
        self._handle = getattr(self.model, "_dpad_handle", None)
        self.adapter = self._handle.adapter if self._handle else find_adapter(self.model)
        self.settings = merge(self.model, self._base(), self.config, {})
        self._device = self.adapter.device
        self.max_length = self.adapter.max_positions
        if max_length is not None:
            self.max_length = _whole("max_length", max_length, low=2)
        self.record, self._record_file = Record(), record

    # --- what the harness asks about model and tokenizer -----------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context stands for: begin-of-text, else end-of-text."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; begin-of-text is not added where the text begins with it."""
        if add_special_tokens is None:
            first = self.tokenizer.bos_token
            add_special_tokens = not (first and string.startswith(first))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The tokenizer's template; without a generation prompt the last turn stays open."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def get_model_info(self) -> dict[str, Any]:
        """What the harness puts into its results, below "config"."""
        return {
            "model_num_parameters": sum(p.numel() for p in self.model.parameters()),
            "model_dtype": str(self.adapter.dtype),
            "dpad": {
                "version": dpad.__version__,
                "options": self.settings.to_diff_dict(),
                "mc_samples": self.mc_samples,
                "greedy_fill": self.greedy_fill,
                "record": self.record.summary(),
            },
        }

    # --- generation ------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers' texts, in the order of the requests, see the class."""
        rows, texts = self._rows(requests), [""] * len(requests)
        with _bar("generate_until", len(rows), disable_tqdm) as bar:
            for batch in batches(rows, self.batch_size):
                out, answers = self.decode(batch, self.config)
                self.record.call(out.timings, len(batch))
                for row, answer, forwards, reason in zip(
                    batch, answers, out.forwards.tolist(), out.finish_reason, strict=True
                ):
                    request = requests[row.number]
                    texts[row.number], count = row.read(answer)
                    self.cache_hook.add_partial("generate_until", request.args, texts[row.number])
                    self.record.add(
                        "generate_until",
                        request,
                        prompt_tokens=len(row.ids),
                        generated_tokens=count,
                        canvas_tokens=len(answer),
                        forwards=forwards,
                        finish_reason=reason,
                    )
                bar.update(len(batch))
        self._report()
        return texts

    def _rows(self, requests: Sequence[Instance]) -> list[Row]:
        """The requests as rows, all of them checked."""
        rows: list[Row] = []
        seen: dict[tuple[str, str], int] = {}
        for number, request in enumerate(requests):
            try:
                text, gen_kwargs = request.args
                options, strings = read_settings(gen_kwargs)
                ids = torch.tensor(self.tok_encode(text), dtype=torch.int64)
                job = self._job(ids, options)
            except (TypeError, ValueError) as error:
                where = f"request {number} ({request.task_name}, document {request.doc_id})"
                raise type(error)(f"{where}: {error}") from error
            again = seen.get((text, repr(gen_kwargs)), 0)
            seen[text, repr(gen_kwargs)] = again + 1
            key = key_of(again if job.config.temperature else 0, *ids.tolist())
            stops = StopStrings(self.tokenizer, strings)
            early = bool(job.config.early_stop)
            rows.append(Row(number, ids, options, key, stops, job.recipe.end_ids, early))
        return rows

    def _base(self) -> DPadGenerationConfig | None:
        return self._handle.config if self._handle else None

    def _job(self, ids: Tensor, options: dict[str, Any]) -> Job:
        """The call of `generate` that a prompt alone would be: its checks, and what holds in it."""
        config = merge(self.model, self._base(), self.config, options)
        recipe = Recipe(self.adapter, config)
        return Job(self.adapter, recipe, [ids], NOTHING, Conventions(), {}, (None, None))

    def decode(
        self, rows: Sequence[Row], config: DPadGenerationConfig
    ) -> tuple[DPadOutput, Tensor]:
        """(`DPadOutput`, answers int64 ``[rows, canvas]``) of rows with the same options."""
        ids, mask = padded(rows)
        out = dpad.generate(
            self.model,
            ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=[row.criteria() for row in rows],
            row_keys=[row.key for row in rows],
            return_dict_in_generate=True,
            **rows[0].options,
        )
        return out, out.sequences[:, ids.shape[1] :]

    # --- likelihood ------------------------------------------------------------------------------

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(lower bound of the log-probability in nats, is_greedy) of (context, continuation)."""
        found = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        self.record.name(requests)
        self._report()
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The same of ((context, continuation), their ids)."""
        if not self.greedy_fill:
            log.warning("is_greedy is not computed (greedy_fill=True): metrics of it mean nothing")
        pairs = [(context, answer) for _, context, answer in requests]
        scored = bounds(self, pairs)
        greedy = fills(self, pairs) if self.greedy_fill else [False] * len(pairs)
        found = []
        with _bar("loglikelihood", len(pairs), disable_tqdm) as bar:
            for (args, *_), is_greedy, bound in zip(requests, greedy, scored, strict=True):
                value, error, canvases = bound
                self.record.add(
                    "loglikelihood", value=value, standard_error=error, canvases=canvases
                )
                found.append((value, is_greedy))
                self.cache_hook.add_partial("loglikelihood", args, found[-1])
                bar.update()
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Lower bounds of the log-probability of whole texts, in nats.

        A text is scored in windows of `max_length` positions: the first behind `prefix_token_id`,
        each later one behind the token before it (the last behind as many as fit), and the bounds
        are added. So there are two losses against the true value: the bound's, and that of the
        context which a window does not see.
        """
        texts = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length - 1, 1
            )
            texts.append([make_disjoint_window(window) for window in windows])
        scored, found = bounds(self, [pair for text in texts for pair in text]), []
        with _bar("loglikelihood_rolling", len(texts), disable_tqdm) as bar:
            for request, text in zip(requests, texts, strict=True):
                values = [next(scored) for _ in text]
                found.append(math.fsum(value for value, _, _ in values))
                self.record.add(
                    "loglikelihood_rolling",
                    request,
                    value=found[-1],
                    standard_error=math.hypot(*(error for _, error, _ in values)),
                    canvases=sum(canvases for _, _, canvases in values),
                    windows=len(values),
                )
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
                bar.update()
        self._report()
        return found

    def _report(self) -> None:
        """The record so far: into the log, and into its file if there is one."""
        log.info("so far: %s", self.record.summary())
        if self._record_file is not None:
            self.record.save(self._record_file)


def _whole(name: str, value: int | str, low: int = 1) -> int:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return whole(low)(name, value)


def _bar(what: str, count: int, disabled: bool) -> tqdm:
    return tqdm(total=count, desc=f"dpad: {what}", disable=disabled)
