"""`hf-causal-lm`: a checkpoint's folder and a text are enough, and the loss is exact."""

import json
import socket
import types

import pytest
import torch
from click.testing import CliRunner

transformers = pytest.importorskip("transformers")

import tiny_transformers as tiny  # noqa: E402 (needs transformers)

from sharpcli.cli.main import sharp  # noqa: E402

TEXT = "The small batch wanders, the large batch settles. " * 20
TASK = ["-t", "hf-causal-lm"]


@pytest.fixture(autouse=True)
def without_network(monkeypatch):
    def refused(*_):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)


def measured(*words, task=TASK):
    done = CliRunner().invoke(sharp, ["measure", *map(str, words), *task, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["results"]


@torch.no_grad()
def loss_by_hand(model, rows):
    """Sum and number of the next tokens' losses, one text at a time and without padding."""
    total, count, right = 0.0, 0, 0
    for row in rows:
        scores = model(input_ids=row[None]).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(scores, row[1:], reduction="sum")
        total += losses.item()
        right += int((scores.argmax(-1) == row[1:]).sum())
        count += len(row) - 1
    return total / count, right / count


def test_two_checkpoints_and_a_text(tmp_path):
    models = [
        tiny.saved(
            tmp_path / f"checkpoint-{step}",
            transformers.GPT2LMHeadModel,
            tiny.gpt2(),
            tiny.tokenizer(),
            seed=step,
        )
        for step in (500, 1000)
    ]
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    paths = [tmp_path / "checkpoint-500", tmp_path / "checkpoint-1000"]
    results = measured(*paths, "-O", f"text={tmp_path / 'a.txt'}", "-m", "loss")
    tokens = torch.tensor(tiny.tokenizer()(TEXT, verbose=False)["input_ids"])
    blocks = tokens[: len(tokens) // 64 * 64].view(-1, 64)
    held_out = max(1, len(blocks) // 10)
    for model, result in zip(models, results, strict=True):
        for split, rows in (("train", blocks[:-held_out]), ("test", blocks[-held_out:])):
            loss, accuracy = loss_by_hand(model, rows)
            found = result["measures"]["loss"][split]["value"]
            assert found == pytest.approx(loss, rel=1e-6)
        assert result["measures"]["accuracy"]["test"]["value"] == pytest.approx(accuracy)
        notes = " ".join(result["checkpoint"]["notes"])
        assert "1,000 tokens in 15 blocks of 64, and the last 40 tokens are left out" in notes
        assert "the last tenth of the 15 blocks" in notes


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_padding_does_not_change_the_loss(tmp_path, kind, side):
    config, words = {
        "gpt2": (tiny.gpt2(), tiny.tokenizer(side=side)),  # without a padding token
        "llama": (tiny.llama(), tiny.tokenizer(padding=True, side=side)),
    }[kind]
    of = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM}[kind]
    model = tiny.saved(tmp_path / "run", of, config, words)
    texts = ["word " * (number % 7 + 1) + "end" for number in range(20)]
    path = tiny.records(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    chosen = ["-O", f"text={path}", "-m", "loss", "-m", "gradient", "--dtype", "float64"]
    (result,) = measured(tmp_path / "run", *chosen)
    (small,) = measured(tmp_path / "run", *chosen, "--batch-size", "3")
    rows = [torch.tensor(words(text)["input_ids"]) for text in texts]
    train = [row for number, row in enumerate(rows) if number % 10 != 9]
    loss, _ = loss_by_hand(model, train)
    # Llama's attention and norms compute in float32 whatever the model's dtype is.
    exact = {"gpt2": 1e-12, "llama": 1e-8}[kind]
    for found in (result, small):
        assert found["measures"]["loss"]["train"]["value"] == pytest.approx(loss, rel=exact)
    total, count = 0.0, 0
    for row in train:
        total = total + torch.nn.functional.cross_entropy(
            model(input_ids=row[None]).logits[0, :-1], row[1:], reduction="sum"
        )
        count += len(row) - 1
    gradients = torch.autograd.grad(total / count, [*model.parameters()])
    norm = float(torch.cat([each.reshape(-1) for each in gradients]).norm())
    assert result["measures"]["gradient"]["norm"]["value"] == pytest.approx(norm, rel=10 * exact)
    notes = " ".join(result["checkpoint"]["notes"])
    assert "the Trainer's eval_loss averages over batches" in notes


def test_curvature_is_that_of_a_dense_hessian(tmp_path):
    model = tiny.saved(
        tmp_path / "run", transformers.LlamaForCausalLM, tiny.llama(), tiny.tokenizer(padding=True)
    )
    texts = ["abc", "defgh", "ij", "klm", "nopqrst", "u v"]
    path = tiny.records(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    given = ["-O", f"text={path}", "-O", f"test_text={path}", "-m", "hessian"]
    (result,) = measured(tmp_path / "run", *given, "--dtype", "float64", "-k", "1")
    rows = [torch.tensor(tiny.tokenizer()(text)["input_ids"]) for text in texts]
    largest = power_iteration(model, rows)
    found = result["measures"]["hessian"]["eigenvalues"][0]
    assert found["status"] == "converged"
    assert found["value"] == pytest.approx(largest, rel=1e-6)


def power_iteration(model, rows):
    """The eigenvalue of largest size: products by two derivatives, in float64 and unpadded."""
    parameters = [*model.parameters()]
    total = sum(
        torch.nn.functional.cross_entropy(
            model(input_ids=row[None]).logits[0, :-1], row[1:], reduction="sum"
        )
        for row in rows
    ) / sum(len(row) - 1 for row in rows)
    gradient = flat(torch.autograd.grad(total, parameters, create_graph=True))

    def product(vector):
        return flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True))

    basis, values = torch.zeros(len(gradient), 0, dtype=torch.float64), None
    vector = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0)).double()
    for _ in range(60):  # Lanczos by hand: an orthonormal basis, and the matrix in it
        vector = vector - basis @ (basis.T @ vector)
        vector = vector - basis @ (basis.T @ vector)
        basis = torch.cat([basis, (vector / vector.norm())[:, None]], 1)
        vector = product(basis[:, -1].contiguous())
    matrix = basis.T @ torch.stack([product(each.contiguous()) for each in basis.T], 1)
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return float(values[-1])


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def test_folders_with_one_configuration_share_a_task_and_others_do_not(tmp_path):
    gpt = transformers.GPT2LMHeadModel
    for name, options in {"a": {}, "b": {}, "wide": {"n_inner": 16}}.items():
        tiny.saved(tmp_path / name, gpt, tiny.gpt2(**options), tiny.tokenizer())
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    given = [*TASK, "-O", f"text={tmp_path / 'a.txt'}", "-m", "loss", "--json"]
    paths = [str(tmp_path / name) for name in ("a", "b", "wide")]
    done = CliRunner().invoke(sharp, ["measure", *paths, *given])
    document = json.loads(done.stdout)
    assert [each["status"] for each in document["results"]] == ["ok"] * 3
    alone = [
        json.loads(CliRunner().invoke(sharp, ["measure", path, *given]).stdout)["task"]
        for path in paths
    ]
    assert alone[0]["fingerprint"] == alone[1]["fingerprint"] != alone[2]["fingerprint"]
    assert alone[1]["options"]["model"] == paths[1]


def refused(tmp_path, *options, name="run"):
    given = ["measure", str(tmp_path / name), *TASK, "-m", "loss", *options]
    done = CliRunner().invoke(sharp, given)
    assert done.exit_code in (1, 2), done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


@pytest.fixture
def run(tmp_path):
    tiny.saved(tmp_path / "run", transformers.GPT2LMHeadModel, tiny.gpt2(), tiny.tokenizer())
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    return tmp_path


def text_of(folder):
    return "-O", f"text={folder / 'a.txt'}"


def edited(folder, **values):
    path = folder / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def test_a_configuration_with_code_of_its_own_is_refused(run):
    canary = run / "canary"
    (run / "run" / "modeling_own.py").write_text(f"open({str(canary)!r}, 'w')", "utf-8")
    own = {"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}
    edited(run, auto_map=own)
    assert "names code of its own (auto_map), and sharp runs no code" in refused(run, *text_of(run))
    edited(run, auto_map={})
    path = run / "run" / "tokenizer_config.json"
    table = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**table, "auto_map": own}), "utf-8")
    assert "tokenizer_config.json names code of its own" in refused(run, *text_of(run))
    assert not canary.exists()


