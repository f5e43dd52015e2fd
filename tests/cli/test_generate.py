"""`dpad generate` and `dpad plot`: same results as the library, clear errors, stable exit codes."""

import json

import pytest
import torch
from PIL import Image

import dpad
from dpad import loading
from dpad.cli import decoding, generate
from dpad.generation import presets
from dpad.generation.output import Trace
from dpad.loading import load

ASK = 'generate demo --prompt "by 3 forward from" --prefill 4185e --max-new-tokens 64'
PROMPT = dpad.demo.encode("<|startoftext|><|user|>by 3 forward from<|assistant|>4185e")


def library(**options):
    model, _ = dpad.demo.load()
    options = {"max_new_tokens": 64, **options}
    return dpad.generate(model, [PROMPT], return_dict_in_generate=True, **options)


def text_of(out):
    return dpad.demo.decode(out.sequences[0, len(PROMPT) :]).split("<|endoftext|>")[0]


def test_the_answer_goes_to_stdout_and_figures_to_stderr(run):
    result = run(f"{ASK} --seed 4")
    out = library(seed=4)
    assert result.exit_code == 0
    assert result.stdout == text_of(out) + "\n"
    assert f"in {int(out.forwards[0])} forwards" in result.stderr
    assert f"{out.timings['positions']} positions" in result.stderr
    assert result.stderr.rstrip().endswith("seed 4")


def test_json_holds_what_the_library_returns(run):
    found = run(f"{ASK} --seed 4 --json").json
    out = library(seed=4)
    assert found["text"] == text_of(out)
    assert found["token_ids"] == dpad.demo.encode(found["text"])
    assert found["tokens"] == len(found["token_ids"])
    assert found["prompt_tokens"] == len(PROMPT)
    assert found["forwards"] == int(out.forwards[0])
    assert found["tokens_per_forward"] == float(out.tokens_per_forward[0])
    assert found["positions"] == out.timings["positions"]
    assert found["finish_reason"] == out.finish_reason[0]
    assert (found["seed"], found["dtype"]) == (4, "float32")
    assert found["config"]["max_new_tokens"] == 64


def test_every_option_reaches_the_library(run):
    line = (
        f"{ASK} --json --seed 9 --block-length 16 --threshold 0.7 --temperature 0.5 --cache prefix "
        "--no-early-stop --suffix-kind uniform --suffix-window 20 --suffix-count 6 --suffix-near 2"
    )
    config = run(line).json["config"]
    assert config == {
        "max_new_tokens": 64,
        "block_length": 16,
        "confidence_threshold": 0.7,
        "temperature": 0.5,
        "cache": "prefix",
        "early_stop": False,
        "seed": 9,
        "suffix": {"kind": "uniform", "window": 20, "count": 6.0, "near": 2},
    }
    gaussian = "--suffix-window 32 --suffix-decay 3 --suffix-scale 1.2 --steps 8 --dtype bfloat16"
    others = "--set remasking=random --set cfg_scale=0.5"
    found = run(f"{ASK} --json {gaussian} {others}").json
    assert (found["config"]["remasking"], found["config"]["cfg_scale"]) == ("random", 0.5)
    assert found["config"]["suffix"]["scale"] == 1.2
    assert found["config"]["steps"] == 8
    assert "confidence_threshold" not in found["config"]
    assert found["dtype"] == "bfloat16"


def test_a_preset_gives_way_to_options():
    name = "llada-1.5/mbpp"
    published = presets.get(name)
    assert decoding.configuration(name, {}) == published
    changed = decoding.configuration(name, {"steps": 64, "max_new_tokens": 128})
    assert (changed.steps, changed.confidence_threshold) == (64, None)
    assert (changed.max_new_tokens, changed.suffix) == (128, published.suffix)


def test_raw_and_stdin_prompts_are_the_templated_one(run):
    raw = f"generate demo --raw --max-new-tokens 64 --seed 4 --prompt '{dpad.demo.decode(PROMPT)}'"
    piped = "generate demo --max-new-tokens 64 --seed 4 --prefill 4185e --prompt -"
    expected = text_of(library(seed=4)) + "\n"
    assert run(raw).stdout == expected
    assert run(piped, stdin="by 3 forward from\n").stdout == expected


def test_a_folder_with_its_own_tokenizer(run, folder):
    line = ["generate", str(folder), "--prompt", "one two", "--max-new-tokens", "24", "--json"]
    found = run([*line, "--seed", "1"]).json
    model, tokenizer = load(str(folder))
    ids = tokenizer("one two", return_tensors="pt")["input_ids"]
    out = dpad.generate(model, ids, max_new_tokens=24, seed=1)
    assert found["prompt_tokens"] == 7
    assert found["token_ids"] == out[0, 7 : 7 + found["tokens"]].tolist()
    streamed = run([*line[:-1], "--seed", "1"])
    assert streamed.stdout.rstrip("\n").replace(" ", "") == found["text"].replace(" ", "")


def test_a_trace_is_written_and_drawn(run, tmp_path):
    path = tmp_path / "trace.jsonl"
    found = run(f"{ASK} --json --seed 2 --trace {path}").json
    trace = Trace.load(path)
    assert found["trace"] == str(path)
    assert len(trace.events) == found["forwards"]
    drawn = run(f"plot {path} --json").json
    assert drawn == {"picture": str(tmp_path / "trace.png")}
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "picture.svg"
    assert run(f"plot {path} --output {other}").stdout.strip() == str(other)
    assert "<svg" in other.read_text()


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """File of a trace of the shipped model, as the command line writes it."""
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    model, tokenizer = load("demo")
    out = dpad.generate(model, dpad.demo.problems(1)[0].prompt_ids, trace=True, seed=0)
    out.trace.with_text(tokenizer).save(path)
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", ["overview", "kept", "timeline", "confidence", "forwards"])
def test_every_view_is_drawn_in_both_themes(run, traced, tmp_path, view, theme):
    path = tmp_path / "picture.png"
    assert run(f"plot {traced} --view {view} --theme {theme} --output {path}").exit_code == 0
    with Image.open(path) as picture:
        pixels = picture.convert("L")
        colours = pixels.getcolors()
        most = max(colours)[1]
    assert len(colours) > 20
    assert (most > 200) == (theme == "light") or view in ("kept", "overview")


def test_animations_by_the_name_of_the_file(run, traced, tmp_path):
    forwards = len(Trace.load(traced).events)
    gif, page = tmp_path / "a.gif", tmp_path / "a.html"
    for path in (gif, page):
        assert run(f"plot {traced} --view animation --output {path}").exit_code == 0
    with Image.open(gif) as picture:
        assert picture.n_frames == forwards + 1
    text = page.read_text(encoding="utf-8")
    assert text.count("@keyframes") == forwards and "<script" not in text
    result = run(f"plot {traced} --view animation --output {tmp_path / 'a.png'}")
    assert result.exit_code == 2 and "expected .gif or .html" in result.stderr


@pytest.mark.parametrize("name", ["picture", "a.xyz", "a.jsonl", "a.gif"])
def test_a_picture_is_named_by_its_format(run, traced, tmp_path, name):
    result = run(f"plot {traced} --output {tmp_path / name}")
    assert result.exit_code == 2 and f"{name}: expected .png, .svg or .pdf" in result.stderr
    assert not list(tmp_path.glob("picture*"))


def test_numbers_that_are_no_json():
    words = ["a=.9", "b=1.", "c=+3", "d=-.5e-3", "e=1e-3", "f=.", "g=1.2.3", "h=0x10", "i=nan"]
    found = decoding.assignments([*words, "j=7", "k=", "l=true"])
    numbers = {"a": 0.9, "b": 1.0, "c": 3.0, "d": -0.0005, "e": 0.001, "j": 7, "l": True}
    assert found == {**numbers, "f": ".", "g": "1.2.3", "h": "0x10", "i": "nan", "k": ""}


def test_unknown_views_and_themes(run, traced):
    result = run(f"plot {traced} --view none")
    assert result.exit_code == 2 and "--view none: expected overview, kept" in result.stderr
    result = run(f"plot {traced} --theme blue")
    assert result.exit_code == 2 and "theme = 'blue': expected one of light, dark" in result.stderr


def test_examples_of_the_help_run(run, folder, tmp_path, monkeypatch):
    from dpad.cli import doctor, plot

    monkeypatch.chdir(tmp_path)
    for line in (*generate.EXAMPLES, *plot.EXAMPLES, *doctor.EXAMPLES):
        # The released weights are 16 GB: the small folder stands for them.
        assert line.startswith("dpad ")
        line = line.removeprefix("dpad ").replace("GSAI-ML/LLaDA-8B-Instruct", str(folder))
        line = line.replace("--canvas 2048", "--canvas 64")  # it is for short ones
        assert run(line).exit_code == 0, line