def test_a_configuration_of_a_larger_model_makes_none(run):
    """It comes with the checkpoint, so it must not allocate what the checkpoint does not hold."""
    edited(run, n_inner=10**9)
    assert "the configuration in its folder describes another model: its first" in refused(
        run, *text_of(run)
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "unheard-of"}, "has the model_type 'unheard-of', which transformers"),
        ({"quantization_config": {"bits": 4}}, "describes quantised weights"),
        ({"model_type": "t5"}, "transformers has no ModelForCausalLM for the model_type 't5'"),
        ({"n_embd": "wide"}, "transformers cannot read"),
        ({"architectures": ["BertForMaskedLM"]}, "holds a masked language model"),
    ],
)
def test_configurations_that_make_no_causal_language_model(run, values, said):
    edited(run, **values)
    assert said in refused(run, *text_of(run))


def test_files_that_are_missing_or_no_data(run):
    assert "needs the option 'text'" in refused(run)
    assert "there is no file absent.txt" in refused(run, "-O", "text=absent.txt")
    assert "takes blocks of 2 to 64 tokens" in refused(run, *text_of(run), "-O", "block=65")
    (run / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n', "utf-8")
    said = refused(run, "-O", f"text={run / 'bad.jsonl'}")
    assert "bad.jsonl, line 2 is not JSON" in said
    (run / "bad.jsonl").write_text('{"body": "a"}\n', "utf-8")
    said = refused(run, "-O", f"text={run / 'bad.jsonl'}")
    assert "have none of text, content (columns: body)" in said
    assert "-O column=body" in said
    for file in (run / "run").glob("token*"):
        file.unlink()
    assert "holds no tokenizer" in refused(run, *text_of(run))
    (run / "run" / "config.json").write_text("{", "utf-8")
    assert "config.json is not JSON" in refused(run, *text_of(run))
    (run / "run" / "config.json").unlink()
    assert "holds no config.json" in refused(run, *text_of(run))
    (run / "run" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "someone/base"}), "utf-8"
    )
    assert "it is an adapter of 'someone/base'" in refused(run, *text_of(run))