BAD = {
    "unknown option": ("--prompt x --bad 1", 2, "No such option"),
    "value": ('--prompt "by 1" --cache x', 2, "cache = 'x': expected one of none, prefix, dual"),
    "rules": ('--prompt "by 1" --threshold 0.9 --steps 8', 2, "different commit rules"),
    "suffix": ('--prompt "by 1" --suffix-kind all --suffix-window 3', 2, "Suffix.window = 3"),
    "name": ('--prompt "by 1" --set abc=1', 2, "unknown option 'abc' = 1"),
    "threads": ('--prompt "by 1" --threads 100000', 2, "threads = 100000: expected a whole"),
    "many digits": (f'--prompt "by 1" --set seed={"9" * 5000}', 2, "--set seed=999"),
    "deep": (f'--prompt "by 1" --set commit={"[" * 9999}', 2, "--set commit=[[["),
    "no value": ('--prompt "by 1" --set seed', 2, "--set seed: expected name=value"),
    "preset": ('--prompt "by 1" --preset nope', 2, "--preset nope: expected one of dream-base/"),
    "dtype": ('--prompt "by 1" --dtype int8', 2, "dtype = 'int8': expected auto, float32"),
    "device": ('--prompt "by 1" --device abacus', 2, "device = 'abacus'"),
    "no GPU": ('--prompt "by 1" --device cuda:99', 2, "device = 'cuda:99' is not here ("),
    "no values": ('--prompt "by 1" --device meta', 2, "expected one that holds values"),
    "a folder": ('--prompt "by 1" --trace /', 2, "--trace /: that is a folder"),
    "flag": ('--prompt "by 1" --set early_stop=no', 2, "early_stop = 'no': expected True or False"),
    "window": ('--prompt "by 1" --suffix-window 1099511627776', 2, "Suffix.window = 1099511627776"),
    "folder": ('--prompt "by 1" --trace no/where.jsonl', 2, "there is no folder no"),
    "prompt": ("--prompt Hello", 2, "--prompt: the tokenizer refuses"),
    "length": ('--prompt "by 1" --max-new-tokens 4000', 2, "the model has 1024"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_one_line_and_exit_code_2(run, name):
    words, code, text = BAD[name]
    result = run(f"generate demo {words}")
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""


def test_the_shipped_model_says_what_it_cannot_know(run):
    asked = run('generate demo --prompt "hello there" --max-new-tokens 8 --json')
    assert asked.exit_code == 0 and "note: the shipped model can only count" in asked.stderr
    assert "note" not in run(ASK).stderr


def test_errors_as_json(run):
    result = run('generate demo --prompt "by 1" --cache x --json')
    assert result.exit_code == result.json["exit_code"] == 2
    assert result.json["error"]["type"] == "ValueError"
    assert "expected one of none, prefix, dual" in result.json["error"]["message"]


def test_models_that_are_not_there_or_not_known_are_exit_code_3(run, tmp_path):
    line = ["generate", str(tmp_path), "--prompt", "x"]
    assert run(line).exit_code == 3
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    result = run(line)
    assert result.exit_code == 3
    assert "gpt2" in result.stderr
    assert run(f"plot {tmp_path / 'none.jsonl'}").exit_code == 3
    (tmp_path / "other.jsonl").write_text('{"format": "other"}\n')
    assert run(f"plot {tmp_path / 'other.jsonl'}").exit_code == 2


def test_nan_logits_are_exit_code_1(run, broken_folder):
    result = run(["generate", str(broken_folder), "--prompt", "x", "--max-new-tokens", "8"])
    assert result.exit_code == 1
    assert "NaN" in result.stderr


def test_a_missing_package_is_exit_code_4(run, tmp_path, monkeypatch):
    def missing(*args):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(Trace, "load", missing)
    result = run(f"plot {tmp_path / 'trace.jsonl'}")
    assert result.exit_code == 4
    assert "type: pip install matplotlib\n" in result.stderr


def test_an_interrupt_is_exit_code_130(run, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load", interrupt)
    assert run(ASK).exit_code == 130


def test_defects_are_not_hidden(run, monkeypatch):
    def defect(*args, **kwargs):
        raise AttributeError("a bug")

    monkeypatch.setattr(loading, "load", defect)
    with pytest.raises(AttributeError, match="a bug"):
        run(ASK)


def test_the_model_is_put_on_the_wanted_device():
    model, _ = load("demo", device="cpu")
    assert {p.device for p in model.parameters()} == {torch.device("cpu")}
    assert not model.training


def test_gaps_in_a_prompt_are_filled(run):
    text = "<|startoftext|><|user|>by 2 forward from<|assistant|>3932h39{}g3936f"
    line = "generate demo --infill --prompt '" + text.format("<|mdm_mask|>" * 2) + "'"
    result, found = run(line), run(line + " --json").json
    assert result.stdout == "by 2 forward from3932h3934g3936f\n"
    assert found["text"] == result.stdout.strip() and found["finish_reason"] == "length"
    assert found["token_ids"] == dpad.demo.encode(text.format("34"))