def test_an_unknown_option_is_refused_before_anything_is_read(run):
    given = ["measure", str(run / "absent"), *TASK, *text_of(run), "-O", "blok=3"]
    done = CliRunner().invoke(sharp, given)
    assert done.exit_code == 2
    assert "has no option 'blok': did you mean 'block'?" in done.output


def test_every_command_takes_a_folder(run):
    other = run / "run-2"
    tiny.saved(other, transformers.GPT2LMHeadModel, tiny.gpt2(), tiny.tokenizer(), seed=1)
    given = [*TASK, *text_of(run), "-O", "block=8", "--samples", "16", "--quiet"]
    for words in (
        ["interpolate", str(run / "run"), str(other), "--points", "3"],
        ["landscape", str(run / "run"), "--points", "3"],
        ["spectrum", str(run / "run"), "--probes", "2", "--steps", "5"],
        ["measure", str(run / "run" / "model.safetensors"), "-m", "loss"],
    ):
        done = CliRunner().invoke(sharp, [*words, *given])
        assert done.exit_code == 0, done.output


def test_the_tokenizer_of_the_folder_above_is_taken_and_said(run):
    for file in (run / "run").glob("token*"):
        file.rename(run / file.name)
    (result,) = measured(run / "run", *text_of(run), "-m", "loss")
    assert any("the tokenizer is that of" in note for note in result["checkpoint"]["notes"])


def test_a_tokenizer_of_another_model(run):
    wide = tiny.tokenizer()
    wide.add_tokens(["batch"])
    wide.save_pretrained(run / "other")
    said = refused(run, *text_of(run), "-O", f"tokenizer={run / 'other'}")
    assert "the tokenizer gives the token 258, and the model's tokens end at 257" in said


def test_without_transformers_the_install_line_is_said(run, monkeypatch):
    from sharpcli.tasks import pretrained

    def absent(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(pretrained, "importlib", types.SimpleNamespace(import_module=absent))
    assert "pip install 'sharpcli[hf]'" in refused(run, *text_of(run))
